"""Keeping the analysis tables in step with the change log.

Only batches since the last refresh are read, and only partitions that contain, or will contain, one
of their records are rewritten. Memory is bounded by a batch of documents and by the two largest
partitions.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import polars as pl

from aind_etl.contract import ANALYSIS_TABLES, Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.errors import DamagedTableError, DataError
from aind_etl.flatten import flatten_documents, flattener_version
from aind_etl.lake import Lake
from aind_etl.lake.spill import Spill
from aind_etl.lake.state import CollectionState

# The most documents that are flattened at a time, unless a single one is larger.
_PORTION_DOCUMENTS = 10_000
_PORTION_BYTES = 64 << 20
_SPILL_BYTES = 96 << 20


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What a refresh of the tables of one collection did.

    Attributes
    ----------
    flattened, rejected, removed
        Numbers of documents: flattened, without a row of `analyses`, and deleted.
    rejected_values
        Number of values of the flattened documents that do not fit their column.
    partitions_written
        Number of files written or removed.
    repaired
        What was wrong with the tables' files, if they were rebuilt for that reason.
    """

    collection: str
    flattened: int = 0
    rejected: int = 0
    rejected_values: int = 0
    removed: int = 0
    partitions_written: int = 0
    repaired: str = ""


def refresh_analyses(
    lake: Lake,
    collection: str,
    *,
    rebuild: bool = False,
    progress: Callable[[int], None] = lambda _documents: None,
) -> RefreshReport:
    """Bring `analyses`, its child tables and the tables of what is rejected up to date.

    A refresh that is interrupted and repeated gives the same tables: the state is written last, and
    the rows of a record are always replaced, never added to.

    Parameters
    ----------
    lake, collection
        Which tables.
    rebuild
        Rebuild every row of the collection from the change log.
    progress
        Called with the number of documents flattened since the last call.

    Raises
    ------
    DataError
        The change log disappeared in the meantime, or a file of it is damaged. Missing or damaged
        files of the tables are rebuilt.
    """
    try:
        return _refresh(lake, collection, rebuild=rebuild, progress=progress)
    except DamagedTableError as error:
        if rebuild:
            raise
        report = _refresh(lake, collection, rebuild=True, progress=progress)
        return replace(report, repaired=str(error).partition(". ")[0])


def _refresh(
    lake: Lake, collection: str, *, rebuild: bool, progress: Callable[[int], None]
) -> RefreshReport:
    state = lake.state(collection)
    log = lake.change_log(collection)
    last_batch, gaps = log.last_batch(), log.gaps()
    repaired = "" if rebuild else _inconsistency(lake, collection, state, gaps)
    is_current = state.flattener == flattener_version() and not rebuild and not repaired
    through = state.flattened_through if is_current else 0
    if through >= last_batch and not rebuild and not repaired:
        if state.table_sizes is None and last_batch:
            sizes = lake.tables.table_sizes(collection)
            lake.update_state(collection, {"table_sizes": sizes, "log_gaps": gaps})
        return RefreshReport(collection)
    changed = _changed_records(lake, collection, through)
    n_changed = changed.height
    n_removed = changed.filter(pl.col("operation") == "delete").height
    with lake.scratch("refresh", collection) as folder:
        spill = Spill(folder, _SPILL_BYTES)
        portions = _portions(lake, collection, through, changed)
        rejected = _flatten(collection, portions, spill, progress)
        # If nothing is known to be flattened, there may be rows of records that are gone.
        records = None if through == 0 else changed.select("record_id")
        # In a first load it is as large as the collection, and writing needs the memory.
        del changed
        with lake.tables_lock(collection):
            if state.table_sizes is not None:
                # Until all tables are written, their files differ from what the state says.
                lake.update_state(collection, {"table_sizes": None})
            written = _write(lake, collection, records, spill, rejected)
            _finish(lake, collection, last_batch, gaps)
    n_rejected = rejected[tables.REJECTED_DOCUMENTS].height
    return RefreshReport(
        collection,
        flattened=n_changed - n_removed - n_rejected,
        rejected=n_rejected,
        rejected_values=rejected[tables.REJECTED_VALUES].height,
        removed=n_removed,
        partitions_written=written,
        repaired=repaired,
    )


def _inconsistency(
    lake: Lake, collection: str, state: CollectionState, gaps: tuple[str, ...]
) -> str:
    """Describe files that changed since the last refresh; "" if there are none."""
    if state.log_gaps not in {None, gaps}:
        return "Files of the change log were removed or restored"
    if state.table_sizes is None:
        return ""
    expected, found = state.table_sizes, lake.tables.table_sizes(collection)
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if not wrong:
        return ""
    others = f" and {len(wrong) - 1:,} more" if wrong[1:] else ""
    problem = "is missing" if wrong[0] not in found else "is not as it was written"
    return f"The file {wrong[0]!r}{others} {problem}"


