-- No two rows of unclaimed_folders have the same key.
SELECT
    source_collection,
    location,
    count(*) AS n_rows
FROM unclaimed_folders
GROUP BY source_collection, location
HAVING count(*) > 1
