"""What the animal did beside what the model says: trials of the institute's behaviour database.

The database has a folder per subject, whose files have columns of their own. Those of the asked
subjects are read by name; matching them to the trials of fits is SQL.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
_REGION = "us-west-2"
_PREFIX = "behavior_"
SESSION_ID = f"{_PREFIX}session_id"
"""The column that names the session in the behaviour database; NULL where none agrees."""

# Readers of the NWB files write them in different types.
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
"""The columns given where none are named, besides every ``laser_`` column there is."""
_LASER = "laser_"
_IDENTITY = "session_id"
_MATCHED = (_IDENTITY, "trial", "animal_response", "earned_reward")
_FILES_AT_A_TIME = 8
_NAMED_SESSIONS = 5

_KEY = ", ".join(tables.RECORD_KEY)
# The k-th trial with a response is trial k of the fits. A session agrees with a fit when all
# choices and rewards are the same. A key without a time of day may be any session of that day.
_AGREEMENT = f"""
WITH ours AS (
    SELECT {_KEY}, list((choice, reward) ORDER BY trial) AS played
    FROM trials SEMI JOIN fits USING ({_KEY})
    WHERE choice IS NOT NULL
    GROUP BY ALL
),
theirs AS (
    SELECT
        session_id,
        behavior_session_key(session_id) AS session_key,
        list((animal_response, earned_reward) ORDER BY trial) AS played
    FROM behavior_trials
    WHERE animal_response IN (0, 1)
    GROUP BY session_id
)
SELECT
    fits.session_key,
    {_KEY},
    session_id,
    ours.played = theirs.played AS agrees,
    len(ours.played) AS n_ours,
    len(theirs.played) AS n_theirs,
    list_position(
        list_transform(list_zip(ours.played, theirs.played), lambda one: one[1] = one[2]), false
    ) - 1 AS first_difference
FROM fits
JOIN ours USING ({_KEY})
LEFT JOIN theirs
    ON theirs.session_key = fits.session_key
    OR starts_with(theirs.session_key, fits.session_key || '_')
