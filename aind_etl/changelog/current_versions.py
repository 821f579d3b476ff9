"""The live documents of a collection's change log, shard by shard, for one reading of the log.

Here belongs how what is known of a collection waits on a disk while shards are compared with it.
Which versions of the log are live is the lake's to say, and what comparing finds is of no concern
here.

A version may lie anywhere in the log: whoever looked for a shard's would read all of it, once a
shard. So it is read once, a row group at a time and without the documents, and what is read is
laid into files of one shard each.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from aind_etl.contract.id_ranges import Shard
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LIVENESS_COLUMNS, live_of, read_log_file
from aind_etl.lake.parquet import read_arrow

# How much is gathered before it is divided: few files, little memory.
_GATHERED_BYTES = 8 << 20


@contextmanager
def live_by_shard(
    lake: Lake, collection: str, divided: Sequence[Shard]
) -> Iterator[Callable[[Shard], pl.DataFrame]]:
    """Give, for the time of a ``with`` block, a function that returns a shard's live documents.

    Parameters
    ----------
    lake, collection
        Which change log. It is read at once: what is appended later is not seen.
    divided
        All the shards the collection is divided into, in order.

    Yields
    ------
    Callable
        Takes one of the shards, and returns what
        :meth:`~aind_etl.lake.Lake.live_documents` returns of it. Several threads may call it.
    """
    if len(divided) == 1:
        yield lambda _: lake.change_log(collection).live_documents()
        return
    with lake.scratch("extract", collection) as folder:
        files = _divide_log(lake, collection, [shard.lower for shard in divided], folder)

        def live(shard: Shard) -> pl.DataFrame:
            versions = [read_arrow(path) for path in files.get(shard.lower, ())]
            # Without any, the lake says which columns there would be.
            return live_of(pl.concat(versions)) if versions else _none_of(lake, collection)

        yield live


def _none_of(lake: Lake, collection: str) -> pl.DataFrame:
    return live_of(
        lake.change_log(collection).versions().select(LIVENESS_COLUMNS).head(0).collect()
    )


def _divide_log(
    lake: Lake, collection: str, lowers: Sequence[str], folder: Path
) -> dict[str, list[Path]]:
    """Write the versions of a log to files of one shard each, and return those of each shard.

    Parameters
    ----------
    lowers
        Where the shards begin, sorted; the first begins at the empty text.
    folder
        An empty folder.

    Returns
    -------
    dict
        The files of a shard, by where it begins, in the order of the log.
    """
    files: dict[str, list[Path]] = {}
    for versions in _gathered(lake, collection):
        shard = pl.Series(lowers).search_sorted(versions["record_id"], side="right") - 1
        parts = versions.with_columns(shard=shard).partition_by(
            "shard", as_dict=True, include_key=False
        )
        for (number,), part in parts.items():
            of_shard = files.setdefault(lowers[number], [])
            path = folder / f"{number}-{len(of_shard)}.arrow"
            part.write_ipc(path)
            of_shard.append(path)
    # Arrow keeps what it took for reading, though nothing more is read for as long as a pass lasts.
    pa.default_memory_pool().release_unused()
    return files


def _gathered(lake: Lake, collection: str) -> Iterator[pl.DataFrame]:
    """Yield the versions of a log, in order, so many at a time that dividing them pays."""
    held: list[pl.DataFrame] = []
    size = 0
    for file in lake.change_log(collection).files():
        for versions in read_log_file(file.path, LIVENESS_COLUMNS):
            held.append(versions)
            size += int(versions.estimated_size())
            if size > _GATHERED_BYTES:
                yield pl.concat(held)
                held, size = [], 0
    if held:
        yield pl.concat(held)
