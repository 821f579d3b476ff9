"""What aind-etl does in each measure: one command each, run as a process of its own.

The last line printed is JSON: the documents handled, the answer that the other side must give as
well, and wall and processor seconds of the part that is compared, without start-up.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import orjson
import polars as pl

from aind_etl import get_mle_model_fitting
from aind_etl.changelog.passes import Pass, extract_collection
from aind_etl.contract import ANALYSIS_TABLES, tables
from aind_etl.flatten import flatten_documents
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.results import open_result_store, refresh_trials
from aind_etl.settings import load_settings
from aind_etl.sources.kinds import open_source
from aind_etl.sources.protocol import read_documents
from aind_etl.warehouse.build import build_warehouse

if TYPE_CHECKING:
    import pandas as pd

COLLECTION = "dynamic-foraging-model-fitting"
Answer = dict[str, object]


@contextmanager
def timed(taken: dict[str, float]) -> Iterator[None]:
    """Note the wall and processor seconds of a ``with`` block, and the memory until its end."""
    wall, cpu = time.perf_counter(), _processor_seconds()
    yield
    taken["wall_seconds"] = time.perf_counter() - wall
    taken["cpu_seconds"] = _processor_seconds() - cpu
    # Before answers are looked up: those hold whole tables.
    taken["peak_kilobytes"] = _peak_kilobytes()


def _processor_seconds() -> float:
    """Return what this process took so far, and the ones it started."""
    return sum(os.times()[:4])


def _peak_kilobytes() -> int:
    """Return the most memory this process held, and the largest of those it started.

    The system's own figure for a child counts what its parent held when it began it.
    """
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    own = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    return int(own) + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def extract(source: str, lake: Lake, pass_kind: Pass) -> int:
    """Run a pass over the collection; return how many documents the source gave."""
    with open_source(source) as opened:
        return extract_collection(opened, lake, COLLECTION, pass_kind).read


def load(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Load everything into an empty lake, and build the warehouse."""
    lake = Lake(given.lake)
    with timed(taken):
        read = extract(given.source, lake, Pass.FULL)
        refresh_analyses(lake, COLLECTION)
        build_warehouse(lake, given.lake / "warehouse.duckdb")
    return {
        "documents": read,
        "answer": {"documents": lake.change_log(COLLECTION).live_documents().height},
    }


