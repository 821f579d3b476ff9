"""Worlds for tests: dumps to load from, lakes loaded from them, and how lakes are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pytest

from aind_etl.changelog.passes import ExtractLimits, ExtractReport, Pass, extract_collection
from aind_etl.contract import ANALYSIS_TABLES, TABLES, Partitioning, Table, tables
from aind_etl.flatten import Flattened, flatten_documents
from aind_etl.flatten.refresh import RefreshReport, refresh_analyses
from aind_etl.lake import Lake
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import Source

JsonDocument = dict[str, Any]

MAIN = "dynamic-foraging-model-fitting"
SMALL = "dynamic-foraging-analysis"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ANY_SHARE = ExtractLimits(max_deleted_share=1.0)
"""Limits under which everything may be deleted."""

NEEDS_PROC = pytest.mark.skipif(
    not Path("/proc/self/status").exists(),
    reason="only Linux says how much memory was used at most",
)

LAKE_TABLES = tuple(
    table for table in TABLES if table.partitioning is not Partitioning.WAREHOUSE_ONLY
)
_TIMES = ("extracted_at", "first_seen_at", "changed_at")


@dataclass(frozen=True)
class Built:
    """A lake and a warehouse built from the sample."""

    # The dump.
    source: Path
    lake: Lake
    # The DuckDB file.
    warehouse: Path


@dataclass
class Loaded:
    """What loading did, by collection."""

    extracts: dict[str, ExtractReport] = field(default_factory=dict)
    refreshes: dict[str, RefreshReport] = field(default_factory=dict)


class Clock:
    """A clock that shows the same time until it is moved."""

    def __init__(self, moment: datetime = NOON) -> None:
        self.moment = moment

    def __call__(self) -> datetime:
        """Return the moment."""
        return self.moment

    def move(self, **ahead: float) -> None:
        """Move ahead by a :class:`datetime.timedelta` of these arguments."""
        self.moment += timedelta(**ahead)


def extract(
    source: Path | Source,
    lake: Lake,
    pass_kind: Pass = Pass.FULL,
    *,
    limits: ExtractLimits = ANY_SHARE,
    now: Clock | None = None,
) -> dict[str, ExtractReport]:
    """Bring the change log of every collection of the source or the lake up to date."""
    opened = DumpSource(source) if isinstance(source, Path) else source
    reports = {}
    for collection in sorted({*opened.list_collections(), *lake.collections()}):
        for part in lake.shards(collection):
            with part.lock(collection):
                part.clear_staging(collection)
                reports[part.name_of(collection)] = extract_collection(
                    opened, part, collection, pass_kind, limits=limits, now=now or Clock()
                )
    return reports


def refresh(lake: Lake) -> dict[str, RefreshReport]:
    """Bring the tables of every collection of the lake up to date."""
    reports = {}
    for collection in lake.collections():
        for part in lake.shards(collection):
            with part.lock(collection):
                reports[part.name_of(collection)] = refresh_analyses(part, collection)
    return reports


def load(
    source: Path | Source,
    lake: Lake,
    pass_kind: Pass = Pass.FULL,
    *,
    limits: ExtractLimits = ANY_SHARE,
    now: Clock | None = None,
) -> Loaded:
    """Extract and flatten every collection of the source or the lake, as a run does.

    The source is the folder of a dump, or a :class:`Source`; the default clock shows :data:`NOON`.
    """
    return Loaded(extract(source, lake, pass_kind, limits=limits, now=now), refresh(lake))


def loaded_lake(source: Path | Source, folder: Path) -> Lake:
    """Return a new lake with everything of a source."""
    lake = Lake(folder)
    load(source, lake)
    return lake


def tables_of(lake: Lake) -> dict[str, pl.DataFrame]:
    """Return every table of a lake, sorted, with all its columns."""
    return {table.name: rows_of(lake, table) for table in LAKE_TABLES}


def rows_of(lake: Lake, table: Table, collection: str | None = None) -> pl.DataFrame:
    """Return the rows of a table of a lake, or of one collection's part of it, sorted."""
    rows = lake.tables.scan(table, collection).collect()
    return rows.sort(rows.columns)


def contents_of(lake: Lake) -> dict[str, pl.DataFrame]:
    """Return the tables of a lake without their times, and with the live documents for the log."""
    found = {}
    for name, rows in tables_of(lake).items():
        timeless = [column for column in rows.columns if column not in _TIMES]
        found[name] = rows.select(timeless).sort(timeless)
    return found | {tables.DOCUMENTS.name: live_documents_of(lake)}


def live_documents_of(lake: Lake) -> pl.DataFrame:
    """Return the last version of every document that was not deleted, sorted."""
    return (
        lake.tables.scan(tables.DOCUMENTS)
        .collect()
        .sort("batch_id")
        .unique(["source_collection", "record_id"], keep="last")
        .filter(pl.col("operation") == "upsert")
        .select("source_collection", "record_id", "document", "content_hash")
        .sort("source_collection", "record_id")
    )


def log_of(lake: Lake, collection: str = MAIN) -> list[tuple[int, str, str]]:
    """Return batch, record id and operation of every version in a collection's change log."""
    versions = (
        lake.change_log(collection)
        .versions()
        .select("batch_id", "record_id", "operation")
        .collect()
    )
    return sorted(versions.iter_rows())


def assert_same(one: Mapping[str, pl.DataFrame], other: Mapping[str, pl.DataFrame]) -> None:
    """Fail with the first table in which two lakes differ, and the rows."""
    assert one.keys() == other.keys()
    for name, rows in one.items():
        assert rows.schema == other[name].schema, name
        if not rows.equals(other[name]):
            only_one = rows.join(other[name], on=rows.columns, how="anti", nulls_equal=True)
            only_other = other[name].join(rows, on=rows.columns, how="anti", nulls_equal=True)
            raise AssertionError(f"{name} differs: {only_one} is not {only_other}")


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a lake, but for staging and locks."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in {"_staging", "_locks"}
    }


def data_files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of every parquet file of a lake, which change if it is rewritten."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*.parquet"))
    }


def read_dump(folder: Path, collection: str = MAIN) -> list[JsonDocument]:
    """Return the documents of a collection's ``.jsonl``."""
    return [orjson.loads(line) for line in (folder / f"{collection}.jsonl").open("rb")]


def write_dump(folder: Path, documents: Iterable[JsonDocument], collection: str = MAIN) -> Path:
    """Write a collection's ``.jsonl``, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{collection}.jsonl"
    path.write_bytes(
        b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in documents)
    )
    return path


def flatten_otherwise(collection: str, documents: pl.DataFrame) -> Flattened:
    """Flatten half of the documents, to another month, and reject a value of each and the rest."""
    keep = pl.col("record_id") < "8"
    made = flatten_documents(collection, documents.filter(keep))
    month = pl.lit("1970-01").alias("session_month")
    refused = documents.filter(~keep).select(
        source_collection=pl.lit(collection),
        record_id="record_id",
        reason=pl.lit("not_yet"),
        path=pl.lit(None, pl.String),
        message=pl.lit("Not yet."),
        content_hash="content_hash",
        extracted_at="changed_at",
    )
    rows = {table.name: made[table.name].with_columns(month) for table in ANALYSIS_TABLES}
    return rows | {
        "rejected_documents": pl.concat([made["rejected_documents"], refused]),
        "rejected_values": made["analyses"].select(
            *("source_collection", "record_id", "process_index"),
            path=pl.lit("name"),
            reason=pl.lit("not_yet"),
            value=pl.lit("1"),
            expected=pl.lit("2"),
            content_hash="content_hash",
            extracted_at="changed_at",
        ),
    }
