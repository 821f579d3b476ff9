"""The tables of the lake: hive-partitioned parquet, each partition replaced whole."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

from aind_etl.contract import FLATTENED_TABLES, TABLES, Partitioning, Table, tables
from aind_etl.contract.id_ranges import UNSHARDED, Split
from aind_etl.contract.schemas import polars_schema, with_further_columns

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location
from aind_etl.lake.change_log import ChangeLog, reading_log
from aind_etl.lake.live_files import LiveFiles
from aind_etl.lake.parquet import (
    collect_file,
    read_metadata,
    read_schema,
    reading_table,
    scan_files,
    write_parquet,
)
from aind_etl.lake.paths import (
    OWN_NAME,
    PART_FILE,
    UNKNOWN_MONTH,
    encode_name,
    month_of,
    shard_of,
    single_file,
    table_folder,
)

# No table has a column of this name.
_FILE_COLUMN = "_file"
# How many files are asked at a time how many rows they have: each is a request to a store.
_COUNTED_FILES = 8


class Tables:
    """The tables of the lake: hive-partitioned parquet files, each replaced whole.

    Parameters
    ----------
    files
        The files of the lake that count.
    """

    def __init__(self, files: LiveFiles) -> None:
        self._files = files

    def files(self, table: Table, collection: str | None = None) -> list["Location"]:
        """Return the files of a table, or of one collection's shard of it."""
        if table is tables.DOCUMENTS:
            collections = self._files.logged() if collection is None else [collection]
            return [
                file.path for name in collections for file in ChangeLog(self._files, name).files()
            ]
        folder = table.name if collection is None else table_folder(table, collection)
        names = self._files.counting(self._files.names(folder))
        return [self._files.storage.path(name) for name in names]

    def scan(self, table: Table, collection: str | None = None) -> pl.LazyFrame:
        """Return the rows of a table, or of one collection's shard of it, lazily."""
        files = self.files(table, collection)
        if not files:
            return pl.LazyFrame(schema=polars_schema(table))
        return scan_files(files, table)

    def count_rows(self, table: Table, collection: str | None = None) -> int:
        """Return the rows of a table, or of one collection's shard, from the files' own counts.

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
        reading = reading_log if table is tables.DOCUMENTS else reading_table

        def count(path: "Location") -> int:
            with reading(path):
                return int(read_metadata(path).num_rows)

        files = self.files(table, collection)
        with ThreadPoolExecutor(_COUNTED_FILES, thread_name_prefix="rows") as pool:
            return dict(zip(files, pool.map(count, files), strict=True))

    def size_bytes(self, table: Table, collection: str) -> int:
        """Return the bytes of the files of one collection's shard of a table."""
        that_count = set(self.files(table, collection))
        sizes = self._files.storage.sizes(table_folder(table, collection), ".parquet")
        return sum(
            size for name, size in sizes.items() if self._files.storage.path(name) in that_count
        )

    def as_written(self, table: Table) -> Table:
        """Return a table with the columns its file has, where further columns are data."""
        if not table.has_further_columns or not self._files.storage.exists(single_file(table)):
            return table
        return with_further_columns(
            table, read_schema(self._files.storage.path(single_file(table)))
        )

    def facts(self, table: Table) -> dict[str, str]:
        """Return what was written about the file of a table that lies in one file."""
        if not self._files.storage.exists(single_file(table)):
            return {}
        schema = read_schema(self._files.storage.path(single_file(table)))
        return {
            key.decode(): value.decode()
            for key, value in (schema.metadata or {}).items()
            if key != b"ARROW:schema"
        }

    def months(self, table: Table, collection: str) -> list[str]:
        """Return the session months of a collection's partitions of a table, sorted."""
        names = self._files.counting(self._files.names(table_folder(table, collection)))
        return sorted({month_of(name) for name in names})

    def scan_month(self, table: Table, collection: str, month: str) -> pl.LazyFrame:
        """Return the rows of a table that are filed under a month, lazily."""
        names = self._files.counting(self._files.names(table_folder(table, collection)))
        return scan_files(
            [self._files.storage.path(name) for name in names if month_of(name) == month], table
        )

    def read_partition(
        self, table: Table, collection: str, month: str | None = None
    ) -> pl.DataFrame:
        """Return one partition of a table, for this shard; empty where there is none."""
        name = self.partition(table, collection, month)
        if not self._files.storage.exists(name):
            return pl.DataFrame(schema=polars_schema(table))
        path = self._files.storage.path(name)
        return collect_file(scan_files([path], table), path)

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
            scan_files(files, table, path_column=_FILE_COLUMN)
            .filter(pl.col("record_id").is_in(records["record_id"].implode()))
            .select(_FILE_COLUMN)
            .unique()
        )
        try:
            names = found.collect()[_FILE_COLUMN].to_list()
        except (pa.ArrowException, pl.exceptions.PolarsError):
            # Which of them is damaged is found out by asking each.
            for path in files:
                collect_file(scan_files([path], table).select("record_id"), path)
            raise
        return {month_of(name) for name in names}

    def partition(self, table: Table, collection: str, month: str | None = None) -> str:
        """Return the name of the file of one partition of a table, for this shard."""
        folder = table_folder(table, collection)
        if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
            folder += f"/session_month={encode_name(month or UNKNOWN_MONTH)}"
        shard = self._files.shard
        return f"{folder}/{PART_FILE if shard == UNSHARDED else f'part-{shard.label}.parquet'}"

    def foreign_files(self, collection: str) -> list[str]:
        """Return the names of parquet files among a collection's that no table consists of."""
        return [
            name
            for table in TABLES
            if table.partitioning not in {Partitioning.WHOLE, Partitioning.WAREHOUSE_ONLY}
            for name in self._files.storage.files(table_folder(table, collection), ".parquet")
            if not OWN_NAME.fullmatch(name.rsplit("/", 1)[-1])
        ]

    def table_sizes(self, collection: str) -> dict[str, int]:
        """Return the bytes of the files that a collection is flattened to, for this shard."""
        return {
            name: size
            for table in FLATTENED_TABLES
            for folder in [table_folder(table, collection)]
            for name, size in self._files.storage.sizes(folder, ".parquet").items()
            if OWN_NAME.fullmatch(name.rsplit("/", 1)[-1]) and shard_of(name) == self._files.shard
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
            return self._files.storage.remove(name)
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
            What to record about the file, from :meth:`facts`.

        Returns
        -------
        bool
            Whether a file was written.
        """
        return self._write(single_file(table), table, rows.sort(table.key), facts)

    def _write(
        self, name: str, table: Table, rows: pl.DataFrame, facts: Mapping[str, str] | None = None
    ) -> bool:
        return write_parquet(self._files.storage, name, table, [rows], facts)


def shard_key(table: Table) -> pl.Expr:
    """Return what tells which shard a row of a table belongs to."""
    if "record_id" in table.column_names:
        return pl.col("record_id")
    # Of a folder without a record it is its name, as most folders are named after their record.
    return pl.col("location").str.extract("([^/]*)$")


def is_in_range(split: Split, record_id: pl.Expr) -> pl.Expr:
    """Return whether record ids lie in a split."""
    is_behind = record_id >= split.lower
    return is_behind if split.upper is None else is_behind & (record_id < split.upper)
