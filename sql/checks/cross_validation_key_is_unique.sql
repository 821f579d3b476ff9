-- No two rows of cross_validation have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    fold,
    count(*) AS n_rows
FROM cross_validation
GROUP BY source_collection, record_id, process_index, fold
HAVING count(*) > 1
