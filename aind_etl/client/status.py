"""What the lake and the warehouse hold, and how fresh they are, for people."""

from datetime import datetime
from pathlib import Path

import polars as pl

from aind_etl.client.verify import reading
from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError
from aind_etl.lake import Lake
from aind_etl.settings import WarehouseLocation
from aind_etl.text import time_ago
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import locate_warehouse


def collection_statuses(lake: Lake) -> list[dict[str, str | int]]:
    """Return a record per collection of a lake: numbers of documents and values, and times.

    ``live`` documents were in the source when it was last read; ``waiting`` ones are not flattened
    yet.
    """
    return [_status(lake, collection) for collection in lake.collections()]


def check_health(
    lake: Lake, warehouse: WarehouseLocation, failed_run: str
) -> tuple[str, list[str]]:
    """Return a sentence on when the source was reached, and one per problem.

    ``failed_run`` names the last run if it failed.
    """
    health = lake.source_health()
    states = [lake.state(collection) for collection in lake.collections()]
    passes = [at for one in states for at in (one.last_new_pass_at, one.last_full_pass_at)]
    reached = max((at for at in (*passes, health.reached_at) if at is not None), default=None)
    problems = []
    if health.failing_since is not None and (reached is None or reached < health.failing_since):
        since = time_ago(health.failing_since)
        problems.append(f"The source cannot be read, for the first time {since}: {health.error}")
    if failed_run:
        problems.append(f"The last run of {failed_run} failed.")
    if not locate_warehouse(warehouse).exists():
        problems.append("There is no warehouse.")
    return f"Source last reached {time_ago(reached)}", problems


def warehouse_status(place: WarehouseLocation) -> str:
    """Return a sentence about a warehouse, and one about its local copy if that is read."""
    where = place.absolute() if isinstance(place, Path) else place
    try:
        path = locate_warehouse(place).file()
    except ConfigurationError as error:
        return str(error)
    info = read_info(path)
    if "built_at" not in info:
        return f"The file {path.absolute()} is not a warehouse of aind-etl, or cannot be read."
    built = time_ago(datetime.fromisoformat(info["built_at"]))
    megabytes = path.stat().st_size / 1e6
    copy = "" if isinstance(place, Path) else f"\nIts copy on this machine is {path}"
    return f"Warehouse {where}, built {built} by {info['built_by']}, {megabytes:,.1f} MB{copy}"


def _status(lake: Lake, collection: str) -> dict[str, str | int]:
    state = lake.state(collection)
    with reading(f"the collection {collection!r}"):
        live = lake.change_log(collection).live_documents()
        analyses = lake.tables.scan(tables.ANALYSES, collection)
        rejected = lake.tables.scan(tables.REJECTED_DOCUMENTS, collection)
        key = ["record_id", "content_hash"]
        known = pl.concat([frame.select(key) for frame in (analyses, rejected)]).collect()
        # Formatted by polars: a document may name a moment beyond Python's calendar.
        newest = analyses.select(pl.col("finished_at").max().dt.to_string("%Y-%m-%d %H:%M"))
        return {
            "collection": collection,
            "live": live.height,
            "rejected": lake.tables.count_rows(tables.REJECTED_DOCUMENTS, collection),
            "rejected_values": lake.tables.count_rows(tables.REJECTED_VALUES, collection),
            "waiting": live.join(known, on=key, how="anti").height,
            "newest_finished": newest.collect().item() or "–",
            "last_new_pass": time_ago(state.last_new_pass_at),
            "last_full_pass": time_ago(state.last_full_pass_at),
            "source": state.source,
        }
