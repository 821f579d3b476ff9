"""The session table: what the institute knows of each session beyond its analyses.

It is a parquet file of the behaviour database or, where a folder is named, the older pickled frame,
which is read in a separate process with limits (:mod:`aind_etl.sessions.pickled_frame`). Either
becomes the table `sessions`. All columns are kept, named after the last of their labels in snake
case, or after all labels where that is not unique.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import orjson
import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.columns import PRINCIPAL_INVESTIGATOR
from aind_etl.errors import DataError
from aind_etl.flatten import derived as deriving
from aind_etl.results.folders import FileContent, FileRequest
from aind_etl.sessions import pickled_frame, rows

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.results.store import ResultStore
from aind_etl.sessions.frame_process import ReadingLimits, read_pickled_frame
from aind_etl.sessions.rows import session_rows
from aind_etl.text import first_line

_FRAME, _INVESTIGATORS = "df_sessions.pkl", "mouse_pi_mapping.json"
# The fact that says of what the table in the lake was made.
_MADE_FROM = "made_from"


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
        Rows that name no subject or no day, so that their session key is NULL.
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
    location: str,
    limits: ReadingLimits | None = None,
) -> SessionsReport:
    """Bring the table `sessions` up to date with the session table in the store.

    It is written only when one of its source files has another etag than before. What
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
        Address of the session table: a parquet file, or a folder with the older pickle.
    limits
        What the process that reads the pickle may use.

    Raises
    ------
    SourceError
        The store does not answer at all.
    DataError
        The file of the table in the lake is damaged.
    """
    files = _files(location)
    if _is_made_from(lake, location, [_etag(store, file) for file in files]):
        return _kept(lake, "")
    contents = _read_files(store, files)
    problem = contents[0].problem
    if problem is not None:
        if problem.reason == "gone":
            absent = f"There is no session table at {files[0].address}."
            return _kept(lake, absent, lasting=True, advice=_NEVER_MIND)
        unread = f"This session table cannot be read: {files[0].address}. {problem.message}"
        return _kept(lake, unread, lasting=True, is_refused=True)
    investigators, note = None, ""
    if len(contents) > 1:
        investigators, note = _names(lake, contents[1])
    etags = [content.etag for content in contents]
    if _is_made_from(lake, location, etags):
        return _kept(lake, note)
    try:
        if investigators is None:
            table, found = _parquet_rows(contents[0].content)
        else:
            table, found = _pickled_rows(
                contents[0].content, investigators, limits or ReadingLimits()
            )
    except DataError as error:
        refused = f"The session table at {files[0].address} was refused. {error}"
        return _kept(lake, refused, lasting=True, is_refused=True)
    facts = {
        _MADE_FROM: _fingerprint(location, *etags),
        "source": location,
        "read_at": now().isoformat(),
    }
    with lake.table_lock(table):
        changed = lake.tables.replace_whole(table, found, facts)
    others = found["other_rows"].drop_nulls().str.json_decode(pl.List(pl.Struct([]))).list.len()
    return SessionsReport(
        rows=found.height,
        columns=found.width,
        changed=changed,
        other_rows=int(others.sum()),
        without_key=found["session_key"].null_count(),
        bytes=sum(len(content.content) for content in contents),
        note=note,
    )


def _parquet_rows(content: bytes) -> tuple[Table, pl.DataFrame]:
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"It is no parquet file that can be read ({first_line(error)}). Its publishers have "
            "to write it again."
        ) from None
    return session_rows(frame, [(name,) for name in frame.columns])


def _pickled_rows(
    content: bytes, investigators: dict[str, str], limits: ReadingLimits
) -> tuple[Table, pl.DataFrame]:
    columns = read_pickled_frame(content, limits)
    labels = [json.loads(field.metadata[pickled_frame.LABELS]) for field in columns.schema]
    return session_rows(cast("pl.DataFrame", pl.from_arrow(columns)), labels, investigators)


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


class _File(NamedTuple):
    folder: str
    name: str

    @property
    def address(self) -> str:
        return f"{self.folder}/{self.name}"


def _files(location: str) -> list[_File]:
    """Return the files that a session table consists of, the table itself first."""
    if location.endswith(".parquet"):
        folder, _, name = location.rpartition("/")
        return [_File(folder, name)]
    return [_File(location, _FRAME), _File(location, _INVESTIGATORS)]


def _etag(store: "ResultStore", file: _File) -> str:
    """Return the mark of a file's content; empty where it is not there or cannot be listed."""
    return next((one.etag for one in store.find_file(*file).files), "")


def _is_made_from(lake: "Lake", location: str, etags: Sequence[str]) -> bool:
    return lake.tables.facts(tables.SESSIONS).get(_MADE_FROM) == _fingerprint(location, *etags)


def _read_files(store: "ResultStore", files: Sequence[_File]) -> list[FileContent]:
    # The size is not known before; the store refuses what is too large.
    requests = [FileRequest(file.folder, file.name, 0) for file in files]
    read = {answer.request.name: answer for answer in store.read_files(requests)}
    return [read[file.name] for file in files]


def _names(lake: "Lake", read: FileContent) -> tuple[dict[str, str], str]:
    """Return the investigator of each subject, and a note for the user.

    Where the mapping cannot be read, the present table is used.
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
    "AIND_ETL_SESSION_TABLE to its address."
)


@cache
def _reader_version() -> str:
    """Return a hash of the code that builds the table, so that other code builds it again."""
    digest = sha256()
    files = [Path(str(module.__file__)) for module in (rows, deriving)]
    for path in [*sorted(Path(str(pickled_frame.__file__)).parent.glob("*.py")), *files]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _fingerprint(*parts: str) -> str:
    return sha256("\0".join([*parts, _reader_version()]).encode()).hexdigest()
