"""The command ``aind-etl``.

Here belongs what a person types and reads: arguments, tables on the terminal, exit codes. The
work is done by the other rooms, which are imported only by the commands that need them: help
and queries do not wait for Dagster.
"""

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

from aind_etl.errors import AindEtlError, ConfigurationError
from aind_etl.terminal import err, out, say, show_table, without_trailing_blanks

if TYPE_CHECKING:
    from aind_etl.progress import TerminalProgress
    from aind_etl.query import Query
    from aind_etl.settings import Settings


class _Command(TyperCommand):
    """A command whose help says nothing of the type of its --help."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as Typer's own
        """Print the help."""
        with without_trailing_blanks():
            super().format_help(ctx, formatter)

    def get_help_option(self, ctx: Any) -> TyperOption | None:  # noqa: ANN401 - as Typer's own
        """Return the option --help."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


class _Group(TyperGroup):
    """The command with its subcommands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - as Typer's own
        """Print the help."""
        with without_trailing_blanks():
            super().format_help(ctx, formatter)


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

Begin with `aind-etl run`: without a source it loads a built-in sample. Then ask:
`aind-etl sql "SELECT * FROM best_models LIMIT 10"`.

Source, lake, warehouse and collections can also be set by environment variables
(`AIND_ETL_SOURCE`, …); the command line wins. Exit codes: 0 done, 1 data differ or a check failed,
2 wrong use or configuration, 3 the source cannot be read.
""",
)

_command = partial(app.command, cls=_Command)
_SHOWN_ROWS = 200
_INTERRUPTED = 130

SourceOption = Annotated[
    str | None,
    typer.Option(
        "--source",
        metavar="URL",
        help="Where documents come from: `sample:` (built in, also `sample:?sessions=100&seed=1`), "
        "a folder with a dump (`<collection>.jsonl`, `.json` or `.bson`, each also `.gz`), or "
        "`mongodb://host/database`, or `https://host/v1/database` (a gateway). Environment: "
        "`AIND_ETL_SOURCE`.",
    ),
]
LakeOption = Annotated[
    str | None,
    typer.Option(
        "--lake",
        metavar="DIR",
        help="Folder of the lake, or `s3://bucket/prefix`. Environment: `AIND_ETL_LAKE`; default "
        "`./lake`.",
    ),
]
WarehouseOption = Annotated[
    str | None,
    typer.Option(
        "--warehouse",
        metavar="FILE",
        help="The DuckDB file, or `s3://bucket/name`, which is read by a copy. Environment: "
        "`AIND_ETL_WAREHOUSE`; default `<lake>/warehouse.duckdb`.",
    ),
]
CollectionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--collection",
        metavar="NAME",
        help="Only this collection; may be given several times. Environment: "
        "`AIND_ETL_COLLECTIONS`, separated by commas; default all.",
    ),
]


def main() -> None:
    """Run the command, and end with an exit code that says how it went."""
    try:
        app()
    except AindEtlError as error:
        say(err, ("Error:", "bold red"), f" {error}")
        sys.exit(error.exit_code)
    except OSError as error:
        what = f"{error.filename!r}: {error.strerror}" if error.filename else str(error)
        say(
            err,
            ("Error:", "bold red"),
            f" {what}. Check the path, the rights to it and the free space; what was written is "
            "whole.",
        )
        sys.exit(ConfigurationError.exit_code)
    except KeyboardInterrupt:
        say(err, "Interrupted. What was written is whole; run again to go on.")
        sys.exit(_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - nobody is shown a traceback
        say(err, ("Error:", "bold red"), f" {_report_of(error)}")
        sys.exit(AindEtlError.exit_code)


def _report_of(error: Exception) -> str:
    """Write the traceback of a defect to a file, and return a sentence that names it."""
    from platformdirs import user_cache_path

    from aind_etl.settings import load_settings, write_traceback

    file = write_traceback(user_cache_path("aind-etl") / "errors", error, load_settings())
    return (
        f"An unexpected error ended the command ({type(error).__name__}). What was written is "
        f"whole. Report it with the file {str(file)!r}."
    )


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
            metavar="",
            callback=_show_version,
            is_eager=True,
            help="Show the version.",
        ),
    ] = False,
) -> None:
    pass


