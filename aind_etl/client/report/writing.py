"""Assembly of the report: rows of the warehouse, charts, style and script in one file.

The page loads nothing from the network, and its content security policy forbids it. It is replaced
by a rename.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from platformdirs import user_cache_path

from aind_etl.client.report import charts, subjects
from aind_etl.client.report.figures import FIGURES, HEADLINES, SESSIONS
from aind_etl.client.report.rows import plain, rows_of
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.info import read_info

_HERE = Path(__file__).parent
# The end of the script that is kept: what lacks it was cut off.
_WHOLE = "// aind-etl: to here"


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What a report shows.

    Attributes
    ----------
    path
        The page.
    size_bytes
        Its size.
    subjects, fitted_sessions, fits
        Subjects and sessions with a successful MLE fit, and the newest fits of each session and
        agent.
    documents, rejected
        Documents of the sources, and how many of them are not in the tables.
    newest_session
        Day of the newest fitted session; None where there is none.
    """

    path: Path
    size_bytes: int
    subjects: int
    fitted_sessions: int
    fits: int
    documents: int
    rejected: int
    newest_session: date | None


def write_report(warehouse: WarehouseLocation, output: Path) -> ReportSummary:
    """Write the report on a warehouse as one page that needs no network.

    Parameters
    ----------
    warehouse
        The DuckDB file; it is opened for reading only.
    output
        The page, in a folder that exists; a page that is there is replaced at once.

    Returns
    -------
    ReportSummary
        What the page shows.

    Raises
    ------
    ConfigurationError
        There is no warehouse, it lacks one of the marts shown, or ``output`` is a folder or
        in none.
    """
    if not output.parent.is_dir():
        raise ConfigurationError(
            f"The report cannot be written to {str(output)!r}: there is no folder "
            f"{str(output.parent)!r}. Make it, or name another file with --output."
        )
    if output.is_dir():
        raise ConfigurationError(
            f"The report {str(output)!r} is a folder; name a file, such as "
            f"{str(output / 'report.html')!r}."
        )
    with connect(warehouse) as connection:
        headlines = _objects(*rows_of(connection, HEADLINES))[0]
        data = {figure.name: _table(*rows_of(connection, figure.query)) for figure in FIGURES}
        agents, data["sessions"] = _sessions(*rows_of(connection, SESSIONS))
        by_subject = subjects.payload(connection)
    page = _page(
        info=read_info(warehouse),
        headlines=headlines,
        payload={
            "data": data,
            "agents": agents,
            **by_subject,
            "specifications": {figure.name: figure.chart() for figure in FIGURES if figure.chart},
            "trajectory": charts.trajectory(),
            "session": charts.session(),
            "config": charts.CONFIG,
        },
    )
    _write_aside(output, page)
    return ReportSummary(
        path=output,
        size_bytes=output.stat().st_size,
        **{
            name: headlines[name]
            for name in (
                "subjects",
                "fitted_sessions",
                "fits",
                "documents",
                "rejected",
                "newest_session",
            )
        },
    )


def _page(*, info: dict[str, str], headlines: dict[str, Any], payload: dict[str, Any]) -> str:
    built_at = info.get("built_at")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda value: f"{value:,}"
    environment.filters["moment"] = _moment
    return environment.get_template("page.html").render(
        built_at=built_at and datetime.fromisoformat(built_at),
        inputs=info.get("inputs", ""),
        headlines=headlines,
        figures=FIGURES,
        n_sessions_by_trial=subjects.SESSIONS_BY_TRIAL,
        n_trajectory_agents=subjects.TRAJECTORY_AGENTS,
        style=(_HERE / "page.css").read_text(encoding="utf-8"),
        script=(_HERE / "page.js").read_text(encoding="utf-8"),
        library=_library(),
        # Inside a script, "<" could end it: documents may hold any text.
        payload=json.dumps(
            payload, separators=(",", ":"), allow_nan=False, ensure_ascii=False
        ).replace("<", "\\u003c"),
    )


@cache
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script.

    Bundling them takes seconds and gives the same every time: what was bundled once is kept in the
    user's folder for caches, where there is one that can be written.
    """
    snippet = "window.vegaEmbed = vegaEmbed;"
    kept = user_cache_path("aind-etl") / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        script = kept.read_text(encoding="utf-8")
        if script.endswith(_WHOLE):
            return script
    bundle = f"{vl_convert.javascript_bundle(snippet)}\n{_WHOLE}"
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        _write_aside(kept, bundle)
    return bundle


def _write_aside(path: Path, text: str) -> None:
    """Write a file so that it appears whole or not at all."""
    aside = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _moment(value: datetime | date | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%d %b %Y, %H:%M} UTC"
    return f"{value:%d %b %Y}"


def _objects(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> list[dict[str, Any]]:
    return [dict(zip(names, row, strict=True)) for row in rows]


def _table(names: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    return {"columns": list(names), "rows": [[plain(value) for value in row] for row in rows]}


def _sessions(
    names: list[str], rows: Sequence[tuple[Any, ...]]
) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the agents, and the sessions with their agents by number."""
    place = names.index("agents")
    agents = sorted({agent for row in rows for agent in row[place] or ()})
    numbers = {agent: number for number, agent in enumerate(agents)}
    table = _table(names, rows)
    for row in table["rows"]:
        row[place] = [numbers[agent] for agent in row[place] or ()]
    return agents, table
