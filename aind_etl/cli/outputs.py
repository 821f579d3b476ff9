"""Commands that write files: exports, the report, figures, and warehouses of the past."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from aind_etl.cli.options import LakeOption, WarehouseOption, absolute, make_settings, progress_bars
from aind_etl.cli.terminal import err, out, say, show_records
from aind_etl.errors import ConfigurationError


def export(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="[FILE|DIR]",
            help="The workbook, or the folder for other formats; default `analyses.xlsx` or "
            "`export`.",
        ),
    ] = None,
    export_format: Annotated[
        Literal["xlsx", "csv", "arrow", "parquet"] | None,
        typer.Option(
            "--format",
            "-f",
            help="`xlsx` writes a workbook with one sheet per table; the others write one file per "
            "table.",
        ),
    ] = None,
    xlsx: Annotated[bool, typer.Option("--xlsx", help="The same as `--format xlsx`.")] = False,
    datapackage: Annotated[
        bool,
        typer.Option(
            "--datapackage",
            help="Write `datapackage.json` into the lake, which describes its files and columns by "
            "the Frictionless standard. Without other options, write nothing else.",
        ),
    ] = False,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this table, view or mart; may be given several times. Default: the marts.",
        ),
    ] = None,
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
) -> None:
    """Write the marts as an Excel workbook, or as CSV, Arrow or parquet files.

    Write a workbook: `aind-etl export --xlsx`. Write some tables: `aind-etl export rates --format
    csv --table parameter_trajectories --table analyses`.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    if datapackage:
        from aind_etl.client.data_package import write_data_package
        from aind_etl.lake import Lake

        say(out, f"Wrote {write_data_package(Lake(settings.lake))}")
        if target is None and export_format is None and not xlsx:
            return
    if export_format is None:
        if not xlsx and target is not None and target.suffix.lower() != ".xlsx":
            raise ConfigurationError(
                f"{str(target)!r} does not imply a format; give --format xlsx, csv, arrow or "
                "parquet."
            )
        export_format = "xlsx"
    if xlsx and export_format != "xlsx":
        raise ConfigurationError(
            f"--xlsx and --format {export_format} exclude each other; give one."
        )
    destination = target or Path("analyses.xlsx" if export_format == "xlsx" else "export")
    with progress_bars() as progress:
        from aind_etl.client.export import export as write_export

        written = write_export(
            settings.warehouse_path,
            destination,
            export_format,
            tuple(table or ()),
            progress=lambda name: progress.step(f"write {name}"),
        )
    for one in written:
        say(out, f"{one.rows:>9,}  {one.name}")
        if one.left_out:
            say(
                err,
                f"{one.name}: the last {one.left_out:,} rows were left out, because an Excel sheet "
                "holds 1,048,576 rows; --format csv or parquet writes all.",
            )
    say(out, f"\nWrote {destination}")