@_command()
def run(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    pass_kind: Annotated[
        Literal["new", "full"],
        typer.Option(
            "--pass",
            help="`new` compares ids and reads what is missing or recent; `full` reads everything "
            "and compares contents.",
        ),
    ] = "new",
    max_deleted_share: Annotated[
        float | None,
        typer.Option(
            "--max-deleted-share",
            metavar="SHARE",
            help="Largest share of a collection, 0 to 1, that a pass may find gone before it stops "
            "and deletes nothing. Environment: `AIND_ETL_MAX_DELETED_SHARE`; default 0.2.",
        ),
    ] = None,
    results: Annotated[
        bool,
        typer.Option(
            "--results/--no-results",
            metavar="",
            help="Look into the result folders beside the records: which files there are, and the "
            "trial-by-trial variables.",
        ),
    ] = True,
) -> None:
    """Bring lake and warehouse up to date with the source.

    Runs the same Dagster assets as Dagster's page, in this process. Run again, it writes only
    what is new; interrupted, it goes on where it was.

    Load a dump: `aind-etl run --source dump/analysis --lake my-lake`.
    Compare every content, not only ids: `aind-etl run --pass full`.
    """
    settings = _settings(source, lake, warehouse, collection, max_deleted_share=max_deleted_share)
    with _progress() as progress:
        from aind_etl.extract import Pass
        from aind_etl.orchestration.instance import run_everything
        from aind_etl.orchestration.resources import Etl, ResultStoreError

        failure = None
        try:
            run_everything(Etl(settings, progress), Pass(pass_kind), with_results=results)
        except ResultStoreError as error:
            failure = error  # Everything else was read and published.
        except KeyboardInterrupt:
            progress.say("Interrupted. What was written is whole; run again to go on.")
            raise typer.Exit(_INTERRUPTED) from None
    _show_result(settings)
    if failure is not None:
        raise failure


@_command()
def status(lake: LakeOption = None, warehouse: WarehouseOption = None) -> None:
    """Show what the lake and the warehouse hold, how fresh they are, and whether all is well.

    Ends with exit code 1 when something is wrong: the source cannot be read, the last run of
    something failed, or there is no lake or no warehouse.
    """
    settings = _settings(None, lake, warehouse, None)
    from aind_etl.lake import Lake
    from aind_etl.status import collection_statuses, verdict, warehouse_status

    statuses = collection_statuses(settings.lake)
    if not statuses:
        say(out, f"The lake {str(settings.lake)!r} is empty. Run 'aind-etl run' to load it.")
        raise typer.Exit(1)
    show_table(
        [
            ("collection", False),
            ("live", True),
            ("rejected", True),
            ("rejected values", True),
            ("waiting", True),
            ("newest finished", False),
            ("last new pass", False),
            ("last full pass", False),
            ("source", False),
        ],
        [
            [
                one.collection,
                f"{one.live:,}",
                f"{one.rejected:,}",
                f"{one.rejected_values:,}",
                f"{one.waiting:,}",
                one.newest_finished,
                one.last_new_pass,
                one.last_full_pass,
                one.source,
            ]
            for one in statuses
        ],
        f"Lake {_whole(settings.lake)}",
        folds=True,
    )
    say(out, warehouse_status(settings.warehouse_path))
    found = verdict(Lake(settings.lake), settings.warehouse_path, _last_failed_run(settings))
    say(out, found.source)
    for problem in found.problems:
        say(out, (problem, "bold red"))
    if found.problems:
        raise typer.Exit(1)
    say(out, "All is well.")


