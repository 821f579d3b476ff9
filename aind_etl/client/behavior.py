"""Trials of fits joined with what the animal did: the institute's behaviour database.

The database has a folder per subject, and its files differ in their columns. The columns asked for
are read for the subjects concerned; SQL matches them to the trials of fits.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from aind_etl.contract import tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ArgumentError, DataError, needs_pipeline
from aind_etl.settings import Settings, load_settings
from aind_etl.sources.kinds import kind_of
from aind_etl.text import first_line, suggest, without_credentials
from aind_etl.warehouse.connection import INFO_TABLE
from aind_etl.warehouse.info import read_sources

_log = logging.getLogger(__name__)

_S3 = "s3://"
_PREFIX = "behavior_"
_SESSION_ID = "session_id"
"""The column that names a session in the behaviour database."""

# The files' types differ with the reader of the NWB files.
_COLUMNS: Mapping[str, pl.DataType] = {
    "trial": pl.Int32(),
    "animal_response": pl.Int8(),
    "earned_reward": pl.Boolean(),
    "reward_probabilityL": pl.Float64(),
    "reward_probabilityR": pl.Float64(),
    "reaction_time": pl.Float64(),
    "auto_waterL": pl.Boolean(),
    "auto_waterR": pl.Boolean(),
}
"""The columns returned by default, besides every ``laser_`` column."""
_MATCHED = (_SESSION_ID, "trial", "animal_response", "earned_reward")
_FILES_AT_A_TIME = 8
_NAMED_SESSIONS = 5

_KEY = ", ".join(tables.RECORD_KEY)
# Trial k of a fit is the k-th trial with a response. A session agrees with a fit when all choices
# and rewards are equal. A session key without a time of day may be any session of that day.
_AGREEMENT = f"""
WITH fits AS (
    SELECT DISTINCT {_KEY}, session_key FROM selected_trials
),
fitted AS (
    SELECT {_KEY}, list((choice, reward) ORDER BY trial) AS outcomes
    FROM trials SEMI JOIN fits USING ({_KEY})
    WHERE choice IS NOT NULL
    GROUP BY ALL
),
recorded AS (
    SELECT
        session_id,
        behavior_session_key(session_id) AS session_key,
        list((animal_response, earned_reward) ORDER BY trial) AS outcomes
    FROM behavior_trials
    WHERE animal_response IN (0, 1)
    GROUP BY session_id
)
SELECT
    fits.session_key,
    {_KEY},
    session_id,
    coalesce(fitted.outcomes = recorded.outcomes, false) AS agrees,
    list_position(
        list_transform(fitted.outcomes, lambda one, n: one = recorded.outcomes[n]), false
    ) - 1 AS first_difference,
    CASE
        WHEN session_id IS NULL THEN
            coalesce(fits.session_key, 'a fit without a session') || ' is not there'
        WHEN len(fitted.outcomes) = len(recorded.outcomes) THEN
            printf('%s differs from %s at trial %d', fits.session_key, session_id, first_difference)
        ELSE printf(
            '%s has %d valid trials there as %s, and %d here',
            fits.session_key, len(recorded.outcomes), session_id, len(fitted.outcomes)
        )
    END AS difference
FROM fits
JOIN fitted USING ({_KEY})
LEFT JOIN recorded
    ON recorded.session_key = fits.session_key
    OR starts_with(recorded.session_key, fits.session_key || '_')
