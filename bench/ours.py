"""aind-etl's side of each measure: one command each, run as a process of its own.

Prints the documents handled, the answer that the other side must give as well, and wall and
processor seconds of the compared part, without start-up.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import polars as pl
from timing import COLLECTION, Taken, main, timed

from aind_etl import get_mle_model_fitting
from aind_etl.changelog.passes import Pass, extract_collection
from aind_etl.contract import ANALYSIS_TABLES, tables
from aind_etl.flatten import flatten_documents
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.results import open_result_store, refresh_trials
from aind_etl.settings import Settings, load_settings
from aind_etl.sources.kinds import open_source
from aind_etl.sources.protocol import read_documents
from aind_etl.warehouse.build import build_warehouse

if TYPE_CHECKING:
    import pandas as pd

Answer = tuple[int, dict[str, Any]]


def _extract(source: str, lake: Lake, pass_kind: Pass) -> int:
    """Run a pass over the collection; return how many documents it read."""
    with open_source(Settings(source=source)) as opened:
        return extract_collection(opened, lake, COLLECTION, pass_kind).read


def _count_live(lake: Lake) -> int:
    return lake.change_log(COLLECTION).live_documents().height


def load(source: str, folder: str, taken: Taken) -> Answer:
    """Load everything into an empty lake, and build the warehouse."""
    lake = Lake(Path(folder))
    with timed(taken):
        read = _extract(source, lake, Pass.FULL)
        refresh_analyses(lake, COLLECTION)
        build_warehouse(lake, Path(folder, "warehouse.duckdb"))
    return read, {"documents": _count_live(lake)}


def analyses(source: str, folder: str, taken: Taken) -> Answer:
    """Load everything into an empty lake, without the warehouse."""
    lake = Lake(Path(folder))
    with timed(taken):
        read = _extract(source, lake, Pass.FULL)
        refresh_analyses(lake, COLLECTION)
    rows = lake.tables.scan(tables.ANALYSES, COLLECTION).collect()
    fitted = rows.filter(pl.col("aic").is_not_null())
    return read, {
        "rows": rows.height,
        "fitted": fitted.height,
        "aic": round(float(fitted["aic"].sum()), 3),
        "trials": int(fitted["n_trials"].sum()),
    }


def full_pass(source: str, folder: str, taken: Taken) -> Answer:
    """Compare every document with a lake that has them all."""
    with timed(taken):
        read = _extract(source, Lake(Path(folder)), Pass.FULL)
    return read, {"documents": read}


def new_pass(source: str, folder: str, taken: Taken) -> Answer:
    """Compare ids with a lake, read new documents and refresh the tables; answer with the total."""
    lake = Lake(Path(folder))
    with timed(taken):
        _extract(source, lake, Pass.NEW)
        refresh_analyses(lake, COLLECTION)
    live = _count_live(lake)
    return live, {"documents": live}


def new_documents(source: str, folder: str, taken: Taken) -> Answer:
    """Run the same pass; answer with the number of new documents."""
    known = _count_live(Lake(Path(folder)))
    live, _ = new_pass(source, folder, taken)
    return live - known, {"documents": live - known}


def flatten(source: str, _target: str, taken: Taken) -> Answer:
    """Flatten documents that are in memory as canonical JSON."""
    now = pl.lit(datetime.now(UTC))
    documents = pl.read_parquet(source).with_columns(first_seen_at=now, changed_at=now)
    with timed(taken):
        done = [flatten_documents(COLLECTION, part) for part in documents.iter_slices(10_000)]
    seen = sum(
        part["analyses"]["record_id"].n_unique() + part["rejected_documents"].height
        for part in done
    )
    rows = pl.concat([part["analyses"].select("pipeline_format", "aic") for part in done])
    # The framework has its fits in lists, which the other side does not unpack.
    aic = rows.filter(pl.col("pipeline_format") == "prototype")["aic"].sum()
    return seen, {"documents": seen, "aic": round(float(aic), 3)}


def warehouse(_source: str, folder: str, taken: Taken) -> Answer:
    """Build the warehouse, with its views and marts."""
    built = Path(folder, "built.duckdb")
    built.unlink(missing_ok=True)
    with timed(taken):
        rows = build_warehouse(Lake(Path(folder)), built).rows
    names = [table.name for table in (*ANALYSIS_TABLES, tables.DOCUMENTS)]
    return rows["documents"], {name: rows[name] for name in names}


def parquet_size(_source: str, folder: str, taken: Taken) -> Answer:
    """Measure the size of the analysis tables' files in the lake."""
    lake = Lake(Path(folder))
    paths = [Path(str(path)) for table in ANALYSIS_TABLES for path in lake.tables.files(table)]
    taken["bytes"] = sum(path.stat().st_size for path in paths)
    return 0, {"rows": sum(map(lake.tables.count_rows, ANALYSIS_TABLES))}


def csv_size(_source: str, folder: str, taken: Taken) -> Answer:
    """Measure the size of the same rows as CSV."""
    lake = Lake(Path(folder))
    csv = Path(folder, "rows.csv")
    taken["bytes"] = rows = 0
    with duckdb.connect() as connection:
        for table in ANALYSIS_TABLES:
            if files := [str(path) for path in lake.tables.files(table)]:
                found = connection.read_parquet(files, hive_partitioning=False)
                found.write_csv(str(csv))
                rows += len(found)
                taken["bytes"] += csv.stat().st_size
    csv.unlink()
    return 0, {"rows": rows}


def model_fitting(file: str, subjects: str, taken: Taken) -> Answer:
    """Ask a warehouse for the fits of subjects, after a first call, as in a notebook."""

    def ask(subject: str) -> "pd.DataFrame | None":
        return get_mle_model_fitting(
            subject,
            only_recent_version=False,
            if_include_latent_variables=False,
            warehouse=file,
        )

    names = subjects.split(",")
    ask(names[0])
    with timed(taken):
        found = [ask(name) for name in names]
    fits = [one for one in found if one is not None]
    aic = sum(float(one["AIC"].sum()) for one in fits)
    return len(names), {"fits": sum(map(len, fits)), "aic": round(aic, 3)}


def trials(store_address: str, folder: str, taken: Taken) -> Answer:
    """Read the trials of every result file into a lake that knows the files."""
    setting = "s3_endpoint_url" if "://" in store_address else "results_root"
    settings = load_settings(source="elsewhere", **{setting: store_address})
    with open_result_store(settings) as store, timed(taken):
        report = refresh_trials(Lake(Path(folder)), store, COLLECTION)
    return report.loaded, {"records": report.loaded, "trials": report.rows - report.loaded}


def canonical(source: str, target: str, taken: Taken) -> Answer:
    """Write the documents of a source to a parquet file, as canonical JSON."""
    with timed(taken), open_source(Settings(source=source)) as opened:
        read = list(read_documents(opened, COLLECTION))
    names = ["record_id", "document", "content_hash"]
    pl.DataFrame(read, schema=names, orient="row").write_parquet(target)
    return len(read), {}


if __name__ == "__main__":
    main(
        *(load, analyses, full_pass, new_pass, new_documents, flatten, warehouse),
        *(parquet_size, csv_size, model_fitting, trials, canonical),
    )
