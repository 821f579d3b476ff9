-- Analyses, rejected values and rejected documents have the content hash of their live document.
-- Another hash means that they result from an older version.
WITH live_documents AS (
    SELECT
        source_collection,
        record_id,
        arg_max(content_hash, batch_id) AS content_hash
    FROM documents
    GROUP BY source_collection, record_id
    HAVING arg_max(operation, batch_id) = 'upsert'
),
made_from_documents AS (
    SELECT 'analyses' AS made, source_collection, record_id, process_index, content_hash
    FROM analyses
    UNION ALL
    SELECT DISTINCT 'rejected_values', source_collection, record_id, process_index, content_hash
    FROM rejected_values
    UNION ALL
    SELECT 'rejected_documents', source_collection, record_id, NULL, content_hash
    FROM rejected_documents
)
SELECT
    made_from_documents.*,
    live_documents.content_hash AS live_content_hash
FROM made_from_documents
INNER JOIN live_documents USING (source_collection, record_id)
WHERE made_from_documents.content_hash IS DISTINCT FROM live_documents.content_hash
