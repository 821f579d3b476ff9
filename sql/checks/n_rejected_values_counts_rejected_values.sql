-- n_rejected_values of an analysis is the number of its rows in rejected_values.
WITH counted AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        count(*) AS n_rows
    FROM rejected_values
    GROUP BY source_collection, record_id, process_index
)
SELECT
    source_collection,
    record_id,
    process_index,
    analyses.n_rejected_values,
    coalesce(counted.n_rows, 0) AS n_rows
FROM analyses
LEFT JOIN counted USING (source_collection, record_id, process_index)
WHERE analyses.n_rejected_values <> coalesce(counted.n_rows, 0)
