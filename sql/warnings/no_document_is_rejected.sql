-- Every document could be flattened.
SELECT source_collection, reason, path, count(*) AS documents, any_value(message) AS example
FROM rejected_documents
GROUP BY ALL
ORDER BY documents DESC, source_collection, reason, path