def report(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")
    ] = Path("report.html"),
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
) -> None:
    """Draw a report on the warehouse: best models, certainty, missing results, new records.

    The report is one HTML file that needs no network and no server.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    with progress_bars() as progress:
        progress.step("draw the report")
        from aind_etl.client.report import write_report

        headlines = write_report(settings.warehouse_path, output)
    counts = "{fits:,} fits of {fitted_sessions:,} sessions and {subjects:,} subjects"
    say(out, f"{counts.format_map(headlines)}. Open {output}")


def figures(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder; created if it does not exist.")
    ],
    subject: Annotated[str | None, typer.Option(metavar="ID", help="Only this subject.")] = None,
    date: Annotated[
        datetime | None,
        typer.Option(
            "--date", metavar="YYYY-MM-DD", formats=["%Y-%m-%d"], help="Only sessions of this day."
        ),
    ] = None,
    agent: Annotated[
        str | None, typer.Option(metavar="ALIAS", help="Only fits of this agent.")
    ] = None,
    record: Annotated[
        str | None, typer.Option(metavar="ID", help="Only ids that start with this.")
    ] = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Download the figures of fitted sessions, named after session, agent and record.

    The warehouse says which figures exist. Figures already in the folder are not downloaded again,
    so an interrupted download can be continued. Failed downloads are listed.

    Figures of a mouse: `aind-etl figures figures --subject 652324`.
    Figures of a model and day: `aind-etl figures figures --date 2026-04-15 --agent
    QLearning_L2F1_CK1_softmax`.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    from aind_etl.results import open_result_store
    from aind_etl.results.figures import Selection, choose_figures, download_figures
    from aind_etl.warehouse.connection import connect
    from aind_etl.warehouse.info import read_sources

    selection = Selection(subject, date.date() if date else None, agent, record)
    with connect(settings.warehouse_path) as connection:
        chosen = choose_figures(connection, selection)
        sources = read_sources(connection)
    if not chosen:
        criteria = f" of {selection}" if str(selection) else ""
        say(
            out,
            f"No successful fit{criteria} in {settings.warehouse_path}. To list all, run 'aind-etl "
            'sql "SELECT DISTINCT subject_id, session_date, agent_alias FROM analyses"\'.',
        )
        return
    # The source of the documents decides whether the sample's folders replace s3://.
    if sources:
        settings = settings.model_copy(update={"source": sources[0]})
    with progress_bars() as progress, open_result_store(settings) as store:
        progress.step("download", total=len(chosen), unit="figures")
        report = download_figures(store, chosen, directory, progress=progress.advance)
    for figure, reason in report.missing:
        say(out, f"missing: {figure.file_name}: {reason}")
    say(
        out,
        f"{report.downloaded:,} downloaded ({report.bytes / 1e6:,.1f} MB), {report.present:,} "
        f"there already, {len(report.missing):,} missing, in {directory}",
    )


def as_of(
    moment: Annotated[
        str,
        typer.Argument(
            metavar="MOMENT",
            help="A time such as `2026-06-01T12:00:00-07:00`, or a day, which means its start in "
            "UTC.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The DuckDB file to write.")
    ],
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Build the warehouse from the documents that were known at an earlier time.

    Result files, trials and sessions are the present ones of the analyses known then, as noted in
    the table `warehouse_info`. `aind-etl as-of 2026-06-01 --output june.duckdb`.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    if str(output.absolute()) == absolute(settings.warehouse_path):
        raise ConfigurationError(
            f"{str(output)!r} is the published warehouse; name another file with --output."
        )
    with progress_bars() as progress:
        progress.step("read the change log")
        from aind_etl.client.as_of import build_as_of, parse_moment
        from aind_etl.lake import Lake

        report = build_as_of(
            Lake(settings.lake),
            parse_moment(moment),
            output,
            step=progress.step,
            progress=progress.advance,
        )
    say(
        out,
        f"{report.rows['analyses']:,} analyses of {report.rows['documents']:,} versions of "
        f"documents, as of {parse_moment(moment).isoformat()}. Wrote {output}",
    )


def snapshot(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Letters, digits, `.`, `_` and `-`: `paper-2026`.")
    ],
    warehouse: WarehouseOption = None,
    lake: LakeOption = None,
) -> None:
    """Keep a copy of the published warehouse, for a paper.

    It is written to `snapshots/` beside the warehouse, and never overwritten or removed. Read it in
    a notebook with `Warehouse(snapshot="NAME")`, or with `--warehouse` and its path.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    from aind_etl.warehouse.snapshots import take_snapshot

    taken = take_snapshot(settings.warehouse_path, name)
    say(
        out,
        f"Kept the warehouse built at {taken.facts.get('built_at', 'an unknown time')} as "
        f"{name!r}: {taken.location}",
    )


def snapshots(warehouse: WarehouseOption = None, lake: LakeOption = None) -> None:
    """List the snapshots with the times they were taken and built."""
    settings = make_settings(lake=lake, warehouse=warehouse)
    from aind_etl.warehouse.snapshots import list_snapshots

    found = list_snapshots(settings.warehouse_path)
    if not found:
        say(out, "There are no snapshots. Take one with 'aind-etl snapshot NAME'.")
        return
    show_records(
        [
            {
                "snapshot": one.name,
                "taken": f"{one.taken_at:%Y-%m-%d %H:%M}",
                "built": one.facts.get("built_at", ""),
                "by": one.facts.get("built_by", ""),
                "lake": one.facts.get("lake", ""),
                "MB": one.size_bytes / 1e6,
                "file": one.location,
            }
            for one in found
        ],
        f"Snapshots of {absolute(settings.warehouse_path)}",
    )
