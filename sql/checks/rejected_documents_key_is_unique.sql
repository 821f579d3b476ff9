-- No two rows of rejected_documents have the same key.
SELECT
    source_collection,
    record_id,
    count(*) AS n_rows
FROM rejected_documents
GROUP BY source_collection, record_id
HAVING count(*) > 1
