"""Figures of fitted sessions: downloads with readable names, and previews of the newest.

The tables say which analyses have a figure; the store is not listed again.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from datetime import date, datetime
from io import BytesIO
from pathlib import Path

import duckdb
import polars as pl

from aind_etl.contract import tables
from aind_etl.contract.result_files import FIGURE
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.lake.storage.local import write_whole
from aind_etl.results.folders import FileRequest
from aind_etl.results.store import ResultStore

_ID_DIGITS = 10
_LONGEST_NAME = 200
_PREVIEW_PIXELS = (560, 320)


@dataclass(frozen=True, slots=True)
class Figure:
    """The figure of an analysis.

    Attributes
    ----------
    location
        Address of the result folder.
    size_bytes
        Size of the figure; None if the result folder has none.
    finished_at
        When the analysis was finished.
    file_name
        A readable name: ``<nwb>_<agent>_<first ten digits of the id>.png``.
    """

    record_id: str
    nwb_name: str | None
    agent_alias: str | None
    location: str | None
    size_bytes: int | None
    finished_at: datetime | None
    file_name: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """Conditions that analyses must meet; None stands for no condition.

    Attributes
    ----------
    record_id
        The beginning of the record id.
    """

    subject_id: str | None = None
    session_date: date | None = None
    agent_alias: str | None = None
    record_id: str | None = None

    def __str__(self) -> str:
        """Return the selection in words."""
        parts = zip(("subject", "date", "agent", "record"), astuple(self), strict=True)
        return " and ".join(f"{name} {value}" for name, value in parts if value is not None)


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What a download of figures did.

    Attributes
    ----------
    downloaded, present
        Number of figures written, and of those that existed already.
    missing
        The figures that could not be downloaded, each with the reason.
    bytes
        Size of the figures written.
    """

    downloaded: int
    present: int
    missing: tuple[tuple[Figure, str], ...]
    bytes: int


def choose_figures(
    connection: duckdb.DuckDBPyConnection, selection: Selection
) -> tuple[Figure, ...]:
    """Return the figures of the selected successful analyses by session, agent and age.

    Analyses with the same result folder, such as those of two collections, share a figure.
    """
    rows = connection.execute(_CHOSEN, {**asdict(selection), "figure": FIGURE}).fetchall()
    return tuple(_with_names([Figure(*row) for row in rows]))


def download_figures(
    store: ResultStore,
    figures: Sequence[Figure],
    folder: Path,
    *,
    progress: Callable[[int], None] = lambda _figures: None,
) -> DownloadReport:
    """Write the figures that a folder does not contain yet.

    Each figure appears whole or not at all. After an interruption the next call downloads the rest.

    Parameters
    ----------
    folder
        The target; it is created if necessary.
    progress
        Called with the number of figures done since the last call.

    Raises
    ------
    SourceError
        The store does not answer.
    OSError
        A file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [(one, _NO_FILE) for one in figures if one.size_bytes is None]
    existing = [one for one in figures if one.size_bytes is not None]
    wanted = {one.location: one for one in existing if not _is_downloaded(folder, one)}
    progress(len(figures) - len(wanted))
    downloaded, size, unreachable = 0, 0, 0
    for answer in store.read_files([_request(one) for one in wanted.values()]):
        figure = wanted[answer.request.location]
        if answer.problem is not None:
            missing.append((figure, answer.problem.message))
            unreachable += answer.problem.reason == "unreachable"
        else:
            write_whole(folder / figure.file_name, answer.content)
            downloaded += 1
            size += len(answer.content)
        progress(1)
    if wanted and unreachable == len(wanted):
        raise SourceError(
            f"None of the {len(wanted):,} figures could be read from {store.name}: "
            f"{missing[-1][1]} Check the network, AIND_ETL_S3_ENDPOINT_URL and "
            "AIND_ETL_RESULTS_ROOT."
        )
    return DownloadReport(downloaded, len(existing) - len(wanted), tuple(missing), size)


def newest_figures(lake: Lake, store: ResultStore, count: int) -> dict[str, bytes]:
    """Return small PNGs of at most ``count`` figures of the analyses finished last, by file name.

    Figures that cannot be read are left out.

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
            *("record_id", "nwb_name", "agent_alias"),
            pl.col("result_location").str.strip_chars_end("/"),
            *("size_bytes", "finished_at"),
        )
        .sort("finished_at", "record_id", descending=True, nulls_last=True)
        .unique("result_location", keep="first", maintain_order=True)
        .head(count)
        .collect()
    )
    figures = _with_names([Figure(*row) for row in newest.rows()])
    found = {str(one.location): one for one in figures}
    answers = store.read_files([_request(one) for one in found.values()])
    previews = {answer.request.location: preview_of(answer.content) for answer in answers}
    return {one.file_name: previews[name] for name, one in found.items() if previews[name]}


def preview_of(content: bytes) -> bytes:
    """Return a small version of a PNG, or empty bytes if ``content`` is not a PNG."""
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
    record_id, nwb_name, agent_alias,
    rtrim(result_location, '/') AS location, size_bytes, finished_at
FROM analyses
LEFT JOIN (SELECT * FROM result_files WHERE file_name = $figure) AS figures
    USING (source_collection, record_id, process_index)
WHERE
    outcome = 'success'
    AND agent_alias IS NOT NULL
    AND ($subject_id IS NULL OR subject_id = $subject_id)
    AND ($session_date IS NULL OR session_date = $session_date)
    AND ($agent_alias IS NULL OR agent_alias = $agent_alias)
    AND ($record_id IS NULL OR starts_with(record_id, $record_id))
QUALIFY row_number() OVER (
    PARTITION BY coalesce(location, source_collection || record_id) ORDER BY size_bytes NULLS LAST
) = 1
ORDER BY session_key, agent_alias, finished_at, record_id
"""


def _file_name(figure: Figure, identity: str) -> str:
    """Return a file name that is safe on every system."""
    session = (figure.nwb_name or "unknown-session").removesuffix(".nwb")
    parts = (session, figure.agent_alias or "unknown-agent", identity)
    safe = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "_", part).strip("._") for part in parts)
    return f"{safe[-_LONGEST_NAME:].lstrip('.-')}.png"


def _with_names(figures: Sequence[Figure]) -> Iterator[Figure]:
    """Yield figures with unique file names: with whole ids if ten digits are not enough."""
    short = [_file_name(one, one.record_id[:_ID_DIGITS]) for one in figures]
    uses = Counter(map(str.casefold, short))
    taken: Counter[str] = Counter()
    for one, short_name in zip(figures, short, strict=True):
        name = short_name
        if uses[name.casefold()] > 1:
            name = _file_name(one, one.record_id)
            taken[name.casefold()] += 1
            if taken[name.casefold()] > 1:
                name = f"{name.removesuffix('.png')}_{taken[name.casefold()]}.png"
        yield replace(one, file_name=name)


def _request(figure: Figure) -> FileRequest:
    return FileRequest(str(figure.location), FIGURE, figure.size_bytes or 0)


def _is_downloaded(folder: Path, figure: Figure) -> bool:
    path = folder / figure.file_name
    return path.is_file() and path.stat().st_size == figure.size_bytes
