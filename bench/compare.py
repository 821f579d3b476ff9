"""The measures of ``make bench``: what people do, beside what they would otherwise use.

Both sides run as processes, in turn, so that a machine that slows down slows both. Before
anything is timed each side runs once, and what they answer must agree.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from measuring import HERE, OTHERS_PYTHON, Run, conditions, others, ours, run, summary
from rich.console import Console
from rich.table import Table
from world import fill, make_dump, server

ADDED = 100
# More takes dlt's memory beyond that of most machines.
DLT_DOCUMENTS = 500


@dataclass(frozen=True)
class Measure:
    """One comparison.

    Attributes
    ----------
    name, against
        What is done, and what it is compared with.
    ours, theirs
        Commands of both sides.
    wanted
        What the ratio should be.
    ratio
        Of the medians of both sides.
    prepare
        Done before each run of ours.
    same
        Whether both sides must give the same answer.
    """

    name: str
    against: str
    ours: list[str]
    theirs: list[str]
    wanted: str
    ratio: Callable[[dict[str, float], dict[str, float]], float]
    prepare: Callable[[], object] = lambda: None
    same: bool = True


def speed(one: dict[str, float], other: dict[str, float]) -> float:
    """Return how many times as many documents a second."""
    return (one["documents"] / one["wall_seconds"]) / (other["documents"] / other["wall_seconds"])


def cpu_speed(one: dict[str, float], other: dict[str, float]) -> float:
    """Return how many times as many documents a second of a processor."""
    return (one["documents"] / one["cpu_seconds"]) / (other["documents"] / other["cpu_seconds"])


def wall(one: dict[str, float], other: dict[str, float]) -> float:
    """Return how many times as long."""
    return one["wall_seconds"] / other["wall_seconds"]


def cpu(one: dict[str, float], other: dict[str, float]) -> float:
    """Return how many times as much processor time."""
    return one["cpu_seconds"] / other["cpu_seconds"]


def more(one: dict[str, float], other: dict[str, float]) -> float:
    """Return how many seconds more of a process."""
    return one["process_seconds"] - other["process_seconds"]


def measures(address: str, folder: Path) -> list[Measure]:
    """Return all comparisons, on databases that were filled before."""
    whole, few = f"{address}whole", f"{address}few"
    loaded, fresh = folder / "loaded", folder / "fresh"
    loaded_tenth = folder / "loaded-tenth"

    def empty() -> None:
        shutil.rmtree(fresh, ignore_errors=True)

    def copied(lake: Path) -> Callable[[], None]:
        def copy() -> None:
            empty()
            shutil.copytree(lake, fresh)

        return copy

    etl = str(Path(sys.executable).with_name("aind-etl"))
    duckdb = [sys.executable, "-c", "import duckdb"]
    fresh_tenth = folder / "fresh-tenth"
    empty()
    return [
        Measure(
            "full load, mongod to parquet and warehouse",
            f"dlt into DuckDB, {DLT_DOCUMENTS:,} documents",
            ours("load", whole, fresh),
            others("dlt", few, folder / "dlt"),
            "≥ 50 × documents/s",
            speed,
            empty,
        ),
        Measure(
            "`analyses` and its children, mongod to parquet",
            "server-side `$project` and pymongoarrow, main columns",
            ours("analyses", whole, fresh),
            others("project", whole, folder / "project"),
            "≥ 1 × documents/s",
            speed,
            empty,
        ),
        Measure(
            "full load",
            "reading raw BSON batches, doing nothing",
            ours("load", whole, fresh),
            others("raw", whole, "-"),
            "≤ 4 × processor time",
            cpu,
            empty,
            same=False,
        ),
        Measure(
            "*full* pass, nothing changed",
            "reading raw BSON batches, doing nothing",
            ours("full_pass", whole, loaded),
            others("raw", whole, "-"),
            "≤ 3 × time",
            wall,
        ),
        Measure(
            "*new* pass, nothing new",
            "listing the ids",
            ours("new_pass", whole, loaded),
            others("ids", whole, "-"),
            "≤ 3 × time",
            wall,
        ),
        Measure(
            f"*new* pass, {ADDED} new documents",
            "the same on a tenth of the documents",
            ours("new_pass", f"{address}whole-more", fresh),
            ours("new_pass", f"{address}tenth-more", fresh_tenth),
            "≤ 1.5 × time",
            wall,
            lambda: (
                copied(loaded)(),
                shutil.rmtree(fresh_tenth, ignore_errors=True),
                shutil.copytree(loaded_tenth, fresh_tenth),
            ),
            same=False,
        ),
        Measure(
            "flatten, from canonical JSON",
            "`pandas.json_normalize`, parsing included",
            ours("flatten", folder / "canonical.parquet", "-"),
            others("normalize", folder / "canonical.parquet", "-"),
            "≥ 20 × documents/s of a core",
            cpu_speed,
        ),
        Measure(
            "warehouse build, with views and marts",
            "DuckDB `CREATE TABLE AS` of the same parquet",
            ours("warehouse", "-", loaded),
            others("copy", loaded, folder / "copy"),
            "≤ 3 × time",
            wall,
        ),
        Measure(
            "`aind-etl --help`",
            '`python -c "import duckdb"`',
            [etl, "--help"],
            duckdb,
            "≤ 0.3 s more",
            more,
            same=False,
        ),
        Measure(
            '`aind-etl sql "select 1"`',
            '`python -c "import duckdb"`',
            [etl, "sql", "select 1", "--warehouse", str(loaded / "warehouse.duckdb")],
            duckdb,
            "≤ 0.3 s more",
            more,
            same=False,
        ),
    ]


def main() -> None:
    """Make the world, check, measure, and write down what was measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--dump", type=Path, help="a collection's .jsonl made before")
    given = parser.parse_args()
    console = Console()
    with (
        TemporaryDirectory(prefix="aind-etl-bench-") as scratch,
        server(Path(scratch) / "mongod") as address,
    ):
        folder = Path(scratch)
        console.print("Making the world …", style="dim")
        dump = given.dump or make_dump(folder / "world")
        count = given.documents
        for name, size, added in (
            ("whole", count, 0),
            ("tenth", count // 10, 0),
            ("few", DLT_DOCUMENTS, 0),
            ("whole-more", count, ADDED),
            ("tenth-more", count // 10, ADDED),
        ):
            fill(f"{address}{name}", dump, size, more=added)
        run(ours("load", f"{address}whole", folder / "loaded"))
        run(ours("load", f"{address}tenth", folder / "loaded-tenth"))
        run(ours("canonical", f"{address}whole", folder / "canonical.parquet"))
        _, size = run(ours("size", "-", folder / "loaded"))
        record = {"conditions": conditions(), "documents": count, "runs": given.runs, "size": size}
        record["measures"] = found = []
        for measure in measures(address, folder):
            found.append(compared(measure, given.runs, console))
            # What was measured stays where a later measure fails.
            keep(record)
    draw(record)
    show(console, found)


def compared(measure: Measure, runs: int, console: Console) -> dict[str, Any]:
    """Check that both sides agree, then run them in turn."""
    console.print(f"{measure.name} …", style="dim")
    taken: tuple[list[Run], list[Run]] = ([], [])
    for number in range(runs + 1):
        answers = []
        measure.prepare()
        for side, command in zip(taken, (measure.ours, measure.theirs), strict=True):
            one, answer = run(command)
            answers.append(answer)
            if number:
                side.append(one)
        if measure.same and answers[0] != answers[1]:
            raise SystemExit(f"{measure.name}: {answers[0]} is not {answers[1]}.")
    mine, theirs = (summary(side) for side in taken)
    return {
        "name": measure.name,
        "against": measure.against,
        "wanted": measure.wanted,
        "ratio": measure.ratio(mine, theirs),
        "ours": mine,
        "theirs": theirs,
    }


HEADER = (
    "measure",
    "s",
    "min–max",
    "cpu s",
    "peak MB",
    "against",
    "s",
    "min–max",
    "cpu s",
    "peak MB",
    "ratio",
    "to reach",
)


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """Return a comparison as a row of the table."""
    cells = [found["name"]]
    for side in ("ours", "theirs"):
        some = found[side]
        cells += [
            f"{some['wall_seconds']:.2f}",
            f"{some['least_wall_seconds']:.2f}–{some['most_wall_seconds']:.2f}",
            f"{some['cpu_seconds']:.2f}",
            f"{some['peak_megabytes']:,.0f}",
        ]
        if side == "ours":
            cells.append(found["against"])
    return (*cells, f"{found['ratio']:.2f}", found["wanted"])


def keep(record: dict[str, Any]) -> None:
    """Write the record and the page."""
    path = path_of(record)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    about, name = record["conditions"], path.name
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    size = record["size"]
    what = (
        f"{record['documents']:,} documents of the sample world in a real mongod; "
        f"{about['machine']}, load {about['load']:.1f}; Python {about['python']}, {versions}; "
        f"{about['date']} UTC. Medians of {record['runs']} runs in turn. Seconds are of the part "
        "compared, without start-up (but for start-up itself); processor seconds are the client's. "
        "The load says how many processes wanted the cores: where it is above their number, "
        "wall times say little, and ratios of processor time are what counts."
    )
    smaller = (
        f"Size: `analyses` and its children take {size['parquet'] / 1e6:.1f} MB as parquet, and "
        f"{size['csv'] / 1e6:.1f} MB as CSV: {size['csv'] / size['parquet']:.1f} times as much "
        "(to reach: 10)."
    )
    lines = [
        "# Results",
        "",
        what,
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---" * len(HEADER) + "|",
        *("| " + " | ".join(row(found)) + " |" for found in record["measures"]),
        "",
        smaller,
        "",
        f"Record: [`records/{name}`](records/{name}).",
        "",
        "![Seconds of both sides of each measure](results.png)",
    ]
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def path_of(record: dict[str, Any]) -> Path:
    """Return where a record lies."""
    return HERE / "records" / f"{record['conditions']['date'][:10]}-{record['documents']}.json"


def draw(record: dict[str, Any]) -> None:
    """Draw the plot of a record."""
    plot = [str(OTHERS_PYTHON), str(HERE / "plot.py"), "ratios"]
    subprocess.run([*plot, str(path_of(record)), str(HERE / "results.png")], check=True)


def show(console: Console, found: list[dict[str, Any]]) -> None:
    """Print the results."""
    sheet = Table(box=None, title_justify="left")
    for name in HEADER:
        sheet.add_column(name)
    for one in found:
        sheet.add_row(*row(one))
    console.print(sheet)


if __name__ == "__main__":
    main()
