"""Reading the trials of 2,000 result files, measured beside ten threads that read them plainly.

``python bench/trials.py`` makes a world of result files of half a megabyte, serves it as S3 with
30 ms added to every request, and measures in turn, each in a process of its own: what people write
first (ten threads, for each record ``exists``, ``get`` and ``json.loads``), and
:func:`aind_etl.results.refresh_trials`, which also writes the tables. With ``--write FILE`` the
results are appended to a file as Markdown.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson

from aind_etl.results import open_result_store, refresh_result_files
from aind_etl.settings import load_settings

HERE = Path(__file__).parent
COLLECTION = "dynamic-foraging-model-fitting"
BUCKET = "aind-dynamic-foraging-analysis-prod-o5171v"
RESULT_JSON = "docDB_mle_fitting.json"
LATENCY_SECONDS = 0.03
# Of so many different files the others are links: what is measured does not look at them twice.
DIFFERENT_FILES = 20
TRIALS = 450
THREADS = 10
MONTHS = 12

SERVE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from result_endpoint import endpoint_before
with endpoint_before(Path(sys.argv[2]), is_still=True) as endpoint:
    endpoint.latency_seconds = float(sys.argv[3])
    print(endpoint.url, flush=True)
    while True:
        time.sleep(1)
"""
PLAIN = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from s3fs import S3FileSystem
s3 = S3FileSystem(anon=True, endpoint_url=sys.argv[1], config_kwargs={"s3": {"addressing_style":
    "path"}})
def read(line):
    location = json.loads(line)["s3_location"]
    for name in ("docDB_mle_fitting.json",):
        if s3.exists(f"{location}/{name}"):
            return json.loads(s3.cat_file(f"{location}/{name}"))["analysis_results"]
with ThreadPoolExecutor(int(sys.argv[3])) as pool:
    done = sum(bool(fit["fitted_latent_variables"]) for fit in pool.map(read, open(sys.argv[2])))
print(done)
"""
OURS = """
import sys
from pathlib import Path
from aind_etl.lake import Lake
from aind_etl.results import open_result_store, refresh_trials
from aind_etl.settings import load_settings
place = "s3_endpoint_url" if "://" in sys.argv[1] else "results_root"
settings = load_settings(source="elsewhere", **{place: sys.argv[1]})
with open_result_store(settings) as store:
    report = refresh_trials(Lake(Path(sys.argv[2])), store, sys.argv[3])
print(report.loaded)
"""


@dataclass(frozen=True)
class Measured:
    """One run of a process."""

    name: str
    records: int
    wall_seconds: float
    cpu_seconds: float
    peak_megabytes: float

    @property
    def row(self) -> tuple[str, ...]:
        """The run as a row of the results."""
        return (
            self.name,
            f"{self.records / self.wall_seconds:,.0f}",
            f"{self.wall_seconds:.1f}",
            f"{1000 * self.cpu_seconds / self.records:.2f}",
            f"{self.peak_megabytes:,.0f}",
        )


HEADER = ("measure", "records/s", "wall s", "cpu ms a record", "peak MB")


def main() -> None:
    """Make the world, measure, and show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000, help="number of result files")
    parser.add_argument("--write", type=Path, help="append the results to this file")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="aind-etl-bench-") as folder:
        root, dump, lake = (Path(folder) / name for name in ("results", "dump", "lake"))
        size = make_results(root, dump, given.records)
        load(dump, lake, root)
        local = Path(folder) / "local"
        shutil.copytree(lake, local)
        from_disk = measure(
            "trials, from a folder", [OURS, str(root), str(local), COLLECTION], given.records
        )
        with serve(root) as url:
            runs = [
                measure(
                    f"{THREADS} threads: exists, get, json.loads",
                    [PLAIN, url, str(dump / f"{COLLECTION}.jsonl"), str(THREADS)],
                    given.records,
                ),
                measure("trials", [OURS, url, str(lake), COLLECTION], given.records),
                from_disk,
            ]
    lines = report(runs, size)
    print("\n".join(lines))
    if given.write:
        with given.write.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines) + "\n")


