"""One query on the warehouse: its rows as a frame, a file or a stream.

The warehouse is opened read-only. Errors of a query are raised with a message for the user.
"""

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, Literal, Self

import duckdb

from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.connection import connect

FileFormat = Literal["csv", "json", "parquet"]
_WRAPPED = re.compile(r'"exception_message":"((?:[^"\\]|\\.)*)"')
_OPTIONS: dict[FileFormat, str] = {
    "csv": "FORMAT csv, HEADER",
    "json": "FORMAT json, ARRAY true",
    "parquet": "FORMAT parquet, COMPRESSION zstd",
}
# A PIVOT over the values found counts as several statements. EXPLAIN is not here: with ANALYZE it
# runs what it explains, which may write files.
_READING = (duckdb.StatementType.SELECT, duckdb.StatementType.MULTI)
_NUMBERS = ("INT", "DOUBLE", "FLOAT", "DECIMAL", "HUGE")


class Query:
    """A SELECT on a warehouse.

    Parameters
    ----------
    warehouse
        The DuckDB file: its path, or the URL of an object.
    text
        The query.
    sandbox
        Whether the query is kept from every file but the warehouse, from the network, and from
        DuckDB's settings.

    Raises
    ------
    ConfigurationError
        There is no warehouse, or the query cannot be run.
    """

    def __init__(self, warehouse: WarehouseLocation, text: str, *, sandbox: bool = False) -> None:
        self._connection = connect(warehouse)
        self._text = text.strip().rstrip(";")
        self._scratch = TemporaryDirectory(prefix="aind-etl-") if sandbox else None
        try:
            if self._scratch is not None:
                restrict(self._connection, Path(self._scratch.name))
            self._relation = read_relation(self._connection, self._text)
        except BaseException:
            self._connection.close()
            raise

    def head(self, count: int) -> tuple[list[tuple[str, bool]], list[list[str]], bool]:
        """Return the first rows, for people.

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
            raise explained(error) from None
        columns = [
            (name, str(kind).startswith(_NUMBERS) or "INT" in str(kind))
            for name, kind in zip(self._relation.columns, self._relation.types, strict=True)
        ]
        return (
            columns,
            [[_shown(value) for value in row] for row in rows[:count]],
            len(rows) > count,
        )

    def write(self, path: Path, file_format: FileFormat) -> None:
        """Write all rows to a file."""
        try:
            # On lines of its own: the query may end in a comment.
            rows = f"(\n{self._text}\n)"
            if file_format == "csv":
                rows = for_spreadsheets(self._relation, rows)
            # From a sandbox, rows reach the file by way of the one folder it may write to.
            target = Path(self._scratch.name) / "rows" if self._scratch is not None else path
            self._connection.execute(
                f"COPY {rows} TO {quote_text(str(target))} ({_OPTIONS[file_format]})"
            ).fetchall()
            if target != path:
                shutil.copyfile(target, path)
        except duckdb.Error as error:
            raise explained(error, writing=True) from None

    def stream(self, target: BinaryIO, file_format: FileFormat) -> None:
        """Write all rows to an open file."""
        with TemporaryDirectory(prefix="aind-etl-") as folder:
            path = Path(folder) / f"rows.{file_format}"
            self.write(path, file_format)
            with path.open("rb") as file:
                shutil.copyfileobj(file, target)

    def __enter__(self) -> Self:
        """Return the query."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the warehouse."""
        self._connection.close()
        if self._scratch is not None:
            self._scratch.cleanup()


def restrict(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    """Keep all that follows on a connection from files, but those of a folder, and the network."""
    connection.execute(f"SET allowed_directories = [{quote_text(f'{folder}/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def for_spreadsheets(relation: duckdb.DuckDBPyRelation, rows: str) -> str:
    """Return a query for the same rows, such that no spreadsheet runs a text of theirs.

    A text that a spreadsheet would take for a formula gets an apostrophe before it. Lists and maps
    become JSON.

    Parameters
    ----------
    relation
        What is asked for.
    rows
        Its SQL, in parentheses.
    """
    columns = []
    for number, (name, kind) in enumerate(zip(relation.columns, relation.types, strict=True)):
        column = f"c{number}"
        if kind.id in NESTED:
            column = f"to_json({column})"
        elif str(kind) == "VARCHAR":
            is_formula = f"regexp_matches({column}, '^[=+@\\t\\r-]')"
            column = f"CASE WHEN {is_formula} THEN '''' || {column} ELSE {column} END"
        alias = f"'{name}" if name.startswith(_FORMULA) else name
        columns.append(f"{column} AS {quote_identifier(alias)}")
    # By position: two columns may have one name.
    names = ", ".join(f"c{number}" for number in range(len(columns)))
    return f"(SELECT {', '.join(columns)} FROM {rows} AS answer({names}))"


NESTED = frozenset({"list", "array", "map", "struct", "union"})
"""The kinds of types whose values hold others, as DuckDB names them."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def read_relation(
    connection: duckdb.DuckDBPyConnection, text: str, parameters: object = None
) -> duckdb.DuckDBPyRelation:
    """Return what a single SELECT asks for; its rows are read when they are wanted.

    Parameters
    ----------
    connection
        A warehouse.
    text
        The query.
    parameters
        Values for its ``?`` or ``$name``, if it has any.

    Raises
    ------
    ConfigurationError
        It is not one query that returns rows, or cannot be run.
    """
    try:
        statements = connection.extract_statements(text)
        reads = len(statements) == 1 and statements[0].type in _READING
        relation = connection.sql(text, params=parameters) if reads else None
    except duckdb.Error as error:
        raise explained(error) from None
    if relation is None:
        raise ConfigurationError(
            f"{text!r} is not one query that returns rows. Give a single SELECT: the warehouse is "
            "for reading."
        )
    return relation


def explained(error: duckdb.Error, *, writing: bool = False) -> ConfigurationError:
    """Return DuckDB's own message, which names the place and the nearest names.

    Unless a file was being written, trouble with a file is trouble with the warehouse.
    """
    if not writing and isinstance(
        error, duckdb.IOException | duckdb.FatalException | duckdb.SerializationException
    ):
        return ConfigurationError(
            f"The warehouse cannot be read: {error}. If it was copied, copy it again; 'aind-etl "
            "run' builds it again."
        )
    if isinstance(error, duckdb.IOException):
        # DuckDB wraps what the operating system says in JSON.
        wrapped = _WRAPPED.search(str(error))
        reason = wrapped[1].replace('\\"', "'") if wrapped else str(error)
        return ConfigurationError(
            f"The file could not be written: {reason}. Check the path, the rights to it and the "
            "free space; what was there before is as it was."
        )
    return ConfigurationError(f"The query cannot be run. {error}")


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.10g}"
    return str(value)
