"""The files of ``sql/``: their contents and dependencies.

The file of a view or mart is named after it and holds one SELECT. Its opening comment says what a
row is; the comment's lines ``--   name: meaning`` describe columns. A macro is a whole statement. A
check is a SELECT of offending rows, a warning one of rows to look at, and a question a SELECT that
shows how to use the tables.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import duckdb

from aind_etl.bundle import bundled
from aind_etl.contract import FLATTENED_TABLES, TABLES, tables
from aind_etl.errors import ConfigurationError

_WARNING = "A warning: "
_READ_LATER = "rows of deleted records are removed when the result folders are next checked."
_PARSE = """
SELECT json_extract_string(tree, '$..table_name'), json_extract_string(tree, '$.error')
FROM (SELECT json_serialize_sql(?) AS tree)
"""
_COLUMN = re.compile(r"--   (\w+): (\S.*)")


class Kind(StrEnum):
    """The kinds of files in ``sql/``; the value is the folder."""

    MACRO = "macros"
    VIEW = "views"
    MART = "marts"
    CHECK = "checks"
    WARNING = "warnings"
    QUESTION = "questions"


@dataclass(frozen=True, slots=True)
class SqlFile:
    """One file of ``sql/``.

    Attributes
    ----------
    comment
        What a row is, or what must hold.
    statement
        The SQL without the opening comment and a closing semicolon.
    columns
        Descriptions of columns, by name.
    origin
        The source of the SQL, for messages.
    """

    kind: Kind
    name: str
    comment: str
    statement: str
    columns: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    @property
    def summary(self) -> str:
        """The first sentence of the comment."""
        return self.comment.split(". ", maxsplit=1)[0].rstrip(".") + "."

    @property
    def is_warning(self) -> bool:
        """Whether a failure of this check is a warning: the cause is in the documents."""
        return _WARNING in self.comment


def read_sql_files(kind: Kind, folder: Path | None = None) -> list[SqlFile]:
    """Return the files of a kind, sorted by name; checks include those derived from keys.

    They are those of ``folder``, or of the ``sql`` that is installed with the package.

    Raises
    ------
    ConfigurationError
        A file does not begin with a comment, or its name is not an SQL name.
    """
    files = [_read(kind, path) for path in ((folder or bundled("sql")) / kind).glob("*.sql")]
    if kind is Kind.CHECK:
        files += _key_checks()
    return sorted(files, key=lambda file: file.name)


def _key_checks() -> Iterator[SqlFile]:
    """Yield the checks derived from the contract's keys."""
    parent = tables.ANALYSES
    for table in TABLES:
        key = ", ".join(table.key)
        # Two rows without a key are not duplicates.
        known = [
            f"{column.name} IS NOT NULL"
            for column in table.columns
            if column.name in table.key and not column.required
        ]
        where = f"WHERE {' AND '.join(known)}\n" if known else ""
        yield SqlFile(
            Kind.CHECK,
            f"{table.name}_key_is_unique",
            f"No two rows of {table.name} have the same key.",
            f"SELECT {key}, count(*) AS n_rows\nFROM {table.name}\n{where}"
            f"GROUP BY {key}\nHAVING count(*) > 1",
            origin="the key in the contract",
        )
        if table is not parent and set(parent.key) <= set(table.key):
            key = ", ".join(parent.key)
            warning = "" if table in FLATTENED_TABLES else f" {_WARNING}{_READ_LATER}"
            yield SqlFile(
                Kind.CHECK,
                f"{table.name}_belong_to_{parent.name}",
                f"Every row of {table.name} belongs to a row of {parent.name}.{warning}",
                f"SELECT {key}, count(*) AS n_rows\nFROM {table.name}\n"
                f"ANTI JOIN {parent.name} USING ({key})\nGROUP BY {key}",
                origin="the key in the contract",
            )


def dependencies(files: Sequence[SqlFile]) -> dict[str, set[str]]:
    """Return, for each view or mart, the names of the views, marts and tables that it reads.

    Each comes after those it reads.

    Raises
    ------
    ConfigurationError
        Files depend on each other in a cycle, or have the same name.
    """
    by_name: dict[str, SqlFile] = {}
    for file in files:
        other = by_name.setdefault(file.name, file)
        if other is not file:
            raise ConfigurationError(
                f"{other.origin} and {file.origin} make tables of the same name; rename one."
            )
    names = by_name.keys() | {table.name for table in TABLES}
    graph = {file.name: tables_read(file.statement, names) - {file.name} for file in files}
    try:
        order = [*TopologicalSorter(graph).static_order()]
    except CycleError as error:
        circle = " → ".join(error.args[1])
        raise ConfigurationError(
            f"Files of sql/ depend on each other in a cycle: {circle}. Break it."
        ) from None
    return {name: graph[name] for name in order if name in graph}


def tables_read(query: str, names: AbstractSet[str]) -> set[str]:
    """Return which of ``names`` a query reads as tables, in upper or lower case.

    DuckDB's parser finds the tables of a SELECT. A query that it cannot parse without running it,
    such as a dynamic PIVOT, is searched for the names as words.
    """
    read = {name.lower() for name in _tables_or_words(query)}
    return {name for name in names if name.lower() in read}


@cache
def _tables_or_words(query: str) -> frozenset[str]:
    with _parser().cursor() as connection:
        ((names, error),) = connection.execute(_PARSE, [query]).fetchall()
    if error == "true":
        code = re.sub(r"--.*|'[^']*'", " ", query)
        names = re.findall(r"\w+", code)
    return frozenset(names)


@cache
def _parser() -> duckdb.DuckDBPyConnection:
    """Return a database to parse with: creating one takes ten times as long as parsing a file."""
    return duckdb.connect(":memory:")


if hasattr(os, "register_at_fork"):
    # The threads of a database do not survive a fork.
    os.register_at_fork(before=_parser.cache_clear)


def _read(kind: Kind, path: Path) -> SqlFile:
    lines = path.read_text(encoding="utf-8").splitlines()
    opening = list(takewhile(lambda line: line.startswith("--"), lines))
    comment, columns = _parse_file(opening)
    statement = "\n".join(lines[len(opening) :]).strip().rstrip(";")
    if not comment or not statement:
        raise ConfigurationError(
            f"{path} must begin with a comment that says what a row is, followed by SQL."
        )
    if not path.stem.isidentifier():
        raise ConfigurationError(
            f"{path}: the file's name becomes the name of a table; use letters, digits and _."
        )
    origin = f"sql/{kind}/{path.stem}.sql"
    return SqlFile(kind, path.stem, comment, statement, columns, origin)


def _parse_file(opening: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the description of rows, and those of columns, from an opening comment."""
    rows: list[str] = []
    columns: dict[str, list[str]] = {}
    part = rows
    for line in opening:
        if explained := _COLUMN.fullmatch(line):
            part = columns[explained[1]] = [explained[2]]
        else:
            part.append(line.removeprefix("--").strip())
    return " ".join(rows).strip(), {name: " ".join(words) for name, words in columns.items()}
