"""The session table: what the institute knows about each session beyond its analyses.

It is a parquet file of the behaviour database or, where a folder is named, the older pickled frame,
which is read in a separate process with limits (:mod:`aind_etl.sessions.pickled_frame`). Either
becomes the table `sessions`, with all of its columns (:mod:`aind_etl.sessions.rows`).
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import cast

import orjson
import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.columns import PRINCIPAL_INVESTIGATOR
from aind_etl.errors import DataError
from aind_etl.flatten import derived
from aind_etl.lake import Lake
from aind_etl.results.folders import FileContent, FileRequest
from aind_etl.results.store import ResultStore
from aind_etl.sessions import pickled_frame, rows
from aind_etl.sessions.frame_process import read_pickled_frame
from aind_etl.sessions.rows import session_rows
from aind_etl.text import first_line

_FRAME, _INVESTIGATORS = "df_sessions.pkl", "mouse_pi_mapping.json"
# The key in the table's metadata of the fingerprint of what it was built from.
_BUILT_FROM = "made_from"


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """What a refresh of the table `sessions` did.

    Attributes
    ----------
    rows, columns
        Size of the table now.
    changed
        Whether it was written.
    other_rows
        Rows that are in the column `other_rows` of another row of the same session.
    without_key
        Rows that name no subject or no day, so that their session key is NULL.
    bytes
        Size of what was read.
    note
        A message for people: that there is no session table, or why it was refused; or empty.
    is_refused
        Whether there is a session table that cannot be read, which needs a person's attention.
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
    lake: Lake,
    store: ResultStore,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    location: str,
) -> SessionsReport:
    """Bring the table `sessions` up to date with the session table in the store.

    It is written only if one of its source files has changed. If they cannot be read, the present
    table stays, and the report says why.

    Parameters
    ----------
    now
        The clock.
    location
        Address of the session table: a parquet file, or a folder with the older pickle.

    Raises
    ------
    SourceError
        The store does not answer at all.
    DataError
        The file of the table in the lake is damaged.
    """
    files = _files(location)
    address = f"{files[0].location}/{files[0].name}"
    built_from = lake.tables.facts(tables.SESSIONS).get(_BUILT_FROM)
    etags = (store.find_etag(file.location, file.name) for file in files)
    if built_from == _fingerprint(location, *etags):
        return _unchanged(lake)
    read = {content.request: content for content in store.read_files(files)}
    contents = [read[file] for file in files]
    problem = contents[0].problem
    if problem is not None:
        if problem.reason == "gone":
            advice = (
                "No action is needed: everything else works without it. If it is elsewhere, set "
                "AIND_ETL_SESSION_TABLE to its address."
            )
            return _kept(lake, f"There is no session table at {address}.", advice)
        unread = f"This session table cannot be read: {address}. {problem.message}"
        return _kept(lake, unread, is_refused=True)
    investigators, note = _known_investigators(lake, contents[1]) if contents[1:] else (None, "")
    fingerprint = _fingerprint(location, *(content.etag for content in contents))
    if built_from == fingerprint:
        return _unchanged(lake, note)
    try:
        table, found = _table_and_rows(contents[0].content, investigators)
    except DataError as error:
        refused = f"The session table at {address} was refused. {error}"
        return _kept(lake, refused, is_refused=True)
    facts = {_BUILT_FROM: fingerprint, "source": location, "read_at": now().isoformat()}
    with lake.table_lock(table):
        changed = lake.tables.replace_whole(table, found, facts)
    others = found["other_rows"].drop_nulls()
    return SessionsReport(
        rows=found.height,
        columns=found.width,
        changed=changed,
        other_rows=sum(len(orjson.loads(rows)) for rows in others),
        without_key=found["session_key"].null_count(),
        bytes=sum(len(content.content) for content in contents),
        note=note,
    )


def _table_and_rows(
    content: bytes, investigators: dict[str, str] | None
) -> tuple[Table, pl.DataFrame]:
    """Return table and rows from the parquet file or, with investigators, from the pickle."""
    if investigators is not None:
        columns = read_pickled_frame(content)
        labels = [json.loads(field.metadata[pickled_frame.LABELS]) for field in columns.schema]
        frame = cast("pl.DataFrame", pl.from_arrow(columns))
        return session_rows(frame, labels, investigators)
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(
            f"It is not a readable parquet file ({first_line(error)}). Its publishers have to "
            "write it again."
        ) from None
    return session_rows(frame, [(name,) for name in frame.columns])


def investigator_names(content: bytes) -> dict[str, str]:
    """Return the principal investigator of each subject, from ``mouse_pi_mapping.json``.

    It is a list of objects with ``subject_id`` and ``PI``, or one object of names by subject.
    """
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{_INVESTIGATORS} is not JSON ({error}).") from None
    if isinstance(found, list) and all(isinstance(mouse, dict) for mouse in found):
        found = {
            mouse.get("subject_id"): mouse.get("PI")
            for mouse in found
            if isinstance(mouse.get("subject_id"), str | int)
        }
    if not isinstance(found, dict):
        raise DataError(f"{_INVESTIGATORS} is not a list of objects with subject_id and PI.")
    return {str(subject): name for subject, name in found.items() if isinstance(name, str)}


def _files(location: str) -> list[FileRequest]:
    """Return the files that a session table consists of, the table itself first."""
    # The sizes are not known; the store refuses files that are too large.
    if location.endswith(".parquet"):
        folder, _, name = location.rpartition("/")
        return [FileRequest(folder, name, 0)]
    return [FileRequest(location, name, 0) for name in (_FRAME, _INVESTIGATORS)]


def _known_investigators(lake: Lake, read: FileContent) -> tuple[dict[str, str], str]:
    """Return the investigator of each subject, and a note for the user.

    If the mapping cannot be read, the investigators are those in the present table.
    """
    if read.problem is not None:
        reason = f"{_INVESTIGATORS} cannot be read ({read.problem.message})."
    else:
        try:
            return investigator_names(read.content), ""
        except DataError as error:
            reason = str(error)
    note = f"{reason} Until it is valid, the known principal investigators are kept."
    table = lake.tables.as_written(tables.SESSIONS)
    if PRINCIPAL_INVESTIGATOR.name not in table.column_names:
        return {}, note
    known = lake.tables.scan(table).select("subject_id", PRINCIPAL_INVESTIGATOR.name).drop_nulls()
    return dict(known.collect().iter_rows()), note


def _unchanged(lake: Lake, note: str = "", *, is_refused: bool = False) -> SessionsReport:
    """Return the report of a table that stays as it is."""
    rows = lake.tables.count_rows(tables.SESSIONS)
    columns = len(lake.tables.as_written(tables.SESSIONS).columns)
    return SessionsReport(rows, columns, note=note, is_refused=is_refused)


def _kept(lake: Lake, reason: str, advice: str = "", *, is_refused: bool = False) -> SessionsReport:
    """Return the report of a table that stays although the session table cannot be read."""
    rows = lake.tables.count_rows(tables.SESSIONS)
    kept = f"The {rows:,} known sessions are kept." if rows else "No sessions are known."
    return _unchanged(lake, f"{reason} {kept} {advice}".rstrip(), is_refused=is_refused)


@cache
def _reader_version() -> str:
    """Return a hash of the code that builds the table: other code builds it again."""
    package = Path(str(pickled_frame.__file__)).parent
    modules = (Path(str(module.__file__)) for module in (rows, derived))
    paths = (*sorted(package.glob("*.py")), *modules)
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _fingerprint(*parts: str) -> str:
    return sha256("\0".join([*parts, _reader_version()]).encode()).hexdigest()
