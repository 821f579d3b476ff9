"""The data dictionary: the contract as a Markdown page.

``docs/renew_dictionary.py`` appends the views, marts and macros of ``sql/``.
"""

from aind_etl.contract.columns import LEFT_IN_DOCUMENTS
from aind_etl.contract.ddl import describe
from aind_etl.contract.tables import TABLES, Partitioning, Table
from aind_etl.contract.types import Column

_PAGE = """\
# Data dictionary

Every table of the lake and of `warehouse.duckdb`, generated from the contract
(`aind_etl/contract/`) by `make docs`. Types are DuckDB's; times are UTC. The *key*
identifies a row. *Prototype* and *framework* say where a value comes from in a document of each
format: `[]` is every position of a list, `*` every key of an object.

The tables are followed by the [views](#views), [marts](#marts) and [macros](#macros) that are
built on them. The warehouse has all descriptions as comments:
`SELECT column_name, comment FROM duckdb_columns() WHERE table_name = 'model_comparison'`.

{contents}

{tables}
## Left in the documents

These parts of untrimmed fitting results do not become attributes; their values stay
in `documents`.

{left}
"""
_SECTION = """\
## {table.name}

{table.description}

Key: {key}. {where}

| column | type | meaning | prototype | framework |
|---|---|---|---|---|
{rows}
"""


def data_dictionary() -> str:
    """Return the data dictionary as Markdown."""
    return _PAGE.format(
        contents="\n".join(
            f"- [`{table.name}`](#{table.name}): {_first_sentence(table.description)}"
            for table in TABLES
        ),
        tables="\n".join(map(_section, TABLES)),
        left="\n".join(f"- `{path}`: {reason}." for path, reason in LEFT_IN_DOCUMENTS.items()),
    )


def _section(table: Table) -> str:
    key = ", ".join(f"`{name}`" for name in table.key)
    rows = "\n".join(map(_row, table.columns))
    return _SECTION.format(table=table, key=key, where=_where(table), rows=rows)


def _row(column: Column) -> str:
    origins = map(str, column.origins.values())
    cells = (f"`{column.name}`", column.type.value, describe(column), *origins)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _where(table: Table) -> str:
    if table.partitioning is Partitioning.WAREHOUSE_ONLY:
        return "Only in the warehouse."
    folders = {"collection": "collection=<name>/", "session_month": "session_month=<YYYY-MM>/"}
    path = "".join(folders[key] for key in table.partitioning.value)
    return f"In the lake at `{table.name}/{path}`."


def _first_sentence(text: str) -> str:
    return text.split(": ", maxsplit=1)[0].rstrip(".") + "."
