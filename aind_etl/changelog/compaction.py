"""Compaction of the change log: many small files are merged into a few large ones.

A compacted file holds the same versions under the same batch numbers and is named after its first
and last batch. Batches on both sides of a missing number are never merged. The new file appears by
a rename and is compared with the files it replaces before those are removed, so no version is
missing at any time. The lake's readers skip a file whose batches another file holds, and see each
version once. Other readers that glob the folder may see a version twice between the rename and the
last removal, or find that a listed file is gone.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LogFile, read_log_file
from aind_etl.lake.parquet import write_parquet

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location

# Readers gain nothing if a larger file is rewritten.
_LARGE_BYTES = 4 << 20
_FEWEST_FILES = 8
# A row group is written at once, and a reader holds at least one in memory.
_ROW_GROUP_BYTES = 16 << 20
_ROW_GROUP_ROWS = 32_768


def compact_change_log(
    lake: Lake,
    collection: str,
    *,
    fewest_files: int = _FEWEST_FILES,
    large_bytes: int = _LARGE_BYTES,
) -> None:
    """Merge adjacent small files of a collection's change log.

    Afterwards at most ``fewest_files - 1`` small files are adjacent. The caller holds the lock of
    the collection. An interrupted compaction is completed by the next one.

    Parameters
    ----------
    lake, collection
        The lake and the collection.
    fewest_files
        The fewest adjacent small files that are merged.
    large_bytes
        Size from which a file is not small.

    Raises
    ------
    DataError
        A file of the change log is damaged; no file was removed because of it.
    """
    log = lake.change_log(collection)
    if log.superseded_files():
        with lake.tables_lock(collection):
            _remove_superseded(lake, collection)
    for files in _groups(log.files(), fewest_files, large_bytes):
        name = log.file_name(files[0].first, files[-1].last)
        write_parquet(lake.storage, name, tables.DOCUMENTS, _row_groups(files))
        # A warehouse that is being built reads these files under the same lock.
        with lake.tables_lock(collection):
            _remove_superseded(lake, collection)


def _remove_superseded(lake: Lake, collection: str) -> None:
    """Remove files that others supersede, after checking that those hold the same versions."""
    # A compacted file supersedes many: it is read once.
    digests = cache(_digests)
    for name, file in lake.change_log(collection).superseded_files().items():
        superseded = _digests(lake.storage.path(name))
        kept = digests(file.path)
        different = [batch for batch in superseded if kept.get(batch) != superseded[batch]]
        if different:
            raise DataError(
                f"The files {str(file.path)!r} and {name!r} of the change log differ in the "
                f"batches {different}. Nothing was removed. Compare both with a backup, and move "
                "the wrong one away."
            )
        lake.storage.remove(name)


def _digests(path: "Location") -> dict[int, tuple[int, int]]:
    """Return the number of versions in each batch of a file, and the sum of their hashes."""
    digests: dict[int, tuple[int, int]] = {}
    for versions in read_log_file(path):
        rows = versions.select("batch_id", row=versions.hash_rows())
        for batch, count, total in (
            rows.group_by("batch_id").agg(n=pl.len(), total=pl.col("row").sum()).iter_rows()
        ):
            before = digests.get(batch, (0, 0))
            digests[batch] = (before[0] + count, (before[1] + total) % 2**64)
    return digests


def _groups(
    files: Sequence[LogFile], fewest_files: int, large_bytes: int
) -> Iterator[Sequence[LogFile]]:
    """Yield each group of adjacent small files to merge."""
    adjacent: list[LogFile] = []
    for file in [*files, None]:
        is_small = file is not None and file.path.stat().st_size < large_bytes
        if file is not None and is_small and (not adjacent or file.first == adjacent[-1].last + 1):
            adjacent.append(file)
            continue
        if len(adjacent) >= fewest_files:
            yield adjacent
        adjacent = [file] if file is not None and is_small else []


def _row_groups(files: Sequence[LogFile]) -> Iterator[pl.DataFrame]:
    """Yield the versions in some files, a row group at a time."""
    held: list[pl.DataFrame] = []
    rows = size = 0
    for file in files:
        for versions in read_log_file(file.path):
            held.append(versions)
            rows += versions.height
            size += int(versions.estimated_size())
            if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
                row_group, held, rows, size = pl.concat(held), [], 0, 0
                yield row_group
    if held:
        yield pl.concat(held)
