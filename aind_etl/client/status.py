"""What the lake and the warehouse hold, and how fresh they are, in words for people."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from aind_etl.client.verify import reading
from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError
from aind_etl.lake import Lake
from aind_etl.settings import WarehouseLocation
from aind_etl.text import time_ago as ago
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import locate_warehouse


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """One collection of the lake.

    Attributes
    ----------
    live, rejected, waiting
        Numbers of documents: in the source when it was last read, without a row of `analyses` for
        a reason, and not flattened yet.
    rejected_values
        Number of values that do not fit their column.
    newest_finished
        When the newest analysis was done.
    last_new_pass, last_full_pass
        How long ago the passes ended.
    source
        The source last read.
    """

    collection: str
    live: int
    rejected: int
    rejected_values: int
    waiting: int
    newest_finished: str
    last_new_pass: str
    last_full_pass: str
    source: str


def collection_statuses(place: Path | str) -> list[CollectionStatus]:
    """Return the status of every collection of a lake.

    Raises
    ------
    DataError
        A file of the lake is damaged.
    """
    lake = Lake(place)
    statuses = []
    for collection in lake.collections():
        with reading(f"the collection {collection!r}"):
            statuses.append(_status(lake, collection))
    return statuses


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether all is well.

    Attributes
    ----------
    problems
        What is wrong, in sentences; nothing where all is well.
    source
        When the source was last reached.
    """

    problems: tuple[str, ...]
    source: str


def verdict(lake: Lake, warehouse: WarehouseLocation, failed_run: str = "") -> Verdict:
    """Return whether all is well with a lake.

    Parameters
    ----------
    lake, warehouse
        What is checked.
    failed_run
        The run that failed last and was not made up for, in words.
    """
    now = datetime.now(UTC)
    health = lake.source_health()
    passes = [
        moment
        for collection in lake.collections()
        for state in [lake.state(collection)]
        for moment in (state.last_new_pass_at, state.last_full_pass_at)
        if moment is not None
    ]
    reached = max([*passes, *([health.reached_at] if health.reached_at else [])], default=None)
    problems = []
    if health.failing_since is not None and (reached is None or reached < health.failing_since):
        since = ago(now, health.failing_since)
        problems.append(f"The source cannot be read, for the first time {since}: {health.error}")
    if failed_run:
        problems.append(f"The last run of {failed_run} failed.")
    if not locate_warehouse(warehouse).exists():
        problems.append("There is no warehouse.")
    return Verdict(tuple(problems), f"Source last reached {ago(now, reached)}")


def warehouse_status(place: WarehouseLocation) -> str:
    """Return a sentence on a warehouse, and one on the copy of it that is read here, if it is."""
    where = place.absolute() if isinstance(place, Path) else place
    try:
        path = locate_warehouse(place).file()
    except ConfigurationError as error:
        return str(error)
    info = read_info(path)
    if "built_at" not in info:
        return f"The file {path.absolute()} is no warehouse of aind-etl, or cannot be read."
    built = ago(datetime.now(UTC), datetime.fromisoformat(info["built_at"]))
    megabytes = path.stat().st_size / 1e6
    copy = "" if isinstance(place, Path) else f"\nIts copy on this machine is {path}"
    return f"Warehouse {where}, built {built} by {info['built_by']}, {megabytes:,.1f} MB{copy}"


def _status(lake: Lake, collection: str) -> CollectionStatus:
    state = lake.state(collection)
    now = datetime.now(UTC)
    live = lake.change_log(collection).live_documents()
    analyses = lake.tables.scan(tables.ANALYSES, collection)
    rejected = lake.tables.scan(tables.REJECTED_DOCUMENTS, collection)
    known = pl.concat(
        [frame.select("record_id", "content_hash") for frame in (analyses, rejected)]
    ).collect()
    waiting = live.join(known, on=["record_id", "content_hash"], how="anti")
    # Written by polars: a document may name a moment beyond Python's calendar.
    newest = analyses.select(pl.col("finished_at").max().dt.to_string("%Y-%m-%d %H:%M"))
    return CollectionStatus(
        collection,
        live.height,
        rejected.select(pl.len()).collect().item(),
        lake.tables.count_rows(tables.REJECTED_VALUES, collection),
        waiting.height,
        newest.collect().item() or "–",
        ago(now, state.last_new_pass_at),
        ago(now, state.last_full_pass_at),
        state.source,
    )
