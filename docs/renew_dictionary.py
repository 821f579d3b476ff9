"""Writes ``docs/data_dictionary.md``: the contract's tables, and the views and marts of ``sql/``.

``make docs`` runs it; the tests compare. Columns are described in the contract or at the top of the
file in ``sql/``; types are those of a warehouse built from an empty lake.
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
    Kind.VIEW: "Named queries, which run whenever they are read.",
    Kind.MART: "Tables that are built with the warehouse, so they are fast to read.",
    Kind.MACRO: "SQL functions.",
}


def dictionary() -> str:
    """Return the page as Markdown."""
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "warehouse.duckdb"
        build_warehouse(Lake(Path(temporary) / "lake"), path)
        with connect(path) as connection:
            return "\n".join([data_dictionary(), *_views_and_marts(connection)])


def _views_and_marts(connection: duckdb.DuckDBPyConnection) -> Iterator[str]:
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
    """Return a text with Markdown's characters escaped, except in code."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"[*<|]", r"\\\g<0>", part) for part in parts
    )


if __name__ == "__main__":
    DICTIONARY.write_text(dictionary(), encoding="utf-8")
