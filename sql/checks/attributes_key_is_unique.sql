-- No two rows of attributes have the same key.
SELECT
    source_collection,
    record_id,
    process_index,
    section,
    path,
    count(*) AS n_rows
FROM attributes
GROUP BY source_collection, record_id, process_index, section, path
HAVING count(*) > 1
