-- No two rows of analyses have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM analyses
GROUP BY source_collection, record_id, process_index
HAVING count(*) > 1
