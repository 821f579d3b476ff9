"""The contract: what a column is, said once.

Here belong every column and table of the lake and the warehouse, with their types, units,
descriptions and origins, and everything that follows from them alone: polars and arrow
schemas, DuckDB DDL, the data dictionary. Reading documents, writing files and anything of
Dagster do not belong here; the contract imports nothing else of the package.
"""

from aind_etl.contract.columns import Column, Origin
from aind_etl.contract.tables import (
    ANALYSIS_TABLES,
    FLATTENED_TABLES,
    TABLES,
    Partitioning,
    Table,
    table_named,
)
from aind_etl.contract.types import DataType

__all__ = [
    "ANALYSIS_TABLES",
    "FLATTENED_TABLES",
    "TABLES",
    "Column",
    "DataType",
    "Origin",
    "Partitioning",
    "Table",
    "table_named",
]
