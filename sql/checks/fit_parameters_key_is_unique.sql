-- No two rows of fit_parameters have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    parameter,
    count(*) AS n_rows
FROM fit_parameters
GROUP BY source_collection, record_id, process_index, parameter
HAVING count(*) > 1
