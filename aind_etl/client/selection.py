"""Arguments of the functions for notebooks as SQL over `analyses` or `mle_fits`."""

from collections.abc import Iterable, Iterator, Sequence

import duckdb

from aind_etl.client.arguments import parse_day, parse_strings
from aind_etl.contract import FORMATS, Table, tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

KEY = ", ".join(tables.RECORD_KEY)
_CLOSED = {"pipeline_format": FORMATS, "outcome": ("success", "skipped", "failed", "unknown")}
"""The values of columns that have no others."""
_COLUMNS = {"collection": "source_collection", "analysis_tag": "analysis_version"}
"""The columns of arguments that have another name."""


class Selection:
    """The rows of a table that meet every argument which is not None.

    ``source`` is a subquery, and ``parameters`` are the values of its named parameters. A wrong
    argument is an ArgumentError.
    """

    def __init__(
        self,
        table: str = tables.ANALYSES.name,
        *,
        newest_only: bool = False,
        session_date: object = None,
        **arguments: object,
    ) -> None:
        self.parameters: dict[str, object] = {}
        self._named: list[tuple[str, str, list[str]]] = []
        conditions = [self.one_of(name, value, table) for name, value in arguments.items()]
        if session_date is not None:
            conditions.extend(self._between(session_date))
        table = "latest_analyses" if newest_only else table
        self.source = f"(SELECT * FROM {table} WHERE {' AND '.join(conditions)})"

    def one_of(self, argument: str, value: object, table: str) -> str:
        """Return the condition that a column of a table has a value, or one of several."""
        if value is None:
            return "TRUE"
        column = _COLUMNS.get(argument, argument)
        values = parse_strings(argument, value)
        self.parameters[column] = values
        if column in _CLOSED:
            for problem in _unknown(column, values, _CLOSED[column]):
                raise ArgumentError(problem)
        elif column != "record_id":  # of which there are too many to check
            self._named.append((column, table, values))
        return f"{quote_identifier(column)} IN (SELECT unnest(${column}))"

    def _between(self, value: object) -> Iterator[str]:
        days = value if isinstance(value, tuple | list) else (value, value)
        if len(days) != 2:  # noqa: PLR2004 - a range has two ends
            raise ArgumentError(
                f"session_date is {value!r}; expected a day, or the first and the last day of a "
                "range such as ('2024-10-01', '2024-10-31')."
            )
        first, last = (None if day is None else parse_day("session_date", day) for day in days)
        if first and last and last < first:
            raise ArgumentError(
                f"session_date ends on {last}, before it begins; expected a first day before "
                f"{last}."
            )
        for name, sign, day in (("first_day", ">=", first), ("last_day", "<=", last)):
            if day is not None:
                self.parameters[name] = day
                yield f"session_date {sign} ${name}"

    def unknown_names(self, connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
        """Yield a message for each value of an argument that no row has."""
        for column, table, values in self._named:
            rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
            yield from _unknown(column, values, [name for (name,) in rows if name is not None])


def select_columns(table: Table, columns: Sequence[str] | None) -> str:
    """Return columns of a table in SQL, all by default; an unknown one is an ArgumentError."""
    if columns is None:
        return "*"
    names = parse_strings("columns", columns)
    if not names:
        raise ArgumentError("columns names none; leave it out for all.")
    for name in names:
        if name not in table.column_names:
            raise ArgumentError(
                f"The table {table.name!r} has no column {name!r}. "
                f"{suggest(name, table.column_names)}"
            )
    return ", ".join(map(quote_identifier, names))


def select_with_sessions(table: Table, selection: Selection, condition: str, order: str) -> str:
    """Return the query for a child table of `analyses`, with the session and agent of each row."""
    own = ", ".join(f"{table.name}.{name}" for name in table.column_names)
    return (
        f"SELECT session_key, subject_id, session_date, agent_alias, {own} "
        f"FROM {table.name} JOIN {selection.source} AS selection USING ({KEY}) "
        f"WHERE {condition} ORDER BY session_key, {order}"
    )


def _unknown(column: str, values: Iterable[str], known: Sequence[str]) -> Iterator[str]:
    for value in values:
        if value not in known:
            yield f"There is no {column} {value!r}. {suggest(value, known)}"
