"""What people wait for, now and at another commit: ``python bench/compare.py --against REV``.

Both run in this environment, in turn, on the same documents; each has lakes of its own. Where the
other commit needs packages that are not installed here, its measures fail and are shown as such.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from measuring import HERE, FailedError
from object_store import BUCKET, asked_at, object_store
from world import COLLECTION, Original, Sizes, insert

CLONE = HERE.parent
_COMMAND = "import sys; sys.argv[0] = 'aind-etl'; from aind_etl.cli.main import main; main()"
_FITS = """
import json, statistics, sys, time
from aind_etl import get_mle_model_fitting
warehouse, *subjects = sys.argv[1:]
for subject in subjects:
    taken = []
    for _ in range(13):
        began = time.perf_counter()
        get_mle_model_fitting(
            subject_id=subject, only_recent_version=False, if_include_latent_variables=False,
            warehouse=warehouse,
        )
        taken.append(time.perf_counter() - began)
    print(json.dumps(1000 * statistics.median(taken[3:])))
"""
_VISIBLE_DOCUMENTS = 3_000
_VISIBLE_INSERTS = 10
_START_SECONDS = 60.0
_MOST_SECONDS = 300.0


@dataclass
class Revision:
    """One side: a checkout, and its lakes.

    Attributes
    ----------
    name
        What the table calls it.
    code
        The folder of the checkout.
    folder
        Where its lakes lie.
    figures
        What was measured: by measure, each run.
    """

    name: str
    code: Path
    folder: Path
    figures: dict[str, list[float]] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of its processes: no settings but those given."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIND_ETL_", "DAGSTER_"))
        }
        return kept | {"PYTHONPATH": str(self.code)} | more

    def run(self, measure: str, *arguments: str, **settings: str) -> None:
        """Run the command, and note its seconds and its peak memory."""
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _COMMAND, *arguments],
            cwd=self.code,
            env=self.environment(**settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise FailedError(f"{self.name}: `aind-etl {' '.join(arguments)}` failed")
        self.note(measure, time.perf_counter() - began)
        self.note(f"{measure}, MB", usage.ru_maxrss / 1024)

    def note(self, measure: str, value: float) -> None:
        """Note a figure."""
        self.figures.setdefault(measure, []).append(value)


@dataclass(frozen=True)
class Bench:
    """Both sides, and what they are measured on.

    Attributes
    ----------
    sides
        The other commit and this checkout.
    address
        The server, ending in ``/``.
    folder
        A folder for lakes.
    base
        The documents of which the worlds are made.
    sizes, runs
        How many documents, and how often.
    """

    sides: tuple[Revision, Revision]
    address: str
    folder: Path
    base: list[Original]
    sizes: Sizes
    runs: int

    def insert(self, database: str, first: int, last: int) -> str:
        """Insert documents into a database, and return its address."""
        source = f"{self.address}{database}"
        insert(source, self.base, first, last)
        return source

    def settings(self, source: str) -> dict[str, str]:
        """Return the settings of runs on a source that has no result folders."""
        return {
            "AIND_ETL_SOURCE": source,
            "AIND_ETL_RESULTS_ROOT": str(self.folder / "empty"),
            "AIND_ETL_SESSION_TABLE": "s3://none/none",
        }


def compare_revisions(revision: str, bench: Bench, only: str, say: Callable[[str], None]) -> None:
    """Measure both sides, the other at ``revision``; ``say`` is told what is measured.

    Only measures with the text ``only`` in their description are made.
    """
    (bench.folder / "empty").mkdir(parents=True)
    code = bench.sides[0].code
    subprocess.run(["git", "clone", "--quiet", str(CLONE), str(code)], check=True)
    subprocess.run(["git", "-C", str(code), "checkout", "--quiet", revision], check=True)
    for measure in (_measure_sample, _measure_large, _measure_bucket, _measure_visibility):
        description = (measure.__doc__ or "").splitlines()[0]
        if only in description:
            say(description)
            measure(bench)


def sides_of(revision: str, folder: Path) -> tuple[Revision, Revision]:
    """Return the sides, with their lakes in a folder."""
    return (
        Revision(revision, folder / "checkout", folder / "before"),
        Revision("now", CLONE, folder / "after"),
    )


def show_revisions(sides: tuple[Revision, Revision]) -> str:
    """Return both sides' medians as a table in Markdown, with the ratio."""
    before, after = sides
    lines = [f"| | {before.name} | {after.name} | ratio |", "|---|---:|---:|---:|"]
    for measure, values in after.figures.items():
        if measure not in before.figures:
            continue
        old, new = statistics.median(before.figures[measure]), statistics.median(values)
        lines.append(f"| {measure} | {old:,.1f} | {new:,.1f} | {new / old:.2f} |")
    return "\n".join(lines)


