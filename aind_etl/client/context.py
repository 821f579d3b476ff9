"""One page about the warehouse for language models that write SQL, and for people in a hurry.

It is generated from the contract and from ``sql/``: tables with their grain, key and most important
columns, joins, traps, and worked questions. It is short enough to be pasted into a conversation.
"""

import re
from collections.abc import Mapping

from aind_etl.contract import Column, tables
from aind_etl.contract.columns import ADDED_SESSION_COLUMNS
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files

COLUMNS: Mapping[str, str] = {
    "analyses": (
        "source_collection record_id process_index pipeline_format analysis_name "
        "analysis_version subject_id session_date session_key nwb_name status outcome "
        "finished_at result_location agent_alias n_trials k_model log_likelihood aic bic lpt "
        "lpt_aic lpt_bic prediction_accuracy prediction_accuracy_test_mean fit_converged "
        "first_seen_at changed_at"
    ),
    "latest_analyses": "",
    "fit_parameters": "parameter value is_fitted lower_bound upper_bound at_bound",
    "cross_validation": "fold prediction_accuracy_test prediction_accuracy_fit",
    "trials": (
        "trial choice reward q_left q_right choice_kernel_left choice_kernel_right "
        "choice_prob_left choice_prob_right rpe"
    ),
    "sessions": "session_key subject_id session_date principal_investigator",
    "sessions_with_fits": "n_fits n_skipped n_failed best_agent_by_aic",
    "mle_fitting": "params pipeline_source",
    "model_comparison": "n_agents n_trials_differ aic_rank delta_aic cv_accuracy",
    "best_models": "criterion agent_alias value margin n_agents",
    "parameter_trajectories": "session_number parameter value change at_bound",
    "fit_coverage": "session_month n_sessions n_fitted n_missing",
    "pipeline_agreement": "",
    "analyses_with_files": "result_json_url figure_url has_trials",
    "attributes": "section path value_text value_number value_boolean",
    "rejected_values": "path reason value expected",
    "rejected_documents": "record_id reason message",
    "collections": "source_collection live_documents newest_finished_at",
    "warehouse_status": "built_at newest_finished_at",
    "documents": "record_id document operation extracted_at",
}
"""The relations of the page, and the columns that it describes of each, separated by blanks."""

# Longer descriptions are cut to their first sentence.
_LONGEST_DESCRIPTION = 110
_MORE_OF_SESSIONS = (
    "task, rig, curriculum_name, current_stage_actual ('None' is off-curriculum, NULL unknown), "
    "total_trials, finished_trials, finished_rate, reward_rate, foraging_eff, "
    "foraging_performance, bias_naive, reaction_time_median [s], weight_after [g], "
    "water_in_session_total [ml], hardware"
)
_INTRODUCTION = """\
# The warehouse of analysis results, in one page

`warehouse.duckdb` holds the model fits and other analyses of behaviour sessions of mice in a
two-armed foraging task. Write SQL of DuckDB; only SELECT works. Times are UTC.
`DESCRIBE <table>` lists columns, and
`SELECT column_name, comment FROM duckdb_columns() WHERE table_name = '<table>'` explains them.
"""
_JOINS = """\
## Joins

- A fit is `(source_collection, record_id, process_index)`: `analyses`, `fit_parameters`,
  `cross_validation`, `trials`, `attributes` and the tables of result files join on all three.
- A session is `session_key`, in `analyses`, `sessions` and every mart about sessions. A subject is
  `subject_id`.
- `latest_analyses` is the usual partner of `fit_parameters` and `trials`.
"""
_TRAPS = """\
## Traps

- **Newest or all.** `analyses`, `fit_parameters`, `trials` and `mle_fitting` hold every fit ever
  made, by both pipelines, re-fits included. Use `latest_analyses`, or the marts, for one fit per
  session and agent.
- **Fair comparisons.** AIC, BIC and log-likelihood compare fits to the same trials only. Leave out
  sessions with `n_trials_differ`, or compare fits with equal `n_trials`. `lpt…` are per trial.
- **Lower or higher.** AIC and BIC: lower is better. `lpt…`, accuracy and log-likelihood: higher.
- **Session keys** are `<subject>_<date>_<HH-MM-SS>`, or `<subject>_<date>` where no time is known.
  NWB names of one session differ between pipelines: never join on `nwb_name`. The behaviour
  database names sessions otherwise; `behavior_session_key(session_id)` maps them.
- **NULL** is a value that the document lacks, or that did not fit its column (`rejected_values`
  says which); it is not 0. NaN is stored as NULL. Infinities are kept:
  `WHERE isfinite(log_likelihood)`.
- **Outcomes.** Skipped and failed analyses have rows too: filter on `outcome = 'success'`.
- **Trials** are those with a response, counted from 0. Each fit has one row more, the state after
  the last trial, with `choice` NULL.
- `subject_id` is a text, `'652324'`. `session_date` is a DATE in the rig's local time.
"""


