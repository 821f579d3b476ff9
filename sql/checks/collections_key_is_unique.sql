-- No two rows of collections have the same key.
SELECT
    source_collection,
    count(*) AS n_rows
FROM collections
GROUP BY source_collection
HAVING count(*) > 1
