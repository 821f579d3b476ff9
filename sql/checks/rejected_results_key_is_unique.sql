-- No two rows of rejected_results have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM rejected_results
GROUP BY source_collection, record_id, process_index
HAVING count(*) > 1
