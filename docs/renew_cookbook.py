"""Runs the queries of ``docs/cookbook.md`` on the sample, and writes their results below them.

``make docs`` runs it; the tests compare.
"""

import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from aind_etl.changelog.passes import Pass, extract_collection
from aind_etl.client.query import Query
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.results import (
    open_result_store,
    refresh_result_files,
    refresh_trials,
)
from aind_etl.sessions import refresh_sessions
from aind_etl.settings import Settings
from aind_etl.sources.kinds import open_source
from aind_etl.warehouse.build import build_warehouse

COOKBOOK = Path(__file__).parent / "cookbook.md"
ROWS_SHOWN = 12
_WIDTH = 56
# A fixed time, so that the page does not depend on the day.
_NOW = datetime(2026, 8, 1, 12, tzinfo=UTC)
_RECIPE = re.compile(r"```sql\n(?P<query>.*?)```\n(?P<shown>\n```text\n.*?```\n)?", re.DOTALL)


def build_sample(folder: Path) -> Path:
    """Build the sample's warehouse with its trials and sessions, and return its path."""
    # Explicit, so that the environment has no influence.
    settings = Settings(
        source="sample:", lake=folder / "lake", warehouse=None, collections=(), results_root=None
    )
    lake = Lake(settings.lake)
    with open_source(settings) as source, open_result_store(settings) as store:
        for collection in source.list_collections():
            extract_collection(source, lake, collection, Pass.FULL, now=lambda: _NOW)
            refresh_analyses(lake, collection)
            refresh_result_files(lake, store, collection, now=lambda: _NOW)
            refresh_trials(lake, store, collection, now=lambda: _NOW)
        refresh_sessions(lake, store, now=lambda: _NOW, location=settings.session_table_location)
    build_warehouse(lake, settings.warehouse_path)
    return settings.warehouse_path


def queries(text: str) -> Iterator[str]:
    """Yield the queries of a cookbook."""
    for recipe in _RECIPE.finditer(text):
        yield recipe["query"]


def renewed(text: str, warehouse: Path) -> str:
    """Return a cookbook with the results of its queries on a warehouse."""

    def answer(recipe: re.Match[str]) -> str:
        with Query(warehouse, recipe["query"]) as query:
            columns, rows, more = query.head(ROWS_SHOWN)
        return f"```sql\n{recipe['query']}```\n\n```text\n{_table(columns, rows, more=more)}```\n"

    return _RECIPE.sub(answer, text)


def _table(columns: list[tuple[str, bool]], rows: list[list[str]], *, more: bool) -> str:
    cells = [[name for name, _ in columns], *([_shortened(cell) for cell in row] for row in rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    lines = [
        "  ".join(
            cell.rjust(width) if is_number else cell.ljust(width)
            for cell, width, (_, is_number) in zip(row, widths, columns, strict=True)
        ).rstrip()
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    if more:
        lines.append("…")
    return "\n".join(lines) + "\n"


def _shortened(cell: str) -> str:
    return cell if len(cell) <= _WIDTH else cell[: _WIDTH - 1] + "…"


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        built = Path(sys.argv[1]) if len(sys.argv) > 1 else build_sample(Path(temporary))
        COOKBOOK.write_text(renewed(COOKBOOK.read_text(encoding="utf-8"), built), encoding="utf-8")
