"""Reading and writing the lake's parquet files.

They have encodings of parquet 2.6 only, which DuckDB from 1.0, Spark from 3.3, polars and pyarrow
read.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract import Table
from aind_etl.contract.schemas import arrow_schema, polars_schema
from aind_etl.errors import DamagedTableError
from aind_etl.text import first_line

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location, Storage

# Small enough that a query by subject or date skips most of a partition, large enough to
# compress well.
ROW_GROUP_ROWS = 32_768
# The metadata of a file is at its end, and is rarely larger.
_END_BYTES = 64 << 10
_COMPRESSION_LEVEL = 3
# Columns that are mostly the digits of a hash. A higher level finds short repetitions by chance,
# which take more space than the digits.
_HASHES = frozenset({"record_id", "content_hash", "result_location", "result_url"})
_HASH_COMPRESSION_LEVEL = 1
# So many rows show whether values repeat.
_INSPECTED_ROWS = 1024
# If a larger share of the values differs, a dictionary takes more space than it saves.
_MOST_DIFFERENT = 1 / 2


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
        options = _writer_options(first, schema)
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


def _writer_options(rows: pl.DataFrame, schema: pa.Schema) -> dict[str, Any]:
    """Return the options of ``pyarrow.parquet.ParquetWriter`` for a file's columns.

    A column whose values repeat is written with a dictionary. In the others, integers and times
    are delta-encoded, texts are stored with their lengths apart, and everything else is plain.
    ``rows`` are the first rows of the file.
    """
    columns = [field.name for field in schema if not pa.types.is_boolean(field.type)]
    encodings = {
        column.name: _encoding(schema.field(column.name).type)
        for column in rows.head(_INSPECTED_ROWS).select(columns)
        if (absent := column.null_count()) < len(column)
        # NULL counts as one value more.
        and column.n_unique() - (absent > 0) > _MOST_DIFFERENT * (len(column) - absent)
    }
    return {
        "compression": "zstd",
        "compression_level": {
            name: _HASH_COMPRESSION_LEVEL if name in _HASHES else _COMPRESSION_LEVEL
            for name in schema.names
        },
        "use_dictionary": [name for name in schema.names if name not in encodings],
        "column_encoding": encodings,
    }


def _encoding(kind: pa.DataType) -> str:
    """Return the encoding of values of a type that do not repeat."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "DELTA_LENGTH_BYTE_ARRAY"
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return "DELTA_BINARY_PACKED"
    return "PLAIN"


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
