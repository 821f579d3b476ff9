"""The change log: an append-only log of the versions of a collection's documents."""

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

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location
from aind_etl.lake.live_files import LiveFiles
from aind_etl.lake.parquet import scan_files, write_parquet
from aind_etl.lake.paths import label_and_rest, log_folder, shard_of

LIVENESS_COLUMNS = ("record_id", "content_hash", "operation", "batch_id", "extracted_at")
"""The columns of the change log that tell which documents are live; not the documents."""
_GATHERED_IDS = 50_000


class LogFile(NamedTuple):
    """A file of the change log.

    Attributes
    ----------
    first, last
        Numbers of the first and the last batch it holds; the same for a single batch.
    path
        Where it lies.
    """

    first: int
    last: int
    path: "Location"


class ChangeLog:
    """The versions of a collection's documents, or of those in one shard of it.

    Parameters
    ----------
    files
        The files of the lake that count.
    collection
        The collection.
    """

    def __init__(self, files: LiveFiles, collection: str) -> None:
        self._files = files
        self.collection = collection

    def last_batch(self) -> int:
        """Return the number of the newest batch of a collection; 0 where there is none."""
        return max((file.last for file in self.files()), default=0)

    def append(self, versions: pl.DataFrame) -> int:
        """Append a batch of versions to the change log; it appears whole or not at all.

        Parameters
        ----------
        versions
            Columns ``record_id``, ``document``, ``content_hash``, ``operation`` and
            ``extracted_at``.

        Returns
        -------
        int
            The batch's number.
        """
        batch = self.last_batch() + 1
        rows = versions.with_columns(
            source_collection=pl.lit(self.collection), batch_id=pl.lit(batch, pl.Int64)
        )
        # Two writers that both escaped the lock must not both have the same number.
        name = self.file_name(batch, batch)
        write_parquet(self._files.storage, name, tables.DOCUMENTS, [rows], replace=False)
        return batch

    def versions(self, after: int = 0) -> pl.LazyFrame:
        """Return a collection's change log, lazily: every version later than batch ``after``."""
        files = [file for file in self.files() if file.last > after]
        if not files:
            return pl.LazyFrame(schema=polars_schema(tables.DOCUMENTS))
        versions = scan_files([file.path for file in files], tables.DOCUMENTS)
        # Only a compacted file can hold earlier ones besides.
        is_mixed = any(file.first <= after for file in files)
        return versions.filter(pl.col("batch_id") > after) if is_mixed else versions

    def read_batches(self, after: int = 0) -> Iterator[pl.DataFrame]:
        """Yield the versions later than batch ``after``, file by file, the oldest first."""
        for file in self.files():
            if file.last > after:
                for versions in read_log_file(file.path):
                    yield versions.filter(pl.col("batch_id") > after)

    def live_documents(self) -> pl.DataFrame:
        """Return what the source held when it was last read, without the documents themselves.

        Returns
        -------
        polars.DataFrame
            Columns ``record_id``, ``content_hash`` and ``extracted_at``, one row per live document.
        """
        with self.reporting_damage():
            return current_versions(self.versions().select(LIVENESS_COLUMNS).collect())

    @contextmanager
    def reporting_damage(self) -> Iterator[None]:
        """Read :meth:`versions` in a ``with`` block whose error names the file that is damaged.

        Raises
        ------
        DataError
            A file of the change log is damaged.
        """
        try:
            yield
        except (pa.ArrowException, pl.exceptions.PolarsError):
            for file in self.files():
                for _ in read_log_file(file.path):
                    pass
            raise

    def files(self) -> list[LogFile]:
        """Return the files of a collection's change log, in order: every batch is in one of them.

        A file whose batches are all in a compacted one as well is left out: a compaction was
        interrupted before it removed it, or is under way.

        Raises
        ------
        DataError
            Two files hold some of the same batches, and neither holds all of the other's; or a
            file that must be read is damaged.
        """
        names = self._files.counting(self._files.names(log_folder(self.collection)))
        for_shard: dict[Shard, list[LogFile]] = {}
        for name in names:
            for_shard.setdefault(shard_of(name), []).append(
                parse_log_file(self._files.storage.path(name))
            )
        return [file for shard in sorted(for_shard) for file in ordered_log_files(for_shard[shard])]

    def file_name(self, first: int, last: int) -> str:
        """Return the name of a file of the change log, for this shard."""
        stem = f"{first:010d}" if first == last else f"{first:010d}-{last:010d}"
        label = "" if self._files.shard == UNSHARDED else f"{self._files.shard.label}-"
        return f"{log_folder(self.collection)}/{label}{stem}.parquet"

    def superseded_files(self) -> dict[str, LogFile]:
        """Return files of which every batch is in another file of the log too, and that file."""
        names = self._files.counting(self._files.names(log_folder(self.collection)))
        needed = self.files()
        paths = {file.path for file in needed}
        superseded = {}
        for name in names:
            path = self._files.storage.path(name)
            if path not in paths:
                file = parse_log_file(path)
                for one in needed:
                    if (
                        shard_of(one.path.name) == shard_of(name)
                        and one.first <= file.first <= file.last <= one.last
                    ):
                        superseded[name] = one
        return superseded

    def gaps(self) -> tuple[str, ...]:
        """Return what is unusual about the numbers of a shard's log, by the names of its files.

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
        """Return the numbers of batches that no file of a collection's change log holds.

        Empty for a collection in shards: a shard has no file of a batch that brought it nothing.
        """
        files = self.files()
        if any(shard_of(file.path.name) != UNSHARDED for file in files):
            return []
        held: set[int] = set()
        for file in files:
            held |= {file.first} if file.first == file.last else batches_in(file.path)
        return sorted(set(range(1, max(held, default=0) + 1)) - held)


def read_log_file(
    path: "Location", columns: Sequence[str] = tuple(polars_schema(tables.DOCUMENTS))
) -> Iterator[pl.DataFrame]:
    """Yield columns of the versions in a file of the change log, a row group at a time.

    Raises
    ------
    DataError
        The file is damaged.
    """
    schema = polars_schema(tables.DOCUMENTS)
    with reading_log(path), path.open("rb") as file, pq.ParquetFile(file) as log:
        # A file written under an older contract lacks what came later.
        present = [name for name in columns if name in log.schema_arrow.names]
        wanted = [
            pl.col(name).cast(schema[name])
            if name in present
            else pl.lit(None, schema[name]).alias(name)
            for name in columns
        ]
        for number in range(log.num_row_groups):
            # One thread: each that decodes keeps memory of its own for later.
            group = log.read_row_group(number, present, use_threads=False)
            yield pl.DataFrame(group).select(wanted)


def batches_in(path: "Location") -> set[int]:
    """Return the numbers of the batches that a file of the change log holds.

    Raises
    ------
    DataError
        The file is damaged.
    """
    return {
        batch
        for versions in read_log_file(path, ["batch_id"])
        for batch in versions["batch_id"].unique()
    }


@contextmanager
def reading_log(path: "Location") -> Iterator[None]:
    """Raise a :class:`DataError` that names the file where reading one of the log fails."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(
            f"The file {str(path)!r} of the change log is damaged ({str(error).splitlines()[0]}). "
            "Restore it from a backup; or move it away and run 'aind-etl run --pass full', which "
            "reads again what the source still holds: older versions that only this file holds "
            "are lost then."
        ) from None