"""


def join_behavior(
    connection: duckdb.DuckDBPyConnection,
    trials: duckdb.DuckDBPyRelation,
    columns: Sequence[str] | None,
) -> duckdb.DuckDBPyRelation:
    """Return trials of fits with columns that say what the animal did in each.

    Sessions that the behaviour database lacks, or whose trials differ there, are reported, and have
    NULL in these columns.

    Parameters
    ----------
    columns
        Names of columns of the behaviour database's trials, or None for the default.

    Raises
    ------
    ArgumentError
        No trial of the subjects has such a column.
    """
    selected = trials.to_arrow_table()
    connection.register("selected_trials", selected)
    subjects = selected["subject_id"].unique().drop_null().to_pylist()
    recorded = _read_trials(connection, sorted(subjects), columns)
    connection.register("behavior_trials", recorded.to_arrow())
    compared = connection.sql(_AGREEMENT).pl()
    _report_disagreement(compared)
    agreeing = compared.filter("agrees").unique(tables.RECORD_KEY, keep="first")
    connection.register("agreeing", agreeing.to_arrow())
    added = ", ".join(
        f"recorded.{quote_identifier(name)} AS "
        + quote_identifier(f"{_PREFIX}{name}" if name in trials.columns else name)
        for name in dict.fromkeys(columns or filter(_is_default, recorded.columns))
        if name != _SESSION_ID
    )
    return connection.sql(
        "SELECT selected.* EXCLUDE (position), "
        f"agreeing.session_id AS {_PREFIX}{_SESSION_ID}, {added} "
        "FROM (SELECT *, row_number() OVER () AS position FROM selected_trials) AS selected "
        f"LEFT JOIN agreeing USING ({_KEY}) "
        "LEFT JOIN (SELECT *, row_number() OVER (PARTITION BY session_id ORDER BY trial) - 1 "
        "AS valid_trial FROM behavior_trials WHERE animal_response IN (0, 1)) AS recorded "
        "ON recorded.session_id = agreeing.session_id AND valid_trial = selected.trial "
        "ORDER BY position"
    )


def _report_disagreement(compared: pl.DataFrame) -> None:
    """Warn of every session that the behaviour database lacks, or whose trials differ there."""
    sessions = compared.group_by("session_key", maintain_order=True).agg(
        pl.col("agrees").any(), pl.col("difference").first()
    )
    differing = sessions.filter(~pl.col("agrees"))["difference"]
    if differing.is_empty():
        return
    more = len(differing) - _NAMED_SESSIONS
    _log.warning(
        "%d of %d sessions do not agree with the behaviour database, and have no columns of it: "
        "%s%s",
        len(differing),
        sessions.height,
        "; ".join(differing[:_NAMED_SESSIONS]),
        f"; and {more} more" if more > 0 else "",
    )


def _read_trials(
    connection: duckdb.DuckDBPyConnection, subjects: Iterable[str], columns: Sequence[str] | None
) -> pl.DataFrame:
    """Return the trials of subjects: the columns asked for, and those to match by."""
    settings = load_settings()
    files, root = _open(connection, settings)
    folders = [f"{root}/trial_table/subject_id={subject}" for subject in subjects]
    try:
        with ThreadPoolExecutor(_FILES_AT_A_TIME, thread_name_prefix="behavior") as pool:
            read = pool.map(partial(_read_folder, files, columns), folders)
            found = [file for folder in read for file in folder]
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"The behaviour database {without_credentials(settings.behavior_database)} cannot be "
            f"read ({first_line(error)}). Check AIND_ETL_BEHAVIOR_DATABASE and the network."
        ) from None
    known = {name for _, names in found for name in names}
    for name in columns or ():
        if found and name not in known:
            raise ArgumentError(
                f"The trials of these subjects have no column {name!r} in the behaviour database. "
                f"{suggest(name, known)}"
            )
    texts = dict.fromkeys((_SESSION_ID, *(columns or ())), pl.String())
    empty = pl.DataFrame(schema={**texts, **_COLUMNS})
    return pl.concat([empty, *(rows for rows, _ in found)], how="diagonal_relaxed")


def _read_folder(
    files: pafs.FileSystem, columns: Sequence[str] | None, folder: str
) -> list[tuple[pl.DataFrame, list[str]]]:
    """Return the trials of each file of a subject, with the names of all its columns."""
    found = []
    for entry in files.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
        if not entry.path.endswith(".parquet"):
            continue
        with files.open_input_file(entry.path) as opened, pq.ParquetFile(opened) as file:
            names = file.schema_arrow.names
            chosen = {*_MATCHED, *(columns or filter(_is_default, names))}
            rows = pl.DataFrame(file.read([name for name in names if name in chosen]))
        types = pl.Schema({name: kind for name, kind in _COLUMNS.items() if name in rows.columns})
        found.append((rows.cast(types, strict=False), names))
    return found


def _is_default(name: str) -> bool:
    return name in _COLUMNS or name.startswith("laser_")


def _open(connection: duckdb.DuckDBPyConnection, settings: Settings) -> tuple[pafs.FileSystem, str]:
    """Return the file system of the behaviour database, and its path in it."""
    address = settings.behavior_database
    if address.startswith(_S3):
        path = address.removeprefix(_S3)
        root = settings.results_root or _sample_root(connection, settings) or _S3
        if root.startswith(_S3):
            store = pafs.S3FileSystem(
                anonymous=settings.s3_anon,
                endpoint_override=settings.s3_endpoint_url,
                region="us-west-2",  # that of the institute's buckets
                connect_timeout=10,
            )
            return store, f"{root.removeprefix(_S3).strip('/')}/{path}".lstrip("/")
        address = f"{root}/{path}"
    if "://" not in address:
        return pafs.LocalFileSystem(), str(Path(address).expanduser().absolute())
    with needs_pipeline(f"The behaviour database {without_credentials(address)}"):
        from fsspec.core import url_to_fs  # noqa: PLC0415 - rarely needed

        files, path = url_to_fs(address)
    return pafs.PyFileSystem(pafs.FSSpecHandler(files)), path


def _sample_root(connection: duckdb.DuckDBPyConnection, settings: Settings) -> str | None:
    """Return the folder of the sample's files if the warehouse holds the sample."""
    sources = read_sources(connection)
    if not sources or not kind_of(sources[0]).is_simulated:
        return None
    ((lake,),) = connection.execute(
        f"SELECT value FROM {INFO_TABLE} WHERE name = 'lake'"
    ).fetchall()
    with needs_pipeline("The sample's behaviour database"):
        from aind_etl.sources.sample import write_results  # noqa: PLC0415 - most are not the sample

        # The lake may be named relative to another folder, or be in an object store.
        folder = Path(lake) if Path(lake).is_absolute() else settings.folder
        return str(write_results(sources[0], folder))
