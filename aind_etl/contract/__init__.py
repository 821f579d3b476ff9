"""The contract: every column and table of the lake and the warehouse, defined once.

Types, units, descriptions and origins are in :mod:`.columns` and :mod:`.tables`. Derived from them:
polars and Arrow schemas (:mod:`.schemas`), DuckDB DDL (:mod:`.ddl`), DDL for other engines
(:mod:`.engines`) and the data dictionary (:mod:`.dictionary`). :mod:`.id_ranges` defines ranges of
record ids. The contract imports nothing else of the package.
"""

from aind_etl.contract.columns import FORMATS, Column, Origin
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
    "FORMATS",
    "TABLES",
    "Column",
    "DataType",
    "Origin",
    "Partitioning",
    "Table",
    "table_named",
]
