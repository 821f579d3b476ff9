-- n_attributes of an analysis is the number of its rows in attributes.
WITH counted AS (
    SELECT
        source_collection,
        record_id,
        process_index,
        count(*) AS n_rows
    FROM attributes
    GROUP BY source_collection, record_id, process_index
)
SELECT
    source_collection,
    record_id,
    process_index,
    analyses.n_attributes,
    coalesce(counted.n_rows, 0) AS n_rows
FROM analyses
LEFT JOIN counted USING (source_collection, record_id, process_index)
WHERE analyses.n_attributes <> coalesce(counted.n_rows, 0)
