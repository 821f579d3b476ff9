-- One row per subject, session number, agent and parameter: the value in the newest successful MLE
-- fit.
-- session_number counts all sessions of the subject with an analysis of any kind and outcome, so a
-- session has the same number for every agent.
--
--   session_number: Number of the session among the subject's sessions in time, from 1.
--   parameter: Name of the parameter.
--   value: Value of the parameter in the newest successful fit.
--   is_fitted: As in fit_parameters.
--   at_bound: As in fit_parameters.
--   previous_session_number: Number of the subject's previous session with a fit by this agent.
--   change: The value minus that of this previous session.
WITH sessions_in_time AS (
    SELECT
        session_key,
        subject_id,
        row_number() OVER (
            PARTITION BY subject_id
            ORDER BY session_date NULLS LAST, session_time NULLS FIRST, session_key
        ) AS session_number
    FROM (
        -- One analysis may have a value that another of the same session lacks.
        SELECT
            session_key,
            min(subject_id) AS subject_id,
            min(session_date) AS session_date,
            min(session_time) AS session_time
        FROM analyses
        WHERE session_key IS NOT NULL
        GROUP BY session_key
    ) AS known_sessions
    WHERE subject_id IS NOT NULL
)
SELECT
    sessions_in_time.subject_id,
    sessions_in_time.session_number,
    fits.session_key,
    fits.session_date,
    fits.agent_alias,
    fit_parameters.parameter,
    fit_parameters.value,
    fit_parameters.is_fitted,
    fit_parameters.at_bound,
    lag(sessions_in_time.session_number) OVER trajectory AS previous_session_number,
    fit_parameters.value - lag(fit_parameters.value) OVER trajectory AS change,
    fits.source_collection,
    fits.record_id,
    fits.process_index
FROM latest_analyses AS fits
INNER JOIN sessions_in_time USING (session_key)
INNER JOIN fit_parameters USING (source_collection, record_id, process_index)
WHERE
    fits.analysis_name = 'MLE fitting'
    AND fits.agent_alias IS NOT NULL
WINDOW trajectory AS (
    PARTITION BY sessions_in_time.subject_id, fits.agent_alias, fit_parameters.parameter
    ORDER BY sessions_in_time.session_number
)
