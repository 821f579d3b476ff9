"""DuckDB statements that create the contract's tables and their comments."""

from aind_etl.contract.tables import Table
from aind_etl.contract.types import Column


def quote_identifier(name: str) -> str:
    """Return ``name`` as a SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def quote_text(text: str) -> str:
    """Return ``text`` as a SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def create_table(table: Table) -> str:
    """Return the statement that creates a table.

    Keys are not declared: an index would cost every publication more than the checks that prove
    the same.
    """
    columns = ",\n  ".join(
        f"{quote_identifier(column.name)} {column.type}{' NOT NULL' if column.required else ''}"
        for column in table.columns
    )
    return f"CREATE TABLE {quote_identifier(table.name)} (\n  {columns}\n)"


def comments(table: Table) -> list[str]:
    """Return the statements that comment on a table and each of its columns."""
    name = quote_identifier(table.name)
    return [
        f"COMMENT ON TABLE {name} IS {quote_text(table.description)}",
        *(
            f"COMMENT ON COLUMN {name}.{quote_identifier(column.name)} "
            f"IS {quote_text(describe(column))}"
            for column in table.columns
        ),
    ]


def describe(column: Column) -> str:
    """Return a column's description with its unit."""
    return f"{column.description} [{column.unit}]" if column.unit else column.description
