"""The change log: an append-only log of the versions of a collection's documents."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard
from aind_etl.contract.schemas import polars_schema
from aind_etl.errors import DataError
from aind_etl.lake.parquet import scan_files, write_parquet
from aind_etl.lake.paths import log_folder, shard_of
from aind_etl.text import first_line

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.lake.storage.protocol import Location

LIVENESS_COLUMNS = ("record_id", "content_hash", "operation", "batch_id", "extracted_at")
"""The columns of the change log that determine which documents are live."""
_BATCHES = re.compile(r"(\d{10,})(?:-(\d{10,}))?\.parquet$")
_GATHERED_IDS = 50_000


class LogFile(NamedTuple):
    """A file of the change log, with its shard and the numbers of its first and last batch."""

    shard: Shard
    first: int
    last: int
    path: "Location"


class ChangeLog:
    """The versions of a collection's documents, or of those in one shard of it.

    Methods that read files raise :class:`~aind_etl.errors.DataError` if one is damaged.
    """

    def __init__(self, lake: "Lake", collection: str) -> None:
        self._lake = lake
        self.collection = collection

    def last_batch(self) -> int:
        """Return the number of the newest batch; 0 if there is none."""
        return max((file.last for file in self.files()), default=0)

    def append(self, versions: pl.DataFrame) -> int:
        """Append a batch of versions, which appears whole or not at all; return its number.

        The columns are ``record_id``, ``document``, ``content_hash``, ``operation`` and
        ``extracted_at``.
        """
        batch = self.last_batch() + 1
        rows = versions.with_columns(
            source_collection=pl.lit(self.collection), batch_id=pl.lit(batch, pl.Int64)
        )
        # Two writers that both escaped the lock must not both write the same batch.
        name = self.file_name(batch, batch)
        write_parquet(self._lake.storage, name, tables.DOCUMENTS, [rows], replace=False)
        return batch

    def versions(self, after: int = 0) -> pl.LazyFrame:
        """Return every version later than batch ``after``, lazily."""
        files = [file.path for file in self.files() if file.last > after]
        return scan_files(files, tables.DOCUMENTS).filter(pl.col("batch_id") > after)

    def read_batches(self, after: int = 0) -> Iterator[pl.DataFrame]:
        """Yield the versions later than batch ``after``, file by file, the oldest first."""
        for file in self.files():
            if file.last > after:
                for versions in read_log_file(file.path):
                    yield versions.filter(pl.col("batch_id") > after)

    def live_documents(self) -> pl.DataFrame:
        """Return the documents that the source held when it was last read.

        The columns are ``record_id``, ``content_hash`` and ``extracted_at``.
        """
        with self.reporting_damage():
            return current_versions(self.versions().select(LIVENESS_COLUMNS).collect())

    @contextmanager
    def reporting_damage(self) -> Iterator[None]:
        """Read :meth:`versions` in a ``with`` block whose error names the damaged file."""
        try:
            yield
        except (pa.ArrowException, pl.exceptions.PolarsError):
            for file in self.files():
                for _ in read_log_file(file.path):
                    pass
            raise

    def files(self) -> list[LogFile]:
        """Return the files of the change log, in order: every batch is in one of them.

        A file whose batches are all in a compacted one as well is left out: a compaction was
        interrupted before it removed it, or is under way.

        Raises
        ------
        DataError
            Two files hold some of the same batches, and neither holds all of the other's.
        """
        needed: list[LogFile] = []
        found = self._all_files().values()
        for file in sorted(found, key=lambda file: (file.shard, file.first, -file.last)):
            overlapping = [
                one
                for one in needed
                if one.shard == file.shard and one.first <= file.last and file.first <= one.last
            ]
            if not overlapping or _is_needed(file, overlapping):
                needed.append(file)
        return needed

    def _all_files(self) -> dict[str, LogFile]:
        found = {}
        for name in self._lake.live_files(log_folder(self.collection)):
            ((first, last),) = _BATCHES.findall(name)
            path = self._lake.storage.path(name)
            found[name] = LogFile(shard_of(name), int(first), int(last or first), path)
        return found

    def file_name(self, first: int, last: int) -> str:
        """Return the name of a file of the change log, for this shard."""
        stem = f"{first:010d}" if first == last else f"{first:010d}-{last:010d}"
        label = "" if self._lake.shard == UNSHARDED else f"{self._lake.shard.label}-"
        return f"{log_folder(self.collection)}/{label}{stem}.parquet"

    def superseded_files(self) -> dict[str, LogFile]:
        """Return, by name, files all of whose batches are in another file, and that file."""
        needed = self.files()
        return {
            name: other
            for name, file in self._all_files().items()
            if file not in needed
            for other in needed
            if other.shard == file.shard and other.first <= file.first <= file.last <= other.last
        }

    def gaps(self) -> tuple[str, ...]:
        """Return what is unusual about the batch numbers of a shard's log, by its files' names.

        It changes when a file in the middle of the log is removed or restored.
        """
        gaps = []
        last = 0
        for file in self.files():
            if file.first > last + 1:
                gaps.append(f"{last + 1}-{file.first - 1} missing")
            if file.last <= last:
                gaps.append(f"{file.first}-{file.last} restored")
            last = max(last, file.last)
        return tuple(gaps)

    def missing_batches(self) -> list[int]:
        """Return the numbers of batches that no file of the change log holds.

        Empty for a collection in shards: a shard has no file of a batch without its documents.
        """
        files = self.files()
        if any(file.shard != UNSHARDED for file in files):
            return []
        held: set[int] = set()
        for file in files:
            held |= {file.first} if file.first == file.last else _batches_in(file.path)
        return sorted(set(range(1, max(held, default=0) + 1)) - held)


def read_log_file(
    path: "Location", columns: Sequence[str] = tuple(polars_schema(tables.DOCUMENTS))
) -> Iterator[pl.DataFrame]:
    """Yield columns of the versions in a file of the change log, a row group at a time."""
    schema = polars_schema(tables.DOCUMENTS)
    with reading_log(path), path.open("rb") as file, pq.ParquetFile(file) as log:
        # A file written under an older contract lacks later columns.
        present = [name for name in columns if name in log.schema_arrow.names]
        wanted = [
            pl.col(name).cast(schema[name])
            if name in present
            else pl.lit(None, schema[name]).alias(name)
            for name in columns
        ]
        for number in range(log.num_row_groups):
            # One thread: each thread that decodes keeps memory for later.
            group = log.read_row_group(number, present, use_threads=False)
            yield pl.DataFrame(group).select(wanted)


def in_portions(frames: Iterable[pl.DataFrame], portion_bytes: int) -> Iterator[pl.DataFrame]:
    """Yield the rows of frames in portions of at least a number of bytes; the last is smaller."""
    held: list[pl.DataFrame] = []
    size = 0
    for frame in frames:
        held.append(frame)
        size += int(frame.estimated_size())
        if size >= portion_bytes:
            yield pl.concat(held)
            held, size = [], 0
    if held:
        yield pl.concat(held)


@contextmanager
def reading_log(path: "Location") -> Iterator[None]:
    """Turn an error of reading a file of the log into a :class:`DataError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"The file {str(path)!r} of the change log is damaged ({first_line(error)}). Restore "
            "it from a backup; or move it away and run 'aind-etl run --pass full', which reads "
            "again what the source still holds: older versions that only this file holds are lost "
            "then."
        ) from None


def current_versions(versions: pl.DataFrame) -> pl.DataFrame:
    """Return :meth:`ChangeLog.live_documents` among all versions of some records.

    The versions have the columns :data:`LIVENESS_COLUMNS`.
    """
    return (
        versions.sort("batch_id")
        .unique("record_id", keep="last", maintain_order=True)
        .filter(pl.col("operation") == "upsert")
        .select("record_id", "content_hash", "extracted_at")
    )


def _is_needed(file: LogFile, overlapping: Sequence[LogFile]) -> bool:
    """Return whether a file has batches that the files with overlapping names do not have.

    The batches in a file count, not the range in its name: a restored file is needed beside a
    compacted one that was written without it.
    """
    try:
        held = _batches_in(file.path)
    except FileNotFoundError:
        return False  # A compaction that is under way has removed it.
    elsewhere = set().union(*(_batches_in(one.path) for one in overlapping))
    if held & elsewhere and not held <= elsewhere:
        others = ", ".join(repr(str(one.path)) for one in overlapping)
        raise DataError(
            f"The file {str(file.path)!r} of the change log holds some batches that {others} "
            "holds too, and others that it does not: both cannot count. Move one of them "
            "away, and put back the files that it was compacted from."
        )
    return not held <= elsewhere


def _batches_in(path: "Location") -> set[int]:
    return {
        batch
        for versions in read_log_file(path, ["batch_id"])
        for batch in versions["batch_id"].unique()
    }


def record_ids(ids: Iterable[str]) -> pl.DataFrame:
    """Return record ids as a frame of one column, to join with.

    The ids are collected in portions: in polars, a million take a tenth of the memory that they
    take in Python.
    """
    iterator = iter(ids)
    portions = [pl.DataFrame(schema={"record_id": pl.String})]
    while some := list(islice(iterator, _GATHERED_IDS)):
        portions.append(pl.DataFrame({"record_id": some}, schema={"record_id": pl.String}))
    return pl.concat(portions)
