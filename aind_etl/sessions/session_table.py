"""The session table: what the pipeline that reads the rigs' files knows of each session.

The pickled frame is read in a separate process with limits
(:mod:`aind_etl.sessions.pickled_frame`), and becomes the table `sessions`. All columns of the
frame are kept. They are named after the last of their labels in snake case, or after all labels
where that is not unique.
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, cast
from unicodedata import normalize

import orjson
import polars as pl
import pyarrow as pa

from aind_etl.contract import Column, DataType, Table, tables
from aind_etl.contract.columns import PRINCIPAL_INVESTIGATOR, SESSIONS_MADE
from aind_etl.contract.schemas import POLARS_TYPES, polars_schema
from aind_etl.errors import DataError
from aind_etl.flatten import derived as deriving
from aind_etl.results.folders import FileContent, FileRequest
from aind_etl.sessions import pickled_frame

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.results.store import ResultStore

SESSION_TABLE = "s3://aind-behavior-data/foraging_nwb_bonsai_processed"
"""Where the session table lies."""

_FILES = _FRAME, _INVESTIGATORS = "df_sessions.pkl", "mouse_pi_mapping.json"
# The fact that says of what the table in the lake was made.
_MADE_FROM = "made_from"
_SUFFIX_IS_A_TIME = 1000
_MOST_TRIALS = "finished_trials"


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """What the process that reads a pickle may use.

    Attributes
    ----------
    memory_bytes
        Its address space.
    cpu_seconds
        Time of the processor.
    wall_seconds
        Time on the clock.
    """

    memory_bytes: int = 3 << 29
    cpu_seconds: int = 60
    wall_seconds: float = 120.0


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """What bringing the table `sessions` up to date did.

    Attributes
    ----------
    rows, columns
        Size of the table now.
    changed
        Whether it was written.
    other_rows
        Rows of the session table that stand in `other_rows`, as another row of the same session
        stands for it.
    without_key
        Rows that name no subject or no day.
    bytes
        Size of what was read.
    note
        What a person should know: that there is no session table, or that it was refused. Empty
        where all is well.
    is_refused
        Whether there is a session table that cannot be taken, and a person should look at it.
    """

    rows: int = 0
    columns: int = 0
    changed: bool = False
    other_rows: int = 0
    without_key: int = 0
    bytes: int = 0
    note: str = ""
    is_refused: bool = False


def refresh_sessions(
    lake: "Lake",
    store: "ResultStore",
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    location: str = SESSION_TABLE,
    limits: ReadingLimits | None = None,
) -> SessionsReport:
    """Bring the table `sessions` up to date with the session table in the store.

    It is written only when one of the two files it is made of has another etag than before. What
    cannot be read never takes a table away: the one that was there stays, and the report says why.

    Parameters
    ----------
    lake
        Where to.
    store
        Where from.
    now
        The clock.
    location
        Address of the folder in which the session table lies.
    limits
        What the process that reads the pickle may use.

    Raises
    ------
    SourceError
        The store does not answer at all.
    DataError
        The file of the table in the lake is damaged.
    """
    if _is_made_from(lake, location, [_etag(store, location, name) for name in _FILES]):
        return _kept(lake, "")
    frame, investigators = _read_files(store, location)
    if frame.problem is not None:
        is_absent = frame.problem.reason == "gone"
        if is_absent:
            return _kept(
                lake,
                f"There is no session table at {location}/{_FRAME}.",
                lasting=True,
                advice=_NEVER_MIND,
            )
        said = f"This session table cannot be read: {location}/{_FRAME}. {frame.problem.message}"
        return _kept(lake, said, lasting=True, is_refused=True)
    names, note = _names(lake, investigators)
    etags = [frame.etag, investigators.etag]
    if _is_made_from(lake, location, etags):
        return _kept(lake, note)
    try:
        columns = read_pickled_frame(frame.content, limits or ReadingLimits())
        table, rows = session_rows(columns, names)
    except DataError as error:
        refused = f"The session table at {location}/{_FRAME} was refused. {error}"
        return _kept(lake, refused, lasting=True, is_refused=True)
    with lake.table_lock(table):
        changed = lake.tables.replace_whole(
            table,
            rows,
            {
                _MADE_FROM: _fingerprint(location, *etags),
                "source": location,
                "read_at": now().isoformat(),
            },
        )
    others = rows["other_rows"].drop_nulls().str.json_decode(pl.List(pl.Struct([]))).list.len()
    return SessionsReport(
        rows=rows.height,
        columns=rows.width,
        changed=changed,
        other_rows=int(others.sum()),
        without_key=int(rows["session_key"].str.starts_with(_UNKNOWN).sum()),
        bytes=len(frame.content) + len(investigators.content),
        note=note,
    )


def investigator_names(content: bytes) -> dict[str, str]:
    """Return the principal investigator of each subject, from ``mouse_pi_mapping.json``.

    It is a list of objects with ``subject_id`` and ``PI``, or one object of names by subject.

    Raises
    ------
    DataError
        It is neither.
    """
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{_INVESTIGATORS} is no JSON ({error}). {_NO_NAMES}") from None
    if isinstance(found, list) and all(isinstance(mouse, dict) for mouse in found):
        found = {
            mouse.get("subject_id"): mouse.get("PI")
            for mouse in found
            if isinstance(mouse.get("subject_id"), str | int)
        }
    if not isinstance(found, dict):
        raise DataError(
            f"{_INVESTIGATORS} is no list of objects with subject_id and PI. {_NO_NAMES}"
        )
    return {str(subject): name for subject, name in found.items() if isinstance(name, str)}


_NO_NAMES = "Until it is one, the principal investigators known before stay."


# --- the reading process --------------------------------------------------------------------


def read_pickled_frame(content: bytes, limits: ReadingLimits) -> pa.Table:
    """Return the columns of a pickled frame, read in a process of its own.

    Returns
    -------
    pyarrow.Table
        As :func:`aind_etl.sessions.pickled_frame.read_frame` describes it.

    Raises
    ------
    DataError
        The pickle is refused, or needs more memory or time than it may have.
    """
    program = str(pickled_frame.__file__)
    limited = [str(limits.memory_bytes), str(limits.cpu_seconds)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", program, *limited],
            input=content,
            capture_output=True,
            timeout=limits.wall_seconds,
            # An interrupt from the terminal is for the reader of its answer.
            start_new_session=True,
            # No credential is in reach of what is read there.
            env=_ENVIRONMENT | {name: os.environ[name] for name in _KEPT if name in os.environ},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"It was not read after {limits.wall_seconds:g} s. {_REFUSED_FOR_GOOD}"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode == pickled_frame.REFUSED and said:
            raise DataError(f"{said[-1]} {_REFUSED_FOR_GOOD}")
        raise DataError(
            f"Reading it took more than {limits.cpu_seconds} s of the processor or "
            f"{limits.memory_bytes >> 20:,} MB of memory (the process ended with "
            f"{done.returncode}). {_REFUSED_FOR_GOOD}"
        )
    with pa.ipc.open_stream(done.stdout) as stream:
        return stream.read_all()


_REFUSED_FOR_GOOD = "Nothing of it was run; have it written again by pandas."
_KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# One thread and one heap: each more takes of the address space that is limited.
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


def _etag(store: "ResultStore", location: str, name: str) -> str:
    """Return the mark of a file's content; empty where it is not there or cannot be listed."""
    return next((file.etag for file in store.find_file(location, name).files), "")


