"""Commands for the past: the warehouse of an earlier moment, and snapshots."""

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
            help="A day, whose beginning in UTC is meant, or a time such as "
            "`2026-06-01T12:00:00-07:00`.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The DuckDB file to write.")
    ],
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
) -> None:
    """Build the warehouse as it was: from the documents known at a moment.

    Result files, trials and sessions are as they are now, for the analyses known then; the table
    `warehouse_info` says so. `aind-etl as-of 2026-06-01 --output june.duckdb`.
    """
    settings = make_settings(None, lake, warehouse, None)
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
    """Keep the warehouse as it is published now, for a paper.

    It lies in `snapshots/` beside the warehouse, and nothing overwrites or removes it. Read it in a
    notebook by `Warehouse(snapshot="NAME")`, or by `--warehouse` and its path.
    """
    settings = make_settings(None, lake, warehouse, None)
    from aind_etl.warehouse.snapshots import take_snapshot

    taken = take_snapshot(settings.warehouse_path, name)
    say(
        out,
        f"Kept the warehouse built at {taken.facts.get('built_at', 'an unknown time')} as "
        f"{name!r}: {taken.location}",
    )


@command(rich_help_panel=Panel.PAST)
def snapshots(warehouse: WarehouseOption = None, lake: LakeOption = None) -> None:
    """List the snapshots: when each was taken, and from what it was built."""
    settings = make_settings(None, lake, warehouse, None)
    from aind_etl.warehouse.snapshots import list_snapshots

    found = list_snapshots(settings.warehouse_path)
    if not found:
        say(out, "There are no snapshots. Take one with 'aind-etl snapshot NAME'.")
        return
    show_table(
        [
            ("snapshot", False),
            ("taken", False),
            ("built", False),
            ("by", False),
            ("lake", False),
            ("MB", True),
            ("file", False),
        ],
        [
            [
                one.name,
                f"{one.taken_at:%Y-%m-%d %H:%M}",
                one.facts.get("built_at", ""),
                one.facts.get("built_by", ""),
                one.facts.get("lake", ""),
                f"{one.size_bytes / 1e6:,.1f}",
                str(one.location),
            ]
            for one in found
        ],
        f"Snapshots of {absolute(settings.warehouse_path)}",
        folds=True,
    )
