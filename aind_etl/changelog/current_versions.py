"""The current versions of a collection's documents, one split at a time.

A version may be in any file of the change log, and reading the whole log for each split would be
slow. The log is therefore read once, without the documents, and its rows are written to temporary
files by split.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import polars as pl
import pyarrow as pa

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LIVENESS_COLUMNS, current_versions, in_portions, read_log_file
from aind_etl.lake.spill import Spill

# Rows collected before they are partitioned: a compromise between many files and much memory.
_PORTION_BYTES = 8 << 20


@contextmanager
def current_versions_by_split(
    lake: Lake, collection: str, splits: Sequence[Split]
) -> Iterator[Callable[[Split], pl.DataFrame]]:
    """Provide a function, which threads may share, that returns the live documents of a split.

    Its result has the columns of :meth:`~aind_etl.lake.change_log.ChangeLog.live_documents`.
    ``splits`` are all splits of the collection, in order. Versions appended later are not seen.
    """
    if len(splits) == 1:
        yield lambda _: lake.change_log(collection).live_documents()
        return
    with lake.scratch("extract", collection) as folder:
        spill = _spilled_log(lake, collection, splits, folder)
        yield lambda split: current_versions(spill.rows(tables.DOCUMENTS, split.lower))


def _spilled_log(lake: Lake, collection: str, splits: Sequence[Split], folder: Path) -> Spill:
    """Return the versions of a log, without documents, by the lower bound of their split."""
    spill = Spill(folder, budget_bytes=0, key="split")
    lowers = pl.Series([split.lower for split in splits])
    files = lake.change_log(collection).files()
    versions = chain.from_iterable(read_log_file(file.path, LIVENESS_COLUMNS) for file in files)
    for portion in in_portions(versions, _PORTION_BYTES):
        split = lowers.search_sorted(portion["record_id"], side="right") - 1
        spill.add(tables.DOCUMENTS, portion.with_columns(split=lowers.gather(split)))
    # Arrow would keep the memory it read with for as long as the pass lasts.
    pa.default_memory_pool().release_unused()
    return spill