def _last_failed_run(settings: "Settings") -> str:
    """Return which run failed last; nothing where there is no history."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.folder / "_dagster")
    if not (home / "dagster.yaml").is_file():
        return ""
    from aind_etl.orchestration.run_status import last_failed_run

    return last_failed_run(home)


@_command()
def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A SELECT, in DuckDB's SQL.")],
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
    output_format: Annotated[
        Literal["table", "csv", "json", "parquet"],
        typer.Option("--format", "-f", help="How to write the rows."),
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write to a file; standard output otherwise."
        ),
    ] = None,
) -> None:
    """Ask the warehouse; it is opened for reading only.

    What there is: `aind-etl sql "SHOW TABLES"`.
    What columns mean: `aind-etl sql "SELECT column_name, comment FROM duckdb_columns() WHERE
    table_name = 'analyses'"`.
    For a spreadsheet: `aind-etl sql "FROM best_models" --format csv --output best.csv`.
    """
    from aind_etl.query import Query

    settings = _settings(None, lake, warehouse, None)
    with Query(settings.warehouse_path, query) as asked:
        if output_format == "table" and output is None:
            _show_rows(asked)
        elif output_format == "table":
            raise ConfigurationError("--output needs --format csv, json or parquet.")
        elif output is not None:
            asked.write(output, output_format)
            say(err, f"Wrote {output}")
        elif output_format == "parquet" and sys.stdout.isatty():
            raise ConfigurationError(
                "Parquet is binary, and standard output is a terminal. Give --output FILE, or "
                "redirect the output."
            )
        else:
            asked.stream(sys.stdout.buffer, output_format)


@_command()
def ddl(
    dialect: Annotated[
        Literal["athena", "trino", "spark"], typer.Option("--dialect", help="The engine.")
    ],
    lake: LakeOption = None,
) -> None:
    """Show the statements that make the lake's tables known to another engine.

    For Amazon Athena on a lake in S3: `aind-etl ddl --dialect athena --lake s3://bucket/lake`.
    Run the statements that search for partitions again when a month or a collection has come.
    """
    from aind_etl.contract.engines import Dialect, external_tables

    settings = _settings(None, lake, None, None)
    for statement in external_tables(Dialect(dialect), str(settings.lake)):
        typer.echo(f"{statement};\n")


@_command()
def export(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|DIR]",
            help="The workbook, or the folder of the other formats; `analyses.xlsx` or `export` "
            "where none is given.",
        ),
    ] = None,
    export_format: Annotated[
        Literal["xlsx", "csv", "arrow", "parquet"] | None,
        typer.Option(
            "--format",
            "-f",
            help="`xlsx` is one workbook with a sheet a table; of the others each table is a file.",
        ),
    ] = None,
    xlsx: Annotated[
        bool, typer.Option("--xlsx", metavar="", help="The same as `--format xlsx`.")
    ] = False,
    datapackage: Annotated[
        bool,
        typer.Option(
            "--datapackage",
            metavar="",
            help="Write `datapackage.json` into the lake: its files and columns, described after "
            "the Frictionless standard. Alone, nothing else is written.",
        ),
    ] = False,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            metavar="NAME",
            help="Only this table, view or mart; may be given several times. Default: the marts.",
        ),
    ] = None,
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
) -> None:
    """Write the marts for Excel, or as CSV, Arrow or parquet files.

    A workbook: `aind-etl export --xlsx`. Some tables: `aind-etl export rates --format csv
    --table parameter_trajectories --table analyses`.
    """
    settings = _settings(None, lake, warehouse, None)
    if datapackage:
        from aind_etl.data_package import write_data_package
        from aind_etl.lake import Lake

        say(out, f"Wrote {write_data_package(Lake(settings.lake))}")
        if target is None and export_format is None and not xlsx:
            return
    chosen = export_format or ("xlsx" if xlsx or target is None else _format_of(target))
    if xlsx and chosen != "xlsx":
        raise ConfigurationError(f"--xlsx and --format {chosen} exclude each other; give one.")
    where = target or Path("analyses.xlsx" if chosen == "xlsx" else "export")
    with _progress() as progress:
        from aind_etl.export import export as write_export

        written = write_export(
            settings.warehouse_path,
            where,
            chosen,
            tuple(table or ()),
            progress=lambda name: progress.step(f"write {name}"),
        )
    for one in written:
        say(out, f"{one.rows:>9,}  {one.name}")
        if one.left_out:
            say(
                err,
                f"{one.name}: the last {one.left_out:,} rows were left out, because a sheet of "
                "Excel ends at 1,048,576 rows; --format csv or parquet has them all.",
            )
    say(out, f"\nWrote {where}")


@_command()
def report(
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The page."),
    ] = Path("report.html"),
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
) -> None:
    """Draw the warehouse as one page: who wins, how sure, what is missing, what arrived.

    The page needs no network and no server: open it, put it on a screen, send it, print it.
    """
    settings = _settings(None, lake, warehouse, None)
    with _progress() as progress:
        progress.step("draw the report")
        from aind_etl.report import write_report

        summary = write_report(settings.warehouse_path, output)
    say(
        out,
        f"{summary.fits:,} fits of {summary.fitted_sessions:,} sessions and "
        f"{summary.subjects:,} subjects. Open {output}",
    )


@_command()
def figures(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to; the folder is made if need be.")
    ],
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="ID", help="Only this subject's.")
    ] = None,
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="Only this day's sessions."
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="ALIAS", help="Only this agent's fits.")
    ] = None,
    record: Annotated[
        str | None, typer.Option("--record", metavar="ID", help="Only records whose id begins so.")
    ] = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Download the figures of fitted sessions, named after session, agent and record.

    Which there are is asked of the warehouse. Figures that are there already are not downloaded
    again; interrupted, run it again to go on. Those that could not be had are listed.

    One mouse's: `aind-etl figures figures --subject 652324`.
    One model's of a day: `aind-etl figures figures --date 2026-04-15 --agent
    QLearning_L2F1_CK1_softmax`.
    """
    settings = _settings(None, lake, warehouse, None)
    from aind_etl.results import open_result_store
    from aind_etl.results.figures import Selection, choose_figures, download_figures
    from aind_etl.warehouse import connect, read_sources

    selection = Selection(subject, date.date() if date else None, agent, record)
    with connect(settings.warehouse_path) as connection:
        chosen = choose_figures(connection, selection)
        sources = read_sources(connection)
    if not chosen:
        where = str(settings.warehouse_path)
        what = f" of {selection}" if str(selection) else ""
        say(
            out,
            f"No successful fit{what} in {where}. What there is: 'aind-etl sql \"SELECT DISTINCT "
            "subject_id, session_date, agent_alias FROM analyses\"'.",
        )
        return
    # The documents' own source says whether the sample's folders stand in for s3://.
    if sources:
        settings = settings.model_copy(update={"source": sources[0]})
    with _progress() as progress, open_result_store(settings) as store:
        progress.step("download", total=len(chosen), unit="figures")
        report = download_figures(store, chosen, directory, progress=progress.advance)
    for figure, reason in report.missing:
        say(out, f"missing: {figure.file_name}: {reason}")
    say(
        out,
        f"{report.downloaded:,} downloaded ({report.bytes / 1e6:,.1f} MB), {report.present:,} "
        f"there already, {len(report.missing):,} missing, in {directory}",
    )


