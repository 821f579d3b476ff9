"""A load of 20,000 documents, measured beside what it cannot be faster than.

``make bench`` runs it and writes ``bench/RESULTS.md``. Every figure is of a whole process: wall
time and processor time from start to exit, and the largest memory it held. Figures are medians of
several runs, taken in turn, so that a machine that slows down slows all of them.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RUNS = 3
WANTED_DOCUMENTS = 20_000
# Enough for the wanted number of documents: the world makes more than 20 a session.
SESSIONS = 1_100
COLLECTION = "dynamic-foraging-model-fitting"

READ_ONLY = """
import sys, orjson
for line in open(sys.argv[1], "rb"):
    orjson.loads(line)
"""
FLATTEN = """
import sys
from datetime import UTC, datetime
from pathlib import Path
import polars as pl
from aind_etl.flatten import flatten_documents
from aind_etl.sources import open_source
read = list(open_source(str(Path(sys.argv[1]).parent)).read_documents(Path(sys.argv[1]).stem))
now = datetime.now(UTC)
frame = pl.DataFrame(read, schema=["record_id", "document", "content_hash"], orient="row")
frame = frame.with_columns(first_seen_at=pl.lit(now), changed_at=pl.lit(now))
done = [flatten_documents("c", part, "unknown") for part in frame.iter_slices(10_000)]
assert sum(part.rows["analyses"]["record_id"].n_unique() for part in done) == len(read)
"""
NORMALIZE = """
import sys, orjson, pandas
read = [orjson.loads(line) for line in open(sys.argv[1], "rb")]
assert len(pandas.json_normalize(read)) == len(read)
"""


@dataclass(frozen=True)
class Measured:
    """One run of a process."""

    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float


def measure(command: list[str]) -> Measured:
    """Run a command to its end and return what it took."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status != 0:
        message = process.stderr.read().decode() if process.stderr else ""
        raise SystemExit(f"{' '.join(command)[:200]} failed: {message}")
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def main() -> None:
    """Make the world, measure, and write down what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="size of the world")
    parser.add_argument("--runs", type=int, default=RUNS, help="runs of each command")
    given = parser.parse_args()
    etl = str(Path(sys.executable).parent / "aind-etl")
    console = Console()
    with TemporaryDirectory(prefix="aind-etl-bench-") as folder:
        os.environ["DAGSTER_HOME"] = str(Path(folder) / "dagster")
        world, lake = Path(folder) / "world", Path(folder) / "lake"
        sizes = ["--sessions", str(given.sessions), "--seed", "0", "--no-results"]
        subprocess.run([etl, "sample", str(world), *sizes], check=True, stdout=subprocess.DEVNULL)
        dump = world / f"{COLLECTION}.jsonl"
        documents = keep_first(dump, WANTED_DOCUMENTS)
        load = [etl, "run", "--source", str(world), "--collection", COLLECTION, "--lake"]
        python = [sys.executable, "-c"]
        taken: dict[str, list[Measured]] = {}
        for number in range(given.runs):
            fresh = f"{lake}-{number}"
            for name, command in {
                "read the dump, do nothing": [*python, READ_ONLY, str(dump)],
                "full load into an empty lake": [*load, fresh],
                "full pass, nothing changed": [*load, fresh, "--pass", "full"],
                "new pass, nothing new": [*load, fresh],
                "read and flatten": [*python, FLATTEN, str(dump)],
                "read and pandas.json_normalize": [*python, NORMALIZE, str(dump)],
            }.items():
                console.print(f"run {number + 1} of {given.runs}: {name}", style="dim")
                taken.setdefault(name, []).append(measure(command))
    lines = report(taken, documents)
    (HERE / "RESULTS.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    show(console, taken, documents)


def keep_first(dump: Path, count: int) -> int:
    """Cut a dump to its first documents; return how many it has."""
    with dump.open("rb") as file:
        lines = [line for _, line in zip(range(count), file, strict=False)]
    dump.write_bytes(b"".join(lines))
    return len(lines)


def rows(taken: dict[str, list[Measured]], documents: int) -> list[tuple[str, ...]]:
    """Return a row a command: medians, and the spread of the wall time."""
    made = []
    for name, runs in taken.items():
        wall = statistics.median(run.wall_seconds for run in runs)
        spread = [run.wall_seconds for run in runs]
        made.append(
            (
                name,
                f"{wall:.2f}",
                f"{min(spread):.2f}–{max(spread):.2f}",
                f"{statistics.median(run.cpu_seconds for run in runs):.2f}",
                f"{documents / wall:,.0f}",
                f"{max(run.peak_megabytes for run in runs):,.0f}",
            )
        )
    return made


HEADER = ("measure", "wall s", "min–max", "cpu s", "documents/s", "peak MB")


def report(taken: dict[str, list[Measured]], documents: int) -> list[str]:
    """Return the results as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in ("polars", "duckdb", "dagster"))
    machine = f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}"
    conditions = (
        f"{documents:,} documents of the sample world; {machine}; Python "
        f"{platform.python_version()}, {versions}; {datetime.now(UTC):%Y-%m-%d}. Whole processes, "
        f"start-up included; medians of {len(next(iter(taken.values())))} runs."
    )
    return [
        "# Results",
        "",
        conditions,
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|" + "---:|" * (len(HEADER) - 1),
        *("| " + " | ".join(row) + " |" for row in rows(taken, documents)),
    ]


def show(console: Console, taken: dict[str, list[Measured]], documents: int) -> None:
    """Print the results."""
    sheet = Table(title=f"{documents:,} documents", box=None, title_justify="left")
    for number, name in enumerate(HEADER):
        sheet.add_column(name, justify="left" if number == 0 else "right")
    for row in rows(taken, documents):
        sheet.add_row(*row)
    console.print(sheet)


if __name__ == "__main__":
    main()
