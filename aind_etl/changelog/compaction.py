"""Compaction of the change log: many small files are merged into a few large ones.

A compacted file holds the same versions under the same batch numbers, and is named after its first
and last batch; batches with a missing number between them are never merged. The new file appears
by a rename, is read back and compared with the files it was made from, and only then are those
removed. No version is missing at any moment. The lake's own readers see each version once, because
they skip a file whose batches another one holds. Other readers that glob the folder may, between
the rename and the last removal, see a version twice or find that a listed file is gone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import polars as pl

from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import LogFile, read_log_file
from aind_etl.lake.parquet import write_parquet

if TYPE_CHECKING:
    from aind_etl.lake.storage.local import Location

# From here on a file is left as it is: rewriting it would gain readers nothing.
_LARGE_BYTES = 4 << 20
_FEWEST_FILES = 8
# What is written at a time, and so what a reader of the file has to hold at least.
_ROW_GROUP_BYTES = 16 << 20
_ROW_GROUP_ROWS = 32_768


@dataclass(frozen=True, slots=True)
class CompactionReport:
    """What a compaction did.

    Attributes
    ----------
    files_before, files_after
        Number of files of the collection's change log.
    """

    collection: str
    files_before: int
    files_after: int


def compact_change_log(
    lake: Lake,
    collection: str,
    *,
    fewest_files: int = _FEWEST_FILES,
    large_bytes: int = _LARGE_BYTES,
) -> CompactionReport:
    """Put neighbouring small files of a collection's change log together.

    Afterwards no more than ``fewest_files - 1`` small files stand beside each other. The caller
    holds the lock of the collection. Interrupted at any point and run again, it ends the same.

    Parameters
    ----------
    lake, collection
        Which change log.
    fewest_files
        How many small files beside each other are worth it.
    large_bytes
        Size from which on a file is not small.

    Returns
    -------
    CompactionReport
        What was done.

    Raises
    ------
    DataError
        A file of the change log is damaged; nothing was removed on its account.
    """
    before = len(lake.change_log(collection).files())
    if lake.change_log(collection).superseded_files():
        with lake.tables_lock(collection):
            _remove_superseded(lake, collection)
    for files in _groups(lake.change_log(collection).files(), fewest_files, large_bytes):
        name = lake.change_log(collection).file_name(files[0].first, files[-1].last)
        write_parquet(lake.storage, name, tables.DOCUMENTS, _row_groups(files))
        # Not from under a warehouse that is being built.
        with lake.tables_lock(collection):
            _remove_superseded(lake, collection)
    return CompactionReport(collection, before, len(lake.change_log(collection).files()))


def _remove_superseded(lake: Lake, collection: str) -> None:
    """Remove the files that others replace, once these were seen to hold the same."""
    # One compacted file replaces many: it is read once.
    digests = cache(_digests)
    for name, file in lake.change_log(collection).superseded_files().items():
        replaced = _digests(lake.storage.path(name))
        held = digests(file.path)
        different = [batch for batch in replaced if held.get(batch) != replaced[batch]]
        if different:
            raise DataError(
                f"The files {str(file.path)!r} and {name!r} of the change log differ in the "
                f"batches {different}. Nothing was removed. Compare both with a backup, and move "
                "the wrong one away."
            )
        lake.storage.remove(name)


def _digests(path: "Location") -> dict[int, tuple[int, int]]:
    """Return the number of versions in each batch of a file, and a sum over all their values."""
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
    """Yield the files to put together, each time some that follow each other."""
    beside: list[LogFile] = []
    for file in [*files, None]:
        is_small = file is not None and file.path.stat().st_size < large_bytes
        if file is not None and is_small and (not beside or file.first == beside[-1].last + 1):
            beside.append(file)
            continue
        if len(beside) >= fewest_files:
            yield beside
        beside = [file] if file is not None and is_small else []


def _row_groups(files: Sequence[LogFile]) -> Iterator[pl.DataFrame]:
    """Yield the versions in some files in portions worth a row group."""
    held: list[pl.DataFrame] = []
    rows = size = 0
    for file in files:
        for versions in read_log_file(file.path):
            held.append(versions)
            rows += versions.height
            size += int(versions.estimated_size())
            if rows >= _ROW_GROUP_ROWS or size >= _ROW_GROUP_BYTES:
                together, held, rows, size = pl.concat(held), [], 0, 0
                yield together
    if held:
        yield pl.concat(held)
