-- No two rows of trials have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    trial,
    count(*) AS n_rows
FROM trials
GROUP BY source_collection, record_id, process_index, trial
HAVING count(*) > 1
