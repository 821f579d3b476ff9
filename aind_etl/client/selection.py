"""The arguments of :class:`~aind_etl.client.warehouse.Warehouse` as SQL over `analyses`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import duckdb

from aind_etl.client.arguments import parse_day_range, parse_strings
from aind_etl.contract import FORMATS, Table, tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

OUTCOMES = ("success", "skipped", "failed", "unknown")
KEY = ", ".join(tables.RECORD_KEY)


class Selection:
    """The rows of `analyses` that meet every argument which is not None.

    ``source`` is a subquery, and ``parameters`` are the values of its named parameters. A wrong
    argument is an ArgumentError.
    """

    def __init__(self, *, newest_only: bool = False, **arguments: Any) -> None:  # noqa: ANN401
        self.parameters: dict[str, object] = {}
        self._named: list[tuple[str, str, list[str]]] = []
        for column, known in (("pipeline_format", FORMATS), ("outcome", OUTCOMES)):
            _refuse_unknown(column, parse_strings(column, arguments.get(column)), known)
        days = arguments.pop("session_date")
        conditions = [] if days is None else list(self._between(days))
        for argument, value in arguments.items():
            column = "source_collection" if argument == "collection" else argument
            conditions.append(self.one_of(column, value, tables.ANALYSES, argument=argument))
        table = "latest_analyses" if newest_only else tables.ANALYSES.name
        self.source = f"(SELECT * FROM {table} WHERE {' AND '.join(conditions)})"

    def one_of(self, column: str, value: object, table: Table, *, argument: str = "") -> str:
        """Return the condition that a column of a table has a value, or one of several."""
        if value is None:
            return "TRUE"
        values = parse_strings(argument or column, value)
        self.parameters[column] = values
        self._named.append((column, table.name, values))
        return f"{quote_identifier(column)} IN (SELECT unnest(${column}))"

    def _between(self, value: object) -> Iterator[str]:
        first, last = parse_day_range("session_date", value)
        for name, sign, day in (("first_day", ">=", first), ("last_day", "<=", last)):
            if day is not None:
                self.parameters[name] = day
                yield f"session_date {sign} ${name}"

    def refuse_unknown_names(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Raise an ArgumentError for a value that no row has; record ids are too many to check."""
        for column, table, values in self._named:
            if column not in {"record_id", "outcome", "pipeline_format"}:
                rows = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()
                _refuse_unknown(column, values, [name for (name,) in rows if name is not None])


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


def _refuse_unknown(column: str, values: Iterable[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ArgumentError(f"There is no {column} {value!r}. {suggest(value, known)}")