def _is_made_from(lake: "Lake", location: str, etags: Sequence[str]) -> bool:
    return lake.tables.facts(tables.SESSIONS).get(_MADE_FROM) == _fingerprint(location, *etags)


def _read_files(store: "ResultStore", location: str) -> tuple[FileContent, FileContent]:
    # The size is not known before; the store refuses what is too large.
    requests = [FileRequest(location, name, 0) for name in _FILES]
    read = {answer.request.name: answer for answer in store.read_files(requests)}
    return read[_FRAME], read[_INVESTIGATORS]


def _names(lake: "Lake", read: FileContent) -> tuple[dict[str, str], str]:
    """Return subject to investigator, and what is to be said of it.

    Where the mapping cannot be had, it is what the table says now.
    """
    if read.problem is not None:
        note = f"{_INVESTIGATORS} cannot be read ({read.problem.message}). {_NO_NAMES}"
    else:
        try:
            return investigator_names(read.content), ""
        except DataError as error:
            note = str(error)
    table = lake.tables.as_written(tables.SESSIONS)
    if PRINCIPAL_INVESTIGATOR.name not in table.column_names:
        return {}, note
    known = lake.tables.scan(table).select("subject_id", PRINCIPAL_INVESTIGATOR.name).drop_nulls()
    return dict(known.collect().iter_rows()), note


