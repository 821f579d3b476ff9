"""The warehouse as it would have been at an earlier moment.

The change log holds every version of every document with its time of extraction. The versions
known at the moment are flattened again in a temporary lake, from which a warehouse is built.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from aind_etl.contract import FLATTENED_TABLES, TABLES, Partitioning, tables
from aind_etl.errors import ArgumentError, ConfigurationError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.parquet import write_parquet
from aind_etl.warehouse.build import BuildReport, build_warehouse

_RESULT_TABLES = [
    table
    for table in TABLES
    if table not in {*FLATTENED_TABLES, tables.DOCUMENTS, tables.SESSIONS}
    and table.partitioning is not Partitioning.WAREHOUSE_ONLY
]
_RESULTS = "result files, trials and sessions are as of built_at, for the analyses known at as_of"


def parse_moment(text: str) -> datetime:
    """Return a moment given as ``YYYY-MM-DD``, its beginning, or in ISO 8601; UTC by default.

    Raises
    ------
    ArgumentError
        The text is neither.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentError(
            f"The moment is {text!r}; expected a day such as 2026-06-01, or a time such as "
            "2026-06-01T12:00:00+00:00."
        ) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def build_as_of(
    lake: Lake,
    moment: datetime,
    output: Path,
    *,
    step: Callable[[str], None] = lambda _step: None,
    progress: Callable[[int], None] = lambda _documents: None,
) -> BuildReport:
    """Build the warehouse as it would have been from the documents known at a moment.

    Result files, trials and sessions are the current ones, without those of analyses that were not
    known. `warehouse_info` says both. An existing ``output`` is replaced. ``step`` is called with
    the name of each step, ``progress`` with the number of documents flattened since the last call.

    Raises
    ------
    ConfigurationError
        No document was known at the moment.
    """
    with TemporaryDirectory(prefix="aind-etl-") as folder:
        past = Lake(Path(folder) / "lake")
        for collection in lake.collections():
            step(f"flatten {collection}")
            if not _copy_versions(lake, past, collection, moment):
                continue
            refresh_analyses(past, collection, rebuild=True, progress=progress)
            _copy_state(lake, past, collection, moment)
            with lake.tables_lock(collection):
                _copy_results(lake, past, collection)
        if not past.collections():
            raise ConfigurationError(
                f"Nothing was known at {moment.isoformat()}: the lake {str(lake)!r} was first "
                f"filled {_first_extraction(lake)}."
            )
        with lake.table_lock(tables.SESSIONS):
            sessions = lake.tables.as_written(tables.SESSIONS)
            if metadata := lake.tables.facts(sessions):
                past.tables.replace_whole(sessions, lake.tables.scan(sessions).collect(), metadata)
        facts = {"lake": str(lake), "as_of": moment.isoformat(), "results": _RESULTS}
        return build_warehouse(
            past, output, facts=facts, progress=lambda name: step(f"build {name}")
        )


def _copy_versions(lake: Lake, past: Lake, collection: str, moment: datetime) -> bool:
    """Copy the versions known at a moment to another lake; return whether there are any."""
    log = lake.change_log(collection)
    is_known = pl.col("extracted_at") <= moment
    if all(versions.filter(is_known).is_empty() for versions in log.read_batches()):
        return False
    name = past.change_log(collection).file_name(1, log.last_batch())
    known = (versions.filter(is_known) for versions in log.read_batches())
    # The first rows decide how the file is encoded, so the first portion must have some.
    write_parquet(past.storage, name, tables.DOCUMENTS, filter(len, known))
    return True


def _copy_state(lake: Lake, past: Lake, collection: str, moment: datetime) -> None:
    state = lake.state(collection)
    passes = {
        name: at
        for name in ("last_new_pass_at", "last_full_pass_at")
        # Only the last pass is recorded; of an earlier one nothing is known.
        if (at := getattr(state, name)) is not None and at <= moment
    }
    past.update_state(collection, {"source": state.source, **passes})


def _copy_results(lake: Lake, past: Lake, collection: str) -> None:
    """Copy the rows read from result folders, of the analyses in the other lake."""
    records = past.tables.scan(tables.ANALYSES, collection).select("record_id").unique()
    for table in _RESULT_TABLES:
        for month in lake.tables.partition_keys(table, collection):
            rows = lake.tables.scan(table, collection, month)
            if "record_id" in table.column_names:
                rows = rows.join(records, on="record_id", how="semi")
            past.tables.replace_rows(table, collection, month, without=None, rows=rows.collect())


def _first_extraction(lake: Lake) -> str:
    """Return when the first document of a lake was extracted, for a message."""
    versions = lake.tables.scan(tables.DOCUMENTS)
    first = versions.select(pl.col("extracted_at").min()).collect().item()
    return f"at {first.isoformat(timespec='seconds')}" if first else "never"
