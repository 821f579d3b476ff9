-- One row per fit with parameters, one column per parameter found in the data.
-- A parameter that the fit's agent does not have is NULL. If a parameter has the same name as
-- another column, ignoring case, its column ends in _1. fit_parameters is the long form, with
-- bounds.
WITH named_values AS (
    SELECT
        analyses.source_collection,
        analyses.record_id,
        analyses.process_index,
        analyses.session_key,
        analyses.subject_id,
        analyses.session_date,
        analyses.agent_alias,
        fit_parameters.parameter,
        fit_parameters.value
    FROM analyses
    INNER JOIN fit_parameters USING (source_collection, record_id, process_index)
)
SELECT *
FROM (
    PIVOT named_values
    ON parameter
    USING any_value(value)
    GROUP BY
        source_collection,
        record_id,
        process_index,
        session_key,
        subject_id,
        session_date,
        agent_alias
)
