"""What aind-etl does in each measure: one command each, run as a process of its own.

The last line printed is JSON: the documents handled, the answer that the other side must give as
well, and wall and processor seconds of the part that is compared, without start-up.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import orjson
import polars as pl

from aind_etl.analyses import refresh_analyses
from aind_etl.contract import ANALYSIS_TABLES, tables
from aind_etl.extract import Pass, extract_collection
from aind_etl.flatten import flatten_documents
from aind_etl.lake import UNKNOWN_MONTH, Lake
from aind_etl.sources import open_source
from aind_etl.warehouse import build_warehouse

COLLECTION = "dynamic-foraging-model-fitting"
Answer = dict[str, object]


@contextmanager
def timed(taken: dict[str, float]) -> Iterator[None]:
    """Note the wall and processor seconds of a ``with`` block."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    taken["wall_seconds"] = time.perf_counter() - wall
    taken["cpu_seconds"] = time.process_time() - cpu


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
    return {"documents": read, "answer": {"live": lake.live_documents(COLLECTION).height == read}}


def analyses(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Load everything into an empty lake, without the warehouse."""
    lake = Lake(given.lake)
    with timed(taken):
        read = extract(given.source, lake, Pass.FULL)
        refresh_analyses(lake, COLLECTION)
    rows = lake.scan(tables.ANALYSES, COLLECTION).collect()
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
    live = lake.live_documents(COLLECTION).height
    return {"documents": live, "answer": {"documents": live}}


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
    return {"documents": seen, "answer": {"documents": seen}}


def warehouse(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Build the warehouse, with its views and marts."""
    built = given.lake / "built.duckdb"
    built.unlink(missing_ok=True)
    lake = Lake(given.lake)
    with timed(taken):
        rows = build_warehouse(lake, built).rows
    names = [table.name for table in (*ANALYSIS_TABLES, tables.DOCUMENTS)]
    return {"documents": rows["documents"], "answer": {name: rows[name] for name in names}}


def size(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Return the bytes of the analysis tables as parquet, and of the same rows as CSV."""
    lake = Lake(given.lake)
    csv = given.lake / "rows.csv"
    parquet_bytes = csv_bytes = 0
    with timed(taken), duckdb.connect() as connection:
        for table in ANALYSIS_TABLES:
            files = [str(path) for path in lake.files(table)]
            if not files:
                continue
            parquet_bytes += sum(Path(file).stat().st_size for file in files)
            rows = connection.read_parquet(files, hive_partitioning=False)  # noqa: F841 - SQL sees it
            connection.execute(f"COPY (FROM rows) TO '{csv}' (FORMAT csv)")
            csv_bytes += csv.stat().st_size
    csv.unlink()
    return {"documents": 0, "answer": {"parquet": parquet_bytes, "csv": csv_bytes}}


def canonical(given: argparse.Namespace, taken: dict[str, float]) -> Answer:
    """Write the documents of a source to a parquet file, as canonical JSON."""
    with timed(taken), open_source(given.source) as opened:
        read = list(opened.read_documents(COLLECTION))
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
        size,
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