def _kept(
    lake: "Lake", note: str, *, lasting: bool = False, advice: str = "", is_refused: bool = False
) -> SessionsReport:
    """Return the report of a table that stays as it is; ``lasting`` where that has to be said."""
    rows = lake.tables.count_rows(tables.SESSIONS)
    if lasting:
        stays = f"The {rows:,} sessions known before stay." if rows else "No sessions are known."
        note = f"{note} {stays} {advice}".rstrip()
    columns = len(lake.tables.as_written(tables.SESSIONS).columns)
    return SessionsReport(rows, columns, note=note, is_refused=is_refused)


_NEVER_MIND = (
    "Nothing need be done: everything else works without it. If it lies elsewhere, set "
    "AIND_ETL_SESSION_TABLE to the address of its folder."
)


@cache
def _reader_version() -> str:
    """Return a hash of the code that builds the table, so that other code builds it again."""
    digest = sha256()
    for path in (__file__, str(pickled_frame.__file__), str(deriving.__file__)):
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()


def _fingerprint(*parts: str) -> str:
    return sha256("\0".join([*parts, _reader_version()]).encode()).hexdigest()


# --- the rows -------------------------------------------------------------------------------

_UNKNOWN = "unknown_"
_KNOWN_COLUMNS = (*tables.SESSIONS.columns, *SESSIONS_MADE)
_OWN = frozenset(column.name for column in _KNOWN_COLUMNS)


def session_rows(columns: pa.Table, investigators: dict[str, str]) -> tuple[Table, pl.DataFrame]:
    """Return the table `sessions` and its rows.

    Parameters
    ----------
    columns
        The columns of the session table.
    investigators
        Subject to principal investigator.

    Returns
    -------
    table
        The contract's table with the further columns there are.
    rows
        One row per session key.

    Raises
    ------
    DataError
        There is no column of subjects, or none of days.
    """
    labels = [tuple(json.loads(field.metadata[pickled_frame.LABELS])) for field in columns.schema]
    names = column_names(labels)
    frame = cast("pl.DataFrame", pl.from_arrow(columns.rename_columns(names)))
    frame = frame.select(_typed(frame[name]) for name in names)
    missing = [name for name in ("subject_id", "session_date") if name not in names]
    if missing:
        raise DataError(
            f"It has no column {' and no column '.join(map(repr, missing))}; it has "
            f"{', '.join(map(repr, names))}."
        )
    # The frame's own columns of these names come later, under other names.
    further = [
        Column(name, _type_of(frame[name]), _described(label))
        for name, label in zip(names, labels, strict=True)
        if name not in _OWN
    ]
    keyed = frame.with_columns(
        subject_id=pl.col("subject_id").cast(pl.String).str.strip_suffix(".0"),
        session_date=_day(frame["session_date"]),
    ).with_columns(
        session_key=_session_key(frame),
        principal_investigator=pl.col("subject_id")
        .cast(pl.String)
        .replace_strict(investigators, default=None, return_dtype=pl.String),
    )
    table = replace(tables.SESSIONS, columns=(*_KNOWN_COLUMNS, *further))
    return table, _one_row_per_session(keyed).select(polars_schema(table).names())


def column_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """Return the names of columns in snake case, from their labels in the frame.

    The last label names a column, as that is what people know it by; where several columns would
    have the same name, all of a column's labels, and a number where even these are the same. The
    first column of a name of the contract's own keeps it.
    """
    last = [snake_case(label[-1] if label else "") for label in labels]
    often = Counter(last)
    taken: set[str] = set()
    names = []
    for label, short in zip(labels, last, strict=True):
        is_own = short in ("subject_id", "session_date") and short not in taken
        is_free = often[short] == 1 and short not in _OWN
        name = short if is_own or is_free else snake_case("_".join(label))
        candidates = chain([name], (f"{name}_{number}" for number in count(2)))
        unique = next(
            one
            for one in candidates
            if one not in taken and (is_own or one not in _OWN) and (one == short or not often[one])
        )
        taken.add(unique)
        names.append(unique)
    return names


def snake_case(label: str) -> str:
    """Return a label in snake case: small letters, digits and ``_``, a letter first.

    Letters with marks lose these, signs that are none of them separate words.
    """
    plain = normalize("NFKD", label).encode("ascii", "ignore").decode()
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", plain)
    name = re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")
    return name if name and name[0].isalpha() else f"column_{name}".rstrip("_")


