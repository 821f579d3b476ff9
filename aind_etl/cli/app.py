"""The command-line application: options and functions that several commands share."""

import sys
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aind_etl.cli.terminal import err, out, say, show_table, without_trailing_blanks
from aind_etl.sources.kinds import KINDS

if TYPE_CHECKING:
    from aind_etl.cli.progress_bars import TerminalProgress
    from aind_etl.client.query import Query
    from aind_etl.settings import Settings


class Panel(StrEnum):
    """The panels of commands in the help."""

    LOAD = "Load"
    ASK = "Ask"
    WRITE = "Write files"
    PAST = "The past"
    MODELS = "Language models"
    OPERATE = "Operate"


class _Help:
    """The help of a command: without types of flags, and without trailing blanks."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - Typer's types
        """Print the help."""
        with without_trailing_blanks():
            super().format_help(ctx, formatter)  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:  # noqa: ANN401 - Typer's types
        """Return the parameters."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class _Command(_Help, TyperCommand):
    """A subcommand."""


class _Group(_Help, TyperGroup):
    """The command with its subcommands, in the order of the panels."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - Typer's types
        """Return the names of the subcommands, panel by panel."""
        panels: list[str | None] = [*Panel]
        return sorted(
            super().list_commands(ctx),
            key=lambda name: panels.index(getattr(self.commands[name], "rich_help_panel", None)),
        )


app = typer.Typer(
    name="aind-etl",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""AIND's analysis results as parquet and a DuckDB warehouse.

Documents of both pipeline formats are read from a **source**, kept in a change log, flattened to
the tables of a **lake** (partitioned parquet), and published as a **warehouse** (one DuckDB file).

Start with `aind-etl run`: without a source it loads a built-in sample. Then query it:
`aind-etl sql "SELECT * FROM best_models LIMIT 10"`.

Source, lake, warehouse and collections can also be set by environment variables
(`AIND_ETL_SOURCE`, …); the command line takes precedence. Exit codes: 0 done, 1 data differ or a
check failed, 2 wrong use or configuration, 3 the source cannot be read.
""",
)

command = partial(app.command, cls=_Command)
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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aind-etl {version('aind-etl')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    pass


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


def progress_bars() -> "TerminalProgress":
    """Return the progress on the terminal, shown for the duration of a ``with`` block."""
    from aind_etl.cli.progress_bars import TerminalProgress

    return TerminalProgress(err)


def show_rows(query: "Query", title: str | None = None) -> None:
    """Print the first :data:`SHOWN_ROWS` rows of a query."""
    columns, rows, more = query.head(SHOWN_ROWS)
    show_table(columns, rows, title)
    if more:
        say(out, f"The first {SHOWN_ROWS:,} rows; --format csv writes all.")


def command_line() -> str:
    """Return the name by which this command was called."""
    called = Path(sys.argv[0])
    return relative(called) if relative(called) != str(called.absolute()) else "aind-etl"


def absolute(location: Path | str) -> str:
    """Return a path as an absolute path, and a URL as it is."""
    return str(location.absolute()) if isinstance(location, Path) else location


def relative(location: Path | str) -> str:
    """Return a path, relative if it is below the working folder; a URL as it is."""
    if isinstance(location, str):
        return location
    path, here = location.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
