-- No two rows of result_files have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    file_name,
    count(*) AS n_rows
FROM result_files
GROUP BY source_collection, record_id, process_index, file_name
HAVING count(*) > 1
