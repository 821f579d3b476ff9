"""One query on the warehouse: its rows as a frame, a file or a stream.

The warehouse is opened read-only. DuckDB's errors become errors with a message for the user.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal

import duckdb

from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation, load_settings, parse_location
from aind_etl.warehouse import connection as connections

FileFormat = Literal["csv", "json", "parquet"]

NESTED = frozenset({"list", "array", "map", "struct", "union"})
"""The ids of DuckDB's types whose values hold other values."""

# Every numeric type equals it. It belongs to the DB-API, but is missing in the module's stubs.
_NUMBER = duckdb.NUMBER  # type: ignore[attr-defined]
_COPY_OPTIONS: dict[FileFormat, str] = {
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY true",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}
# A PIVOT over the values found counts as several statements. EXPLAIN is not here: with ANALYZE it
# runs what it explains, which may write files.
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
# The characters with which a formula of a spreadsheet begins.
_FORMULA = re.compile(r"[=+@\t\r-]")
# DuckDB wraps the message of the operating system in JSON.
_WRAPPED = re.compile(r'"exception_message":"((?:[^"\\]|\\.)*)"')


class Query(AbstractContextManager["Query"]):
    """A SELECT on a warehouse, to be used in a ``with`` block.

    In a ``sandbox``, it has no access to other files, the network and DuckDB's settings. It raises
    a ConfigurationError if there is no warehouse, or if the query cannot be run.
    """

    def __init__(self, warehouse: WarehouseLocation, text: str, *, sandbox: bool = False) -> None:
        self._text = text.strip().rstrip(";")
        self._scratch: Path | None = None
        with ExitStack() as stack:
            if sandbox:
                self._connection, self._scratch = stack.enter_context(open_sandbox(warehouse))
            else:
                self._connection = stack.enter_context(connections.connect(warehouse))
            self._relation = read_relation(self._connection, self._text)
            self._close = stack.pop_all().close

    def head(self, count: int) -> tuple[list[tuple[str, bool]], list[list[str]], bool]:
        """Return the first rows, formatted for people.

        Returns
        -------
        columns : list of (str, bool)
            The names, and whether the column holds numbers.
        rows : list of list of str
            At most ``count`` rows.
        more : bool
            Whether there are more.
        """
        try:
            rows = self._relation.limit(count + 1).fetchall()
        except duckdb.Error as error:
            raise query_error(error) from None
        columns = [(name, kind == _NUMBER) for name, kind, *_ in self._relation.description]
        shown = [[_format(value) for value in row] for row in rows[:count]]
        return columns, shown, len(rows) > count

    def write(self, path: Path, file_format: FileFormat) -> None:
        """Write all rows to a file."""
        # A sandboxed query may write to one folder only.
        target = self._scratch / "rows" if self._scratch else path
        # On lines of its own, because the query may end in a comment.
        rows = f"(\n{self._text}\n)"
        write_rows(self._connection, self._relation, rows, target, file_format)
        if target != path:
            shutil.copyfile(target, path)

    def stream(self, target: BinaryIO, file_format: FileFormat) -> None:
        """Write all rows to an open file."""
        with TemporaryDirectory(prefix="aind-etl-") as folder:
            path = Path(folder) / f"rows.{file_format}"
            self.write(path, file_format)
            with path.open("rb") as file:
                shutil.copyfileobj(file, target)

    def __exit__(self, *exception: object) -> None:
        """Close the warehouse."""
        self._close()


@contextmanager
def open_warehouse(warehouse: Path | str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a warehouse, by default the configured one, for one question.

    Errors of opening and querying it are ConfigurationErrors.
    """
    location = load_settings().warehouse_path if warehouse is None else parse_location(warehouse)
    with connections.opened(location) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            raise query_error(error) from None


@contextmanager
def open_sandbox(
    warehouse: WarehouseLocation,
) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Yield a connection that can access one folder but no network, and that folder."""
    with (
        TemporaryDirectory(prefix="aind-etl-") as folder,
        connections.connect(warehouse) as connection,
    ):
        connection.execute(f"SET allowed_directories = [{quote_text(f'{folder}/')}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection, Path(folder)


def read_relation(
    connection: duckdb.DuckDBPyConnection, text: str, parameters: object = None
) -> duckdb.DuckDBPyRelation:
    """Return the result of a single SELECT, whose rows are read on demand.

    ``parameters`` are the values of its ``?`` or ``$name``.
    """
    try:
        statements = connection.extract_statements(text)
        reads = len(statements) == 1 and statements[0].type in _READING
        relation = connection.sql(text, params=parameters) if reads else None
    except duckdb.Error as error:
        raise query_error(error) from None
    if relation is None:
        raise ConfigurationError(
            f"{text!r} is not one query that returns rows. Give a single SELECT: the warehouse is "
            "for reading."
        )
    return relation


def write_rows(
    connection: duckdb.DuckDBPyConnection,
    relation: duckdb.DuckDBPyRelation,
    rows: str,
    path: Path,
    file_format: FileFormat,
) -> None:
    """Write the rows of a relation to a file; ``rows`` is its name, or its query in parentheses.

    In CSV, lists and maps become JSON, and a string that a spreadsheet would take for a formula
    gets an apostrophe before it.
    """
    if file_format == "csv":
        rows = _for_spreadsheets(relation, rows)
    options = _COPY_OPTIONS[file_format]
    try:
        connection.execute(f"COPY {rows} TO {quote_text(str(path))} ({options})").fetchall()
    except duckdb.Error as error:
        raise query_error(error, writing=True) from None


def _for_spreadsheets(relation: duckdb.DuckDBPyRelation, rows: str) -> str:
    columns = []
    for number, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True)):
        column = f"c{number}"
        if kind.id in NESTED:
            column = f"to_json({column})"
        elif str(kind) == "VARCHAR":
            is_formula = f"regexp_matches({column}, '^{_FORMULA.pattern}')"
            column = f"CASE WHEN {is_formula} THEN '''' || {column} ELSE {column} END"
        alias = f"'{name}" if _FORMULA.match(name) else name
        columns.append(f"{column} AS {quote_identifier(alias)}")
    # By position, because two columns may have the same name.
    names = ", ".join(f"c{number}" for number in range(len(columns)))
    return f"(SELECT {', '.join(columns)} FROM {rows} AS answer({names}))"


def query_error(error: duckdb.Error, *, writing: bool = False) -> ConfigurationError:
    """Return an error for the user: DuckDB's message names the place and the nearest names.

    Unless a file was being written, an error of a file concerns the warehouse.
    """
    if not writing and isinstance(
        error, duckdb.IOException | duckdb.FatalException | duckdb.SerializationException
    ):
        return ConfigurationError(
            f"The warehouse cannot be read: {error}. If it was copied, copy it again; 'aind-etl "
            "run' builds it again."
        )
    if isinstance(error, duckdb.IOException):
        wrapped = _WRAPPED.search(str(error))
        reason = wrapped[1].replace('\\"', "'") if wrapped else str(error)
        return ConfigurationError(
            f"The file could not be written: {reason}. Check the path, its permissions and the "
            "free space; an existing file is left unchanged."
        )
    return ConfigurationError(f"The query cannot be run. {error}")


def _format(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.10g}" if isinstance(value, float) else str(value)
