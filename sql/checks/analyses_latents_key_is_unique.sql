-- No two rows of analyses_latents have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM analyses_latents
GROUP BY source_collection, record_id, process_index
HAVING count(*) > 1
