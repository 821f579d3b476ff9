-- One row per result folder that belongs to no record of any collection: a job that ended before it
-- wrote its record, or a record that was deleted. As of the last complete listing.
--
--   location: The folder.
--   n_files: Files in the folder.
--   size_bytes: Total size of these files [bytes].
--   last_modified: When the newest of these files was written.
--   checked_at: When the folder was last listed.
SELECT
    location,
    max(n_files) AS n_files,
    max(size_bytes) AS size_bytes,
    max(last_modified) AS last_modified,
    max(checked_at) AS checked_at
FROM unclaimed_folders
WHERE
    NOT EXISTS (
        SELECT 1
        FROM analyses
        WHERE rtrim(analyses.result_location, '/') = unclaimed_folders.location
    )
    -- The parent of record folders is not a record's folder.
    AND location NOT IN (
        SELECT regexp_replace(rtrim(result_location, '/'), '/[^/]*$', '')
        FROM analyses
        WHERE result_location IS NOT NULL
    )
GROUP BY location
