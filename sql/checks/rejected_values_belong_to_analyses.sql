-- Every row of rejected_values belongs to a row of analyses.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM rejected_values
ANTI JOIN analyses USING (source_collection, record_id, process_index)
GROUP BY source_collection, record_id, process_index
