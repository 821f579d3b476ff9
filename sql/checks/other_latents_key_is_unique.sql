-- No two rows of other_latents have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    name,
    position,
    trial,
    count(*) AS n_rows
FROM other_latents
GROUP BY source_collection, record_id, process_index, name, position, trial
HAVING count(*) > 1
