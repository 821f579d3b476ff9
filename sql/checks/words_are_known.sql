-- outcome, pipeline_format, section and operation only have their known values.
SELECT DISTINCT 'analyses' AS table_name, 'outcome' AS column_name, outcome AS word
FROM analyses
WHERE outcome NOT IN ('success', 'skipped', 'failed', 'unknown')
UNION ALL
SELECT DISTINCT 'analyses', 'pipeline_format', pipeline_format
FROM analyses
WHERE pipeline_format NOT IN ('prototype', 'framework')
UNION ALL
SELECT DISTINCT 'attributes', 'section', section
FROM attributes
WHERE section NOT IN ('parameters', 'outputs', 'record')
UNION ALL
SELECT DISTINCT 'documents', 'operation', operation
FROM documents
WHERE operation NOT IN ('upsert', 'delete')
