"""Encodings of parquet columns: small files that every reader understands.

Only encodings of parquet 2.6 are used, which DuckDB from 1.0, Spark from 3.3, polars and pyarrow
read.
"""

from typing import Any

import polars as pl
import pyarrow as pa

_COMPRESSION_LEVEL = 3
# Text that is mostly the digits of a hash. A longer search for repetitions in it finds short ones
# by chance, which take more space than the digits.
_HASHES = frozenset({"record_id", "content_hash", "result_location", "result_url"})
_HASH_COMPRESSION_LEVEL = 1
# So many rows tell whether values come again.
_LOOKED_AT = 1024
# Where more of the values than this differ, a dictionary takes more space than it saves.
_MOST_DIFFERENT = 1 / 2


def writer_options(rows: pl.DataFrame, schema: pa.Schema) -> dict[str, Any]:
    """Return what ``pyarrow.parquet.ParquetWriter`` is to know of a file's columns.

    A column whose values come again is written as a dictionary and places in it. Of the others,
    whole numbers and times are written as differences, texts one behind the other with their
    lengths apart, and everything else as it is.

    Parameters
    ----------
    rows
        The first rows of the file, with the columns of ``schema``.
    schema
        The file's schema.

    Returns
    -------
    dict
        ``compression``, ``compression_level``, ``use_dictionary`` and ``column_encoding``.
    """
    judged = [field.name for field in schema if not pa.types.is_boolean(field.type)]
    looked_at = rows.head(_LOOKED_AT).select(judged)
    encodings = {
        column.name: _encoding(schema.field(column.name).type)
        for column in looked_at
        if (absent := column.null_count()) < len(column)
        # What is missing counts as one value more.
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
    """Return the encoding of values of a type that do not come again."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "DELTA_LENGTH_BYTE_ARRAY"
    if pa.types.is_integer(kind) or pa.types.is_temporal(kind):
        return "DELTA_BINARY_PACKED"
    return "PLAIN"
