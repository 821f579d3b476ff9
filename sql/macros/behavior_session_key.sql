-- The session key for a session name of the institute's behaviour database, NULL for other texts.
-- The name is <subject>_<date>_<suffix>. The suffix is the start time as a number without leading
-- zeros (92026 is 09:20:26), or 0, 1, 2 … for old files; their session key has no time.
CREATE MACRO behavior_session_key(session_id) AS
    nullif(regexp_extract(session_id, '^([^_]+_\d{4}-\d{2}-\d{2})_\d+$', 1), '')
    || CASE
        WHEN try_cast(regexp_extract(session_id, '_(\d+)$', 1) AS INTEGER) BETWEEN 1000 AND 235959
            THEN regexp_replace(
                lpad(regexp_extract(session_id, '_(\d+)$', 1), 6, '0'),
                '^(..)(..)(..)$',
                '_\1-\2-\3'
            )
        ELSE ''
    END
