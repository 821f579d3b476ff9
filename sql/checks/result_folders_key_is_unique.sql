-- No two rows of result_folders have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM result_folders
GROUP BY source_collection, record_id, process_index
HAVING count(*) > 1
