"""Reading and writing the lake's parquet files."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract import Table
from aind_etl.contract.schemas import arrow_schema, polars_schema
from aind_etl.errors import DamagedTableError, DataError
from aind_etl.lake.encoding import writer_options
from aind_etl.lake.storage.protocol import Storage

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location

# Small enough that a query by subject or date skips most of a partition, large enough to
# compress well.
ROW_GROUP_ROWS = 32_768
# The metadata of a file is at its end, and is rarely larger.
_END_BYTES = 64 << 10


def write_parquet(  # noqa: PLR0913 - what is written, and where
    storage: Storage,
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
    storage, name
        The lake's storage, and the file's name in the lake.
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
        Whether it was written; an existing file is left in place.
    """
    schema = arrow_schema(table)
    if facts is not None:
        schema = schema.with_metadata(dict(facts))

    def write_content(file: BinaryIO) -> None:
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
                for group in rows.select(schema.names).iter_slices(ROW_GROUP_ROWS):
                    writer.write_table(group.to_arrow().cast(schema))

    return storage.write(name, write_content, replace=replace)


def read_arrow(path: Path) -> pl.DataFrame:
    """Return what was laid on this machine's disk until it is needed."""
    # Of a path polars would take brackets and asterisks for a pattern.
    with path.open("rb") as file:
        return pl.read_ipc(file)


def scan_files(
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


def collect_file(rows: pl.LazyFrame, path: "Location") -> pl.DataFrame:
    """Read a partition.

    Raises
    ------
    DataError
        The file is damaged.
    """
    with reading_table(path):
        return rows.collect()


@contextmanager
def reading_table(path: "Location") -> Iterator[None]:
    """Raise a :class:`DamagedTableError` that names the file where reading a table's fails."""
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise DamagedTableError(
            f"The file {str(path)!r} is damaged ({str(error).splitlines()[0]}). The next "
            "'aind-etl run' makes it again, or 'aind-etl rebuild' at once."
        ) from None


def read_schema(path: "Location") -> pa.Schema:
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
            "next run writes it again."
        ) from None
