"""Resharding: a large collection is divided into shards, or into another number of them.

Shards are defined in :mod:`aind_etl.contract.id_ranges`. The new files are written beside the
present ones, which count until the layout file names the new number; then the old files are
removed. The lake's own readers see every row once at any moment. Other readers that glob the
folders may see rows twice until the old files are gone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

import polars as pl

from aind_etl.contract import TABLES, Partitioning, tables
from aind_etl.contract.id_ranges import MOST_RANGES, Split, shards
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LogFile, read_log_file
from aind_etl.lake.live_files import ReshardedError
from aind_etl.lake.parquet import write_parquet
from aind_etl.lake.state import merge_states
from aind_etl.lake.tables import is_in_range, shard_key

_DIVIDED = (Partitioning.COLLECTION, Partitioning.COLLECTION_AND_MONTH)
# As long as the longest pass over a shard that may be under way.
_WAIT_SECONDS = 3600
# A collection shrinks to a quarter of what its shards could hold before there are fewer of them:
# one that grows and shrinks about a limit is not divided again and again.
_SHRUNK = 4
_ROW_GROUP_BYTES = 16 << 20


def wanted_shards(documents: int, present: int, most_documents: int) -> int:
    """Return into how many shards a collection should be divided.

    Twice as many as there are, or half as many, until it fits: so each shard becomes two, or two
    become one.

    Parameters
    ----------
    documents
        How many documents there are.
    present
        How many shards there are.
    most_documents
        How many documents a shard may have.
    """
    of = present
    while documents > of * most_documents and of * 2 <= MOST_RANGES:
        of *= 2
    while of > 1 and documents * _SHRUNK <= of * most_documents:
        of //= 2
    return of


def plan_shards(lake: Lake, collection: str, documents: int | None, most_documents: int) -> int:
    """Decide how many shards a collection is to have, and return that number.

    Nothing is divided yet: the first pass over one of the shards does that.

    Parameters
    ----------
    lake, collection
        Which collection.
    documents
        How many documents the source has; as it is planned already where that is not known.
    most_documents
        How many documents a shard may have.
    """
    planned = lake.layout(collection).planned_shards
    if documents is None:
        return planned
    wanted = wanted_shards(documents, planned, most_documents)
    if wanted != planned:
        lake.update_layout(collection, {"planned_shards": wanted})
    return wanted


def reshard_as_planned(lake: Lake, collection: str) -> None:
    """Divide a collection so that the shard this lake is seen for is one of its shards.

    Parameters
    ----------
    lake
        The lake as seen for a shard.
    collection
        The collection.

    Raises
    ------
    DataError
        It is not planned to have such a shard, or another run works on it.
    """
    layout = lake.layout(collection)
    of = lake.shard.of
    if layout.shards == of and not layout.is_to_be_cleared:
        return
    if layout.planned_shards != of:
        raise DataError(
            f"The collection {collection!r} of {lake} is to lie in {layout.planned_shards} shards, "
            f"and this run is for one of {of}: the number was changed since it was asked for. Run "
            "again for the present shards; the sensor does so by itself."
        )
    reshard(lake, collection, of)


def reshard(lake: Lake, collection: str, of: int) -> None:
    """Divide a collection into so many shards, whatever it is divided into.

    Interrupted at any point and run again, it ends the same.

    Parameters
    ----------
    lake, collection
        Which collection.
    of
        How many shards.

    Raises
    ------
    DataError
        Another run works on the collection for very long, or a file is damaged.
    """
    is_done = False
    while not is_done:
        try:
            _reshard(lake.whole, collection, of)
            is_done = True
        except ReshardedError:
            # Another run was first, and has done this or something else.
            layout = lake.layout(collection)
            is_done = layout.shards == of and not layout.is_to_be_cleared


def _reshard(whole: Lake, collection: str, of: int) -> None:
    present = whole.shards(collection)
    with ExitStack() as held:
        for shard in present:
            held.enter_context(shard.lock(collection, wait_seconds=_WAIT_SECONDS))
        held.enter_context(whole.tables_lock(collection))
        if len(present) != of:
            whole.update_layout(collection, {"planned_shards": of, "is_to_be_cleared": True})
            to_come = [whole.for_shard(shard) for shard in shards(of)]
            # Left by an attempt that was interrupted: what it divided may have changed since.
            _remove(whole, collection, lambda number: number == of)
            _reshard_log(whole, present, to_come, collection)
            _reshard_tables(present, to_come, collection)
            _reshard_states(present, to_come, collection)
            whole.update_layout(collection, {"shards": of})
        _remove(whole, collection, lambda number: number != of)
        whole.update_layout(collection, {"is_to_be_cleared": False})


def _remove(whole: Lake, collection: str, of: Callable[[int], bool]) -> None:
    """Remove the files of such numbers of shards."""
    for number, names in whole.names_by_shards(collection).items():
        if of(number):
            for name in names:
                whole.storage.remove(name)


def _reshard_log(
    whole: Lake, present: Sequence[Lake], to_come: Sequence[Lake], collection: str
) -> None:
    """Write the versions of the present shards' logs to logs of the shards to come.

    They keep the numbers of their batches: those tell the order of a record's versions, and every
    version of a record is in one shard, before as after.
    """
    files = [file for shard in present for file in shard.change_log(collection).files()]
    for together_ in _overlapping(files):
        first = min(file.first for file in together_)
        last = max(file.last for file in together_)
        for shard in to_come:
            row_groups = _row_groups(together_, shard.shard.ids)
            some = next(row_groups, None)
            if some is not None:
                name = shard.change_log(collection).file_name(first, last)
                write_parquet(whole.storage, name, tables.DOCUMENTS, _chained(some, row_groups))


def _overlapping(files: Sequence[LogFile]) -> Iterator[Sequence[LogFile]]:
    """Yield files of which the ranges of batches overlap: one log's never do."""
    held: list[LogFile] = []
    for file in sorted(files, key=lambda file: file.first):
        if held and file.first > max(one.last for one in held):
            yield held
            held = []
        held.append(file)
    if held:
        yield held