def context_page() -> str:
    """Return the page as Markdown."""
    files = _views_and_marts()
    relations = "\n".join(_relation(name, shown, files) for name, shown in COLUMNS.items())
    questions = "\n".join(
        f"{number}. {file.comment}\n\n```sql\n{file.statement}\n```\n"
        for number, file in enumerate(read_sql_files(Kind.QUESTION), start=1)
    )
    return (
        f"{_INTRODUCTION}\n## Tables, views and marts\n\n{relations}\n\n{_JOINS}\n{_TRAPS}\n"
        f"## Worked questions\n\n{questions}"
    )


def skill_page() -> str:
    """Return the page in the form that coding agents load as a skill."""
    return (
        "---\n"
        "name: aind-etl\n"
        "description: Query AIND's warehouse of analysis results (model fits of foraging sessions) "
        "with DuckDB SQL. Use it for questions about subjects, sessions, agents, fit parameters, "
        "model comparison, trials or freshness.\n"
        "---\n\n"
        'Run queries with `aind-etl sql --sandbox --format csv "SELECT …"`, or in Python with '
        '`aind_etl.Warehouse().sql("SELECT …")`. `AIND_ETL_WAREHOUSE` names the file.\n\n'
        f"{context_page()}"
    )


def relation_lines() -> list[str]:
    """Return a line for each relation of the page: its name and what a row is."""
    files = _views_and_marts()
    return [_relation(name, "", files) for name in COLUMNS]


def _views_and_marts() -> dict[str, SqlFile]:
    return {file.name: file for kind in (Kind.VIEW, Kind.MART) for file in read_sql_files(kind)}


def _relation(name: str, shown: str, files: Mapping[str, SqlFile]) -> str:
    names = shown.split()
    if name in files:
        meanings, summary = files[name].columns, files[name].summary
        columns = ["Every column of analyses"] if name == "latest_analyses" else []
        columns += [_described(f"`{one}`", meanings.get(one, "")) for one in names]
    else:
        table = tables.table_named(name)
        summary = f"{_first_sentence(table.description)} Key: {', '.join(table.key)}."
        known = {column.name: column for column in (*table.columns, *ADDED_SESSION_COLUMNS)}
        columns = [_column(known[one]) for one in names]
        if name == "sessions" and names:
            columns.append(f"and of the session table {_MORE_OF_SESSIONS}")
    return f"- `{name}`: {summary}" + (f" {'; '.join(columns)}." if columns else "")


def _column(column: Column) -> str:
    unit = f" [{column.unit}]" if column.unit else ""
    return _described(f"`{column.name}` {column.type}{unit}", column.description)


def _described(column: str, meaning: str) -> str:
    text = meaning.replace("\n", " ")
    if len(text) > _LONGEST_DESCRIPTION:
        text = _first_sentence(text)
    return f"{column} ({text.rstrip('.')})" if text else column


def _first_sentence(text: str) -> str:
    found = re.match(r"(.+?[.:])(?=\s|$)", text.replace("\n", " "))
    return (found[1] if found else text).rstrip(":.") + "."
