"""The rows that the report shows, read from the warehouse.

The queries of single figures are in :mod:`aind_etl.client.report.figures`.
"""

import math
from datetime import UTC, date, datetime
from typing import Any

import duckdb

from aind_etl.client.report.figures import FIGURES
from aind_etl.contract.result_files import FIGURE
from aind_etl.errors import ConfigurationError
from aind_etl.text import first_line

_HEADLINES = """
SELECT
    count(DISTINCT subject_id) AS subjects,
    count(DISTINCT session_key) AS fitted_sessions,
    count(*) AS fits,
    count(DISTINCT agent_alias) AS agents,
    (SELECT coalesce(sum(live_documents), 0)::BIGINT FROM collections) AS documents,
    (SELECT count(*) FROM rejected_documents) AS rejected,
    max(session_date) AS newest_session,
    (SELECT max(finished_at) FROM analyses) AS newest_finished_at,
    (SELECT max(greatest(last_new_pass_at, last_full_pass_at)) FROM collections) AS newest_pass_at
FROM model_comparison
"""

# The newest sessions of all, and the newest of each subject.
_SESSIONS = """
WITH known AS (
    SELECT
        session_key,
        min(subject_id) AS subject_id,
        min(session_date) AS session_date,
        count(DISTINCT agent_alias) FILTER (outcome = 'success') AS agents_fitted,
        count(DISTINCT agent_alias) AS agents_tried,
        list(DISTINCT agent_alias ORDER BY agent_alias) FILTER (agent_alias IS NOT NULL) AS agents,
        string_agg(DISTINCT pipeline_format, ' + ' ORDER BY pipeline_format) AS pipelines,
        max(finished_at) AS finished_at,
        max(first_seen_at) AS first_seen_at,
        -- The document's own status, if nothing was fitted.
        CASE WHEN count(*) FILTER (outcome = 'success') = 0 THEN min(status) END AS why_not
    FROM analyses
    WHERE analysis_name = 'MLE fitting' AND session_key IS NOT NULL
    GROUP BY session_key
),
shown AS (
    SELECT * FROM known
    QUALIFY
        row_number() OVER (ORDER BY session_date DESC NULLS LAST, session_key DESC)
        <= 300
        OR row_number() OVER (
            PARTITION BY subject_id
            ORDER BY session_date DESC NULLS LAST, session_key DESC
        ) <= 3
)
SELECT shown.*, best.agent_alias AS best_agent, fits.cv_accuracy
FROM shown
LEFT JOIN (SELECT * FROM best_models WHERE criterion = 'aic') AS best USING (session_key)
LEFT JOIN model_comparison AS fits
    ON best.session_key = fits.session_key AND best.agent_alias = fits.agent_alias
ORDER BY shown.session_date DESC NULLS LAST, shown.session_key DESC
LIMIT 5000
"""

TRAJECTORY_AGENTS = 4
TRAJECTORY_VALUES = 150_000
"""The most values of parameters on the page; the least recent subjects beyond it are left out."""
_TRAJECTORIES = f"""
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
    SELECT parameter_trajectories.*, agents.place
    FROM parameter_trajectories
    INNER JOIN agents USING (agent_alias)
    WHERE is_fitted AND isfinite(value)
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

_BOUNDS = """
SELECT agent_alias, parameter, mode(lower_bound) AS lower, mode(upper_bound) AS upper
FROM fit_parameters
INNER JOIN analyses USING (source_collection, record_id, process_index)
WHERE is_fitted AND agent_alias IN (SELECT unnest(?))
GROUP BY agent_alias, parameter
ORDER BY agent_alias, parameter
"""

SESSIONS_BY_TRIAL = 8
"""How many sessions the page shows trial by trial: each the newest of its subject."""
_VALUE = "coalesce(isfinite(q_left) AND isfinite(q_right), false)"
_TRIALS = f"""
WITH newest AS (
    SELECT session_key, session_date, agent_alias, source_collection, record_id, process_index
    FROM latest_analyses
    SEMI JOIN analyses_latents USING (source_collection, record_id, process_index)
    WHERE session_key IS NOT NULL AND starts_with(agent_alias, 'QLearning')
    -- The best agent with values of both sides, in the last session of each subject.
    QUALIFY row_number() OVER (
        PARTITION BY subject_id
        ORDER BY session_date DESC NULLS LAST, session_key DESC, aic NULLS LAST, agent_alias
    ) = 1
    ORDER BY session_date DESC NULLS LAST, session_key DESC
    LIMIT {SESSIONS_BY_TRIAL}
)
SELECT
    session_key AS session,
    agent_alias AS agent,
    figure_url AS figure,
    list(row(
        trial, choice, reward::INTEGER, if({_VALUE}, q_left, NULL), if({_VALUE}, q_right, NULL)
    ) ORDER BY trial) AS trials