@_command()
def sample(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="An empty or new folder for the world.")
    ],
    sessions: Annotated[
        int, typer.Option("--sessions", min=1, help="Number of behaviour sessions.")
    ] = 24,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the simulation.")] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="jsonl|bson",
            help="Dump format; may be given twice.",
        ),
    ] = None,
    results: Annotated[
        bool, typer.Option(metavar="", help="Write the result folders (JSON, figures) as well.")
    ] = True,
) -> None:
    """Write the sample world: a dump to load, and the result folders beside it.

    Subjects, sessions, choices, fits and documents are simulated; the same seed gives the same
    files.
    """
    from aind_etl.sample import write_world

    chosen = tuple(dict.fromkeys(formats or ["jsonl"]))
    if not set(chosen) <= {"jsonl", "bson"}:
        raise ConfigurationError(f"--format takes jsonl or bson, not {', '.join(chosen)!r}.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"{str(directory)!r} is not an empty folder; name another.")
    with _progress() as progress:
        progress.step("simulate", total=sessions, unit="sessions")
        summary = write_world(
            directory,
            sessions=sessions,
            seed=seed,
            formats=chosen,  # type: ignore[arg-type]
            results=results,
            progress=progress.reach,
        )
    for collection, count in summary.documents.items():
        say(out, f"{count:>9,}  {collection}")
    where = shlex.quote(str(directory.absolute()))
    beside = f"AIND_ETL_RESULTS_ROOT={where}/results " if results else ""
    without = "" if results else " --no-results"
    say(out, f"\nLoad it with: {beside}{_called()} run --source {where}{without}")


@_command()
def verify(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            metavar="",
            help="Read every document of the source again and compare its hash; make the tables "
            "anew from the change log, aside, and compare every value.",
        ),
    ] = False,
) -> None:
    """Compare source, lake and warehouse: counts and contents.

    Without `--deep` the source's ids are listed and compared with the lake's, the hashes in the
    change log with those in the tables, every table with the warehouse's, and the checks of
    `sql/checks` are run: documents changed at the source, and values edited in a table's file,
    are for `--deep` to find. Ends with exit code 1 and the differences if there are any; what is
    odd in the documents themselves is a warning.
    """
    settings = _settings(source, lake, warehouse, collection)
    from aind_etl.lake import Lake
    from aind_etl.sources import open_source
    from aind_etl.verify import verify_collection, verify_tables, verify_warehouse

    store = Lake(settings.lake)
    rows = []
    differences = []
    options = settings.source_options()
    with _progress() as progress, open_source(settings.source, **options) as opened:
        for name in settings.choose({*opened.list_collections(), *store.collections()}):
            progress.step(f"compare {name}")
            comparison, found = verify_collection(
                opened, store, name, deep=deep, progress=progress.advance
            )
            differences += found
            if deep:
                progress.step(f"make {name} anew")
                differences += verify_tables(store, name, progress=progress.advance)
            counts = (
                comparison.source,
                comparison.lake,
                comparison.flattened,
                comparison.rejected,
            )
            rows.append([name, *(f"{count:,}" for count in counts)])
        progress.step("compare the warehouse")
        differences += verify_warehouse(store, settings.warehouse_path)
    numbers = [(name, True) for name in ("source", "lake", "flattened", "rejected")]
    show_table([("collection", False), *numbers], rows, "Documents", folds=True)
    for difference in differences:
        style = "yellow" if difference.is_warning else "bold red"
        say(out, (difference.between, style), f" · {difference.subject}: {difference.message}")
    errors = sum(not difference.is_warning for difference in differences)
    if errors:
        say(out, f"\n{errors:,} {'difference' if errors == 1 else 'differences'}.")
        raise typer.Exit(1)
    say(out, "\nSource, lake and warehouse agree.")


