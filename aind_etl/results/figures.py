"""Figures of fitted sessions: downloads with readable names, and previews of the newest.

Which analyses have a figure is known from the tables; the store is not listed again.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import polars as pl

from aind_etl.contract import tables
from aind_etl.errors import SourceError
from aind_etl.results.folders import FileRequest
from aind_etl.results.inventory import FIGURE

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.results.store import ResultStore

"""The file of an analysis' result folder that shows the session and its fit."""

_ID_DIGITS = 10
_LONGEST_NAME = 200
_PREVIEW_PIXELS = (560, 320)


@dataclass(frozen=True, slots=True)
class Figure:
    """The figure of an analysis.

    Attributes
    ----------
    record_id, nwb_name, agent_alias
        The analysis.
    location
        Address of its result folder.
    file_name
        A name for people: ``<nwb>_<agent>_<first ten digits of the id>.png``.
    size_bytes
        Size of the figure; None where the result folder has none.
    finished_at
        When the analysis was done.
    preview
        A small picture of it as PNG; empty unless one was made.
    """

    record_id: str
    nwb_name: str | None
    agent_alias: str | None
    location: str | None
    file_name: str
    size_bytes: int | None
    finished_at: datetime | None = None
    preview: bytes = b""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which analyses; each that is None selects all.

    Attributes
    ----------
    subject_id, session_date, agent_alias
        Those of this subject, day and agent.
    record_id
        Those whose record id begins so.
    """

    subject_id: str | None = None
    session_date: date | None = None
    agent_alias: str | None = None
    record_id: str | None = None

    def __str__(self) -> str:
        """Return the selection in words."""
        parts = (
            ("subject", self.subject_id),
            ("date", self.session_date),
            ("agent", self.agent_alias),
            ("record", self.record_id),
        )
        return " and ".join(f"{name} {value}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What downloading figures did.

    Attributes
    ----------
    downloaded, present
        Numbers of figures written, and of those that were there already.
    missing
        Those that could not be downloaded, each with the reason.
    bytes
        Size of what was written.
    """

    downloaded: int
    present: int
    missing: tuple[tuple[Figure, str], ...]
    bytes: int


def choose_figures(
    connection: duckdb.DuckDBPyConnection, selection: Selection
) -> tuple[Figure, ...]:
    """Return the figures of successful analyses, by session, agent and age.

    Analyses that share a result folder, as those of two collections may, share a figure.

    Parameters
    ----------
    connection
        The warehouse.
    selection
        Which.
    """
    found = connection.execute(
        _CHOSEN,
        {
            "subject": selection.subject_id,
            "date": selection.session_date,
            "agent": selection.agent_alias,
            "record": selection.record_id,
            "figure": FIGURE,
        },
    ).fetchall()
    return tuple(_unique_names([_figure(*row) for row in found]))


