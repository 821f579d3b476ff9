-- Every live document is either flattened or rejected, and no other document is.
-- A document is live if its version with the highest batch is an upsert.
WITH live_documents AS (
    SELECT
        source_collection,
        record_id,
        arg_max(content_hash, batch_id) AS content_hash
    FROM documents
    GROUP BY source_collection, record_id
    HAVING arg_max(operation, batch_id) = 'upsert'
),
flattened AS (
    SELECT DISTINCT source_collection, record_id
    FROM analyses
),
everywhere AS (
    SELECT
        source_collection,
        record_id,
        live_documents.record_id IS NOT NULL AS is_live,
        flattened.record_id IS NOT NULL AS is_flattened,
        rejected_documents.record_id IS NOT NULL AS is_rejected
    FROM live_documents
    FULL JOIN flattened USING (source_collection, record_id)
    FULL JOIN rejected_documents USING (source_collection, record_id)
)
SELECT
    *,
    CASE
        WHEN is_flattened AND is_rejected THEN 'both flattened and rejected'
        WHEN is_live THEN 'neither flattened nor rejected'
        WHEN is_flattened THEN 'flattened, but not live'
        ELSE 'rejected, but not live'
    END AS problem
FROM everywhere
WHERE is_live IS DISTINCT FROM (is_flattened <> is_rejected) OR (is_flattened AND is_rejected)
