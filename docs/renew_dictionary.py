"""Writes ``docs/data_dictionary.md``: the contract's tables, and what ``sql/`` makes of them.

``make docs`` calls it; the tests compare. Descriptions of columns are in the contract or at the
head of the file in ``sql/``; its type is that of a warehouse built from an empty lake.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

from aind_etl.contract.dictionary import data_dictionary
from aind_etl.contract.tables import ANALYSES
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files

DICTIONARY = Path(__file__).parent / "data_dictionary.md"

_INTRODUCTIONS = {
    Kind.VIEW: "Queries with a name: they cost what they ask for, and are never behind the tables.",
    Kind.MART: "Tables made when the warehouse is built, quick to read.",
    Kind.MACRO: "Functions of SQL.",
}


def dictionary() -> str:
    """Return the page as Markdown."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "warehouse.duckdb"
        build_warehouse(Lake(Path(temporary) / "lake"), path)
        with connect(path) as connection:
            return "\n".join([data_dictionary(), *_made(connection)])


def _made(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
    for kind, introduction in _INTRODUCTIONS.items():
        files = read_sql_files(kind)
        yield f"## {kind.capitalize()}\n\n{introduction}\n"
        listed = (f"- [`{file.name}`](#{file.name}): {_escaped(file.summary)}" for file in files)
        yield "\n".join(listed) + "\n"
        for file in files:
            yield f"### {file.name}\n\n{_escaped(file.comment)}\n\n`sql/{kind}/{file.name}.sql`\n"
            if kind is not Kind.MACRO:
                yield "\n".join(_rows(connection, file)) + "\n"


def _rows(connection: duckdb.DuckDBPyConnection, file: SqlFile) -> Iterator[str]:
    columns = connection.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [file.name],
    ).fetchall()
    if tuple(name for name, *_ in columns[: len(ANALYSES.columns)]) == ANALYSES.column_names:
        columns = columns[len(ANALYSES.columns) :]
        yield "Every column of [`analyses`](#analyses)" + (", and these:\n" if columns else ".")
        if not columns:
            return
    yield "| column | type | meaning |\n|---|---|---|"
    for name, kind, comment in columns:
        cells = f"`{name}`", kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"), comment or "–"
        yield "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _escaped(text: str) -> str:
    """Return a text that Markdown shows as it is; what is marked as code stays so."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"[*<|]", r"\\\g<0>", part) for part in parts
    )


if __name__ == "__main__":
    DICTIONARY.write_text(dictionary(), encoding="utf-8")