def _measure_sample(bench: Bench) -> None:
    """Measure runs on the sample that find nothing new."""
    for turn in range(bench.runs + 1):
        for side in bench.sides:
            measure = "sample, nothing new" if turn else "sample, first load"
            side.run(measure, "run", AIND_ETL_LAKE=str(side.folder / "sample"))


def _measure_large(bench: Bench) -> None:
    """Measure a first load of the real size, the runs after it, and queries."""
    size, added = bench.sizes.large, bench.sizes.added
    settings = bench.settings(bench.insert("large", 0, size))

    def run(measure: str, *arguments: str) -> None:
        for side in bench.sides:
            lake = str(side.folder / "large")
            command = ("run", "--no-results", *arguments)
            side.run(f"{size:,} documents, {measure}", *command, AIND_ETL_LAKE=lake, **settings)

    run("first load")
    for turn in range(bench.runs):
        run("nothing new")
        bench.insert("large", size + turn * added, size + (turn + 1) * added)
        run(f"{added} new")
        run("full pass", "--pass", "full")
    for side in bench.sides:
        _fits(side, side.folder / "large" / "warehouse.duckdb")


def _fits(side: Revision, warehouse: Path) -> None:
    """Measure the query of notebooks, of a subject with many fits and of one with few."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        subjects = connection.execute(
            "SELECT subject_id, count(*) FROM analyses WHERE analysis_name = 'MLE fitting' "
            "AND subject_id IS NOT NULL GROUP BY subject_id ORDER BY 2, 1"
        ).fetchall()
    chosen = [subjects[len(subjects) // 2], subjects[-1]]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _FITS, str(warehouse), *(one for one, _ in chosen)],
        cwd=side.code,
        env=side.environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    for (_, fits), line in zip(chosen, done.stdout.splitlines(), strict=True):
        side.note(f"get_mle_model_fitting, {fits} fits, ms", json.loads(line))


def _measure_bucket(bench: Bench) -> None:
    """Measure runs that find nothing new, with the lake in a bucket on this machine."""
    size = bench.sizes.documents
    settings = bench.settings(bench.insert("bucket", 0, size))
    # Named by the environment, which the commands inherit.
    with object_store() as endpoint, asked_at(endpoint, bench.folder / "cache"):
        for turn in range(bench.runs + 1):
            for side in bench.sides:
                what = "nothing new" if turn else "first load"
                own = {
                    "AIND_ETL_LAKE": f"s3://{BUCKET}/{side.folder.name}",
                    "DAGSTER_HOME": str(side.folder / "dagster"),
                }
                measure = f"bucket, {size:,} documents, {what}"
                side.run(measure, "run", "--no-results", **settings, **own)


def _measure_visibility(bench: Bench) -> None:
    """Measure how long an inserted document takes to its row, with `aind-etl dev`."""
    size = min(_VISIBLE_DOCUMENTS, bench.sizes.documents)
    for side in bench.sides:
        database = f"visible_{side.folder.name}"
        lake = side.folder / "visible"
        settings = bench.settings(bench.insert(database, 0, size))
        settings |= {"AIND_ETL_LAKE": str(lake)}
        side.run("3,000 documents, first load", "run", "--no-results", **settings)
        with _dev(side, settings):
            for number in range(size, size + _VISIBLE_INSERTS):
                bench.insert(database, number, number + 1)
                side.note("insert to visible", _wait_for(lake / "warehouse.duckdb", number + 1))
                # Not in step with the sensors.
                time.sleep(3 + 7 * number % 11)


def _wait_for(warehouse: Path, documents: int) -> float:
    """Return the seconds until a warehouse has so many documents."""
    began = time.monotonic()
    while _count(warehouse) < documents:
        if time.monotonic() - began > _MOST_SECONDS:
            raise FailedError(f"{documents:,} documents not visible after {_MOST_SECONDS:g} s")
        time.sleep(0.5)
    return time.monotonic() - began


def _count(warehouse: Path) -> int:
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        statement = "SELECT count(DISTINCT record_id) FROM documents WHERE source_collection = ?"
        ((count,),) = connection.execute(statement, [COLLECTION]).fetchall()
        return int(count)


@contextmanager
def _dev(side: Revision, settings: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _COMMAND, "dev", "--port", "3987"],
        cwd=side.code,
        env=side.environment(**settings),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        time.sleep(_START_SECONDS)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
