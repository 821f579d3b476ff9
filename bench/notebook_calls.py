"""Measures calls by subject, as a notebook makes them, on a warehouse of some 145,000 records.

    python bench/notebook_calls.py [WAREHOUSE]

Without a warehouse, a world of 5,300 sessions is simulated and loaded first, which takes some
minutes. It has no result folders, and the calls ask for no latent variables.
"""

import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))

from worlds import loaded_lake

from aind_etl import Warehouse, get_mle_model_fitting
from aind_etl.sample import write_world
from aind_etl.warehouse.build import build_warehouse

SESSIONS = 5300
CALLS = 100


def main() -> None:
    """Measure, and print the figures."""
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory(prefix="aind-etl-bench-") as folder:
        measure(build(Path(folder)))


def build(folder: Path) -> Path:
    """Return the warehouse of a simulated world."""
    write_world(folder / "world", sessions=SESSIONS, seed=0, results=False)
    build_warehouse(loaded_lake(folder / "world", folder / "lake"), folder / "warehouse.duckdb")
    return folder / "warehouse.duckdb"


def measure(warehouse: Path) -> None:
    """Time a hundred calls; with fewer subjects, subjects repeat."""
    tables = Warehouse(warehouse)
    records = tables.sql("SELECT count(DISTINCT record_id) AS n FROM analyses").item()
    subjects = tables.sql(
        "SELECT DISTINCT subject_id FROM mle_fitting "
        "WHERE status = 'success' AND subject_id IS NOT NULL ORDER BY subject_id"
    )["subject_id"].to_list()
    print(f"{records:,} records, {len(subjects):,} subjects, {CALLS} calls each\n")
    print(f"{'':42}{'fits':>7}{'median ms':>11}{'slowest ms':>12}{'cpu ms':>8}")
    fits = partial(get_mle_model_fitting, if_include_latent_variables=False, warehouse=warehouse)
    for name, call in {
        "get_mle_model_fitting(subject)": fits,
        "get_mle_model_fitting(subject), no metrics": partial(fits, if_include_metrics=False),
        "Warehouse.analyses(subject)": lambda subject: tables.analyses(subject_id=subject),
    }.items():
        seconds, processor, rows = [], [], []
        for number in range(CALLS):
            started, busy = time.perf_counter(), time.process_time()
            found = call(subjects[number % len(subjects)])
            seconds.append(time.perf_counter() - started)
            processor.append(time.process_time() - busy)
            rows.append(0 if found is None else len(found))
        median, slowest = 1e3 * statistics.median(seconds), 1e3 * max(seconds)
        cpu = 1e3 * statistics.median(processor)
        print(f"{name:42}{statistics.median(rows):7.0f}{median:11.1f}{slowest:12.1f}{cpu:8.1f}")


if __name__ == "__main__":
    main()
