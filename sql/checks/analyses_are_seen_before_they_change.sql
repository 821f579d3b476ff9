-- No analysis changed before it was first seen.
SELECT
    source_collection,
    record_id,
    process_index,
    first_seen_at,
    changed_at
FROM analyses
WHERE changed_at < first_seen_at
