"""Commands that read: status, SQL, history of a record, and verification."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aind_etl.cli.terminal import err, out, say, show_table
from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from aind_etl.settings import Settings
from aind_etl.cli.app import (
    CollectionOption,
    LakeOption,
    Panel,
    SourceOption,
    WarehouseOption,
    absolute,
    command,
    make_settings,
    progress_bars,
    show_rows,
)


@command(rich_help_panel=Panel.ASK)
def status(lake: LakeOption = None, warehouse: WarehouseOption = None) -> None:
    """Show what the lake and the warehouse hold, how fresh they are, and whether all is well.

    Ends with exit code 1 when something is wrong: the source cannot be read, the last run of
    something failed, or there is no lake or no warehouse.
    """
    settings = make_settings(None, lake, warehouse, None)
    from aind_etl.client.status import collection_statuses, verdict, warehouse_status
    from aind_etl.lake import Lake

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
        f"Lake {absolute(settings.lake)}",
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
    # The command is of use where only readers' packages are installed.
    if not (home / "dagster.yaml").is_file() or find_spec("dagster") is None:
        return ""
    from aind_etl.orchestration.run_status import last_failed_run

    return last_failed_run(home)


@command(rich_help_panel=Panel.ASK)
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
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox",
            metavar="",
            help="Keep the query from other files, from the network and from DuckDB's settings: "
            "for SQL that somebody else wrote.",
        ),
    ] = False,
) -> None:
    """Ask the warehouse; it is opened for reading only.

    What there is: `aind-etl sql "SHOW TABLES"`.
    What columns mean: `aind-etl sql "SELECT column_name, comment FROM duckdb_columns() WHERE
    table_name = 'analyses'"`.
    For a spreadsheet: `aind-etl sql "FROM best_models" --format csv --output best.csv`.
    """
    from aind_etl.client.query import Query

    settings = make_settings(None, lake, warehouse, None)
    with Query(settings.warehouse_path, query, sandbox=sandbox) as asked:
        if output_format == "table" and output is None:
            show_rows(asked)
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


@command(rich_help_panel=Panel.OPERATE)
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

    settings = make_settings(None, lake, None, None)
    for statement in external_tables(Dialect(dialect), str(settings.lake)):
        typer.echo(f"{statement};\n")


@command(rich_help_panel=Panel.OPERATE)
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
            "again from the change log in a temporary folder, and compare every value.",
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
    settings = make_settings(source, lake, warehouse, collection)
    from aind_etl.client.verify import verify_collection, verify_tables, verify_warehouse
    from aind_etl.lake import Lake
    from aind_etl.sources.kinds import open_configured_source

    store = Lake(settings.lake)
    rows = []
    differences = []
    with progress_bars() as progress, open_configured_source(settings) as opened:
        for name in settings.choose({*opened.list_collections(), *store.collections()}):
            progress.step(f"compare {name}")
            comparison, found = verify_collection(
                opened, store, name, deep=deep, progress=progress.advance
            )
            differences += found
            if deep:
                progress.step(f"derive {name} again")
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


@command(rich_help_panel=Panel.ASK)
def history(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's `_id`.")],
    lake: LakeOption = None,
) -> None:
    """Show a record's versions, and what changed from one to the next."""
    settings = make_settings(None, lake, None, None)
    from aind_etl.changelog.history import record_history
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
