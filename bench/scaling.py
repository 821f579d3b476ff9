"""Measures loads and passes at several sizes of one growing collection: ``make bench-scaling``."""

import json
import shutil
from pathlib import Path
from typing import Any

from measuring import FailedError, conditions, others, ours, run, table_lines, write_record
from plot import plot_scaling
from world import arguments, insert, originals, server_and_documents

SIZES = (10_000, 50_000, 145_000, 500_000)
ORIGINALS = 20_000
ADDED = 100


def main() -> None:
    """Measure each size once, and write the results down after each."""
    parser = arguments(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    given = parser.parse_args()
    sizes = sorted(given.sizes)
    wanted = min(ORIGINALS, sizes[-1])
    rows: list[dict[str, Any]] = []
    record = {"conditions": conditions(), "sizes": rows}
    with server_and_documents(wanted, given.dump) as (folder, address, documents):
        base = originals(documents[:wanted])
        source, lake = f"{address}growing", folder / "lake"
        filled = added = 0
        for size in sizes:
            # The documents added to the smaller sizes count.
            insert(source, base, filled, size - added)
            filled = size - added
            for step, command in {
                "reading raw BSON, doing nothing": others("raw", source, "-"),
                "full load without warehouse": ours("analyses", source, lake),
                "warehouse": ours("warehouse", "-", lake),
                "full pass, nothing changed": ours("full_pass", source, lake),
                "listing the ids": others("ids", source, "-"),
                "new pass, nothing new": ours("new_pass", source, lake),
                f"new pass, {ADDED} new": ours("new_documents", source, lake),
            }.items():
                if step == f"new pass, {ADDED} new":
                    first = sizes[-1] + added
                    insert(source, base, first, first + ADDED)
                    added += ADDED
                rows.append({"documents": size, "step": step, **measured(command)})
                print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(lake)
            write_results(record, given.results)
    if any("failed" in row for row in rows):
        raise SystemExit(1)


def measured(command: list[str]) -> dict[str, float | str]:
    """Run a command; return what it took, or why it failed."""
    try:
        figures, _ = run(command)
    except FailedError as error:
        return {"failed": str(error)}
    return {
        "seconds": figures["wall_seconds"],
        "cpu_seconds": figures["cpu_seconds"],
        "peak_megabytes": figures["peak_megabytes"],
    }


def write_results(record: dict[str, Any], folder: Path) -> None:
    """Write the record, the page and the plot."""
    about = record["conditions"]
    path = write_record(record, folder, "scaling")
    about_figures = (
        f"{about['machine']}, load {about['load']:.1f} at the start; {about['date']} UTC. "
        "Written by `make bench-scaling`: one run each, seconds of the measured part, without "
        f"start-up; memory of the whole process. Record: [`records/{path.name}`]"
        f"(records/{path.name})."
    )
    lines = [
        "# How cost grows with size",
        "",
        about_figures,
        "",
        *table_lines(
            "| documents | step | s | cpu s | µs of cpu per document | peak MB |\n"
            "|---:|---|---:|---:|---:|---:|",
            *map(row, record["sizes"]),
        ),
        "",
        "![Time and memory against size](scaling.png)",
    ]
    (folder / "SCALING.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    plot_scaling(record, folder / "scaling.png")


def row(one: dict[str, Any]) -> tuple[str, ...]:
    """Return a step as a row of the table."""
    begin = (f"{one['documents']:,}", one["step"])
    if "failed" in one:
        return (*begin, one["failed"], "", "", "")
    return (
        *begin,
        f"{one['seconds']:.2f}",
        f"{one['cpu_seconds']:.2f}",
        f"{1e6 * one['cpu_seconds'] / one['documents']:.1f}",
        f"{one['peak_megabytes']:,.0f}",
    )


if __name__ == "__main__":
    main()
