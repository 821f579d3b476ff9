-- Every row of input_assets belongs to a row of analyses.
SELECT
    source_collection,
    record_id,
    process_index,
    count(*) AS n_rows
FROM input_assets
ANTI JOIN analyses USING (source_collection, record_id, process_index)
GROUP BY source_collection, record_id, process_index
