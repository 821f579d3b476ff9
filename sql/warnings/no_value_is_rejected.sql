-- Every value of a document fits its column.
SELECT
    source_collection,
    reason,
    regexp_replace(path, '\[[0-9]+\]', '[]', 'g') AS path,
    expected,
    count(*) AS n_values,
    min(value) AS example,
    min(record_id) AS record_id
FROM rejected_values
GROUP BY ALL
ORDER BY n_values DESC, source_collection, reason, path, expected