@_command()
def rebuild(
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
) -> None:
    """Make every table and the warehouse anew from the change log.

    The source is not read. For a lake with damaged or missing files; a changed flattener needs no
    rebuild, the next run sees it by itself.
    """
    settings = _settings(None, lake, warehouse, collection)
    from aind_etl.analyses import refresh_analyses
    from aind_etl.lake import Lake
    from aind_etl.status import warehouse_status
    from aind_etl.warehouse import build_warehouse

    store = Lake(settings.lake)
    if not store.collections():
        raise ConfigurationError(
            f"There is nothing in the lake {str(settings.lake)!r} to rebuild. Name another with "
            "--lake, or fill it with 'aind-etl run'."
        )
    with _progress() as progress:
        for name in settings.choose(store.collections()):
            for part in store.parts(name):
                progress.step(f"flatten {part.name_of(name)}")
                with part.lock(name):
                    report = refresh_analyses(part, name, anew=True, progress=progress.advance)
                progress.say(
                    f"{part.name_of(name)}: {report.flattened:,} documents flattened, "
                    f"{report.rejected:,} rejected, {report.rejected_values:,} values rejected; "
                    f"{_written(report.partitions_written)}"
                )
        progress.step("build the warehouse")
        build_warehouse(store, settings.warehouse_path)
    say(out, warehouse_status(settings.warehouse_path))


