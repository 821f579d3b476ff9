"""Data types, columns, and where a column's value comes from in a document."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class DataType(StrEnum):
    """The type of a column, by its name in DuckDB.

    :mod:`aind_etl.contract.schemas` has the types of polars and Arrow.
    """

    VARCHAR = "VARCHAR"
    BOOLEAN = "BOOLEAN"
    TINYINT = "TINYINT"
    SMALLINT = "SMALLINT"
    INTEGER = "INTEGER"
    BIGINT = "BIGINT"
    DOUBLE = "DOUBLE"
    DATE = "DATE"
    TIME = "TIME"
    TIMESTAMP = "TIMESTAMP"
    TIMESTAMPTZ = "TIMESTAMPTZ"

    @property
    def is_integer(self) -> bool:
        """Whether the type holds integers."""
        return self in _INTEGER_BITS

    @property
    def integer_range(self) -> tuple[int, int]:
        """The smallest and the largest integer of the type."""
        bits = _INTEGER_BITS[self]
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


_INTEGER_BITS = {
    DataType.TINYINT: 8,
    DataType.SMALLINT: 16,
    DataType.INTEGER: 32,
    DataType.BIGINT: 64,
}


FORMATS = ("prototype", "framework")
"""The formats of documents: the older, flat one and the newer, nested one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a column's value comes from in one document format.

    The first of ``paths`` with a value is used. ``note`` says how the value is computed, unless it
    is simply read.
    """

    paths: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """Describe the origin in one line, for the data dictionary."""
        paths = ", else ".join(f"`{path}`" for path in self.paths)
        return f"{paths}: {self.note}" if paths and self.note else paths or self.note or "–"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the lake and the warehouse.

    Attributes
    ----------
    description
        What the value means, in one or two sentences without a unit.
    origins
        Where the value comes from in a document, by format.
    required
        Whether the column is never NULL.
    source
        The column of the change log that the value is derived from.
    """

    name: str
    description: str
    origins: Mapping[str, Origin] = field(
        default_factory=lambda: dict.fromkeys(FORMATS, Origin()), hash=False
    )
    type: DataType = field(kw_only=True)
    unit: str = ""
    required: bool = False
    source: str = "document"

    @property
    def is_read(self) -> bool:
        """Whether the value is read from documents of at least one format."""
        return any(origin.paths for origin in self.origins.values())
