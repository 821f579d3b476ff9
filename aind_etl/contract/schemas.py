"""The contract in the words of polars and arrow.

Kept apart from the contract's own modules so that commands that need neither engine do not
wait for their import.
"""

from dataclasses import replace

import polars as pl
import pyarrow as pa

from aind_etl.contract.columns import Column
from aind_etl.contract.tables import Table
from aind_etl.contract.types import DataType

POLARS_TYPES: dict[DataType, pl.DataType] = {
    DataType.VARCHAR: pl.String(),
    DataType.BOOLEAN: pl.Boolean(),
    DataType.TINYINT: pl.Int8(),
    DataType.SMALLINT: pl.Int16(),
    DataType.INTEGER: pl.Int32(),
    DataType.BIGINT: pl.Int64(),
    DataType.DOUBLE: pl.Float64(),
    DataType.DATE: pl.Date(),
    DataType.TIME: pl.Time(),
    DataType.TIMESTAMP: pl.Datetime("us"),
    DataType.TIMESTAMPTZ: pl.Datetime("us", "UTC"),
}
"""Each type of the contract in polars."""

_DESCRIPTION = b"description"
# Microseconds everywhere: older readers of parquet know no nanoseconds.
_ARROW_TYPES: dict[DataType, pa.DataType] = {
    DataType.VARCHAR: pa.string(),
    DataType.BOOLEAN: pa.bool_(),
    DataType.TINYINT: pa.int8(),
    DataType.SMALLINT: pa.int16(),
    DataType.INTEGER: pa.int32(),
    DataType.BIGINT: pa.int64(),
    DataType.DOUBLE: pa.float64(),
    DataType.DATE: pa.date32(),
    DataType.TIME: pa.time64("us"),
    DataType.TIMESTAMP: pa.timestamp("us"),
    DataType.TIMESTAMPTZ: pa.timestamp("us", "UTC"),
}


def polars_schema(table: Table) -> pl.Schema:
    """Return the polars schema of a table."""
    return pl.Schema({column.name: POLARS_TYPES[column.type] for column in table.columns})


def arrow_schema(table: Table) -> pa.Schema:
    """Return the arrow schema of a table, as its parquet files carry it.

    Where further columns are data, the file is the only place that describes them.
    """
    return pa.schema(
        [_arrow_field(column, described=table.has_further_columns) for column in table.columns]
    )


def with_further_columns(table: Table, schema: pa.Schema) -> Table:
    """Return a table with the columns that a file of it has beyond those of the contract.

    Parameters
    ----------
    table
        A table whose further columns are data.
    schema
        The schema of its file, written by :func:`arrow_schema`.
    """
    types = {arrow: ours for ours, arrow in _ARROW_TYPES.items()}
    further = (
        Column(
            field.name, types[field.type], ((field.metadata or {}).get(_DESCRIPTION, b"")).decode()
        )
        for field in schema
        if field.name not in table.column_names
    )
    return replace(table, columns=(*table.columns, *further))


def _arrow_field(column: Column, *, described: bool) -> pa.Field:
    return pa.field(
        column.name,
        _ARROW_TYPES[column.type],
        nullable=not column.required,
        metadata={_DESCRIPTION: column.description.encode()} if described else None,
    )