def make_results(root: Path, dump: Path, records: int) -> int:
    """Write result files and the documents they belong to; return the size of a file."""
    random = np.random.default_rng(0)
    (root / BUCKET).mkdir(parents=True)
    dump.mkdir()
    originals = []
    with (dump / f"{COLLECTION}.jsonl").open("wb") as documents:
        for number in range(records):
            record_id = random.bytes(32).hex()
            document = a_document(record_id, number)
            documents.write(orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE))
            path = root / BUCKET / record_id / RESULT_JSON
            path.parent.mkdir()
            if number < DIFFERENT_FILES:
                path.write_text(json.dumps(document | {"analysis_results": a_fit(random)}))
                originals.append(path)
            else:
                path.hardlink_to(originals[number % DIFFERENT_FILES])
    return originals[0].stat().st_size


def a_document(record_id: str, number: int) -> dict[str, object]:
    """Return a prototype document, as far as it is needed."""
    date = f"2024-{number % MONTHS + 1:02d}-15"
    return {
        "_id": record_id,
        "nwb_name": f"{700_000 + number}_{date}_10-00-00.nwb",
        "status": "success",
        "s3_location": f"s3://{BUCKET}/{record_id}",
        "subject_id": str(700_000 + number),
        "session_date": date,
        "analysis_spec": {"analysis_name": "MLE fitting", "analysis_ver": "1"},
        "analysis_datetime": f"{date}T12:00:00.000000",
        "analysis_results": {"n_trials": TRIALS, "log_likelihood": -200.0},
    }


def a_fit(random: np.random.Generator) -> dict[str, object]:
    """Return fitting results as a result file tells them: mostly the optimizer's population."""
    nothing = [0.0, *[float("nan")] * TRIALS]
    return {
        "n_trials": TRIALS,
        "log_likelihood": -200.0,
        "population": random.random((90, 250)).tolist(),
        "fit_settings": {
            "fit_choice_history": random.integers(0, 2, TRIALS).astype(float).tolist(),
            "fit_reward_history": (random.random(TRIALS) < 0.5).tolist(),
        },
        "fitted_latent_variables": {
            "q_value": random.random((2, TRIALS + 1)).tolist(),
            "choice_kernel": [nothing, nothing],
            "choice_prob": random.random((2, TRIALS)).tolist(),
        },
    }


def load(dump: Path, lake: Path, root: Path) -> None:
    """Load the documents and the inventory of their folders into a lake."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from worlds import loaded_lake  # noqa: PLC0415 - the tests' helpers are found by then

    # The inventory is taken from the disk: rclone reads a file whole each time it lists it.
    with open_result_store(load_settings(results_root=str(root))) as store:
        refresh_result_files(loaded_lake(dump, lake), store, COLLECTION)


@contextmanager
def serve(root: Path) -> Iterator[str]:
    """Serve a folder as S3 with latency, in a process of its own; give its URL."""
    command = [sys.executable, "-c", SERVE, str(HERE.parent / "tests"), str(root)]
    process = subprocess.Popen([*command, str(LATENCY_SECONDS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def measure(name: str, arguments: list[str], records: int) -> Measured:
    """Run a program to its end and return what it took."""
    began = time.perf_counter()
    command = [sys.executable, "-c", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read().strip()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - began
    if status != 0 or said != str(records):
        raise SystemExit(f"{name} ended with {status}, and {said!r} records of {records}")
    return Measured(name, records, wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def report(runs: list[Measured], size: int) -> list[str]:
    """Return the results as Markdown."""
    conditions = (
        f"{runs[0].records:,} result files of {size / 1e6:.2f} MB, "
        f"{1000 * LATENCY_SECONDS:.0f} ms added to each request; {os.cpu_count()} cores, shared "
        "with the server; whole processes, start-up included."
    )
    return [
        "## Trials from result files",
        "",
        conditions,
        "",
        "| " + " | ".join(HEADER) + " |",
        "|---|" + "---:|" * (len(HEADER) - 1),
        *("| " + " | ".join(run.row) + " |" for run in runs),
    ]


if __name__ == "__main__":
    main()