def download_figures(
    store: "ResultStore",
    figures: Sequence[Figure],
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda _figures: None,
) -> DownloadReport:
    """Write figures to a folder, those that are not there already.

    A figure appears whole or not at all; interrupted, the next call goes on with those that are
    missing.

    Parameters
    ----------
    store
        Where from.
    figures
        Which; as :func:`choose_figures` returns them.
    folder
        Where to. It is made if need be.
    progress
        Called with the number of figures dealt with since the last call.

    Raises
    ------
    SourceError
        The store does not answer.
    OSError
        A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(one, _NO_FILE) for one in figures if one.size_bytes is None]
    there = [one for one in figures if one.size_bytes is not None]
    wanted = {one.location: one for one in there if not _is_there(folder, one)}
    progress(len(figures) - len(wanted))
    downloaded, size, unreachable = 0, 0, 0
    for answer in store.read_files([_request(one) for one in wanted.values()]):
        figure = wanted[answer.request.location]
        if answer.problem is not None:
            missing.append((figure, answer.problem.message))
            unreachable += answer.problem.reason == "unreachable"
        else:
            _write(folder / figure.file_name, answer.content)
            downloaded += 1
            size += len(answer.content)
        progress(1)
    if wanted and unreachable == len(wanted):
        raise SourceError(
            f"None of the {len(wanted):,} figures could be read from {store.name}: "
            f"{missing[-1][1]} Check the network, AIND_ETL_S3_ENDPOINT_URL and "
            "AIND_ETL_RESULTS_ROOT."
        )
    return DownloadReport(downloaded, len(there) - len(wanted), tuple(missing), size)


def newest_figures(lake: "Lake", store: "ResultStore", count: int) -> list[Figure]:
    """Return the figures of the analyses finished last, with previews.

    Parameters
    ----------
    lake, store
        Where from.
    count
        How many at most. One that cannot be read is left out.

    Raises
    ------
    SourceError
        The store does not answer at all.
    """
    key = tables.RECORD_KEY
    files = lake.tables.scan(tables.RESULT_FILES).filter(pl.col("file_name") == FIGURE)
    newest = (
        lake.tables.scan(tables.ANALYSES)
        .join(files.select(*key, "size_bytes"), on=key)
        .select(
            "record_id",
            "nwb_name",
            "agent_alias",
            pl.col("result_location").str.strip_chars_end("/"),
            "size_bytes",
            "finished_at",
        )
        .sort("finished_at", "record_id", descending=True, nulls_last=True)
        .unique("result_location", keep="first", maintain_order=True)
        .head(count)
        .collect()
    )
    found = {one.location: one for one in _unique_names([_figure(*row) for row in newest.rows()])}
    answers = store.read_files([_request(one) for one in found.values()])
    previews = {
        answer.request.location: preview_of(answer.content)
        for answer in answers
        if answer.problem is None
    }
    return [
        replace(figure, preview=preview)
        for location, figure in found.items()
        if (preview := previews.get(str(location), b""))
    ]


def preview_of(content: bytes) -> bytes:
    """Return a small picture of a PNG, as PNG; empty where it is no picture."""
    # Imported here: nothing else needs it.
    from PIL import Image  # noqa: PLC0415

    small = BytesIO()
    try:
        with Image.open(BytesIO(content), formats=("PNG",)) as image:
            image.thumbnail(_PREVIEW_PIXELS)
            image.convert("RGB").quantize(32).save(small, "PNG", optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return small.getvalue()


_NO_FILE = f"its result folder has no {FIGURE}, as of the last run."

_CHOSEN = """
SELECT
    record_id,
    nwb_name,
    agent_alias,
    rtrim(result_location, '/') AS location,
    size_bytes,
    finished_at
FROM analyses
LEFT JOIN (SELECT * FROM result_files WHERE file_name = $figure) AS figures
    USING (source_collection, record_id, process_index)
WHERE
    outcome = 'success'
    AND agent_alias IS NOT NULL
    AND ($subject IS NULL OR subject_id = $subject)
    AND ($date IS NULL OR session_date = $date)
    AND ($agent IS NULL OR agent_alias = $agent)
    AND ($record IS NULL OR starts_with(record_id, $record))
QUALIFY row_number() OVER (
    PARTITION BY coalesce(location, source_collection || record_id) ORDER BY size_bytes NULLS LAST
) = 1
ORDER BY session_key, agent_alias, finished_at, record_id
"""


def _figure(  # noqa: PLR0913, PLR0917 - the columns of a row
    record_id: str,
    nwb_name: str | None,
    agent_alias: str | None,
    location: str | None,
    size_bytes: int | None,
    finished_at: datetime | None,
) -> Figure:
    name = _file_name(nwb_name, agent_alias, record_id[:_ID_DIGITS])
    return Figure(record_id, nwb_name, agent_alias, location, name, size_bytes, finished_at)


def _file_name(nwb_name: str | None, agent_alias: str | None, identity: str) -> str:
    """Return a name that is safe on every system, whatever the documents say."""
    session = (nwb_name or "unknown-session").removesuffix(".nwb")
    parts = (session, agent_alias or "unknown-agent", identity)
    safe = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part).strip("._") for part in parts)
    return f"{safe[-_LONGEST_NAME:].lstrip('.-')}.png"


def _unique_names(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Yield figures with names of their own: whole ids where ten digits are not enough."""
    often = Counter(one.file_name.casefold() for one in figures)
    taken: Counter[str] = Counter()
    for one in figures:
        name = one.file_name
        if often[name.casefold()] > 1:
            name = _file_name(one.nwb_name, one.agent_alias, one.record_id)
            taken[name.casefold()] += 1
            if taken[name.casefold()] > 1:
                name = f"{name.removesuffix('.png')}_{taken[name.casefold()]}.png"
        yield replace(one, file_name=name)


def _request(figure: Figure) -> FileRequest:
    return FileRequest(str(figure.location), FIGURE, figure.size_bytes or 0)


def _is_there(folder: Path, figure: Figure) -> bool:
    path = folder / figure.file_name
    return path.is_file() and path.stat().st_size == figure.size_bytes


def _write(path: Path, content: bytes) -> None:
    """Write a file so that it appears whole or not at all."""
    making = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        making.write_bytes(content)
        making.replace(path)
    finally:
        making.unlink(missing_ok=True)