def analyses(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Load everything into an empty lake, without the warehouse."""
    lake = Lake(given.lake)
    with timed(taken):
        read = extract(given.source, lake, Pass.FULL)
        refresh_analyses(lake, COLLECTION)
    rows = lake.tables.scan(tables.ANALYSES, COLLECTION).collect()
    fitted = rows.filter(pl.col("aic").is_not_null())
    return {
        "documents": read,
        "answer": {
            "rows": rows.height,
            "fitted": fitted.height,
            "aic": round(float(fitted["aic"].sum()), 3),
            "trials": int(fitted["n_trials"].sum()),
        },
    }


def full_pass(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Compare every document with a lake that has them all."""
    with timed(taken):
        read = extract(given.source, Lake(given.lake), Pass.FULL)
    return {"documents": read, "answer": {"documents": read}}


def new_pass(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Compare ids with a lake, read what is new, and bring the tables up to date."""
    lake = Lake(given.lake)
    with timed(taken):
        extract(given.source, lake, Pass.NEW)
        refresh_analyses(lake, COLLECTION)
    live = lake.change_log(COLLECTION).live_documents().height
    return {"documents": live, "answer": {"documents": live}}


def new_documents(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Do the same where there are new documents; the answer is how many."""
    lake = Lake(given.lake)
    known = lake.change_log(COLLECTION).live_documents().height
    with timed(taken):
        extract(given.source, lake, Pass.NEW)
        refresh_analyses(lake, COLLECTION)
    new = lake.change_log(COLLECTION).live_documents().height - known
    return {"documents": new, "answer": {"documents": new}}


def flatten(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Flatten documents that are in memory as canonical JSON."""
    documents = pl.read_parquet(given.source)
    moment = pl.lit(datetime.now(UTC))
    documents = documents.with_columns(first_seen_at=moment, changed_at=moment)
    with timed(taken):
        done = [
            flatten_documents(COLLECTION, part, UNKNOWN_MONTH)
            for part in documents.iter_slices(10_000)
        ]
    seen = sum(
        part.rows["analyses"]["record_id"].n_unique() + part.rejected.height for part in done
    )
    rows = pl.concat([part.rows["analyses"].select("pipeline_format", "aic") for part in done])
    # The other format has its fits in lists, which the other side leaves as they are.
    aic = rows.filter(pl.col("pipeline_format") == "prototype")["aic"].sum()
    return {"documents": seen, "answer": {"documents": seen, "aic": round(float(aic), 3)}}


def warehouse(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Build the warehouse, with its views and marts."""
    built = given.lake / "built.duckdb"
    built.unlink(missing_ok=True)
    lake = Lake(given.lake)
    with timed(taken):
        rows = build_warehouse(lake, built).rows
    names = [table.name for table in (*ANALYSIS_TABLES, tables.DOCUMENTS)]
    return {"documents": rows["documents"], "answer": {name: rows[name] for name in names}}


def parquet_size(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Return the bytes of the analysis tables as they lie in the lake."""
    lake = Lake(given.lake)
    files = [
        (table, Path(str(path))) for table in ANALYSIS_TABLES for path in lake.tables.files(table)
    ]
    with timed(taken):
        taken["bytes"] = sum(path.stat().st_size for _, path in files)
    return {"documents": 0, "answer": {"rows": sum(map(lake.count_rows, ANALYSIS_TABLES))}}


def csv_size(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Return the bytes of the same rows as CSV."""
    lake = Lake(given.lake)
    csv = given.lake / "rows.csv"
    size = rows = 0
    with timed(taken), duckdb.connect() as connection:
        for table in ANALYSIS_TABLES:
            files = [str(path) for path in lake.tables.files(table)]
            if files:
                found = connection.read_parquet(files, hive_partitioning=False)  # noqa: F841 - SQL sees it
                ((count,),) = connection.execute(
                    f"COPY (FROM found) TO '{csv}' (FORMAT csv)"
                ).fetchall()
                rows += count
                size += csv.stat().st_size
    csv.unlink()
    taken["bytes"] = size
    return {"documents": 0, "answer": {"rows": rows}}


def model_fitting(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Ask a warehouse for the fits of subjects, as a notebook does that has asked before."""
    subjects = str(given.lake).split(",")

    def ask(subject: str) -> "pd.DataFrame | None":
        return get_mle_model_fitting(
            subject,
            only_recent_version=False,
            if_include_latent_variables=False,
            warehouse=given.source,
        )

    ask(subjects[0])
    with timed(taken):
        found = [ask(subject) for subject in subjects]
    fits = [one for one in found if one is not None]
    aic = sum(float(one["AIC"].sum()) for one in fits)
    count = sum(map(len, fits))
    return {"documents": len(subjects), "answer": {"fits": count, "aic": round(aic, 3)}}


def trials(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Read the trials of every result file into a lake that knows the files."""
    place = "s3_endpoint_url" if "://" in given.source else "results_root"
    settings = load_settings(source="elsewhere", **{place: given.source})
    with open_result_store(settings) as store, timed(taken):
        report = refresh_trials(Lake(given.lake), store, COLLECTION)
    told = {"records": report.loaded, "trials": report.rows - report.loaded}
    return {"documents": report.loaded, "answer": told}


def canonical(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Write the documents of a source to a parquet file, as canonical JSON."""
    with timed(taken), open_source(given.source) as opened:
        read = list(read_documents(opened, COLLECTION))
    names = ["record_id", "document", "content_hash"]
    pl.DataFrame(read, schema=names, orient="row").write_parquet(given.lake)
    return {"documents": len(read), "answer": {}}


MEASURES: dict[str, Callable[[argparse.Namespace, dict[str, float]], Answer]] = {
    function.__name__: function
    for function in (
        load,
        analyses,
        full_pass,
        new_pass,
        flatten,
        warehouse,
        new_documents,
        parquet_size,
        csv_size,
        model_fitting,
        trials,
        canonical,
    )
}


def main() -> None:
    """Run one measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measure", choices=MEASURES)
    parser.add_argument("source")
    parser.add_argument("lake", type=Path)
    given = parser.parse_args()
    taken: dict[str, float] = {}
    answer = MEASURES[given.measure](given, taken)
    os.write(1, orjson.dumps(answer | taken) + b"\n")


if __name__ == "__main__":
    main()