def _flatten(
    collection: str, portions: Iterable[pl.DataFrame], spill: Spill, progress: Callable[[int], None]
) -> dict[Table, pl.DataFrame]:
    """Flatten documents to a spill, and return the rows of what is rejected."""
    rejected = {
        table: [pl.DataFrame(schema=polars_schema(table))]
        for table in (tables.REJECTED_DOCUMENTS, tables.REJECTED_VALUES)
    }
    for documents in portions:
        flattened = flatten_documents(collection, documents)
        for table in ANALYSIS_TABLES:
            spill.add(table, flattened[table.name])
        for table, rows in rejected.items():
            rows.append(flattened[table.name])
        progress(documents.height)
    return {table: pl.concat(frames) for table, frames in rejected.items()}


def _write(
    lake: Lake,
    collection: str,
    records: pl.DataFrame | None,
    spill: Spill,
    rejected: dict[Table, pl.DataFrame],
) -> int:
    """Replace the rows of some records, or all; return the number of files written or removed."""
    partitions: list[tuple[Table, str]] = []
    for table in ANALYSIS_TABLES:
        months = set(spill.partitions(table)) | set(
            lake.tables.months(table, collection)
            if records is None
            else lake.tables.months_holding(table, collection, records)
        )
        partitions += [(table, month) for month in sorted(months)]

    def replace_partition(partition: tuple[Table, str]) -> bool:
        table, month = partition
        rows = spill.rows(table, month)
        return lake.tables.replace_rows(table, collection, month, without=records, rows=rows)

    with ThreadPoolExecutor(2, thread_name_prefix="partitions") as pool:
        written = sum(pool.map(replace_partition, partitions))
    for table, rows in rejected.items():
        written += lake.tables.replace_rows(table, collection, None, without=records, rows=rows)
    return written


def _finish(lake: Lake, collection: str, last_batch: int, gaps: tuple[str, ...]) -> None:
    """Record that the tables are current, unless the change log disappeared in the meantime."""
    if lake.change_log(collection).last_batch() < last_batch:
        raise DataError(
            f"The change log of the collection {collection!r} of {lake} disappeared while it was "
            "flattened. Find out what removed it; the next run reads the source again."
        )
    lake.update_state(
        collection,
        {
            "flattened_through": last_batch,
            "flattener": flattener_version(),
            "table_sizes": lake.tables.table_sizes(collection),
            "log_gaps": gaps,
        },
    )


def _changed_records(lake: Lake, collection: str, through: int) -> pl.DataFrame:
    """Return the last version of the records with versions later than batch ``through``.

    Its columns are ``record_id``, ``batch_id``, ``operation``, ``changed_at`` and
    ``first_seen_at``.
    """
    log = lake.change_log(collection)
    with log.reporting_damage():
        last = (
            log.versions(after=through)
            .select("record_id", "batch_id", "operation", changed_at="extracted_at")
            .collect()
            .sort("batch_id")
            .unique("record_id", keep="last", maintain_order=True)
        )
        first = (
            log.versions()
            .select("record_id", "extracted_at")
            .join(last.lazy().select("record_id"), on="record_id", how="semi")
            .group_by("record_id")
            .agg(first_seen_at=pl.col("extracted_at").min())
            .collect()
        )
    return last.join(first, on="record_id", how="left", maintain_order="left")


def _portions(
    lake: Lake, collection: str, through: int, changed: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Yield the live documents of changed records, a bounded number at a time."""
    live = changed.filter(pl.col("operation") == "upsert").drop("operation")
    for batch in lake.change_log(collection).read_batches(after=through):
        documents = batch.select("record_id", "batch_id", "document", "content_hash").join(
            live, on=["record_id", "batch_id"], how="inner", maintain_order="left"
        )
        yield from _slices(documents.drop("batch_id"))


def _slices(documents: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield slices of documents, bounded in number and in size."""
    sizes = documents["document"].str.len_bytes().to_list()
    start = size = 0
    for end, length in enumerate(sizes):
        if end - start == _PORTION_DOCUMENTS or (end > start and size + length > _PORTION_BYTES):
            yield documents.slice(start, end - start)
            start, size = end, 0
        size += length
    if start < len(sizes):
        yield documents.slice(start)
