-- Which values of documents have no column? Their paths, and how many records have them.
SELECT source_collection, section, path, count(*) AS records, any_value(value_text) AS example
FROM attributes
GROUP BY source_collection, section, path
ORDER BY records DESC, source_collection, section, path
LIMIT 50
