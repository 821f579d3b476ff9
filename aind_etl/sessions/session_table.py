"""The session table: what the pipeline that reads the rigs' files knows of each session.

The pickled frame is read in a separate process with limits
(:mod:`aind_etl.sessions.pickled_frame`), and becomes the table `sessions`. All columns of the
frame are kept. They are named after the last of their labels in snake case, or after all labels
where that is not unique.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import polars as pl

from aind_etl.contract import tables
from aind_etl.contract.columns import PRINCIPAL_INVESTIGATOR
from aind_etl.errors import DataError
from aind_etl.flatten import derived as deriving
from aind_etl.results.folders import FileContent, FileRequest
from aind_etl.sessions import pickled_frame

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.results.store import ResultStore
from aind_etl.sessions.frame_process import ReadingLimits, read_pickled_frame
from aind_etl.sessions.rows import UNKNOWN, session_rows

SESSION_TABLE = "s3://aind-behavior-data/foraging_nwb_bonsai_processed"
"""Where the session table lies."""

_FILES = _FRAME, _INVESTIGATORS = "df_sessions.pkl", "mouse_pi_mapping.json"
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

    It is written only when one of its two source files has another etag than before. What
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
        without_key=int(rows["session_key"].str.starts_with(UNKNOWN).sum()),
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
