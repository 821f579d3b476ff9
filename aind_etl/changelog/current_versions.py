"""The current versions of a collection's documents, one split at a time.

A version may lie in any file of the change log, and reading the whole log once per split would be
slow. The log is therefore read once, without the documents, and its rows are written to one
temporary file per split.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa

from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LIVENESS_COLUMNS, current_versions, read_log_file
from aind_etl.lake.parquet import read_arrow

# How much is gathered before it is divided: few files, little memory.
_GATHERED_BYTES = 8 << 20


@contextmanager
def current_versions_by_split(
    lake: Lake, collection: str, divided: Sequence[Split]
) -> Iterator[Callable[[Split], pl.DataFrame]]:
    """Give, for the duration of a ``with`` block, a function that returns a split's live documents.

    Parameters
    ----------
    lake, collection
        Which change log. It is read at once: what is appended later is not seen.
    divided
        All the splits the collection is divided into, in order.

    Yields
    ------
    Callable
        Takes one of the splits, and returns what
        :meth:`~aind_etl.lake.Lake.live_documents` returns of it. Several threads may call it.
    """
    if len(divided) == 1:
        yield lambda _: lake.change_log(collection).live_documents()
        return
    with lake.scratch("extract", collection) as folder:
        files = _reshard_log(lake, collection, [split.lower for split in divided], folder)

        def live(split: Split) -> pl.DataFrame:
            versions = [read_arrow(path) for path in files.get(split.lower, ())]
            # Without any, the lake says which columns there would be.
            return current_versions(pl.concat(versions)) if versions else _none_of(lake, collection)

        yield live


def _none_of(lake: Lake, collection: str) -> pl.DataFrame:
    return current_versions(
        lake.change_log(collection).versions().select(LIVENESS_COLUMNS).head(0).collect()
    )


def _reshard_log(
    lake: Lake, collection: str, lowers: Sequence[str], folder: Path
) -> dict[str, list[Path]]:
    """Write the versions of a log to files of one split each, and return those of each split.

    Parameters
    ----------
    lowers
        Where the splits begin, sorted; the first begins at the empty text.
    folder
        An empty folder.

    Returns
    -------
    dict
        The files of a split, by where it begins, in the order of the log.
    """
    files: dict[str, list[Path]] = {}
    for versions in _gathered(lake, collection):
        split = pl.Series(lowers).search_sorted(versions["record_id"], side="right") - 1
        parts = versions.with_columns(split=split).partition_by(
            "split", as_dict=True, include_key=False
        )
        for (number,), part in parts.items():
            of_split = files.setdefault(lowers[number], [])
            path = folder / f"{number}-{len(of_split)}.arrow"
            part.write_ipc(path)
            of_split.append(path)
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
