"""Assembly of the report: rows of the warehouse, charts, style and script in one file.

The page loads nothing from the network, which its content security policy forbids.
"""

import json
from contextlib import suppress
from datetime import UTC, date, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from platformdirs import user_cache_path

from aind_etl.client.report import charts
from aind_etl.client.report.data import SESSIONS_BY_TRIAL, TRAJECTORY_AGENTS, read_report
from aind_etl.client.report.figures import FIGURES
from aind_etl.errors import ConfigurationError
from aind_etl.lake.storage.local import write_whole
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.info import read_info

_HERE = Path(__file__).parent
# The last line of a cached script: without it, the file was cut off.
_LAST_LINE = "// aind-etl: to here"


def write_report(warehouse: WarehouseLocation, output: Path) -> dict[str, Any]:
    """Write the report on a warehouse as one page that needs no network.

    ``output`` is in a folder that exists; an existing page is replaced in one step. Returned are
    the numbers above the figures: of ``subjects``, ``fitted_sessions``, ``agents``, newest
    ``fits`` of each session and agent, ``documents`` of the sources and those ``rejected``; with
    the ``newest_session``, ``newest_finished_at`` and ``newest_pass_at``, or None.

    Raises
    ------
    ConfigurationError
        There is no warehouse, it lacks one of the marts, or ``output`` is a folder or in none.
    """
    if not output.parent.is_dir():
        raise ConfigurationError(
            f"The report cannot be written to {str(output)!r}: there is no folder "
            f"{str(output.parent)!r}. Create it, or name another file with --output."
        )
    if output.is_dir():
        raise ConfigurationError(
            f"The report {str(output)!r} is a folder; name a file, such as "
            f"{str(output / 'report.html')!r}."
        )
    with connect(warehouse) as connection:
        headlines, payload = read_report(connection)
    payload |= {
        "specifications": {figure.name: figure.chart() for figure in FIGURES if figure.chart},
        "trajectory": charts.trajectory(),
        "session": charts.session(),
        "config": charts.CONFIG,
    }
    write_whole(output, _page(read_info(warehouse), headlines, payload).encode())
    return headlines


def _page(info: dict[str, str], headlines: dict[str, Any], payload: dict[str, Any]) -> str:
    built_at = info.get("built_at")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": "{:,}".format, "moment": _moment}
    return environment.get_template("page.html").render(
        built_at=built_at and datetime.fromisoformat(built_at),
        inputs=info.get("inputs", ""),
        headlines=headlines,
        figures=FIGURES,
        n_sessions_by_trial=SESSIONS_BY_TRIAL,
        n_trajectory_agents=TRAJECTORY_AGENTS,
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

    Bundling takes seconds, and the result is always the same: it is cached in the user's cache
    folder if that can be written.
    """
    cached = user_cache_path("aind-etl") / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        script = cached.read_text(encoding="utf-8")
        if script.endswith(_LAST_LINE):
            return script
    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;") + f"\n{_LAST_LINE}"
    with suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_whole(cached, script.encode())
    return script


def _moment(value: datetime | date | None) -> str:
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%d %b %Y, %H:%M} UTC"
    return f"{value:%d %b %Y}"
