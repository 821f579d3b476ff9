"""The types of columns.

The value of each member is the type's name in DuckDB; :mod:`aind_etl.contract.schemas` has the
names of other libraries.
"""

from enum import StrEnum


class DataType(StrEnum):
    """A type of the contract, named as DuckDB names it."""

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
        """Whether the type holds whole numbers."""
        return self in _INTEGER_BITS

    @property
    def integer_range(self) -> tuple[int, int]:
        """The smallest and the largest whole number that fits.

        Raises
        ------
        KeyError
            The type holds no whole numbers.
        """
        bits = _INTEGER_BITS[self]
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


_INTEGER_BITS = {
    DataType.TINYINT: 8,
    DataType.SMALLINT: 16,
    DataType.INTEGER: 32,
    DataType.BIGINT: 64,
}
