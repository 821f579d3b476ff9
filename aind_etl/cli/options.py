"""Options and functions that several commands share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aind_etl.cli.terminal import err, out, say, show_table
from aind_etl.sources.kinds import KINDS

if TYPE_CHECKING:
    from aind_etl.cli.progress_bars import TerminalProgress
    from aind_etl.client.query import Query
    from aind_etl.settings import Settings

SHOWN_ROWS = 200
INTERRUPTED = 130

SourceOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=f"Source of the documents: {', '.join(kind.help for kind in KINDS)}. "
        "Environment: `AIND_ETL_SOURCE`.",
    ),
]
LakeOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the lake, or `s3://bucket/prefix`. Environment: `AIND_ETL_LAKE`; default "
        "`./lake`.",
    ),
]
WarehouseOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The DuckDB file, or `s3://bucket/name`, of which a copy is read. Environment: "
        "`AIND_ETL_WAREHOUSE`; default `<lake>/warehouse.duckdb`.",
    ),
]
CollectionOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="Only this collection; may be given several times. Environment: "
        "`AIND_ETL_COLLECTIONS`, separated by commas; default all.",
    ),
]


def make_settings(
    *,
    collections: list[str] | None = None,
    **options: Any,  # noqa: ANN401 - the settings check the types
) -> "Settings":
    """Return the settings of a command: its options, then the environment, then the defaults."""
    from aind_etl.settings import load_settings, unknown_variables

    credentials = [name for kind in KINDS for name in kind.credentials]
    for name, hint in unknown_variables(credentials).items():
        say(err, ("Warning:", "yellow"), f" {name} is set but is not a setting. {hint}")
    return load_settings(collections=tuple(collections or ()), **options)


@contextmanager
def progress_bars() -> Iterator["TerminalProgress"]:
    """Show progress on the terminal for the duration of a ``with`` block."""
    from aind_etl.cli.progress_bars import TerminalProgress

    progress = TerminalProgress(err)
    with progress.bars:
        yield progress


def show_rows(query: "Query", title: str | None = None) -> None:
    """Print the first :data:`SHOWN_ROWS` rows of a query."""
    columns, rows, more = query.head(SHOWN_ROWS)
    show_table(columns, rows, title)
    if more:
        say(out, f"The first {SHOWN_ROWS:,} rows; --format csv writes all.")


def absolute(location: Path | str) -> str:
    """Return a path as an absolute path, and a URL as it is."""
    return str(location.absolute()) if isinstance(location, Path) else location