def current_versions(versions: pl.DataFrame) -> pl.DataFrame:
    """Return the live documents among all versions of some records.

    Parameters
    ----------
    versions
        The columns :data:`LIVENESS_COLUMNS`.

    Returns
    -------
    polars.DataFrame
        As from :meth:`Lake.live_documents`.
    """
    return (
        versions.sort("batch_id")
        .unique("record_id", keep="last", maintain_order=True)
        .filter(pl.col("operation") == "upsert")
        .select("record_id", "content_hash", "extracted_at")
    )


def parse_log_file(path: "Location") -> LogFile:
    """Return the batches that a file of the change log holds, by its name."""
    _, stem = label_and_rest(path.stem)
    first, _, last = stem.partition("-")
    return LogFile(int(first), int(last or first), path)


def ordered_log_files(files: Sequence[LogFile]) -> list[LogFile]:
    """Return the files of one shard's log in order, without those whose batches another one has.

    What a file holds counts, not the range in its name: a file of a batch that was restored is
    needed beside a compacted one that was made without it.
    """
    needed: list[LogFile] = []
    for file in sorted(files, key=lambda file: (file.first, -file.last)):
        beside = [one for one in needed if one.first <= file.last and file.first <= one.last]
        if not beside:
            needed.append(file)
            continue
        try:
            held = batches_in(file.path)
        except FileNotFoundError:
            continue  # A compaction that is under way has removed it.
        also = set().union(*(batches_in(one.path) for one in beside))
        if held <= also:
            continue
        if held & also:
            others = ", ".join(repr(str(one.path)) for one in beside)
            raise DataError(
                f"The file {str(file.path)!r} of the change log holds some batches that {others} "
                "holds too, and others that it does not: both cannot count. Move one of them "
                "away, and put back the files that it was compacted from."
            )
        needed.append(file)
    return needed


def record_ids(ids: Iterable[str]) -> pl.DataFrame:
    """Return record ids as the one-column frame that joins expect.

    They are gathered some at a time: a million take a tenth of what Python's objects take.
    """
    iterator = iter(ids)
    portions = [pl.DataFrame(schema={"record_id": pl.String})]
    while some := list(islice(iterator, _GATHERED_IDS)):
        portions.append(pl.DataFrame({"record_id": some}, schema={"record_id": pl.String}))
    return pl.concat(portions)