def _written(files: int) -> str:
    if not files:
        return "every file was right already"
    return f"{files:,} {'file' if files == 1 else 'files'} written"


@_command()
def history(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's `_id`.")],
    lake: LakeOption = None,
) -> None:
    """Show a record's versions, and what changed from one to the next."""
    settings = _settings(None, lake, None, None)
    from aind_etl.history import record_history
    from aind_etl.lake import Lake

    for one in record_history(Lake(settings.lake), collection, record_id):
        say(
            out,
            (f"{one.extracted_at:%Y-%m-%d %H:%M:%S}", "bold"),
            f" UTC  {one.operation}  batch {one.batch_id}  {one.content_hash or ''}".rstrip(),
        )
        for change in one.changes:
            before = "(none)" if change.before is None else change.before
            after = "(none)" if change.after is None else change.after
            say(out, f"  {change.path}: {before} → {after}")


@_command()
def dev(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the page.")] = 3000,
    verbose: Annotated[
        bool, typer.Option("--verbose", metavar="", help="Print all that Dagster logs.")
    ] = False,
) -> None:
    """Open Dagster's page on the assets, on this machine.

    Prints which runs start and how they end, and Dagster's warnings and errors.
    """
    settings = _settings(source, lake, warehouse, collection)
    _require_free(port)
    if "://" not in settings.source:
        from aind_etl.sources import open_source

        with open_source(settings.source):
            pass  # A wrong address is an error here, rather than in every run.
    from aind_etl.orchestration.dev import serve
    from aind_etl.orchestration.instance import dagster_home

    environment = os.environ | {
        # Dagster warns of its own command's successor, which is a package of its own.
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_HOME": str(dagster_home(settings.folder)),
        "AIND_ETL_SOURCE": settings.source,
        "AIND_ETL_LAKE": _whole(settings.lake),
        "AIND_ETL_WAREHOUSE": _whole(settings.warehouse_path),
        "AIND_ETL_COLLECTIONS": ",".join(settings.collections),
    }
    say(err, f"Dagster's page: http://127.0.0.1:{port} (Ctrl-C ends it)")
    code = serve(port, environment, partial(say, err), verbose=verbose)
    if code:
        raise ConfigurationError(f"Dagster ended with exit code {code}; its output says why.")
    say(err, "Dagster has ended. What runs had written is whole.")


def _require_free(port: int) -> None:
    """Refuse a port that another program uses."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"The page cannot be opened on port {port}: {error.strerror}. Give another port "
                "with --port, or end the program that uses it."
            ) from None


def _format_of(target: Path) -> Literal["xlsx"]:
    """Return the format that a target's name says; only a workbook has one."""
    if target.suffix.lower() == ".xlsx":
        return "xlsx"
    raise ConfigurationError(
        f"{str(target)!r} does not say which format is meant; give --format xlsx, csv, arrow or "
        "parquet."
    )


