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

A collection that is divided into parts has such files for each part in the same folders, with the
part's label in their names (``3-of-8-<batch>.parquet``, ``part-3-of-8.parquet``): its tables look
the same to readers. A state file says how many parts there are; only files with those labels count.

Names of collections are percent-encoded in paths, so that no name can lead out of the lake.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from copy import copy
from datetime import UTC, datetime
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, get_args
from urllib.parse import quote, unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aind_etl.contract import FLATTENED_TABLES, TABLES, Partitioning, Table, tables
from aind_etl.contract.schemas import arrow_schema, polars_schema, with_further_columns
from aind_etl.encoding import writer_options
from aind_etl.errors import DamagedTableError, DataError
from aind_etl.shards import MOST_SHARDS, WHOLE, Part, Shard, parts
from aind_etl.storage import open_storage

if TYPE_CHECKING:
    from aind_etl.storage import Location

UNKNOWN_MONTH = "unknown"
"""The month of rows without a session date."""

Scratch = Literal["extract", "recognise", "refresh"]
"""What a run takes scratch space for."""

LIVENESS_COLUMNS = ("record_id", "content_hash", "operation", "batch_id", "extracted_at")
"""The columns of the change log that tell which documents are live; not the documents."""

_STATE = "_state"
# With what is put before and after it, no file system has a longer one.
_LONGEST_NAME = 180
_KEPT_OF_NAME = 100
_CUT_NAME = re.compile(r".{100}~[0-9a-f]{64}")
_PART = "part.parquet"
_SOURCE_HEALTH = f"{_STATE}/source.health"
# Files of tables, and of the change log: others may lie beside them.
_OWN_NAME = re.compile(r"(part(-\d+-of-\d+)?|(\d+-of-\d+-)?\d{10,}(-\d{10,})?)\.parquet")
# No table has a column of this name.
_FILE_COLUMN = "_file"
# Small enough that a query by subject or date skips most of a partition, large enough to
# compress well.
_ROW_GROUP_ROWS = 32_768
# Longer than the largest collection takes to be replaced, or the warehouse to be loaded.
_TABLES_WAIT_SECONDS = 1800
_LAYOUT_WAIT_SECONDS = 60
_RAW_HASHES = ".raw-hashes"
_GATHERED_IDS = 50_000
# How many files are asked at a time how many rows they have: each is a request to a store.
_COUNTED_FILES = 8
# What a file says of itself stands at its end, and is rarely larger.
_END_BYTES = 64 << 10
_LABEL_PIECES = 3
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class DividedMeanwhileError(DataError):
    """A collection has other parts than it had a moment ago."""


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
    table_sizes: dict[str, int] | None = None
    log_gaps: tuple[str, ...] | None = None
    results_listed_at: datetime | None = None
    results_searched_through: int = 0
    results_reader: str = ""


class SourceHealth(BaseModel):
    """Whether the source can be read, as the sensor found it.

    Attributes
    ----------
    reached_at
        When it last answered.
    failing_since
        Since when it has not; None where it answers.
    error
        Why not.
    is_alerted
        Whether people were told that it cannot be read, and not yet that it can again.
    """

    reached_at: datetime | None = None
    failing_since: datetime | None = None
    error: str = ""
    is_alerted: bool = False


class Layout(BaseModel):
    """How many parts a collection has.

    Attributes
    ----------
    parts
        How many parts its files lie in.
    planned_parts
        How many they are to lie in; the first pass over one of those divides them anew.
    is_to_be_cleared
        Whether files of the layout before may still lie about.
    """

    model_config = ConfigDict(extra="ignore")

    parts: int = Field(default=1, ge=1, le=MOST_SHARDS)
    planned_parts: int = Field(default=1, ge=1, le=MOST_SHARDS)
    is_to_be_cleared: bool = False


