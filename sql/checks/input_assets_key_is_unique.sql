-- No two rows of input_assets have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    position,
    count(*) AS n_rows
FROM input_assets
GROUP BY source_collection, record_id, process_index, position
HAVING count(*) > 1