def _typed(values: pl.Series) -> pl.Series:
    """Return values in the nearest type of the contract."""
    dtype = values.dtype
    if dtype in (pl.Float32, pl.Float16):
        return values.cast(pl.Float64)
    if dtype == pl.UInt64 and (values > 2**63 - 1).any():
        return values.cast(pl.String)
    if dtype.is_integer():
        return values.cast(pl.Int64)
    if isinstance(dtype, pl.Datetime):
        return values.cast(pl.Datetime("us", dtype.time_zone))
    return values if dtype in _TYPES else values.cast(pl.String)


_TYPES: dict[pl.DataType, DataType] = {
    POLARS_TYPES[ours]: ours
    for ours in (
        DataType.VARCHAR,
        DataType.BOOLEAN,
        DataType.BIGINT,
        DataType.DOUBLE,
        DataType.DATE,
        DataType.TIME,
        DataType.TIMESTAMP,
        DataType.TIMESTAMPTZ,
    )
}


def _type_of(values: pl.Series) -> DataType:
    return _TYPES[values.dtype]


def _described(labels: Sequence[str]) -> str:
    return f"`{'.'.join(labels)}` of the session table."


def _day(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        return values.to_frame().select(deriving.day(pl.col(values.name))).to_series()
    if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
        return values.cast(pl.Date)
    return pl.Series(values.name, [None] * len(values), pl.Date)


def _session_key(frame: pl.DataFrame) -> pl.Expr:
    """Return the key of each session, by the one rule there is for it.

    The table carries no NWB name but its parts: subject, day, and a suffix that is the time of
    day as a number, hhmmss. In files of the rigs' first years it is a number from 0 that counts
    the files of a day: those are sessions without a time.
    """
    day = pl.col("session_date").dt.to_string("%Y-%m-%d")
    name = pl.lit(None, pl.String)
    if "nwb_name" in frame.columns and frame["nwb_name"].dtype == pl.String:
        name = pl.col("nwb_name")
    elif "nwb_suffix" in frame.columns:
        digits = pl.col("nwb_suffix").cast(pl.Int64, strict=False)
        clock = digits.cast(pl.String).str.zfill(6).str.replace(r"^(..)(..)(..)$", "${1}-${2}-${3}")
        is_time = digits.is_between(_SUFFIX_IS_A_TIME, 235_959)
        name = pl.when(is_time).then(pl.concat_str("subject_id", day, clock, separator="_"))
    key = deriving.session_key(name, pl.col("subject_id"), pl.col("session_date"))
    row = pl.concat_str(pl.lit(_UNKNOWN), pl.int_range(pl.len()))
    return pl.coalesce(key, row)


def _one_row_per_session(keyed: pl.DataFrame) -> pl.DataFrame:
    """Return one row per key, with the other rows of it as JSON.

    Two rows are one session when the file was saved twice on a day, or when the table holds it
    twice. The one with the most finished trials stands, then the one with the most values; rows
    that are the same in all are one.
    """
    distinct = keyed.unique(maintain_order=True)
    most = pl.col(_MOST_TRIALS) if _has_numbers(distinct, _MOST_TRIALS) else pl.lit(0)
    ranked = distinct.with_columns(
        rank=pl.struct(
            most.fill_nan(None).fill_null(-1).cast(pl.Float64).alias("trials"),
            pl.sum_horizontal(pl.all().is_not_null()).cast(pl.Float64).alias("values"),
        )
        .rank("ordinal", descending=True)
        .over("session_key")
    )
    first = ranked.filter(pl.col("rank") == 1).drop("rank")
    others = ranked.filter(pl.col("rank") > 1).sort("session_key", "rank").drop("rank")
    written = pl.DataFrame(
        _other_rows(others),
        schema={"session_key": pl.String, "other_rows": pl.String},
        orient="row",
    )
    return first.join(written, on="session_key", how="left")


def _has_numbers(frame: pl.DataFrame, name: str) -> bool:
    return name in frame.columns and frame[name].dtype.is_numeric()


def _other_rows(others: pl.DataFrame) -> Iterator[tuple[str, str]]:
    for (key,), rows in others.partition_by("session_key", as_dict=True).items():
        given = [
            {name: value for name, value in row.items() if value is not None}
            for row in rows.drop("session_key", "principal_investigator").iter_rows(named=True)
        ]
        yield str(key), orjson.dumps(given).decode()
