"""Measures this checkout against another commit: ``python bench/compare.py --against REV``.

Both run in this environment, in turn, on the same documents; each has lakes of its own. A measure
of a commit that needs packages which are not installed here fails.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from measuring import HERE, FailedError, spawn, table_lines
from object_store import BUCKET, asked_at, object_store
from timing import COLLECTION
from world import Sizes, insert, originals

CLONE = HERE.parent
# It ends with the peak of its memory in kilobytes. What the system notes of a process begins with
# the memory of the process that started it, which holds documents.
_COMMAND = """
import atexit, sys
from pathlib import Path
status = Path("/proc/self/status")
atexit.register(lambda: print(status.read_text().partition("VmHWM:")[2].split()[0]))
sys.argv[0] = "aind-etl"
from aind_etl.cli import main
main()
"""
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
    """One side: a checkout in ``code``, a folder for its lakes, and its figures by measure."""

    name: str
    code: Path
    folder: Path
    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def options(self, settings: dict[str, str]) -> dict[str, Any]:
        """Return options of its processes, which have no other settings than those given."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIND_ETL_", "DAGSTER_"))
        }
        environment = kept | {"PYTHONPATH": str(self.code)} | settings
        return {"cwd": self.code, "env": environment, "stderr": subprocess.DEVNULL}

    def run(self, measure: str, *arguments: str, **settings: str) -> None:
        """Run the command, and note its seconds and its peak memory."""
        command = [sys.executable, "-W", "ignore", "-c", _COMMAND, *arguments]
        try:
            output, seconds, _ = spawn(command, **self.options(settings))
        except FailedError as error:
            raise FailedError(f"{self.name}: `aind-etl {' '.join(arguments)}`: {error}") from None
        self.figures[measure].append(seconds)
        self.figures[f"{measure}, MB"].append(int(output.splitlines()[-1]) / 1024)


@dataclass
class Bench:
    """The other commit, and what both sides are measured on."""

    revision: str
    address: str
    folder: Path
    documents: list[dict[str, Any]]
    sizes: Sizes
    runs: int

    def __post_init__(self) -> None:
        self.base = originals(self.documents)
        self.sides = (
            Revision(self.revision, self.folder / "checkout", self.folder / "before"),
            Revision("now", CLONE, self.folder / "after"),
        )

    def insert(self, database: str, first: int, last: int) -> dict[str, str]:
        """Insert documents into a database, and return the settings of runs on it."""
        source = f"{self.address}{database}"
        insert(source, self.base, first, last)
        return {
            "AIND_ETL_SOURCE": source,
            "AIND_ETL_RESULTS_ROOT": str(self.folder / "empty"),
            "AIND_ETL_SESSION_TABLE": "s3://none/none",
        }


def compare_revisions(bench: Bench, only: str, say: Callable[[str], None]) -> None:
    """Measure both sides, and print their medians and ratios.

    Only measures with the text ``only`` in their description are made.
    """
    (bench.folder / "empty").mkdir(parents=True)
    before, after = bench.sides
    subprocess.run(["git", "clone", "--quiet", CLONE, before.code], check=True)
    subprocess.run(["git", "-C", before.code, "checkout", "--quiet", bench.revision], check=True)
    try:
        for measure in (_measure_sample, _measure_large, _measure_bucket, _measure_visibility):
            description = (measure.__doc__ or "").splitlines()[0]
            if only in description:
                say(description)
                measure(bench)
    finally:
        rows = []
        for measure, values in after.figures.items():
            if measure in before.figures:
                old, new = statistics.median(before.figures[measure]), statistics.median(values)
                rows.append((measure, f"{old:,.1f}", f"{new:,.1f}", f"{new / old:.2f}"))
        header = f"| | {before.name} | {after.name} | ratio |\n|---|---:|---:|---:|"
        print("\n".join(table_lines(header, *rows)))


def _measure_sample(bench: Bench) -> None:
    """Measure runs on the sample that find nothing new."""
    for turn in range(bench.runs + 1):
        for side in bench.sides:
            measure = "sample, nothing new" if turn else "sample, first load"
            side.run(measure, "run", AIND_ETL_LAKE=str(side.folder / "sample"))


def _measure_large(bench: Bench) -> None:
    """Measure a first load of the real size, the runs after it, and queries."""
    size, added = bench.sizes.large, bench.sizes.added
    settings = bench.insert("large", 0, size)

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
    """Measure the query of notebooks for the subjects with the most and a median number of fits."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        subjects = connection.execute(
            "SELECT subject_id, count(*) FROM analyses WHERE analysis_name = 'MLE fitting' "
            "AND subject_id IS NOT NULL GROUP BY subject_id ORDER BY 2, 1"
        ).fetchall()
    chosen = [subjects[len(subjects) // 2], subjects[-1]]
    command = [sys.executable, "-W", "ignore", "-c", _FITS, str(warehouse)]
    output, _, _ = spawn([*command, *(subject for subject, _ in chosen)], **side.options({}))
    for (_, fits), line in zip(chosen, output.splitlines(), strict=True):
        side.figures[f"get_mle_model_fitting, {fits} fits, ms"].append(json.loads(line))


def _measure_bucket(bench: Bench) -> None:
    """Measure runs that find nothing new, with the lake in a bucket on this machine."""
    size = bench.sizes.documents
    settings = bench.insert("bucket", 0, size)
    # The commands inherit the endpoint's address from the environment.
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
    """Measure the time from a document's insert to its row, with `aind-etl dev`."""
    size = min(_VISIBLE_DOCUMENTS, bench.sizes.documents)
    for side in bench.sides:
        database = f"visible_{side.folder.name}"
        lake = side.folder / "visible"
        settings = bench.insert(database, 0, size) | {"AIND_ETL_LAKE": str(lake)}
        side.run(f"{size:,} documents, first load", "run", "--no-results", **settings)
        with _dev(side, settings):
            for number in range(size, size + _VISIBLE_INSERTS):
                bench.insert(database, number, number + 1)
                seconds = _wait_for(lake / "warehouse.duckdb", number + 1)
                side.figures["insert to visible"].append(seconds)
                # Varied, to be out of step with the sensors.
                time.sleep(3 + 7 * number % 11)


def _wait_for(warehouse: Path, documents: int) -> float:
    """Return the seconds until a warehouse has this many documents."""
    began = time.monotonic()
    statement = "SELECT count(DISTINCT record_id) FROM documents WHERE source_collection = ?"
    while time.monotonic() - began < _MOST_SECONDS:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            ((count,),) = connection.execute(statement, [COLLECTION]).fetchall()
        if count >= documents:
            return time.monotonic() - began
        time.sleep(0.5)
    raise FailedError(f"{documents:,} documents not visible after {_MOST_SECONDS:g} s")


@contextmanager
def _dev(side: Revision, settings: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", _COMMAND, "dev", "--port", "3987"],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        **side.options(settings),
    )
    try:
        time.sleep(_START_SECONDS)
        yield
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(60)
