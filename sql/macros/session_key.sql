-- The session key in an NWB name: <subject>_<date>[_<HH-MM-SS>], NULL for other texts.
-- A prefix such as behavior_ and the suffix .nwb are removed:
-- behavior_721403_2024-08-09_08-39-12.nwb and 721403_2024-08-09_08-39-12 are the same session.
CREATE MACRO session_key(nwb_name) AS
    nullif(
        regexp_extract(
            nwb_name,
            '^(?:[A-Za-z][A-Za-z-]*_)?([^_]+_\d{4}-\d{2}-\d{2}(?:_\d{2}-\d{2}-\d{2})?)(?:\.nwb)?$',
            1
        ),
        ''
    )
