"""The session table as the public reader returns it, from the warehouse."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from aind_etl.client.arguments import explain_unknown_arguments
from aind_etl.client.query import open_warehouse
from aind_etl.contract.session_labels import is_json, original_label
from aind_etl.errors import ArgumentError

_log = logging.getLogger(__name__)

_FIRST_COLUMNS = (
    *("subject_id", "session_date", "nwb_suffix", "session", "rig", "trainer", "PI"),
    *("curriculum_name", "curriculum_version", "current_stage_actual", "task", "notes"),
)
# Columns of the behaviour database that the public reader does not return.
_ONLY_IN_DATABASE = ("_session_id", "co_asset_id", "co_s3_nwb_uri", "nwb_data_source")
# The public reader's names for columns of the older pickle.
_RENAMED = {"user_name": "trainer", "h2o": "subject_alias"}


@explain_unknown_arguments
def get_session_table(
    if_load_bpod: bool = False,
    only_recent_n_month: int | None = None,
    *,
    warehouse: str | Path | None = None,
) -> pd.DataFrame:
    """Return the session table: one row per behaviour session, the newest first.

    No network is needed. As in the public reader, sessions that only Code Ocean knows are left out;
    the table `sessions` has them.

    Parameters
    ----------
    if_load_bpod
        Whether to return sessions on the older rigs too.
    only_recent_n_month
        How many months to go back from today; all sessions by default.
    warehouse
        The DuckDB file, or the URL of an object; by default the one that ``AIND_ETL_WAREHOUSE`` or
        ``AIND_ETL_LAKE`` name.

    Returns
    -------
    pandas.DataFrame
        The columns of the public reader by its names, such as ``abs(bias_naive)``; first
        ``subject_id`` (text), ``session_date`` (datetime64), ``nwb_suffix``, ``session``, ``rig``,
        ``trainer``, ``PI``, ``curriculum_name``, ``curriculum_version``, ``current_stage_actual``,
        ``task`` and ``notes``.

    Raises
    ------
    ValueError
        An argument is wrong.
    ConfigurationError
        There is no warehouse, or it cannot be read.

    Examples
    --------
    >>> from aind_etl import get_session_table
    >>> sessions = get_session_table()
    >>> sessions[["subject_id", "session_date", "foraging_eff"]].head(1)  # doctest: +SKIP
      subject_id session_date  foraging_eff
    0     652324   2026-04-15      0.723214
    """
    if only_recent_n_month is not None and not isinstance(only_recent_n_month, int):
        raise ArgumentError(
            f"only_recent_n_month is {only_recent_n_month!r}; expected a number of months."
        )
    with open_warehouse(warehouse) as connection:
        found = connection.execute("FROM sessions").df()
        comments = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'sessions'"
            ).fetchall()
        )
    table = _as_reader(found, comments)
    if table.empty:
        _log.warning(
            "The warehouse has no session table. Set AIND_ETL_BEHAVIOR_DATABASE or "
            "AIND_ETL_SESSION_TABLE, from which 'aind-etl run' reads it."
        )
    if not if_load_bpod and "hardware" in table:
        table = table[table["hardware"] != "bpod"]
    if only_recent_n_month is not None:
        oldest = pd.Timestamp.now() - pd.DateOffset(months=only_recent_n_month)
        table = table[table["session_date"] >= oldest]
    return table.reset_index(drop=True)


def _as_reader(found: pd.DataFrame, comments: dict[str, str | None]) -> pd.DataFrame:
    """Return the sessions with the public reader's columns, the newest first."""
    columns: dict[str, Any] = dict.fromkeys(_FIRST_COLUMNS)
    columns["subject_id"] = found["subject_id"]
    columns["session_date"] = pd.to_datetime(found["session_date"])
    for name in found.columns.drop(["subject_id", "session_date"]):
        comment = comments.get(name) or ""
        label = original_label(comment)
        if label is None or label in _ONLY_IN_DATABASE:
            continue
        values = found[name]
        if is_json(comment):
            values = values.map(json.loads, na_action="ignore")
        columns[_RENAMED.get(label, label)] = values
    if columns["PI"] is None:
        columns["PI"] = found.get("principal_investigator")
    table = pd.DataFrame(columns)
    known = table[table["session"].notna()].copy()
    for name in known.columns[known.dtypes == "boolean"]:
        # The public reader's columns are plain booleans if no value is missing.
        kind = object if known[name].hasnans else bool
        known[name] = known[name].to_numpy(dtype=kind, na_value=np.nan)
    return known.sort_values(["session_date", "nwb_suffix"], ascending=False, kind="stable")