class Lake:
    """The lake below one folder, or below one prefix of an object store.

    A lake seen whole reads all of every collection, and writes collections that are not divided.
    Seen for one part (:meth:`of_part`) it reads and writes the files and the state of that part of
    a collection, and everything else works on it as it does on an undivided collection.

    Parameters
    ----------
    root
        The folder, which is made when something is first written, or ``s3://bucket/prefix``.
    part
        Which part of a collection is seen.
    """

    def __init__(self, root: "Location | str", part: Part = WHOLE) -> None:
        self.storage = open_storage(root)
        self.part = part

    def __str__(self) -> str:
        """Return where the lake lies."""
        return str(self.storage.root)

    # --- reading --------------------------------------------------------------------------

    def collections(self) -> list[str]:
        """Return the names of the collections that were ever extracted, sorted."""
        prefix = f"{_STATE}/collection="
        states = self._decode(
            name.removeprefix(prefix).removesuffix(".json")
            for name in self.storage.files(_STATE, ".json")
            if name.startswith(prefix)
        )
        return sorted(states.union(self._logged()))

    def layout(self, collection: str) -> Layout:
        """Return how many parts a collection has; one where nothing else is known."""
        layout = self._written_layout(collection)
        if layout is None:
            of = self._parts_found(collection, self._names(_log(collection)))
            layout = Layout(parts=of, planned_parts=of)
        return layout

    def parts(self, collection: str) -> list["Lake"]:
        """Return the lake as seen for each part of a collection; itself where that has but one."""
        of = self.layout(collection).parts
        return [self.of_part(part) for part in parts(of)]

    def of_part(self, part: Part) -> "Lake":
        """Return the lake as seen for a part of a collection."""
        return self if part == self.part else self._seen_for(part)

    @property
    def whole(self) -> "Lake":
        """The lake seen whole."""
        return self.of_part(WHOLE)

    def name_of(self, collection: str) -> str:
        """Return a collection's name for people, with the part if it is seen for one."""
        return collection if self.part == WHOLE else f"{collection}/{self.part.label}"

    def _seen_for(self, part: Part) -> "Lake":
        seen = copy(self)
        seen.part = part
        return seen

    def files(self, table: Table, collection: str | None = None) -> list["Location"]:
        """Return the files of a table, or of one collection's part of it."""
        if table is tables.DOCUMENTS:
            collections = self._logged() if collection is None else [collection]
            return [file.path for name in collections for file in self.log_files(name)]
        folder = table.name if collection is None else _folder(table, collection)
        names = self._that_count(self._names(folder))
        return [self.storage.path(name) for name in names]

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
        return sum(self.rows_by_file(table, collection).values())

    def rows_by_file(self, table: Table, collection: str | None = None) -> dict["Location", int]:
        """Return the rows of each of :meth:`files`, from the files' own counts.

        Raises
        ------
        DataError
            A file is damaged.
        """
        reading = _reading_log if table is tables.DOCUMENTS else _reading_table

        def count(path: "Location") -> int:
            with reading(path):
                return int(read_metadata(path).num_rows)

        files = self.files(table, collection)
        with ThreadPoolExecutor(_COUNTED_FILES, thread_name_prefix="rows") as pool:
            return dict(zip(files, pool.map(count, files), strict=True))

    def size_bytes(self, table: Table, collection: str) -> int:
        """Return the bytes of the files of one collection's part of a table."""
        that_count = set(self.files(table, collection))
        sizes = self.storage.sizes(_folder(table, collection), ".parquet")
        return sum(size for name, size in sizes.items() if self.storage.path(name) in that_count)

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
        names = self._that_count(self._names(_folder(table, collection)))
        return sorted({_month_of(name) for name in names})

    def scan_month(self, table: Table, collection: str, month: str) -> pl.LazyFrame:
        """Return the rows of a table that are filed under a month, lazily."""
        names = self._that_count(self._names(_folder(table, collection)))
        return _scan([self.storage.path(name) for name in names if _month_of(name) == month], table)

    def read_partition(
        self, table: Table, collection: str, month: str | None = None
    ) -> pl.DataFrame:
        """Return one partition of a table, for this part; empty where there is none."""
        name = self.partition(table, collection, month)
        if not self.storage.exists(name):
            return pl.DataFrame(schema=polars_schema(table))
        path = self.storage.path(name)
        return _collect(_scan([path], table), path)

    def months_holding(self, table: Table, collection: str, records: pl.DataFrame) -> set[str]:
        """Return the session months of the partitions that have rows of any of ``records``.

        Parameters
        ----------
        table, collection
            Whose partitions are looked through.
        records
            Column ``record_id``.

        Raises
        ------
        DataError
            A file is damaged.
        """
        files = self.files(table, collection)
        if not files:
            return set()
        # One question for all of them: a partition each would cost more than what is read.
        found = (
            _scan(files, table, path_column=_FILE_COLUMN)
            .filter(pl.col("record_id").is_in(records["record_id"].implode()))
            .select(_FILE_COLUMN)
            .unique()
        )
        try:
            names = found.collect()[_FILE_COLUMN].to_list()
        except (pa.ArrowException, pl.exceptions.PolarsError):
            # Which of them is damaged is found out by asking each.
            for path in files:
                _collect(_scan([path], table).select("record_id"), path)
            raise
        return {_month_of(name) for name in names}

    @staticmethod
    def encoded(collection: str) -> str:
        """Return a collection's name as paths carry it."""
        return _encode(collection)

    def partition(self, table: Table, collection: str, month: str | None = None) -> str:
        """Return the name of the file of one partition of a table, for this part."""
        folder = _folder(table, collection)
        if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
            folder += f"/session_month={_encode(month or UNKNOWN_MONTH)}"
        return f"{folder}/{_PART if self.part == WHOLE else f'part-{self.part.label}.parquet'}"

    def names_by_parts(self, collection: str) -> dict[int, list[str]]:
        """Return the names of all files of a collection, by how many parts they are one of."""
        encoded = _encode(collection)
        found: dict[int, list[str]] = {1: []}
        for table in TABLES:
            if table.partitioning not in {Partitioning.WHOLE, Partitioning.WAREHOUSE_ONLY}:
                for name in self._names(_folder(table, collection)):
                    found.setdefault(_part_of(name).of, []).append(name)
        for name in self.storage.files(f"{_STATE}/parts-of={encoded}", ""):
            part = Part.from_label(name.rsplit("/", 1)[-1].partition(".")[0])
            found.setdefault(part.of if part else 0, []).append(name)
        of_whole = (self.whole.state_name(collection), self.whole.raw_hashes_name(collection))
        found[1].extend(filter(self.storage.exists, of_whole))
        return found

    def _names(self, folder: str) -> list[str]:
        """Return the names of the tables' files below a folder, without what others put there."""
        names = self.storage.files(folder, ".parquet")
        return [name for name in names if _OWN_NAME.fullmatch(name.rsplit("/", 1)[-1])]

    def foreign_files(self, collection: str) -> list[str]:
        """Return the names of parquet files among a collection's that no table consists of."""
        return [
            name
            for table in TABLES
            if table.partitioning not in {Partitioning.WHOLE, Partitioning.WAREHOUSE_ONLY}
            for name in self.storage.files(_folder(table, collection), ".parquet")
            if not _OWN_NAME.fullmatch(name.rsplit("/", 1)[-1])
        ]

    def table_sizes(self, collection: str) -> dict[str, int]:
        """Return the bytes of the files that a collection is flattened to, for this part."""
        return {
            name: size
            for table in FLATTENED_TABLES
            for folder in [_folder(table, collection)]
            for name, size in self.storage.sizes(folder, ".parquet").items()
            if _OWN_NAME.fullmatch(name.rsplit("/", 1)[-1]) and _part_of(name) == self.part
        }

    def _that_count(self, names: Sequence[str]) -> list[str]:
        """Return those names of files that are of this part; or, of the whole, of any part.

        Others are there while a collection is being divided anew, or where that was interrupted.
        """
        if self.part != WHOLE:
            return [name for name in names if _part_of(name) == self.part]
        if all(_part_of(name) == WHOLE for name in names):
            return list(names)
        of = {
            one: self.layout(collection).parts
            for one in set(map(_collection_of, names))
            for collection in self._decode([one])
        }
        return [name for name in names if _part_of(name).of == of.get(_collection_of(name))]

    def _written_layout(self, collection: str) -> Layout | None:
        return _layout_of(self.storage.read(_layout_name(collection)))

    def _parts_found(self, collection: str, names: Sequence[str]) -> int:
        """Return how many parts the files of a change log are of.

        Raises
        ------
        DataError
            They are of several layouts.
        """
        found = {_part_of(name).of for name in names} or {1}
        if len(found) > 1:
            raise DataError(
                f"The change log of the collection {collection!r} of {self} has files of "
                f"{' and of '.join(map(str, sorted(found)))} parts, and which of them count is not "
                f"known: {_layout_name(collection)} is missing or damaged. Fetch it from a backup, "
                'or write {"parts": …} into it with the number of those that are complete.'
            )
        return found.pop()

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
        name = self.log_file_name(collection, batch, batch)
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
        with self.naming_damage(collection):
            return live_of(self.versions(collection).select(LIVENESS_COLUMNS).collect())

    @contextmanager
    def naming_damage(self, collection: str) -> Iterator[None]:
        """Read :meth:`versions` in a ``with`` block whose error names the file that is damaged.

        Raises
        ------
        DataError
            A file of the change log is damaged.
        """
        try:
            yield
        except (pa.ArrowException, pl.exceptions.PolarsError):
            for file in self.log_files(collection):
                for _ in read_log_file(file.path):
                    pass
            raise

    def log_files(self, collection: str) -> list[LogFile]:
        """Return the files of a collection's change log, in order: every batch is in one of them.

        A file whose batches are all in a compacted one as well is left out: a compaction was
        interrupted before it removed it, or is under way.

        Raises
        ------
        DataError
            Two files hold some of the same batches, and neither holds all of the other's; or a
            file that must be looked into is damaged.
        """
        names = self._that_count(self._names(_log(collection)))
        of_part: dict[Part, list[LogFile]] = {}
        for name in names:
            of_part.setdefault(_part_of(name), []).append(_log_file(self.storage.path(name)))
        return [file for part in sorted(of_part) for file in _in_order(of_part[part])]

    def log_file_name(self, collection: str, first: int, last: int) -> str:
        """Return the name of a file of the change log, for this part."""
        stem = f"{first:010d}" if first == last else f"{first:010d}-{last:010d}"
        label = "" if self.part == WHOLE else f"{self.part.label}-"
        return f"{_log(collection)}/{label}{stem}.parquet"

    def superseded_log_files(self, collection: str) -> dict[str, LogFile]:
        """Return files of which every batch is in another file of the log too, and that file."""
        names = self._that_count(self._names(_log(collection)))
        needed = self.log_files(collection)
        paths = {file.path for file in needed}
        superseded = {}
        for name in names:
            path = self.storage.path(name)
            if path not in paths:
                file = _log_file(path)
                for one in needed:
                    if (
                        _part_of(one.path.name) == _part_of(name)
                        and one.first <= file.first <= file.last <= one.last
                    ):
                        superseded[name] = one
        return superseded

    def log_gaps(self, collection: str) -> tuple[str, ...]:
        """Return what is unusual about the numbers of a part's log, by the names of its files.

        It changes when a file in the middle of the log is removed or restored.
        """
        gaps = []
        last = 0
        for file in self.log_files(collection):
            if file.first > last + 1:
                gaps.append(f"{last + 1}-{file.first - 1} missing")
            if file.last <= last:
                gaps.append(f"{file.first}-{file.last} restored")
            last = max(last, file.last)
        return tuple(gaps)

    def missing_batches(self, collection: str) -> list[int]:
        """Return the numbers of batches that no file of a collection's change log holds.

        None for a collection in parts: a part has no file of a batch that brought it nothing.
        """
        files = self.log_files(collection)
        if any(_part_of(file.path.name) != WHOLE for file in files):
            return []
        held: set[int] = set()
        for file in files:
            held |= {file.first} if file.first == file.last else batches_in(file.path)
        return sorted(set(range(1, max(held, default=0) + 1)) - held)

    def _logged(self) -> list[str]:
        """Return the names of the collections that have a change log, sorted."""
        names = self._names(tables.DOCUMENTS.name)
        folders = {name.split("/")[1] for name in names}
        return sorted(self._decode(folder.removeprefix("collection=") for folder in folders))

    def _decode(self, names: Iterable[str]) -> set[str]:
        """Return the collections whose files have these names.

        What was cut stands in the collection's state; one without a state was never read to its
        end, and is read again.
        """
        found = set()
        for name in names:
            if not _CUT_NAME.fullmatch(name):
                found.add(unquote(name))
                continue
            states = [
                f"{_STATE}/collection={name}.json",
                *self.storage.files(f"{_STATE}/parts-of={name}", ".json"),
            ]
            known = {_state_of("", self.storage.read(state)).collection for state in states}
            found |= known - {""}
        return found

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
        name = self.partition(table, collection, month)
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
        """Return a collection's state; a fresh one where it is missing or cannot be read.

        That of all parts together says of each thing only what holds of every part.
        """
        if self.part == WHOLE:
            layout = self._written_layout(collection)
            if layout is not None and layout.parts > 1:
                every = [self.of_part(part).state(collection) for part in parts(layout.parts)]
                return together(collection, every)
        return _state_of(collection, self.storage.read(self.state_name(collection)))

    def state_name(self, collection: str) -> str:
        """Return the name of the file of a collection's state, for this part."""
        if self.part == WHOLE:
            return f"{_STATE}/collection={_encode(collection)}.json"
        return f"{_STATE}/parts-of={_encode(collection)}/{self.part.label}.json"

    def update_state(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's state."""

        def change(content: bytes | None) -> bytes:
            state = _state_of(collection, content).model_copy(update=dict(changes))
            return json.dumps(state.model_dump(mode="json"), indent=1).encode()

        self.storage.update(self.state_name(collection), change)

    def source_health(self) -> SourceHealth:
        """Return whether the source can be read."""
        content = self.storage.read(_SOURCE_HEALTH)
        try:
            return SourceHealth.model_validate_json(content or b"{}")
        except ValidationError:
            return SourceHealth()

    def update_source_health(self, changes: Mapping[str, Any]) -> None:
        """Write changed fields of the source's health."""
        health = self.source_health().model_copy(update=dict(changes))
        self.storage.update(_SOURCE_HEALTH, lambda _: health.model_dump_json().encode())

    def raw_hashes_name(self, collection: str) -> str:
        """Return the name of the file that says what the bytes of a collection's documents were."""
        return self.state_name(collection).removesuffix(".json") + _RAW_HASHES

    def update_layout(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's layout; only files of its parts count then."""
        name = _layout_name(collection)
        with self.storage.lock(
            f"layout-of={_encode(collection)}",
            f"how the collection {collection!r} of {self} is divided",
            wait_seconds=_LAYOUT_WAIT_SECONDS,
        ):
            present = self.layout(collection)

            def change(content: bytes | None) -> bytes:
                layout = (_layout_of(content) or present).model_copy(update=dict(changes))
                return json.dumps(layout.model_dump(), indent=1).encode()

            self.storage.update(name, change)

    @contextmanager
    def lock(self, collection: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the right to write a collection, or this part of it.

        Raises
        ------
        DataError
            Another process holds it.
        DividedMeanwhileError
            The collection has other parts than this by now.
        """
        with self.storage.lock(
            f"collection={self._lock_name(collection)}",
            f"the collection {collection!r}{self._which} of {self}",
            wait_seconds=wait_seconds,
        ):
            layout = self._written_layout(collection)
            if layout is None:
                # Whoever sees it whole asks whether there are parts; nobody else need pay for it.
                layout = Layout() if self.part == WHOLE else self.layout(collection)
            if layout.parts != self.part.of:
                raise DividedMeanwhileError(
                    f"The collection {collection!r} of {self} lies in {layout.parts} parts, and "
                    f"this run is for one of {self.part.of}: it was divided anew meanwhile. Run "
                    "again; the sensor asks for the present parts by itself."
                )
            yield

    @contextmanager
    def tables_lock(self, collection: str) -> Iterator[None]:
        """Hold still the tables made of a collection's change log; wait until they stand still.

        Whoever replaces rows of several of them holds it meanwhile, and so does whoever reads
        them all together. Seen whole, those of every part are held.
        """
        with ExitStack() as held:
            held.enter_context(self._one_tables_lock(collection))
            if self.part == WHOLE:
                # Nobody divides it anew from here on, as that takes the lock just taken.
                layout = self._written_layout(collection) or Layout()
                for part in parts(layout.parts) if layout.parts > 1 else ():
                    held.enter_context(self.of_part(part).tables_lock(collection))
            yield

    def _one_tables_lock(self, collection: str) -> AbstractContextManager[None]:
        return self.storage.lock(
            f"tables-of={self._lock_name(collection)}",
            f"the tables of the collection {collection!r}{self._which} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )

    def _lock_name(self, collection: str) -> str:
        # No encoded name of a collection has a comma.
        encoded = _encode(collection)
        return encoded if self.part == WHOLE else f"{encoded},{self.part.label}"

    @property
    def _which(self) -> str:
        return "" if self.part == WHOLE else f", part {self.part.label},"

    @contextmanager
    def scratch(self, purpose: Scratch, collection: str) -> Iterator[Path]:
        """Give an empty folder on a disk for the time of a ``with`` block, for this part alone."""
        with self.storage.scratch(self._scratch_name(purpose, collection)) as folder:
            yield folder

    def clear_staging(self, collection: str) -> None:
        """Remove what a run of this part that was killed left; call it under :meth:`lock`."""
        self.storage.clear_staging(
            *(self._scratch_name(purpose, collection) for purpose in get_args(Scratch))
        )

    def _scratch_name(self, purpose: Scratch, collection: str) -> str:
        return f"{purpose}-{self._lock_name(collection)}"

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
        spilled = [read_arrow(path) for path in self._files.get((table.name, month), ())]
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


def read_arrow(path: Path) -> pl.DataFrame:
    """Return what was laid on this machine's disk until it is needed."""
    # Of a path polars would take brackets and asterisks for a pattern.
    with path.open("rb") as file:
        return pl.read_ipc(file)


def _scan(
    files: Sequence["Location"], table: Table, path_column: str | None = None
) -> pl.LazyFrame:
    """Scan files of a table that may have been written under an older contract."""
    return pl.scan_parquet(
        [str(file) for file in files],
        schema=polars_schema(table),
        missing_columns="insert",
        extra_columns="ignore",
        hive_partitioning=False,
        glob=False,
        include_file_paths=path_column,
    )


def read_metadata(path: "Location") -> pq.FileMetaData:
    """Return what a parquet file says about itself."""
    if not isinstance(path, Path):
        # Of a store the end is one request, and a file that is opened two.
        end = path.fs.cat_file(path.path, start=-_END_BYTES)
        with suppress(pa.ArrowInvalid):
            return pq.read_metadata(pa.BufferReader(end))
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
def _reading_log(path: "Location") -> Iterator[None]:
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


def divided_by(table: Table) -> pl.Expr:
    """Return what tells which part a row of a table belongs to."""
    if "record_id" in table.column_names:
        return pl.col("record_id")
    # Of a folder without a record it is its name, as most folders are named after their record.
    return pl.col("location").str.extract("([^/]*)$")


def lies_in(shard: Shard, record_id: pl.Expr) -> pl.Expr:
    """Return whether record ids lie in a shard."""
    is_behind = record_id >= shard.lower
    return is_behind if shard.upper is None else is_behind & (record_id < shard.upper)


def together(collection: str, states: Sequence[CollectionState]) -> CollectionState:
    """Return one state for those of several parts: of each thing what holds of every part."""
    newest = max(states, key=lambda state: state.last_full_pass_at or _LONG_AGO)
    every: dict[str, set[Any]] = {
        name: {getattr(state, name) for state in states}
        for name in CollectionState.model_fields
        # Of files that the parts to come have not.
        if name not in {"table_sizes", "log_gaps"}
    }
    merged = {
        name: None if None in values else min(values)
        for name, values in every.items()
        if name.endswith(("_at", "_through"))
    } | {
        name: values.copy().pop() if len(values) == 1 else ""
        for name, values in every.items()
        if name in {"fingerprint", "flattener", "results_reader"}
    }
    return CollectionState.model_validate(
        merged | {"collection": collection, "source": newest.source}
    )


def _log_file(path: "Location") -> LogFile:
    _, stem = _label_and_rest(path.stem)
    first, _, last = stem.partition("-")
    return LogFile(int(first), int(last or first), path)


def _in_order(files: Sequence[LogFile]) -> list[LogFile]:
    """Return the files of one part's log in order, without those whose batches another one has.

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


def _part_of(name: str) -> Part:
    """Return which part a file of a table or of a change log is of."""
    label, _ = _label_and_rest(name.rsplit("/", 1)[-1].removesuffix(".parquet"))
    return Part.from_label(label) or WHOLE


def _label_and_rest(stem: str) -> tuple[str, str]:
    """Take ``3-of-8`` from ``part-3-of-8``, or from ``3-of-8-0000000012-0000000014``."""
    pieces = stem.removeprefix("part-").split("-")
    if len(pieces) >= _LABEL_PIECES and pieces[1] == "of":
        return "-".join(pieces[:_LABEL_PIECES]), "-".join(pieces[_LABEL_PIECES:])
    return "", stem


def _collection_of(name: str) -> str:
    """Return the encoded collection of a file's name; empty for a table in one file."""
    folder = name.split("/")[1]
    return folder.removeprefix("collection=") if folder.startswith("collection=") else ""


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
        raise DamagedTableError(
            f"The file {str(path)!r} is damaged ({str(error).splitlines()[0]}). The next "
            "'aind-etl run' makes it again, or 'aind-etl rebuild' at once."
        ) from None


def _encode(name: str) -> str:
    """Return a name that every file system takes; one that is too long is cut, with a hash."""
    encoded = quote(name, safe="")
    if len(encoded) <= _LONGEST_NAME:
        return encoded
    return f"{encoded[:_KEPT_OF_NAME]}~{sha256(name.encode()).hexdigest()}"


def _folder(table: Table, collection: str) -> str:
    return f"{table.name}/collection={_encode(collection)}"


def _log(collection: str) -> str:
    return _folder(tables.DOCUMENTS, collection)


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


def _layout_of(content: bytes | None) -> Layout | None:
    try:
        return None if content is None else Layout.model_validate_json(content)
    except ValidationError:
        return None  # What it said is found out from the files.


def _layout_name(collection: str) -> str:
    return f"{_STATE}/layout-of={_encode(collection)}.json"


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
