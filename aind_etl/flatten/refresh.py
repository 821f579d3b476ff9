"""Keeping the analysis tables in step with the change log.

Only batches since the last refresh are read, and only partitions that hold, or will hold, one of
their records are rewritten. Memory is bounded by a batch of documents and by the largest partition.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import polars as pl

from aind_etl.contract import ANALYSIS_TABLES, Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.errors import DamagedTableError, DataError
from aind_etl.flatten import flatten_documents, flattener_version
from aind_etl.lake import Lake
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.lake.spill import Spill

# How many documents are flattened at a time, unless they are large.
_PORTION_DOCUMENTS = 10_000
_PORTION_BYTES = 64 << 20
_SPILL_BYTES = 128 << 20


@dataclass(frozen=True, slots=True)
class RefreshReport:
    """What bringing the tables of one collection up to date did.

    Attributes
    ----------
    flattened, rejected, removed
        Numbers of documents: flattened, without a row of `analyses`, and gone.
    rejected_values
        Number of values of the flattened documents that do not fit their column.
    partitions_written
        Number of files written or removed.
    repaired
        What was wrong with the tables' files, which were made again, in words.
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
    """Bring `analyses`, its children and the tables of what is rejected up to date.

    Interrupted and run again, it gives the same tables: the state that says how far it came is
    written last, and a record's rows are always replaced, never added to.

    Parameters
    ----------
    lake, collection
        Which tables.
    rebuild
        Make every row of the collection from the change log, whatever the tables hold now.
    progress
        Called with the number of documents flattened since the last call.

    Returns
    -------
    RefreshReport
        What was done.

    Raises
    ------
    DataError
        The change log vanished meanwhile, or a file of it is damaged. Files of the tables that are
        missing or damaged are made again.
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
    last_batch = lake.change_log(collection).last_batch()
    gaps = lake.change_log(collection).gaps()
    repaired = ""
    if not rebuild and state.log_gaps not in {None, gaps}:
        repaired = "Files of the change log were removed or restored"
    elif not rebuild and state.table_sizes is not None:
        repaired = _damage(state.table_sizes, lake.tables.table_sizes(collection))
    rebuild = rebuild or bool(repaired)
    is_current = state.flattener == flattener_version() and not rebuild
    through = state.flattened_through if is_current else 0
    if through >= last_batch and not rebuild:
        if state.table_sizes is None and last_batch:
            lake.update_state(
                collection, {"table_sizes": lake.tables.table_sizes(collection), "log_gaps": gaps}
            )
        return RefreshReport(collection)
    # Where nothing is known to be flattened, rows without a document may be left.
    rebuild = rebuild or through == 0
    changed = _changed_records(lake, collection, through)
    removed = changed.filter(pl.col("operation") == "delete").height
    live = changed.height - removed
    rejected = {
        table: [pl.DataFrame(schema=polars_schema(table))]
        for table in (tables.REJECTED_DOCUMENTS, tables.REJECTED_VALUES)
    }
    with lake.scratch("refresh", collection) as folder:
        spill = Spill(folder, _SPILL_BYTES)
        for documents in _portions(lake, collection, through, changed):
            flattened = flatten_documents(collection, documents, UNKNOWN_MONTH)
            for table in ANALYSIS_TABLES:
                spill.add(table, flattened.rows[table.name])
            rejected[tables.REJECTED_DOCUMENTS].append(flattened.rejected)
            rejected[tables.REJECTED_VALUES].append(flattened.rejected_values)
            progress(documents.height)
        records = None if rebuild else changed.select("record_id")
        # In a first load it is as large as the collection, and partitions need the memory.
        del changed
        verdicts = {table: pl.concat(frames) for table, frames in rejected.items()}
        with lake.tables_lock(collection):
            if state.table_sizes is not None:
                # Until the tables are whole again, their files are not what the state says.
                lake.update_state(collection, {"table_sizes": None})
            written = sum(
                _replace_in_table(lake, table, collection, records, spill)
                for table in ANALYSIS_TABLES
            )
            written += sum(
                lake.tables.replace_rows(table, collection, None, without=records, rows=rows)
                for table, rows in verdicts.items()
            )
            if lake.change_log(collection).last_batch() < last_batch:
                raise DataError(
                    f"The change log of the collection {collection!r} of {lake} vanished while it "
                    "was flattened. Find out who removed it; the next run reads the source again."
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
    n_rejected = verdicts[tables.REJECTED_DOCUMENTS].height
    return RefreshReport(
        collection,
        flattened=live - n_rejected,
        rejected=n_rejected,
        rejected_values=verdicts[tables.REJECTED_VALUES].height,
        removed=removed,
        partitions_written=written,
        repaired=repaired,
    )


def _damage(expected: dict[str, int], found: dict[str, int]) -> str:
    """Return what is wrong with the tables' files, in words; nothing where they are as written."""
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if not wrong:
        return ""
    name, others = wrong[0], f" and {len(wrong) - 1:,} more" if wrong[1:] else ""
    kind = "is missing" if name not in found else "is not as it was written"
    return f"The file {name!r}{others} {kind}"


def _changed_records(lake: Lake, collection: str, through: int) -> pl.DataFrame:
    """Return the records with versions later than batch ``through``, as of their last one.

    Returns
    -------
    polars.DataFrame
        Columns ``record_id``, ``batch_id``, ``operation``, ``changed_at`` and ``first_seen_at``.
    """
    with lake.change_log(collection).reporting_damage():
        last = (
            lake.change_log(collection)
            .versions(after=through)
            .select("record_id", "batch_id", "operation", changed_at="extracted_at")
            .collect()
            .sort("batch_id")
            .unique("record_id", keep="last", maintain_order=True)
        )
        first = (
            lake.change_log(collection)
            .versions()
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
    """Yield the live documents among the changed ones, a bounded number at a time."""
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


def _replace_in_table(
    lake: Lake, table: Table, collection: str, records: pl.DataFrame | None, spill: Spill
) -> int:
    """Replace the rows of some records, or all, in every partition they are or will be in."""
    if records is None:
        present = set(lake.tables.months(table, collection))
    else:
        present = lake.tables.months_holding(table, collection, records)
    return sum(
        lake.tables.replace_rows(
            table, collection, month, without=records, rows=spill.rows(table, month)
        )
        for month in sorted(present | set(spill.months(table)))
    )
