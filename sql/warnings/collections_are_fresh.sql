-- Every collection was read, in full or for what is new, within the last 26 hours.
SELECT source_collection, source, last_new_pass_at, last_full_pass_at
FROM collections
WHERE coalesce(greatest(last_new_pass_at, last_full_pass_at), TIMESTAMPTZ '1970-01-01')
    < now() - INTERVAL 26 HOURS
ORDER BY ALL
