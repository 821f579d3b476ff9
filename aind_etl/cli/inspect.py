"""Commands that read: status, SQL, history of a record, and verification."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aind_etl.cli.options import (
    CollectionOption,
    LakeOption,
    SourceOption,
    WarehouseOption,
    absolute,
    make_settings,
    progress_bars,
    show_rows,
)
from aind_etl.cli.terminal import err, out, say, show_records
from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from aind_etl.settings import Settings


def status(lake: LakeOption = None, warehouse: WarehouseOption = None) -> None:
    """Show the contents of lake and warehouse, how fresh they are, and any problems.

    The exit code is 1 if there is a problem: the source cannot be read, the last run of a job
    failed, or there is no lake or no warehouse.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    from aind_etl.client.status import check_health, collection_statuses, warehouse_status
    from aind_etl.lake import Lake

    store = Lake(settings.lake)
    statuses = collection_statuses(store)
    if not statuses:
        say(out, f"The lake {str(settings.lake)!r} is empty. Run 'aind-etl run' to load it.")
        raise typer.Exit(1)
    show_records(statuses, f"Lake {absolute(settings.lake)}")
    say(out, warehouse_status(settings.warehouse_path))
    reached, problems = check_health(store, settings.warehouse_path, _last_failed_run(settings))
    say(out, reached)
    for problem in problems:
        say(out, (problem, "bold red"))
    if problems:
        raise typer.Exit(1)
    say(out, "All is well.")


def _last_failed_run(settings: "Settings") -> str:
    """Return the run that failed last, or an empty string if there is none or no history."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.folder / "_dagster")
    # The command also works in the base installation, which has no Dagster.
    if not (home / "dagster.yaml").is_file() or find_spec("dagster") is None:
        return ""
    from aind_etl.orchestration.runs import last_failed_run

    return last_failed_run(home)


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
            "--output", "-o", metavar="FILE", help="The file to write; default standard output."
        ),
    ] = None,
    sandbox: Annotated[
        bool,
        typer.Option(
            "--sandbox",
            help="For untrusted SQL: the query can read no other file, use no network and change "
            "no setting of DuckDB.",
        ),
    ] = False,
) -> None:
    """Query the warehouse, which is opened read-only.

    List the tables: `aind-etl sql "SHOW TABLES"`.
    Describe the columns: `aind-etl sql "SELECT column_name, comment FROM duckdb_columns() WHERE
    table_name = 'analyses'"`.
    Write a spreadsheet: `aind-etl sql "FROM best_models" --format csv --output best.csv`.
    """
    from aind_etl.client.query import Query

    settings = make_settings(lake=lake, warehouse=warehouse)
    with Query(settings.warehouse_path, query, sandbox=sandbox) as result:
        if output_format == "table" and output is None:
            show_rows(result)
        elif output_format == "table":
            raise ConfigurationError("--output needs --format csv, json or parquet.")
        elif output is not None:
            result.write(output, output_format)
            say(err, f"Wrote {output}")
        elif output_format == "parquet" and sys.stdout.isatty():
            raise ConfigurationError(
                "Parquet is binary, and standard output is a terminal. Give --output FILE, or "
                "redirect the output."
            )
        else:
            result.stream(sys.stdout.buffer, output_format)


def ddl(
    dialect: Annotated[Literal["athena", "trino", "spark"], typer.Option(help="The engine.")],
    lake: LakeOption = None,
) -> None:
    """Show the statements that create the lake's tables in another engine.

    For Amazon Athena and a lake in S3: `aind-etl ddl --dialect athena --lake s3://bucket/lake`.
    Run the statements that search for partitions again after a new month or collection.
    """
    from aind_etl.contract.engines import Dialect, external_tables

    settings = make_settings(lake=lake)
    for statement in external_tables(Dialect(dialect), str(settings.lake)):
        typer.echo(f"{statement};\n")


def verify(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep",
            help="Read every document of the source and compare its hash; derive the tables "
            "from the change log in a temporary folder, and compare every value.",
        ),
    ] = False,
) -> None:
    """Compare source, lake and warehouse: counts and contents.

    Without `--deep`, compares the ids of source and lake, the hashes of change log and tables, and
    every table with the warehouse, and runs the checks of `sql/checks`. Only `--deep` finds
    documents that changed at the source and values edited in a table's file. The exit code is 1 if
    there are differences. Oddities in the documents themselves are warnings.
    """
    settings = make_settings(source=source, lake=lake, warehouse=warehouse, collections=collection)
    from aind_etl.client.verify import verify_collection, verify_tables, verify_warehouse
    from aind_etl.lake import Lake
    from aind_etl.sources.kinds import open_source

    store = Lake(settings.lake)
    comparisons = []
    differences = []
    with progress_bars() as progress, open_source(settings) as opened:
        for name in settings.choose({*opened.list_collections(), *store.collections()}):
            progress.step(f"compare {name}")
            comparison, found = verify_collection(
                opened, store, name, deep=deep, progress=progress.advance
            )
            comparisons.append(comparison)
            differences += found
            if deep:
                progress.step(f"derive {name} again")
                differences += verify_tables(store, name, progress=progress.advance)
        progress.step("compare the warehouse")
        differences += verify_warehouse(store, settings.warehouse_path)
    if comparisons:
        show_records(comparisons, "Documents")
    for one in differences:
        style = "yellow" if one.is_warning else "bold red"
        say(out, (one.between, style), f" · {one.subject}: {one.message}")
    errors = sum(not one.is_warning for one in differences)
    if errors:
        say(out, f"\n{errors:,} {'difference' if errors == 1 else 'differences'}.")
        raise typer.Exit(1)
    say(out, "\nSource, lake and warehouse agree.")


def history(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="The collection.")],
    record_id: Annotated[str, typer.Argument(metavar="ID", help="The record's `_id`.")],
    lake: LakeOption = None,
) -> None:
    """Show the versions of a record, and what changed between them."""
    settings = make_settings(lake=lake)
    from aind_etl.changelog.history import record_history
    from aind_etl.lake import Lake

    for version in record_history(Lake(settings.lake), collection, record_id):
        extracted = f"{version.extracted_at:%Y-%m-%d %H:%M:%S}"
        text = f" UTC  {version.operation}  batch {version.batch_id}  {version.content_hash or ''}"
        say(out, (extracted, "bold"), text.rstrip())
        for change in version.changes:
            before, after = (
                "(none)" if value is None else value for value in (change.before, change.after)
            )
            say(out, f"  {change.path}: {before} → {after}")