"""


@contextmanager
def with_behavior(
    connection: duckdb.DuckDBPyConnection,
    trials: pa.Table,
    fits: pl.DataFrame,
    columns: Sequence[str] | None,
) -> Iterator[duckdb.DuckDBPyRelation]:
    """Give trials of fits with what the animal did in each, for a ``with`` block.

    Sessions of which the behaviour database has no trials, or other ones, are reported, and their
    columns are NULL.

    Parameters
    ----------
    connection
        A warehouse.
    trials
        The trials, with the key of their fit and ``trial``.
    fits
        Key, ``session_key`` and ``subject_id`` of the fits.
    columns
        Names of columns of the behaviour database's trials, or None.

    Raises
    ------
    ArgumentError
        No asked subject has such a column.
    DataError
        The behaviour database cannot be read.
    """
    key = list(tables.RECORD_KEY)
    # A limit may leave few of the fits.
    fits = fits.join(pl.DataFrame(trials.select(key)).unique(), on=key, how="semi")
    found = _read_trials(connection, fits["subject_id"].drop_nulls().unique().sort(), columns)
    connection.register("fits", fits.to_arrow())
    connection.register("behavior_trials", found.to_arrow())
    connection.register("asked_trials", trials)
    try:
        compared = connection.sql(_AGREEMENT).pl()
        _report_disagreement(compared)
        agreeing = compared.filter("agrees").unique(key, keep="first")
        connection.register("agreeing", agreeing.to_arrow())
        wanted = columns or [name for name in found.columns if _is_wanted(name, None)]
        given = ", ".join(
            f"played.{quote_identifier(name)} AS "
            + quote_identifier(f"{_PREFIX}{name}" if name in trials.column_names else name)
            for name in dict.fromkeys(wanted)
            if name != _IDENTITY
        )
        yield connection.sql(
            f"SELECT asked.* EXCLUDE (position), agreeing.session_id AS {SESSION_ID}, {given} "
            "FROM (SELECT *, row_number() OVER () AS position FROM asked_trials) AS asked "
            f"LEFT JOIN agreeing USING ({_KEY}) "
            "LEFT JOIN (SELECT *, row_number() OVER (PARTITION BY session_id ORDER BY trial) - 1 "
            "AS valid_trial FROM behavior_trials WHERE animal_response IN (0, 1)) AS played "
            "ON played.session_id = agreeing.session_id AND valid_trial = asked.trial "
            "ORDER BY position"
        )
    finally:
        for view in ("fits", "behavior_trials", "asked_trials", "agreeing"):
            connection.unregister(view)


def _report_disagreement(compared: pl.DataFrame) -> None:
    """Warn of every session that has no trials in the behaviour database, or other ones."""
    sessions = compared.group_by("session_key", maintain_order=True).agg(
        pl.col("agrees").fill_null(value=False).any(), pl.all().exclude("agrees").first()
    )
    differing = sessions.filter(~pl.col("agrees")).to_dicts()
    if not differing:
        return
    shown = "; ".join(map(_difference, differing[:_NAMED_SESSIONS]))
    more = len(differing) - _NAMED_SESSIONS
    _log.warning(
        "%d of %d sessions do not agree with the behaviour database, and have no columns of it: "
        "%s%s",
        len(differing),
        sessions.height,
        shown,
        f"; and {more} more" if more > 0 else "",
    )


def _difference(session: Mapping[str, object]) -> str:
    key, name = session["session_key"], session["session_id"]
    if name is None:
        return f"{key} is not there"
    if session["n_ours"] != session["n_theirs"]:
        return (
            f"{key} has {session['n_theirs']} valid trials there as {name}, and "
            f"{session['n_ours']} here"
        )
    return f"{key} differs from {name} at trial {session['first_difference']}"


def _read_trials(
    connection: duckdb.DuckDBPyConnection, subjects: Iterable[str], asked: Sequence[str] | None
) -> pl.DataFrame:
    """Return the trials of subjects, with the columns to match by and those that are wanted."""
    settings = load_settings()
    files, root = _open(connection, settings)
    known: dict[str, None] = {}

    def read(subject: str) -> pl.DataFrame | None:
        folder = f"{root}/trial_table/subject_id={subject}"
        parts = []
        for one in files.get_file_info(pafs.FileSelector(folder, allow_not_found=True)):
            if not one.path.endswith(".parquet"):
                continue
            with files.open_input_file(one.path) as opened, pq.ParquetFile(opened) as file:
                names = file.schema_arrow.names
                known.update(dict.fromkeys(names))
                wanted = [name for name in names if _is_wanted(name, asked)]
                parts.append(_typed(pl.DataFrame(file.read(wanted))))
        return pl.concat(parts, how="diagonal_relaxed") if parts else None

    try:
        with ThreadPoolExecutor(_FILES_AT_A_TIME, thread_name_prefix="behavior") as pool:
            found = [one for one in pool.map(read, subjects) if one is not None]
    except (OSError, pa.ArrowException) as error:
        raise DataError(
            f"The behaviour database {without_credentials(settings.behavior_database)} cannot be "
            f"read ({first_line(error)}). Check AIND_ETL_BEHAVIOR_DATABASE and the network."
        ) from None
    for name in asked or ():
        if found and name not in known:
            raise ArgumentError(
                f"The trials of these subjects have no column {name!r} in the behaviour database. "
                f"{suggest(name, known)}"
            )
    names = [_IDENTITY, *_COLUMNS, *(asked or ())]
    empty = pl.DataFrame(
        schema={name: _COLUMNS.get(name, pl.String()) for name in dict.fromkeys(names)}
    )
    return pl.concat([empty, *found], how="diagonal_relaxed") if found else empty


def _is_wanted(name: str, asked: Sequence[str] | None) -> bool:
    if name in _MATCHED:
        return True
    return name in asked if asked is not None else name in _COLUMNS or name.startswith(_LASER)


def _typed(trials: pl.DataFrame) -> pl.DataFrame:
    return trials.with_columns(
        pl.col(name).cast(dtype, strict=False)
        for name, dtype in _COLUMNS.items()
        if name in trials.columns
    )


def _open(connection: duckdb.DuckDBPyConnection, settings: Settings) -> tuple[pafs.FileSystem, str]:
    """Return the file system of the behaviour database, and its path there."""
    address = settings.behavior_database
    if "://" not in address:
        return pafs.LocalFileSystem(), str(Path(address).expanduser().absolute())
    if not address.startswith(_S3):
        with needs_pipeline(f"The behaviour database {without_credentials(address)}"):
            from fsspec.core import url_to_fs  # noqa: PLC0415 - rarely needed

            files, path = url_to_fs(address)
        return pafs.PyFileSystem(pafs.FSSpecHandler(files)), path
    path = address.removeprefix(_S3)
    root = settings.results_root or _sample_root(connection, settings)
    if root is not None and not root.startswith(_S3):
        return pafs.LocalFileSystem(), str(Path(root).expanduser().absolute() / path)
    bucket = (root or "").removeprefix(_S3).strip("/")
    store = pafs.S3FileSystem(
        anonymous=settings.s3_anon,
        endpoint_override=settings.s3_endpoint_url,
        region=_REGION,
        connect_timeout=10,
    )
    return store, f"{bucket}/{path}" if bucket else path


def _sample_root(connection: duckdb.DuckDBPyConnection, settings: Settings) -> str | None:
    """Return the folder of the sample's files, where the warehouse is the sample's."""
    sources = read_sources(connection)
    if not sources or not kind_of(sources[0]).is_simulated:
        return None
    ((lake,),) = connection.execute(
        f"SELECT value FROM {INFO_TABLE} WHERE name = 'lake'"
    ).fetchall()
    with needs_pipeline("The sample's behaviour database"):
        from aind_etl.sources.sample import write_results  # noqa: PLC0415 - most are not the sample

        # The lake's name may be one of another folder, or of an object store.
        folder = Path(lake) if Path(lake).is_absolute() else settings.folder
        return str(write_results(sources[0], folder))
