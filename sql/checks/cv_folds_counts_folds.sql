-- cv_folds of an analysis is the number of its rows in cross_validation, NULL if there are none.
WITH counted AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        count(*) AS n_rows
    FROM cross_validation
    GROUP BY source_collection, record_id, process_index
)
SELECT
    source_collection,
    record_id,
    process_index,
    analyses.cv_folds,
    coalesce(counted.n_rows, 0) AS n_rows
FROM analyses
LEFT JOIN counted USING (source_collection, record_id, process_index)
WHERE coalesce(analyses.cv_folds, 0) <> coalesce(counted.n_rows, 0)
