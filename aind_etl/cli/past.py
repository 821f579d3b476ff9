"""Commands for the past: the warehouse at an earlier time, and snapshots."""

from pathlib import Path
from typing import Annotated

import typer

from aind_etl.cli.app import (
    LakeOption,
    Panel,
    WarehouseOption,
    absolute,
    command,
    make_settings,
    progress_bars,
)
from aind_etl.cli.terminal import out, say, show_table
from aind_etl.errors import ConfigurationError


@command("as-of", rich_help_panel=Panel.PAST)
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


@command(rich_help_panel=Panel.PAST)
def snapshot(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Letters, digits, `.`, `_` and `-`: `paper-2026`."),
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


@command(rich_help_panel=Panel.PAST)
def snapshots(warehouse: WarehouseOption = None, lake: LakeOption = None) -> None:
    """List the snapshots with the times they were taken and built."""
    settings = make_settings(lake=lake, warehouse=warehouse)
    from aind_etl.warehouse.snapshots import list_snapshots

    found = list_snapshots(settings.warehouse_path)
    if not found:
        say(out, "There are no snapshots. Take one with 'aind-etl snapshot NAME'.")
        return
    show_table(
        [
            *((name, False) for name in ("snapshot", "taken", "built", "by", "lake")),
            ("MB", True),
            ("file", False),
        ],
        [
            [
                one.name,
                f"{one.taken_at:%Y-%m-%d %H:%M}",
                *(one.facts.get(name, "") for name in ("built_at", "built_by", "lake")),
                f"{one.size_bytes / 1e6:,.1f}",
                str(one.location),
            ]
            for one in found
        ],
        f"Snapshots of {absolute(settings.warehouse_path)}",
        folds=True,
    )
