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
from aind_etl.errors import DamagedTableError
from aind_etl.lake.encoding import writer_options
from aind_etl.text import first_line

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location, Storage

# Small enough that a query by subject or date skips most of a partition, large enough to
# compress well.
ROW_GROUP_ROWS = 32_768
# The metadata of a file is at its end, and is rarely larger.
_END_BYTES = 64 << 10


def write_parquet(  # noqa: PLR0913 - what is written, and where
    storage: "Storage",
    name: str,
    table: Table,
    portions: Iterable[pl.DataFrame],
    metadata: Mapping[str, str] | None = None,
    *,
    replace: bool = True,
) -> bool:
    """Write a table's file from portions of its rows; one portion at a time is in memory.

    ``metadata`` is added to the file's schema. ``replace`` and the result are as for
    :meth:`~aind_etl.lake.storage.local.LocalStorage.write`.
    """
    schema = arrow_schema(table)
    if metadata is not None:
        schema = schema.with_metadata(dict(metadata))

    def write_content(file: BinaryIO) -> None:
        remaining = iter(portions)
        first = next(remaining, pl.DataFrame(schema=polars_schema(table)))
        options = writer_options(first, schema)
        every = chain([first], remaining)
        del first
        with pq.ParquetWriter(
            file,
            schema,
            # Old readers understand the types and pages of this version.
            version="2.6",
            data_page_version="1.0",
            **options,
        ) as writer:
            for rows in every:
                # One row group at a time: converting it to arrow and to parquet copies it.
                for group in rows.select(schema.names).iter_slices(ROW_GROUP_ROWS):
                    writer.write_table(group.to_arrow().cast(schema))

    return storage.write(name, write_content, replace=replace)


def read_arrow(path: Path) -> pl.DataFrame:
    """Return the rows of an Arrow file in a scratch folder."""
    # In a path, polars would take brackets and asterisks for a pattern.
    with path.open("rb") as file:
        return pl.read_ipc(file)


def scan_files(
    files: Sequence["Location"], table: Table, path_column: str | None = None
) -> pl.LazyFrame:
    """Scan files of a table, perhaps none, that an older contract may have written."""
    if not files:
        return pl.LazyFrame(schema=polars_schema(table))
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
    """Return the metadata of a parquet file."""
    if not isinstance(path, Path):
        # Reading the end of an object is one request; opening it is two.
        end = path.fs.cat_file(path.path, start=-_END_BYTES)
        with suppress(pa.ArrowInvalid):
            return pq.read_metadata(pa.BufferReader(end))
    with path.open("rb") as file:
        return pq.read_metadata(file)


@contextmanager
def reading_table(path: "Location") -> Iterator[None]:
    """Turn an error of reading a table's file into a :class:`DamagedTableError` that names it."""
    try:
        yield
    except (pa.ArrowException, pl.exceptions.PolarsError) as error:
        raise DamagedTableError(
            f"The file {str(path)!r} is damaged ({first_line(error)}). The next 'aind-etl run' "
            "writes it again, or 'aind-etl rebuild' at once."
        ) from None
