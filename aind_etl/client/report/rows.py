"""Rows of the warehouse for the report's page."""

import math
from datetime import UTC, date, datetime
from typing import Any

import duckdb

from aind_etl.errors import ConfigurationError

# More digits would make the page larger, and are not visible.
_DIGITS = 6


def rows_of(
    connection: duckdb.DuckDBPyConnection, query: str, parameters: list[Any] | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return the names of a query's columns, and its rows.

    Raises
    ------
    ConfigurationError
        The warehouse lacks what the query asks for.
    """
    try:
        relation = connection.execute(query, parameters)
        names = [column[0] for column in relation.description or ()]
        return names, relation.fetchall()
    except duckdb.Error as error:
        raise ConfigurationError(
            f"The report cannot be drawn from this warehouse ({str(error).splitlines()[0]}). It "
            "was built by another version of aind-etl: 'aind-etl run' builds it again."
        ) from None


def plain(value: Any) -> Any:  # noqa: ANN401 - any value of a row
    """Return a value as JSON has it."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="minutes").removesuffix("+00:00") + "Z"
    if isinstance(value, date):
        return value.isoformat()
    return value
