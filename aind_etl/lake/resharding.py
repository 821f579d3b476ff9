"""Resharding: dividing a large collection into shards, or into another number of them.

Shards are defined in :mod:`aind_etl.contract.id_ranges`. The new files are written beside the
present ones, which count until the layout file names the new number; then the old files are
removed. The lake's own readers see every row once at any moment. Other readers that glob the
folders may see rows twice until the old files are gone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import chain

import polars as pl

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import MOST_RANGES, shards
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LogFile, in_portions, read_log_file
from aind_etl.lake.lake import ReshardedError
from aind_etl.lake.parquet import write_parquet
from aind_etl.lake.paths import COLLECTION_TABLES
from aind_etl.lake.state import Layout, merge_states
from aind_etl.lake.tables import is_in_range, shard_key

# As long as the longest pass over a shard that may be under way.
_WAIT_SECONDS = 3600
# A collection shrinks to a quarter of what its shards could hold before there are fewer of them,
# so that one that grows and shrinks about a limit is not resharded again and again.
_SHRUNK = 4
_ROW_GROUP_BYTES = 16 << 20


def wanted_shards(documents: int, present: int, most_documents: int) -> int:
    """Return the number of shards that a collection should have.

    The present number is doubled or halved until no shard has more than ``most_documents``, so
    that each shard becomes two, or two become one.
    """
    of = present
    while documents > of * most_documents and of * 2 <= MOST_RANGES:
        of *= 2
    while of > 1 and documents * _SHRUNK <= of * most_documents:
        of //= 2
    return of


def plan_shards(lake: Lake, collection: str, documents: int | None, most_documents: int) -> int:
    """Plan the number of shards of a collection, and return it.

    The first pass over one of the planned shards reshards the collection. The plan stays as it is
    if the number of ``documents`` in the source is not known.
    """
    planned = lake.layout(collection).planned_shards
    if documents is None:
        return planned
    wanted = wanted_shards(documents, planned, most_documents)
    if wanted != planned:
        lake.update_layout(collection, {"planned_shards": wanted})
    return wanted


def reshard_as_planned(lake: Lake, collection: str) -> None:
    """Reshard a collection, unless the shard of ``lake`` is one of its shards already."""
    layout = lake.layout(collection)
    of = lake.shard.of
    if not _is_divided(layout, of) and layout.planned_shards != of:
        raise DataError(
            f"The collection {collection!r} of {lake} is to have {layout.planned_shards} shards, "
            f"and this run is for one of {of}: the plan has changed since it was requested. Run "
            "again for the planned shards; the sensor does so by itself."
        )
    reshard(lake, collection, of)


def reshard(lake: Lake, collection: str, of: int) -> None:
    """Divide a collection into ``of`` shards. An interrupted call can be repeated."""
    while not _is_divided(lake.layout(collection), of):
        # Another run may be first, and do this or something else.
        with suppress(ReshardedError):
            _reshard(lake.whole, collection, of)
            return


def _is_divided(layout: Layout, of: int) -> bool:
    return layout.shards == of and not layout.is_to_be_cleared


def _reshard(whole: Lake, collection: str, of: int) -> None:
    present = whole.shards(collection)
    with ExitStack() as held:
        for shard in present:
            held.enter_context(shard.lock(collection, wait_seconds=_WAIT_SECONDS))
        held.enter_context(whole.tables_lock(collection))
        if len(present) != of:
            whole.update_layout(collection, {"planned_shards": of, "is_to_be_cleared": True})
            planned = [whole.for_shard(shard) for shard in shards(of)]
            # An interrupted attempt may have left files of documents that have changed since.
            _remove(whole, collection, lambda number: number == of)
            _reshard_log(present, planned, collection)
            _reshard_tables(present, planned, collection)
            _reshard_states(present, planned, collection)
            whole.update_layout(collection, {"shards": of})
        _remove(whole, collection, lambda number: number != of)
        whole.update_layout(collection, {"is_to_be_cleared": False})


def _remove(whole: Lake, collection: str, is_removed: Callable[[int], bool]) -> None:
    for name, number in whole.all_files(collection):
        if is_removed(number):
            whole.storage.remove(name)


def _reshard_log(present: Sequence[Lake], planned: Sequence[Lake], collection: str) -> None:
    """Write the versions of the present shards' logs to the logs of the planned shards.

    Batches keep their numbers. These give the order of a record's versions, all of which are in
    one shard before and after.
    """
    files = [file for shard in present for file in shard.change_log(collection).files()]
    for group in _overlapping(files):
        first = min(file.first for file in group)
        last = max(file.last for file in group)
        for shard in planned:
            versions = chain.from_iterable(read_log_file(file.path) for file in group)
            is_own = is_in_range(shard.shard.ids, pl.col("record_id"))
            own = (rows for some in versions if not (rows := some.filter(is_own)).is_empty())
            first_rows = next(own, None)
            if first_rows is not None:
                name = shard.change_log(collection).file_name(first, last)
                portions = in_portions(chain([first_rows], own), _ROW_GROUP_BYTES)
                write_parquet(shard.storage, name, tables.DOCUMENTS, portions)


def _overlapping(files: Sequence[LogFile]) -> Iterator[Sequence[LogFile]]:
    """Yield groups of files whose ranges of batches overlap; those of one log never do."""
    held: list[LogFile] = []
    for file in sorted(files, key=lambda file: file.first):
        if held and file.first > max(one.last for one in held):
            yield held
            held = []
        held.append(file)
    if held:
        yield held


def _reshard_tables(present: Sequence[Lake], planned: Sequence[Lake], collection: str) -> None:
    for table in COLLECTION_TABLES:
        if table is tables.DOCUMENTS:
            continue
        months = {
            key for shard in present for key in shard.tables.partition_keys(table, collection)
        }
        for month in sorted(months, key=str):
            rows = pl.concat(
                [shard.tables.read_partition(table, collection, month) for shard in present]
            )
            for shard in planned:
                own = rows.filter(is_in_range(shard.shard.ids, shard_key(table)))
                shard.tables.replace_rows(table, collection, month, without=None, rows=own)


def _reshard_states(present: Sequence[Lake], planned: Sequence[Lake], collection: str) -> None:
    """Write the state of each planned shard: what is true of all present shards it overlaps."""
    for shard in planned:
        ids = shard.shard.ids
        states = [
            one.state(collection)
            for one in present
            if ids.holds(one.shard.ids.lower) or one.shard.ids.holds(ids.lower)
        ]
        state = merge_states(collection, states)
        # A shard without documents in the last batches has no file with their numbers either.
        last = shard.change_log(collection).last_batch()
        changes = state.model_dump(exclude={"collection"}) | {
            "flattened_through": min(state.flattened_through, last),
            "results_searched_through": min(state.results_searched_through, last),
        }
        shard.update_state(collection, changes)