def _row_groups(files: Sequence[LogFile], split: Split) -> Iterator[pl.DataFrame]:
    """Yield the versions in some files that lie in a split, in portions worth a row group."""
    held: list[pl.DataFrame] = []
    size = 0
    for file in files:
        for versions in read_log_file(file.path):
            held.append(versions.filter(is_in_range(split, pl.col("record_id"))))
            size += int(held[-1].estimated_size())
            if size >= _ROW_GROUP_BYTES:
                yield pl.concat(held)
                held, size = [], 0
    if any(not versions.is_empty() for versions in held):
        yield pl.concat(held)


def _chained(first: pl.DataFrame, others: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    yield first
    yield from others


def _reshard_tables(present: Sequence[Lake], to_come: Sequence[Lake], collection: str) -> None:
    """Write the rows of every table, partition by partition, to those of the new shards."""
    for table in TABLES:
        if table is tables.DOCUMENTS or table.partitioning not in _DIVIDED:
            continue
        months: Sequence[str | None] = [None]
        if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
            months = sorted(
                {month for shard in present for month in shard.tables.months(table, collection)}
            )
        for month in months:
            rows = pl.concat(
                [shard.tables.read_partition(table, collection, month) for shard in present]
            )
            for shard in to_come:
                here = rows.filter(is_in_range(shard.shard.ids, shard_key(table)))
                shard.tables.replace_rows(table, collection, month, without=None, rows=here)


def _reshard_states(present: Sequence[Lake], to_come: Sequence[Lake], collection: str) -> None:
    """Write for each shard to come how far all of it was read and flattened."""
    for shard in to_come:
        states = [
            one.state(collection) for one in present if _overlap(one.shard.ids, shard.shard.ids)
        ]
        state = merge_states(collection, states)
        # A shard that has nothing of the last batches has no batch of their numbers either.
        last = shard.change_log(collection).last_batch()
        changes = state.model_dump(exclude={"collection"}) | {
            "flattened_through": min(state.flattened_through, last),
            "results_searched_through": min(state.results_searched_through, last),
        }
        shard.update_state(collection, changes)


def _overlap(one: Split, other: Split) -> bool:
    return (one.upper is None or other.lower < one.upper) and (
        other.upper is None or one.lower < other.upper
    )
