-- No two rows of sessions have the same key.
SELECT
    session_key,
    count(*) AS n_rows
FROM sessions
GROUP BY session_key
HAVING count(*) > 1
