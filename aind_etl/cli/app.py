"""The command ``aind-etl``: its commands, panel by panel, their help, and its exit codes.

Commands import packages when they run, so that help and queries do not wait for Dagster.
"""

import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from aind_etl.cli import inspect, models, outputs, pipeline
from aind_etl.cli.options import INTERRUPTED
from aind_etl.cli.terminal import err, say, without_trailing_blanks
from aind_etl.errors import AindEtlError, ConfigurationError, needs_pipeline

_PANELS = {
    "Load": (pipeline.run, pipeline.sample),
    "Query": (inspect.status, inspect.sql, inspect.history),
    "Write files": (outputs.export, outputs.report, outputs.figures),
    "The past": (outputs.as_of, outputs.snapshot, outputs.snapshots),
    "Language models": (models.context, models.mcp),
    "Operate": (inspect.ddl, inspect.verify, pipeline.rebuild, pipeline.dev),
}
"""The commands of each panel of the help."""


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
    """The command with its subcommands."""


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


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"aind-etl {version('aind-etl')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for _panel, _commands in _PANELS.items():
    for _function in _commands:
        app.command(cls=_Command, rich_help_panel=_panel)(_function)


def main() -> None:
    """Run the command, and exit with its exit code."""
    try:
        with needs_pipeline("This command"):
            app()
    except AindEtlError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        _fail(
            f"{what}. Check the path, its permissions and the free space; everything written is "
            "complete.",
            ConfigurationError.exit_code,
        )
    except KeyboardInterrupt:
        say(err, "Interrupted. Everything written is complete; run again to continue.")
        sys.exit(INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - users see no traceback
        _fail(_write_report(error), AindEtlError.exit_code)


def _fail(message: str, exit_code: int) -> NoReturn:
    say(err, ("Error:", "bold red"), f" {message}")
    sys.exit(exit_code)


def _write_report(error: Exception) -> str:
    """Write the traceback of a defect to a file, and return a message that names it."""
    from platformdirs import user_cache_path

    from aind_etl.settings import load_settings, write_traceback

    file = write_traceback(user_cache_path("aind-etl") / "errors", error, load_settings())
    return (
        f"An unexpected error ended the command ({type(error).__name__}). Everything written is "
        f"complete. Report it with the file {str(file)!r}."
    )