def _settings(
    source: str | None,
    lake: str | None,
    warehouse: str | None,
    collections: list[str] | None,
    *,
    max_deleted_share: float | None = None,
) -> "Settings":
    from aind_etl.settings import load_settings, unknown_variables

    for name, hint in unknown_variables().items():
        say(err, ("Warning:", "yellow"), f" {name} is set, and is no setting. {hint}")
    return load_settings(
        source=source,
        lake=lake,
        warehouse=warehouse,
        collections=tuple(collections or ()),
        max_deleted_share=max_deleted_share,
    )


@contextmanager
def _progress() -> Iterator["TerminalProgress"]:
    from aind_etl.progress import TerminalProgress

    with TerminalProgress(err) as progress:
        yield progress


def _show_result(settings: "Settings") -> None:
    """Show what was built, and what to do with it."""
    from aind_etl.query import Query

    path = settings.warehouse_path
    with Query(path, _BUILT) as built:
        columns, rows, _ = built.head(_SHOWN_ROWS)
        show_table(columns, rows, "Built", folds=True)
    with Query(path, _BEST) as best:
        columns, rows, _ = best.head(_SHOWN_ROWS)
        if rows:
            say(out, "")
            show_table(columns, rows, "The best agent of the newest sessions, by AIC", folds=True)
    say(out, f"\nLake       {_relative(settings.lake)}\nWarehouse  {_relative(path)}")
    say(out, "\nNext:")
    for step, meaning in _next_steps(settings):
        say(out, f"  {_called()} {step}\n      {meaning}")


def _next_steps(settings: "Settings") -> Iterator[tuple[str, str]]:
    """Yield arguments of commands that go on from a run, and what they do."""
    from aind_etl.settings import load_settings

    environment = load_settings()
    lake = warehouse = source = ""
    if settings.lake != environment.lake:
        lake = f" --lake {shlex.quote(_relative(settings.lake))}"
    if settings.warehouse != environment.warehouse:
        warehouse = f" --warehouse {shlex.quote(_relative(settings.warehouse_path))}"
    if settings.source != environment.source:
        source = f" --source {shlex.quote(settings.source)}"
    columns = "subject_id, session_date, agent_alias, aic"
    yield (
        f'sql "SELECT {columns} FROM latest_analyses LIMIT 5"{lake}{warehouse}',
        "ask the warehouse",
    )
    yield f"status{lake}{warehouse}", "see how fresh it is"
    # A source with a password in its address is not shown.
    if "@" not in source:
        yield f"dev{source}{lake}{warehouse}", "open Dagster's page"
    if settings.source.startswith("sample:"):
        yield "run --source FOLDER --lake DIR", "load a dump of your own"


_BUILT = """
SELECT
    table_name AS "table",
    estimated_size AS "rows",
    regexp_extract(comment, '^One row per ([^.:]*)', 1) AS "one row per"
FROM duckdb_tables()
WHERE estimated_size > 0 AND table_name <> 'warehouse_info'
ORDER BY table_name
"""

_BEST = """
SELECT session_key AS "session", agent_alias AS "best agent", round(value, 1) AS "AIC",
    round(margin, 1) AS "margin"
FROM best_models
WHERE criterion = 'aic'
ORDER BY session_date DESC, session_key DESC
LIMIT 5
"""


def _show_rows(asked: "Query") -> None:
    columns, rows, more = asked.head(_SHOWN_ROWS)
    show_table(columns, rows)
    if more:
        say(out, f"The first {_SHOWN_ROWS:,} rows; --format csv writes all.")


def _called() -> str:
    """Return how this command was called, so that it can be typed again."""
    called = Path(sys.argv[0])
    return _relative(called) if _relative(called) != str(called.absolute()) else "aind-etl"


def _whole(place: Path | str) -> str:
    """Return where something lies, whatever the working folder is."""
    return str(place.absolute()) if isinstance(place, Path) else place


def _relative(path: Path | str) -> str:
    if isinstance(path, str):
        return path
    absolute = path.absolute()
    here = Path.cwd()
    return str(absolute.relative_to(here)) if absolute.is_relative_to(here) else str(absolute)
