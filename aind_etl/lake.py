"""The lake: partitioned parquet that anything can read, and the state of each collection.

Here belong the layout of the files, the change log, the merge of new rows into partitions and
the state files. What the rows mean does not belong here, nor how they are made.

Layout, below the lake's folder::

    documents/collection=<name>/<batch>.parquet                        the change log
    documents/collection=<name>/<first batch>-<last batch>.parquet     the same, compacted
    <table>/collection=<name>/session_month=<YYYY-MM>/part.parquet     one live file a partition
    rejected_documents/collection=<name>/part.parquet
    sessions/part.parquet                                              a table in one file
    _state/  _staging/  _locks/                                        not for readers

Names of collections are percent-encoded in paths, so that no name can lead out of the lake.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from aind_etl.contract import Partitioning, Table, tables
from aind_etl.contract.schemas import arrow_schema, polars_schema, with_further_columns
from aind_etl.encoding import writer_options
from aind_etl.errors import DataError
from aind_etl.storage import open_storage

if TYPE_CHECKING:
    from aind_etl.storage import Location

UNKNOWN_MONTH = "unknown"
"""The month of rows without a session date."""

LIVENESS_COLUMNS = ("record_id", "content_hash", "operation", "batch_id", "extracted_at")
"""The columns of the change log that tell which documents are live; not the documents."""

_STATE = "_state"
_PART = "part.parquet"
# Small enough that a query by subject or date skips most of a partition, large enough to
# compress well.
_ROW_GROUP_ROWS = 32_768
# Longer than the largest collection takes to be replaced, or the warehouse to be loaded.
_TABLES_WAIT_SECONDS = 1800
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


class CollectionState(BaseModel):
    """How far a collection was read and flattened; written after the data it speaks of.

    Losing it costs time, never data: everything is then compared, or flattened, anew.
    """

    model_config = ConfigDict(extra="ignore")

    collection: str
    source: str = ""
    fingerprint: str = ""
    first_pass_ended_at: datetime | None = None
    last_new_pass_at: datetime | None = None
    last_full_pass_at: datetime | None = None
    flattened_through: int = 0
    flattener: str = ""
    results_listed_at: datetime | None = None
    results_searched_through: int = 0
    results_reader: str = ""


class Lake:
    """The lake below one folder, or below one prefix of an object store.

    Parameters
    ----------
    root
        The folder, which is made when something is first written, or ``s3://bucket/prefix``.
    """

    def __init__(self, root: "Location | str") -> None:
        self.storage = open_storage(root)

    def __str__(self) -> str:
        """Return where the lake lies."""
        return str(self.storage.root)

    # --- reading --------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Return the names of the collections that were ever extracted, sorted."""
        states = {
            unquote(name.removeprefix(f"{_STATE}/collection=").removesuffix(".json"))
            for name in self.storage.files(_STATE, ".json")
        }
        return sorted(states.union(self._logged()))

    def files(self, table: Table, collection: str | None = None) -> list["Location"]:
        """Return the files of a table, or of one collection's part of it."""
        if table is tables.DOCUMENTS:
            collections = self._logged() if collection is None else [collection]
            return [file.path for name in collections for file in self.log_files(name)]
        folder = table.name if collection is None else _folder(table, collection)
        return [self.storage.path(name) for name in self.storage.files(folder, ".parquet")]

    def scan(self, table: Table, collection: str | None = None) -> pl.LazyFrame:
        """Return the rows of a table, or of one collection's part of it, lazily."""
        files = self.files(table, collection)
        if not files:
            return pl.LazyFrame(schema=polars_schema(table))
        return _scan(files, table)

    def count_rows(self, table: Table, collection: str | None = None) -> int:
        """Return the rows of a table, or of one collection's part, from the files' own counts.

        Raises
        ------
        DataError
            A file is damaged.
        """
        reading = _reading_log if table is tables.DOCUMENTS else _reading_table
        rows = 0
        for path in self.files(table, collection):
            with reading(path):
                rows += read_metadata(path).num_rows
        return rows

    def as_written(self, table: Table) -> Table:
        """Return a table with the columns its file has, where further columns are data."""
        if not table.has_further_columns or not self.storage.exists(_whole(table)):
            return table
        return with_further_columns(table, _read_schema(self.storage.path(_whole(table))))

    def facts(self, table: Table) -> dict[str, str]:
        """Return what was written about the file of a table that lies in one file."""
        if not self.storage.exists(_whole(table)):
            return {}
        schema = _read_schema(self.storage.path(_whole(table)))
        return {
            key.decode(): value.decode()
            for key, value in (schema.metadata or {}).items()
            if key != b"ARROW:schema"
        }

    def months(self, table: Table, collection: str) -> list[str]:
        """Return the session months of a collection's partitions of a table, sorted."""
        names = self.storage.files(_folder(table, collection), f"/{_PART}")
        return sorted({_month_of(name) for name in names})

    def read_partition(
        self, table: Table, collection: str, month: str | None = None
    ) -> pl.DataFrame:
        """Return one partition of a table; empty where there is none."""
        name = _partition(table, collection, month)
        if not self.storage.exists(name):
            return pl.DataFrame(schema=polars_schema(table))
        path = self.storage.path(name)
        return _collect(_scan([path], table), path)

    def holds_any(self, table: Table, collection: str, month: str, records: pl.DataFrame) -> bool:
        """Return whether a partition has rows of any of ``records`` (column ``record_id``)."""
        path = self.storage.path(_partition(table, collection, month))
        found = _collect(_scan([path], table).select("record_id").unique(), path)
        return not found.join(records, on="record_id", how="semi").is_empty()

    @staticmethod
    def encoded(collection: str) -> str:
        """Return a collection's name as paths carry it."""
        return _encode(collection)

    # --- the change log -------------------------------------------------------------------

    def last_batch(self, collection: str) -> int:
        """Return the number of the newest batch of a collection; 0 where there is none."""
        return max((file.last for file in self.log_files(collection)), default=0)

    def append_batch(self, collection: str, versions: pl.DataFrame) -> int:
        """Append a batch of versions to the change log; it appears whole or not at all.

        Parameters
        ----------
        collection
            The collection.
        versions
            Columns ``record_id``, ``document``, ``content_hash``, ``operation`` and
            ``extracted_at``.

        Returns
        -------
        int
            The batch's number.
        """
        batch = self.last_batch(collection) + 1
        rows = versions.with_columns(
            source_collection=pl.lit(collection), batch_id=pl.lit(batch, pl.Int64)
        )
        # Two writers that both escaped the lock must not both have the same number.
        name = log_file_name(collection, batch, batch)
        self.write_rows(name, tables.DOCUMENTS, [rows], replace=False)
        return batch

    def versions(self, collection: str, after: int = 0) -> pl.LazyFrame:
        """Return a collection's change log, lazily: every version later than batch ``after``."""
        files = [file for file in self.log_files(collection) if file.last > after]
        if not files:
            return pl.LazyFrame(schema=polars_schema(tables.DOCUMENTS))
        versions = _scan([file.path for file in files], tables.DOCUMENTS)
        # Only a compacted file can hold earlier ones besides.
        is_mixed = any(file.first <= after for file in files)
        return versions.filter(pl.col("batch_id") > after) if is_mixed else versions

    def read_batches(self, collection: str, after: int = 0) -> Iterator[pl.DataFrame]:
        """Yield the versions later than batch ``after``, file by file, the oldest first."""
        for file in self.log_files(collection):
            if file.last > after:
                for versions in read_log_file(file.path):
                    yield versions.filter(pl.col("batch_id") > after)

    def live_documents(self, collection: str) -> pl.DataFrame:
        """Return what the source held when it was last read, without the documents themselves.

        Returns
        -------
        polars.DataFrame
            Columns ``record_id``, ``content_hash`` and ``extracted_at``, one row a live document.
        """
        return live_of(self.versions(collection).select(LIVENESS_COLUMNS).collect())

    def log_files(self, collection: str) -> list[LogFile]:
        """Return the files of a collection's change log, in order: every batch is in one of them.

        A file whose batches are in a compacted one as well is left out: a compaction was
        interrupted before it removed it, or is under way.
        """
        folder = _folder(tables.DOCUMENTS, collection)
        found = sorted(
            (_log_file(self.storage.path(name)) for name in self.storage.files(folder, ".parquet")),
            key=lambda file: (file.first, -file.last),
        )
        files: list[LogFile] = []
        for file in found:
            if not files or file.last > files[-1].last:
                files.append(file)
        return files

    def superseded_log_files(self, collection: str) -> list[str]:
        """Return the names of files of which every batch is in another file of the log too."""
        names = self.storage.files(_folder(tables.DOCUMENTS, collection), ".parquet")
        needed = {file.path for file in self.log_files(collection)}
        return [name for name in names if self.storage.path(name) not in needed]

    def _logged(self) -> list[str]:
        """Return the names of the collections that have a change log, sorted."""
        names = self.storage.files(tables.DOCUMENTS.name, ".parquet")
        folders = {name.split("/")[1] for name in names}
        return sorted(unquote(folder.removeprefix("collection=")) for folder in folders)

    # --- writing --------------------------------------------------------------------------

    def replace_rows(
        self,
        table: Table,
        collection: str,
        month: str | None,
        *,
        without: pl.DataFrame | None,
        rows: pl.DataFrame,
    ) -> bool:
        """Replace some records' rows in one partition, which is replaced whole.

        Parameters
        ----------
        table, collection, month
            The partition; no month where the table has none.
        without
            Column ``record_id``: the records whose present rows go; None for all.
        rows
            The rows that come.

        Returns
        -------
        bool
            Whether a file was written or removed.
        """
        merged = rows.select(polars_schema(table).names())
        if without is not None:
            present = self.read_partition(table, collection, month)
            merged = pl.concat([present.join(without, on="record_id", how="anti"), merged])
        name = _partition(table, collection, month)
        if merged.is_empty():
            return self.storage.remove(name)
        return self._write(name, table, merged.sort(table.key))

    def replace_whole(self, table: Table, rows: pl.DataFrame, facts: Mapping[str, str]) -> bool:
        """Replace a table that lies in one file.

        Parameters
        ----------
        table
            The table, with every column of the rows.
        rows
            Its rows.
        facts
            What to write about the file, to be had from :meth:`facts`.

        Returns
        -------
        bool
            Whether a file was written.
        """
        return self._write(_whole(table), table, rows.sort(table.key), facts)

    def _write(
        self, name: str, table: Table, rows: pl.DataFrame, facts: Mapping[str, str] | None = None
    ) -> bool:
        return self.write_rows(name, table, [rows], facts)

    def write_rows(
        self,
        name: str,
        table: Table,
        portions: Iterable[pl.DataFrame],
        facts: Mapping[str, str] | None = None,
        *,
        replace: bool = True,
    ) -> bool:
        """Write a table's file from portions of its rows, of which each is held only once.

        Parameters
        ----------
        name
            The file's name in the lake.
        table
            Whose columns it has.
        portions
            Its rows.
        facts
            What to write about the file.
        replace
            Whether the file may be there already.

        Returns
        -------
        bool
            Whether it was written; a file that stands there already is left alone.
        """
        schema = arrow_schema(table)
        if facts is not None:
            schema = schema.with_metadata(dict(facts))

        def write_parquet(file: BinaryIO) -> None:
            remaining = iter(portions)
            first = next(remaining, pl.DataFrame(schema=polars_schema(table)))
            options = writer_options(first, schema)
            every = chain([first], remaining)
            del first
            with pq.ParquetWriter(
                file,
                schema,
                # Readers of every age understand this version's types and pages.
                version="2.6",
                data_page_version="1.0",
                **options,
            ) as writer:
                for rows in every:
                    # A row group at a time: arrow's form of it, and parquet's, are copies.
                    for group in rows.select(schema.names).iter_slices(_ROW_GROUP_ROWS):
                        writer.write_table(group.to_arrow().cast(schema))

        return self.storage.write(name, write_parquet, replace=replace)

    # --- state ----------------------------------------------------------------------------

    def state(self, collection: str) -> CollectionState:
        """Return a collection's state; a fresh one where it is missing or cannot be read."""
        return _state_of(collection, self.storage.read(_state_name(collection)))

    def update_state(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's state."""

        def change(content: bytes | None) -> bytes:
            state = _state_of(collection, content).model_copy(update=dict(changes))
            return json.dumps(state.model_dump(mode="json"), indent=1).encode()

        self.storage.update(_state_name(collection), change)

    def raw_hashes_name(self, collection: str) -> str:
        """Return the name of the file that says what the bytes of a collection's documents were."""
        return f"{_STATE}/collection={_encode(collection)}.raw-hashes.parquet"

    def lock(self, collection: str) -> AbstractContextManager[None]:
        """Hold the right to write a collection."""
        return self.storage.lock(
            f"collection={_encode(collection)}", f"the collection {collection!r} of {self}"
        )

    def tables_lock(self, collection: str) -> AbstractContextManager[None]:
        """Hold still the tables made of a collection's change log; wait until they stand still.

        Whoever replaces rows of several of them holds it meanwhile, and so does whoever reads
        them all together.
        """
        return self.storage.lock(
            f"tables-of={_encode(collection)}",
            f"the tables of the collection {collection!r} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )

    def whole_lock(self, table: Table) -> AbstractContextManager[None]:
        """Hold still a table that lies in one file; wait until it stands still."""
        return self.storage.lock(
            f"table={table.name}",
            f"the table {table.name!r} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )


class Spill:
    """Rows of many tables, gathered batch by batch and given back partition by partition.

    Rows beyond a budget wait on the disk, so that memory is bounded by the budget and by the
    largest partition, never by the collection.

    Parameters
    ----------
    folder
        An empty folder for what does not fit.
    budget_bytes
        Size of the rows kept in memory.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget = budget_bytes
        self._held: list[tuple[Table, pl.DataFrame]] = []
        self._held_bytes = 0
        self._files: dict[tuple[str, str], list[Path]] = {}

    def add(self, table: Table, rows: pl.DataFrame) -> None:
        """Take rows with the table's columns and ``session_month``."""
        if rows.is_empty():
            return
        self._held.append((table, rows))
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self._budget:
            self._flush()

    def months(self, table: Table) -> list[str]:
        """Return the session months for which there are rows of a table, sorted."""
        spilled = {month for name, month in self._files if name == table.name}
        held = {
            month
            for other, rows in self._held
            if other is table
            for month in rows["session_month"].unique()
        }
        return sorted(spilled | held)

    def rows(self, table: Table, month: str) -> pl.DataFrame:
        """Return the rows of one partition of a table."""
        spilled = [pl.read_ipc(path) for path in self._files.get((table.name, month), ())]
        held = [
            rows.filter(pl.col("session_month") == month).drop("session_month")
            for other, rows in self._held
            if other is table
        ]
        return pl.concat([pl.DataFrame(schema=polars_schema(table)), *spilled, *held])

    def _flush(self) -> None:
        for number, (table, rows) in enumerate(self._held):
            parts = rows.partition_by("session_month", as_dict=True, include_key=False)
            for (month,), part in parts.items():
                files = self._files.setdefault((table.name, str(month)), [])
                path = self._folder / f"{table.name}-{month}-{number}-{len(files)}.arrow"
                part.write_ipc(path, compression="lz4")
                files.append(path)
        self._held.clear()
        self._held_bytes = 0


def _scan(files: Sequence["Location"], table: Table) -> pl.LazyFrame:
    """Scan files of a table that may have been written under an older contract."""
    return pl.scan_parquet(
        [str(file) for file in files],
        schema=polars_schema(table),
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
    )


def read_metadata(path: "Location") -> pq.FileMetaData:
    """Return what a parquet file says about itself."""
    with path.open("rb") as file:
        return pq.read_metadata(file)


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
    with _reading_log(path), path.open("rb") as file, pq.ParquetFile(file) as log:
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


@contextmanager
def _reading_log(path: "Location") -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise DataError(
            f"The file {str(path)!r} of the change log is damaged ({str(error).splitlines()[0]}). "
            "Fetch it from a backup; or remove it, and run a full pass: what the source still "
            "holds is read anew, and only the file's older versions are lost."
        ) from None


def live_of(versions: pl.DataFrame) -> pl.DataFrame:
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


def log_file_name(collection: str, first: int, last: int) -> str:
    """Return the name, in the lake, of a file of the change log."""
    stem = f"{first:010d}" if first == last else f"{first:010d}-{last:010d}"
    return f"{_folder(tables.DOCUMENTS, collection)}/{stem}.parquet"


def _log_file(path: "Location") -> LogFile:
    first, _, last = path.stem.partition("-")
    return LogFile(int(first), int(last or first), path)


def _collect(rows: pl.LazyFrame, path: "Location") -> pl.DataFrame:
    """Read a partition.

    Raises
    ------
    DataError
        The file is damaged.
    """
    with _reading_table(path):
        return rows.collect()


@contextmanager
def _reading_table(path: "Location") -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"The file {str(path)!r} is damaged ({str(error).splitlines()[0]}). 'aind-etl rebuild' "
            "makes the tables anew from the change log."
        ) from None


def _encode(name: str) -> str:
    return quote(name, safe="")


def _folder(table: Table, collection: str) -> str:
    return f"{table.name}/collection={_encode(collection)}"


def _partition(table: Table, collection: str, month: str | None) -> str:
    folder = _folder(table, collection)
    if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
        folder += f"/session_month={_encode(month or UNKNOWN_MONTH)}"
    return f"{folder}/{_PART}"


def _whole(table: Table) -> str:
    return f"{table.name}/{_PART}"


def _read_schema(path: "Location") -> pa.Schema:
    """Return the schema of a file.

    Raises
    ------
    DataError
        The file is damaged.
    """
    try:
        return read_metadata(path).schema.to_arrow_schema()
    except pa.ArrowException as error:
        raise DataError(
            f"The file {str(path)!r} is damaged ({str(error).splitlines()[0]}). Remove it; the "
            "next run writes it anew."
        ) from None


def _month_of(name: str) -> str:
    return unquote(name.rsplit("/session_month=", 1)[1].split("/", 1)[0])


def _state_name(collection: str) -> str:
    return f"{_STATE}/collection={_encode(collection)}.json"


def _state_of(collection: str, content: bytes | None) -> CollectionState:
    if content is not None:
        try:
            return CollectionState.model_validate_json(content)
        except ValidationError:
            pass  # Written by hand or by a later version: what it said is found out anew.
    return CollectionState(collection=collection)


def record_ids(ids: Iterable[str]) -> pl.DataFrame:
    """Return record ids as the one-column frame that joins expect.

    They are gathered some at a time: a million take a tenth of what Python's objects take.
    """
    iterator = iter(ids)
    portions = [pl.DataFrame(schema={"record_id": pl.String})]
    while some := list(islice(iterator, _GATHERED_IDS)):
        portions.append(pl.DataFrame({"record_id": some}, schema={"record_id": pl.String}))
    return pl.concat(portions)
