"""The tables of the lake: hive-partitioned parquet files, each replaced whole."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from aind_etl.contract import FLATTENED_TABLES, Partitioning, Table, tables
from aind_etl.contract.id_ranges import UNSHARDED, Split
from aind_etl.contract.schemas import polars_schema, with_further_columns
from aind_etl.errors import DataError
from aind_etl.lake.change_log import reading_log
from aind_etl.lake.parquet import read_metadata, reading_table, scan_files, write_parquet
from aind_etl.lake.paths import (
    COLLECTION_TABLES,
    PART_FILE,
    UNKNOWN_MONTH,
    encode_name,
    is_own_file,
    month_of,
    single_file,
    table_folder,
)
from aind_etl.text import first_line

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.lake.storage.protocol import Location

# No table has a column of this name.
_FILE_COLUMN = "_file"
# The row counts of so many files are read at a time: on a store, each is a request.
_COUNTED_FILES = 8


class Tables:
    """The tables of the lake, for one shard or for the whole lake.

    Methods that read files raise :class:`~aind_etl.errors.DataError` if one is damaged.
    """

    def __init__(self, lake: "Lake") -> None:
        self._lake = lake
        self._storage = lake.storage

    def files(
        self, table: Table, collection: str | None = None, month: str | None = None
    ) -> list["Location"]:
        """Return the files of a table, of one collection's shard of it, or of a month of that."""
        if table is tables.DOCUMENTS:
            names = self._lake.logged_collections() if collection is None else [collection]
            return [file.path for name in names for file in self._lake.change_log(name).files()]
        folder = table.name if collection is None else table_folder(table, collection)
        return [
            self._storage.path(name)
            for name in self._lake.live_files(folder)
            if month is None or month_of(name) == month
        ]

    def scan(
        self, table: Table, collection: str | None = None, month: str | None = None
    ) -> pl.LazyFrame:
        """Return the rows of :meth:`files`, lazily."""
        return scan_files(self.files(table, collection, month), table)

    def count_rows(self, table: Table, collection: str | None = None) -> int:
        """Return the number of rows of a table, or of one collection's shard of it."""
        return sum(self.rows_by_file(table, collection).values())

    def rows_by_file(self, table: Table, collection: str | None = None) -> dict["Location", int]:
        """Return the number of rows of each of :meth:`files`, from the files' metadata."""
        reading = reading_log if table is tables.DOCUMENTS else reading_table

        def count(path: "Location") -> int:
            with reading(path):
                return int(read_metadata(path).num_rows)

        files = self.files(table, collection)
        with ThreadPoolExecutor(_COUNTED_FILES, thread_name_prefix="rows") as pool:
            return dict(zip(files, pool.map(count, files), strict=True))

    def size_bytes(self, table: Table, collection: str) -> int:
        """Return the size in bytes of the files of one collection's shard of a table."""
        counted = set(self.files(table, collection))
        live = self._lake.live_files(table_folder(table, collection))
        return sum(file.size for name, file in live.items() if self._storage.path(name) in counted)

    def as_written(self, table: Table) -> Table:
        """Return a table with the columns of its file, where further columns are data."""
        schema = self._written_schema(table) if table.has_further_columns else None
        return table if schema is None else with_further_columns(table, schema)

    def facts(self, table: Table) -> dict[str, str]:
        """Return the metadata from :meth:`replace_whole`; empty if the table has no file."""
        schema = self._written_schema(table)
        metadata = {} if schema is None else schema.metadata or {}
        return {key.decode(): value.decode() for key, value in metadata.items()}

    def _written_schema(self, table: Table) -> pa.Schema | None:
        path = self._storage.path(single_file(table))
        if not self._storage.exists(single_file(table)):
            return None
        try:
            return read_metadata(path).schema.to_arrow_schema()
        except pa.ArrowException as error:
            raise DataError(
                f"The file {str(path)!r} is damaged ({first_line(error)}). Remove it; the next run "
                "writes it again."
            ) from None

    def months(self, table: Table, collection: str) -> list[str]:
        """Return the session months of a collection's partitions of a table, sorted."""
        return sorted(set(map(month_of, self._lake.live_files(table_folder(table, collection)))))

    def partition_keys(self, table: Table, collection: str) -> Sequence[str | None]:
        """Return :meth:`months`, or only None for a table that is one file per collection."""
        by_month = table.partitioning is Partitioning.COLLECTION_AND_MONTH
        return self.months(table, collection) if by_month else [None]

    def read_partition(
        self, table: Table, collection: str, month: str | None = None
    ) -> pl.DataFrame:
        """Return one partition of a table, for this shard; empty if it does not exist."""
        name = self.partition(table, collection, month)
        if not self._storage.exists(name):
            return pl.DataFrame(schema=polars_schema(table))
        path = self._storage.path(name)
        with reading_table(path):
            return scan_files([path], table).collect()

    def months_holding(self, table: Table, collection: str, records: pl.DataFrame) -> set[str]:
        """Return the session months of the partitions that have rows of some ``record_id``."""
        files = self.files(table, collection)
        if not files:
            return set()
        # One query for all of them: a query for each would cost more than what is read.
        found = (
            scan_files(files, table, path_column=_FILE_COLUMN)
            .filter(pl.col("record_id").is_in(records["record_id"].implode()))
            .select(_FILE_COLUMN)
            .unique()
        )
        try:
            names = found.collect()[_FILE_COLUMN].to_list()
        except (pa.ArrowException, pl.exceptions.PolarsError):
            # Scan the files one by one to find the damaged one.
            for path in files:
                with reading_table(path):
                    scan_files([path], table).select("record_id").collect()
            raise
        return set(map(month_of, names))

    def partition(self, table: Table, collection: str, month: str | None = None) -> str:
        """Return the name of the file of one partition of a table, for this shard."""
        folder = table_folder(table, collection)
        if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
            folder += f"/session_month={encode_name(month or UNKNOWN_MONTH)}"
        shard = self._lake.shard
        return f"{folder}/{PART_FILE if shard == UNSHARDED else f'part-{shard.label}.parquet'}"

    def foreign_files(self, collection: str) -> list[str]:
        """Return the names of parquet files in a collection's folders that belong to no table."""
        return [
            name
            for table in COLLECTION_TABLES
            for name in self._storage.files(table_folder(table, collection), ".parquet")
            if not is_own_file(name)
        ]

    def table_sizes(self, collection: str) -> dict[str, int]:
        """Return the size in bytes of each file of the flattened tables, for this shard."""
        return {
            name: file.size
            for table in FLATTENED_TABLES
            for name, file in self._lake.live_files(table_folder(table, collection)).items()
        }

    def replace_rows(
        self,
        table: Table,
        collection: str,
        month: str | None,
        *,
        without: pl.DataFrame | None,
        rows: pl.DataFrame,
    ) -> bool:
        """Replace some records' rows in one partition, whose file is replaced whole.

        ``without`` has the column ``record_id`` of the records whose present rows are dropped; None
        drops all. The result is whether a file was written or removed.
        """
        merged = rows.select(polars_schema(table).names())
        if without is not None:
            present = self.read_partition(table, collection, month)
            merged = pl.concat([present.join(without, on="record_id", how="anti"), merged])
        name = self.partition(table, collection, month)
        if merged.is_empty():
            return self._storage.remove(name)
        return write_parquet(self._storage, name, table, [merged.sort(table.key)])

    def replace_whole(self, table: Table, rows: pl.DataFrame, facts: Mapping[str, str]) -> bool:
        """Replace a table that is one file, with metadata; return whether it was written.

        The table has every column of the rows.
        """
        name = single_file(table)
        return write_parquet(self._storage, name, table, [rows.sort(table.key)], facts)


def shard_key(table: Table) -> pl.Expr:
    """Return the id by which rows of a table are divided into shards."""
    if "record_id" in table.column_names:
        return pl.col("record_id")
    # For a folder without a record, its name: most folders are named after their record.
    return pl.col("location").str.extract("([^/]*)$")


def is_in_range(split: Split, record_id: pl.Expr) -> pl.Expr:
    """Return whether record ids are in a split."""
    is_behind = record_id >= split.lower
    return is_behind if split.upper is None else is_behind & (record_id < split.upper)
