"""The contract's types and tables as polars and Arrow schemas.

This is a module of its own because polars and pyarrow are slow to import.
"""

from dataclasses import replace

import polars as pl
import pyarrow as pa

from aind_etl.contract.tables import Table
from aind_etl.contract.types import Column, DataType

# Microseconds everywhere: older readers of parquet do not support nanoseconds.
_TYPES: dict[DataType, tuple[pl.DataType, pa.DataType]] = {
    DataType.VARCHAR: (pl.String(), pa.string()),
    DataType.BOOLEAN: (pl.Boolean(), pa.bool_()),
    DataType.TINYINT: (pl.Int8(), pa.int8()),
    DataType.SMALLINT: (pl.Int16(), pa.int16()),
    DataType.INTEGER: (pl.Int32(), pa.int32()),
    DataType.BIGINT: (pl.Int64(), pa.int64()),
    DataType.DOUBLE: (pl.Float64(), pa.float64()),
    DataType.DATE: (pl.Date(), pa.date32()),
    DataType.TIME: (pl.Time(), pa.time64("us")),
    DataType.TIMESTAMP: (pl.Datetime("us"), pa.timestamp("us")),
    DataType.TIMESTAMPTZ: (pl.Datetime("us", "UTC"), pa.timestamp("us", "UTC")),
}
POLARS_TYPES = {data_type: polars for data_type, (polars, _) in _TYPES.items()}
"""The polars type of each type of the contract."""

_DESCRIPTION = b"description"


def polars_schema(table: Table) -> pl.Schema:
    """Return the polars schema of a table."""
    return pl.Schema({column.name: POLARS_TYPES[column.type] for column in table.columns})


def arrow_schema(table: Table) -> pa.Schema:
    """Return the Arrow schema of a table, as its parquet files have it.

    A table with further columns carries their descriptions in the file, the only place that has
    them.
    """

    def field(column: Column) -> pa.Field:
        metadata = {_DESCRIPTION: column.description} if table.has_further_columns else None
        return pa.field(column.name, _TYPES[column.type][1], not column.required, metadata)

    return pa.schema(map(field, table.columns))


def with_further_columns(table: Table, schema: pa.Schema) -> Table:
    """Return a table with the columns that its file, of :func:`arrow_schema`, has in addition."""
    types = {arrow: data_type for data_type, (_, arrow) in _TYPES.items()}
    further = (
        Column(
            field.name,
            (field.metadata or {}).get(_DESCRIPTION, b"").decode(),
            type=types[field.type],
        )
        for field in schema
        if field.name not in table.column_names
    )
    return replace(table, columns=(*table.columns, *further))
