-- No attribute appeared in the last week that was new to its collection.
WITH loaded AS (
    SELECT source_collection, min(first_seen_at) AS first_load
    FROM analyses
    GROUP BY source_collection
),
paths AS (
    SELECT
        source_collection,
        section,
        path,
        min(changed_at) AS came_up,
        count(*) AS n_values
    FROM attributes
    JOIN analyses USING (source_collection, record_id, process_index)
    GROUP BY ALL
),
attribute_names AS (
    SELECT
        source_collection,
        section,
        regexp_replace(path, '\[[0-9]+\]', '[]', 'g') AS path,
        min(came_up) AS came_up,
        sum(n_values)::BIGINT AS n_values
    FROM paths
    GROUP BY ALL
)
SELECT source_collection, section, path, came_up, n_values
FROM attribute_names
JOIN loaded USING (source_collection)
WHERE came_up > first_load + INTERVAL 1 DAY AND came_up > now() - INTERVAL 7 DAYS
ORDER BY ALL
