"""Encodings of parquet columns, for small files that every reader understands.

Only encodings of parquet 2.6 are used, which DuckDB from 1.0, Spark from 3.3, polars and pyarrow
read.
"""

from typing import Any

import polars as pl
import pyarrow as pa

_COMPRESSION_LEVEL = 3
# Columns that are mostly the digits of a hash. A higher level finds short repetitions by chance,
# which take more space than the digits.
_HASHES = frozenset({"record_id", "content_hash", "result_location", "result_url"})
_HASH_COMPRESSION_LEVEL = 1
# So many rows show whether values repeat.
_INSPECTED_ROWS = 1024
# If a larger share of the values differs, a dictionary takes more space than it saves.
_MOST_DIFFERENT = 1 / 2


def writer_options(rows: pl.DataFrame, schema: pa.Schema) -> dict[str, Any]:
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
