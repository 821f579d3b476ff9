"""Result files with trials, and a lake that has them in its inventory.

``python bench/trials.py`` measures reading them: the row of ``make bench``, and the same from a
folder.
"""

import argparse
import json
import shutil
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import orjson
from measuring import HERE, others, ours, run
from serving import serving
from timing import COLLECTION

sys.path.append(str(HERE.parent / "tests" / "support"))

from worlds import loaded_lake

from aind_etl.results import open_result_store, refresh_result_files
from aind_etl.settings import load_settings

BUCKET = "aind-dynamic-foraging-analysis-prod-o5171v"
RESULT_JSON = "docDB_mle_fitting.json"
LATENCY_SECONDS = 0.03
# The other files are links to these.
DIFFERENT_FILES = 20
TRIALS = 450
MONTHS = 12


def main() -> None:
    """Make the files, read them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=2000, help="number of result files")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="aind-etl-bench-") as scratch:
        files = ResultFiles(Path(scratch) / "results", given.records)
        print(f"{given.records:,} result files of {files.size_bytes / 1e6:.2f} MB")
        with serving("s3", files.root, LATENCY_SECONDS) as url:
            for name, command in {
                "10 threads: exists, get, json.loads": partial(others, "threads", url, files.dump),
                "trials": lambda: ours("trials", url, files.fresh_lake()),
                "trials, from a folder": lambda: ours("trials", files.root, files.fresh_lake()),
            }.items():
                figures, _ = run(command())
                seconds = figures["wall_seconds"]
                cpu = 1e3 * figures["cpu_seconds"] / given.records
                print(
                    f"{name:40}{seconds:7.1f} s{given.records / seconds:7.0f} records/s"
                    f"{cpu:7.2f} cpu ms per record{figures['peak_megabytes']:6.0f} MB"
                )


class ResultFiles:
    """Result files below ``root``, their documents in ``dump``, and a lake without their trials."""

    def __init__(self, folder: Path, records: int) -> None:
        self.root, dump = folder / "root", folder / "dump"
        self.dump = dump / f"{COLLECTION}.jsonl"
        self._lake, self._fresh = folder / "lake", folder / "fresh"
        self.size_bytes = make_results(self.root, dump, records)
        load(dump, self._lake, self.root)

    def fresh_lake(self) -> Path:
        """Return a lake into which no file was read yet."""
        shutil.rmtree(self._fresh, ignore_errors=True)
        return Path(shutil.copytree(self._lake, self._fresh))


def make_results(root: Path, dump: Path, records: int) -> int:
    """Write result files and the documents they belong to; return the size of a file."""
    random = np.random.default_rng(0)
    (root / BUCKET).mkdir(parents=True)
    dump.mkdir(parents=True)
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
    """Return a small prototype document."""
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
    """Return the fitting results of a result file, mostly the optimizer's population."""
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
    # The inventory is taken from the disk, since rclone reads each file in full to list it.
    with open_result_store(load_settings(results_root=str(root))) as store:
        refresh_result_files(loaded_lake(dump, lake), store, COLLECTION)


if __name__ == "__main__":
    main()
