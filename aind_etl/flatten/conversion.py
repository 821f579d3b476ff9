"""Conversion of JSON values to the types of columns, if that loses nothing."""

import math
import re
from typing import Any, TypeAlias

from aind_etl.contract import DataType

Scalar: TypeAlias = str | int | float | bool
"""A JSON value that is neither null, nor an object, nor a list."""

LARGEST_EXACT = 2**53
"""The largest number up to which a float holds every integer exactly."""

_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NUMBERS = frozenset({int, float})


def convert(value: Any, data_type: DataType) -> Scalar | None:  # noqa: ANN401 - any JSON value
    """Return a value in the type of a column; None if the conversion would lose something.

    Dates and times stay texts.
    """
    if data_type is DataType.DOUBLE:
        return _number(value)
    if data_type.is_integer:
        return _integer(_number(value), data_type)
    if data_type is DataType.VARCHAR:
        return _text(value)
    return value if type(value) in json_types(data_type) else None


def json_types(data_type: DataType) -> frozenset[type]:
    """Return the Python types of the JSON values that a type is written as."""
    if data_type.is_integer or data_type is DataType.DOUBLE:
        return _NUMBERS
    return frozenset({bool if data_type is DataType.BOOLEAN else str})


def expected_values(data_type: DataType) -> str:
    """Describe what fits a column of a type."""
    if data_type.is_integer:
        smallest, largest = data_type.integer_range
        return f"an integer between {smallest} and {largest}"
    return {
        DataType.DOUBLE: "a number",
        DataType.BOOLEAN: "true or false",
        DataType.DATE: "a date as YYYY-MM-DD",
        DataType.TIMESTAMPTZ: "a time in ISO 8601, such as 2025-01-31T12:00:00Z",
    }.get(data_type, "a text")


def _number(value: Any) -> float | None:  # noqa: ANN401
    if type(value) is str and _JSON_NUMBER.fullmatch(value):
        number = float(value)
        return number if math.isfinite(number) else None
    return value if type(value) in _NUMBERS else None


def _integer(number: float | None, data_type: DataType) -> int | None:
    smallest, largest = data_type.integer_range
    if number is None or not smallest <= number <= largest or int(number) != number:
        return None
    return int(number)


def _text(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    is_integral = type(value) is int or (
        type(value) is float and abs(value) <= LARGEST_EXACT and value == int(value)
    )
    return str(int(value)) if is_integral else None
