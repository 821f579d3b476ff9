-- k_model of an analysis is the number of its fitted, not clamped, parameters.
-- Only for analyses with parameters that all say whether they were fitted.
-- A warning: it concerns the documents, not the tables derived from them.
WITH counted AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        count(*) FILTER (WHERE is_fitted) AS n_fitted
    FROM fit_parameters
    GROUP BY source_collection, record_id, process_index
    HAVING count(*) = count(is_fitted)
)
SELECT
    source_collection,
    record_id,
    process_index,
    analyses.k_model,
    counted.n_fitted
FROM analyses
INNER JOIN counted USING (source_collection, record_id, process_index)
WHERE analyses.k_model <> counted.n_fitted
