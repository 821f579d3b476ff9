"""The current versions of a collection's documents, one split at a time.

A version may be in any file of the change log, and reading the whole log for each split would be
slow. The log is therefore read once, without the documents, and its rows are written to temporary
files by split.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import Split
from aind_etl.contract.schemas import polars_schema
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LIVENESS_COLUMNS, current_versions, read_log_file
from aind_etl.lake.parquet import read_arrow

# Rows collected before they are partitioned: a compromise between many files and much memory.
_PORTION_BYTES = 8 << 20


@contextmanager
def current_versions_by_split(
    lake: Lake, collection: str, splits: Sequence[Split]
) -> Iterator[Callable[[Split], pl.DataFrame]]:
    """Provide a function that returns the live documents of a split.

    Parameters
    ----------
    lake, collection
        The lake and the collection. Versions appended later are not seen.
    splits
        All splits of the collection, in order.

    Yields
    ------
    Callable
        Takes one of the splits, and returns the columns of
        :meth:`~aind_etl.lake.change_log.ChangeLog.live_documents`. Threads may share it.
    """
    if len(splits) == 1:
        yield lambda _: lake.change_log(collection).live_documents()
        return
    with lake.scratch("extract", collection) as folder:
        files = _partition_log(lake, collection, [split.lower for split in splits], folder)
        none = pl.DataFrame(schema=polars_schema(tables.DOCUMENTS)).select(LIVENESS_COLUMNS)
        yield lambda split: current_versions(
            pl.concat([none, *map(read_arrow, files.get(split.lower, ()))])
        )


def _partition_log(
    lake: Lake, collection: str, lowers: Sequence[str], folder: Path
) -> dict[str, list[Path]]:
    """Write the versions to files by split; return the files by the split's lower bound."""
    files: dict[str, list[Path]] = {}
    for versions in _portions(lake, collection):
        split = pl.Series(lowers).search_sorted(versions["record_id"], side="right") - 1
        parts = versions.with_columns(split=split).partition_by(
            "split", as_dict=True, include_key=False
        )
        for (number,), part in parts.items():
            of_split = files.setdefault(lowers[number], [])
            path = folder / f"{number}-{len(of_split)}.arrow"
            part.write_ipc(path)
            of_split.append(path)
    # Arrow would keep the memory it read with for as long as the pass lasts.
    pa.default_memory_pool().release_unused()
    return files


def _portions(lake: Lake, collection: str) -> Iterator[pl.DataFrame]:
    """Yield the versions of a log, in order, in portions large enough to partition."""
    held: list[pl.DataFrame] = []
    size = 0
    for file in lake.change_log(collection).files():
        for versions in read_log_file(file.path, LIVENESS_COLUMNS):
            held.append(versions)
            size += int(versions.estimated_size())
            if size > _PORTION_BYTES:
                yield pl.concat(held)
                held, size = [], 0
    if held:
        yield pl.concat(held)
