-- One row per subject, month of sessions and agent: how many of the subject's sessions have it.
-- A session counts once: as fitted if any of its MLE fits by the agent was successful, else as
-- skipped, failed or unknown, in that order. It is missing if it is known from any analysis but has
-- no record of the agent. The agents of a month are those of the MLE fits of any subject's sessions
-- in that month, so a new agent is not missing from earlier months. The counts add up to
-- n_sessions.
--
--   session_month: First day of the month.
--   n_sessions: The subject's sessions in the month.
--   n_fitted: Of these, fitted successfully by the agent.
--   n_skipped: Of these, skipped.
--   n_failed: Of these, failed.
--   n_unknown: Of these, with an unknown outcome.
--   n_missing: Of these, without a record of the agent.
WITH known_sessions AS (
    -- One analysis may have a value that another of the same session lacks.
    SELECT
        session_key,
        min(subject_id) AS subject_id,
        date_trunc('month', min(session_date))::DATE AS session_month
    FROM analyses
    WHERE session_key IS NOT NULL
    GROUP BY session_key
    HAVING min(subject_id) IS NOT NULL AND min(session_date) IS NOT NULL
),
fits AS (
    SELECT
        session_key,
        agent_alias,
        -- The best outcome of the session's fits by the agent.
        min(
            CASE outcome WHEN 'success' THEN 1 WHEN 'skipped' THEN 2 WHEN 'failed' THEN 3 ELSE 4 END
        ) AS outcome_rank
    FROM analyses
    WHERE
        analysis_name = 'MLE fitting'
        AND session_key IS NOT NULL
        AND agent_alias IS NOT NULL
    GROUP BY session_key, agent_alias
),
expected_agents AS (
    SELECT DISTINCT
        known_sessions.session_month,
        fits.agent_alias
    FROM fits
    INNER JOIN known_sessions USING (session_key)
)
SELECT
    known_sessions.subject_id,
    known_sessions.session_month,
    expected_agents.agent_alias,
    count(*) AS n_sessions,
    count(*) FILTER (WHERE fits.outcome_rank = 1) AS n_fitted,
    count(*) FILTER (WHERE fits.outcome_rank = 2) AS n_skipped,
    count(*) FILTER (WHERE fits.outcome_rank = 3) AS n_failed,
    count(*) FILTER (WHERE fits.outcome_rank = 4) AS n_unknown,
    count(*) FILTER (WHERE fits.outcome_rank IS NULL) AS n_missing
FROM known_sessions
INNER JOIN expected_agents USING (session_month)
LEFT JOIN fits USING (session_key, agent_alias)
GROUP BY known_sessions.subject_id, known_sessions.session_month, expected_agents.agent_alias
