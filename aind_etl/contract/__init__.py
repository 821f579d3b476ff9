"""The contract: every column and table of the lake and the warehouse, defined once.

:mod:`.columns` and :mod:`.tables` define types, units, descriptions and origins. Derived from
them: polars and Arrow schemas (:mod:`.schemas`), DuckDB DDL (:mod:`.ddl`), DDL for other engines
(:mod:`.engines`) and the data dictionary (:mod:`.dictionary`). :mod:`.id_ranges` defines ranges of
record ids. The contract imports no other package of `aind_etl`.
"""

from aind_etl.contract.tables import (
    ANALYSIS_TABLES,
    FLATTENED_TABLES,
    TABLES,
    Partitioning,
    Table,
    table_named,
)
from aind_etl.contract.types import FORMATS, Column, DataType

__all__ = [
    "ANALYSIS_TABLES",
    "FLATTENED_TABLES",
    "FORMATS",
    "TABLES",
    "Column",
    "DataType",
    "Partitioning",
    "Table",
    "table_named",
]
