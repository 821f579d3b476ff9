-- One row per fit with parameters, one column per parameter found in the data.
-- A parameter that the fit's agent does not have is NULL. Should a parameter be called like
-- another column, but for case, its column ends in _1. Long form, with bounds: fit_parameters.
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
