-- No two rows of documents have the same key.
SELECT
    source_collection,
    record_id,
    batch_id,
    count(*) AS n_rows
FROM documents
GROUP BY source_collection, record_id, batch_id
HAVING count(*) > 1
