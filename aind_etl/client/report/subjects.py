"""What the report shows of single subjects: parameters over sessions, and sessions by trial."""

from typing import Any

import duckdb

from aind_etl.client.report.rows import plain, rows_of

TRAJECTORY_AGENTS = 4
TRAJECTORY_VALUES = 150_000
"""The most values of parameters on the page; beyond, the subjects longest unseen are left out."""
TRAJECTORIES = f"""
WITH reference AS (
    SELECT DISTINCT reference_agent AS agent_alias FROM model_comparison
),
wins AS (
    SELECT agent_alias, count(*) AS n FROM best_models WHERE criterion = 'aic' GROUP BY agent_alias
),
agents AS (
    SELECT agent_alias, row_number() OVER (
        ORDER BY reference.agent_alias IS NULL, n DESC NULLS LAST, agent_alias
    ) AS place
    FROM reference FULL JOIN wins USING (agent_alias)
    QUALIFY place <= {TRAJECTORY_AGENTS}
),
trajectories AS (
    SELECT
        trajectories.subject_id,
        agents.place,
        trajectories.agent_alias,
        trajectories.parameter,
        trajectories.session_number,
        trajectories.session_date,
        trajectories.value,
        trajectories.at_bound
    FROM parameter_trajectories AS trajectories
    INNER JOIN agents USING (agent_alias)
    WHERE trajectories.is_fitted AND isfinite(trajectories.value)
),
subjects AS (
    SELECT
        subject_id,
        max(session_date) AS newest_session,
        sum(count(*)) OVER (
            ORDER BY max(session_date) DESC NULLS LAST, subject_id
        ) AS values_so_far
    FROM trajectories
    GROUP BY subject_id
    QUALIFY values_so_far <= {TRAJECTORY_VALUES}
)
SELECT subject_id, agent_alias, parameter, session_number, session_date, value, at_bound
FROM trajectories
INNER JOIN subjects USING (subject_id)
ORDER BY newest_session DESC NULLS LAST, subject_id, place, parameter, session_number
"""

BOUNDS = """
SELECT agent_alias, parameter, mode(lower_bound), mode(upper_bound)
FROM fit_parameters
INNER JOIN analyses USING (source_collection, record_id, process_index)
WHERE is_fitted AND agent_alias IN (SELECT unnest(?))
GROUP BY agent_alias, parameter
ORDER BY agent_alias, parameter
"""

SESSIONS_BY_TRIAL = 8
"""How many sessions the page shows trial by trial: the newest of as many subjects."""
_VALUE = "coalesce(isfinite(q_left) AND isfinite(q_right), false)"
TRIALS = f"""
WITH newest AS (
    SELECT session_key, session_date, agent_alias, source_collection, record_id, process_index
    FROM latest_analyses
    SEMI JOIN analyses_latents USING (source_collection, record_id, process_index)
    WHERE session_key IS NOT NULL AND starts_with(agent_alias, 'QLearning')
    -- Of each session the best agent with values of both sides, of each subject the last session.
    QUALIFY row_number() OVER (
        PARTITION BY subject_id
        ORDER BY session_date DESC NULLS LAST, session_key DESC, aic NULLS LAST, agent_alias
    ) = 1
    ORDER BY session_date DESC NULLS LAST, session_key DESC
    LIMIT {SESSIONS_BY_TRIAL}
)
SELECT
    session_key,
    agent_alias,
    figure_url,
    list(row(
        trial, choice, reward::INTEGER, if({_VALUE}, q_left, NULL), if({_VALUE}, q_right, NULL)
    ) ORDER BY trial)
FROM newest
INNER JOIN trials USING (source_collection, record_id, process_index)
LEFT JOIN (
    SELECT source_collection, record_id, process_index, any_value(url) AS figure_url
    FROM result_files
    WHERE file_name = 'fitted_session.png'
    GROUP BY ALL
) AS figures USING (source_collection, record_id, process_index)
WHERE choice IS NOT NULL
GROUP BY session_key, agent_alias, figure_url, session_date
ORDER BY session_date DESC NULLS LAST, session_key DESC
"""


def payload(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """Return what the page draws of single subjects.

    Raises
    ------
    ConfigurationError
        The warehouse lacks one of the marts shown.
    """
    trajectories = _trajectories(connection)
    agents = sorted({agent for one in trajectories for agent in one["agents"]})
    bounds: dict[str, dict[str, list[Any]]] = {}
    for agent, parameter, lower, upper in rows_of(connection, BOUNDS, [agents])[1]:
        bounds.setdefault(agent, {})[parameter] = [plain(lower), plain(upper)]
    sessions = [
        {
            "session": session,
            "agent": agent,
            "figure": figure,
            "trials": [[plain(value) for value in trial] for trial in trials],
        }
        for session, agent, figure, trials in rows_of(connection, TRIALS)[1]
    ]
    return {"trajectories": trajectories, "bounds": bounds, "by_trial": sessions}


def _trajectories(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return values as nested lists: subjects, their agents, the agents' parameters.

    A row per value would repeat the names of subject, agent and parameter for each.
    """
    subjects: dict[str, dict[str, dict[str, list[list[Any]]]]] = {}
    for subject, agent, parameter, number, day, value, at_bound in rows_of(
        connection, TRAJECTORIES
    )[1]:
        points = subjects.setdefault(subject, {}).setdefault(agent, {}).setdefault(parameter, [])
        points.append([number, plain(day), plain(value), int(bool(at_bound))])
    return [{"subject": subject, "agents": agents} for subject, agents in subjects.items()]