FROM newest
INNER JOIN trials USING (source_collection, record_id, process_index)
LEFT JOIN (
    SELECT source_collection, record_id, process_index, any_value(url) AS figure_url
    FROM result_files
    WHERE file_name = '{FIGURE}'
    GROUP BY ALL
) AS drawn USING (source_collection, record_id, process_index)
WHERE choice IS NOT NULL
GROUP BY session_key, agent_alias, figure_url, session_date
ORDER BY session_date DESC NULLS LAST, session_key DESC
"""


def read_report(connection: duckdb.DuckDBPyConnection) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the numbers above the figures, and the rows of everything else as JSON values.

    Raises
    ------
    ConfigurationError
        The warehouse lacks a table or mart of the report.
    """
    names, (numbers,) = _query(connection, _HEADLINES)
    queries = {figure.name: figure.query for figure in FIGURES}
    queries |= {"sessions": _SESSIONS, "by_trial": _TRIALS}
    data = {name: _table(*_query(connection, query)) for name, query in queries.items()}
    trajectories = _trajectories(connection)
    agents = sorted({agent for one in trajectories for agent in one["agents"]})
    data["bounds"] = _table(*_query(connection, _BOUNDS, [agents]))
    return dict(zip(names, numbers, strict=True)), {
        "data": data,
        "agents": _number_agents(data["sessions"]),
        "trajectories": trajectories,
    }


def _number_agents(sessions: dict[str, Any]) -> list[str]:
    """Replace the agents of sessions by numbers; return the names of the numbers."""
    place = sessions["columns"].index("agents")
    agents = sorted({agent for row in sessions["rows"] for agent in row[place] or ()})
    numbers = {agent: number for number, agent in enumerate(agents)}
    for row in sessions["rows"]:
        row[place] = [numbers[agent] for agent in row[place] or ()]
    return agents


def _trajectories(connection: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    """Return values nested by subject, agent and parameter.

    A row per value would repeat the three names for each value.
    """
    subjects: dict[str, dict[str, dict[str, list[list[Any]]]]] = {}
    _, rows = _query(connection, _TRAJECTORIES)
    for subject, agent, parameter, number, day, value, at_bound in rows:
        points = subjects.setdefault(subject, {}).setdefault(agent, {}).setdefault(parameter, [])
        points.append([number, _json_value(day), _json_value(value), int(bool(at_bound))])
    return [{"subject": subject, "agents": agents} for subject, agents in subjects.items()]


def _query(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of a query's columns, and its rows."""
    try:
        relation = connection.execute(query, parameters)
        return [column[0] for column in relation.description or ()], relation.fetchall()
    except duckdb.Error as error:
        raise ConfigurationError(
            f"The report cannot be drawn from this warehouse ({first_line(error)}). It was built "
            "by another version of aind-etl: 'aind-etl run' builds it again."
        ) from None


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    return {"columns": names, "rows": _json_value(rows)}


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any value of DuckDB
    if isinstance(value, list | tuple):
        return [_json_value(inner) for inner in value]
    if isinstance(value, float):
        # More digits would make the page larger, and are not visible.
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="minutes").removesuffix("+00:00") + "Z"
    if isinstance(value, date):
        return value.isoformat()
    return value
