-- Every row of other_latents belongs to a row of analyses.
-- A warning: rows of records that are gone are removed when the result folders are looked at next.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM other_latents
ANTI JOIN analyses USING (source_collection, record_id, process_index)
GROUP BY source_collection, record_id, process_index
