-- No two rows of rejected_values have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    path,
    count(*) AS n_rows
FROM rejected_values
GROUP BY source_collection, record_id, process_index, path
HAVING count(*) > 1
