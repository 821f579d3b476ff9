"""A server of the Model Context Protocol, by which a language model queries the warehouse.

Queries run in a sandbox: only SELECT, no file but the warehouse, no network, no setting. Rows and
time are limited, and an answer says when a limit was reached.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from threading import Timer
from typing import Annotated, Any

import duckdb
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import Field

from aind_etl.client.context import context_page, relation_lines
from aind_etl.client.export import relation_comments
from aind_etl.client.query import open_sandbox, query_error, read_relation
from aind_etl.errors import AindEtlError
from aind_etl.settings import WarehouseLocation
from aind_etl.text import suggest

MOST_ROWS = 1_000
"""The most rows of an answer."""
SECONDS = 30.0
"""How long a query may take."""
_DEFAULT_ROWS = 100


def create_server(warehouse: WarehouseLocation) -> MCPServer[Any]:
    """Return the server for a warehouse: a DuckDB file, or the URL of an object."""
    server: MCPServer[Any] = MCPServer("aind-etl", instructions=context_page(), log_level="WARNING")

    @server.tool()
    def list_tables() -> str:
        """List the tables, views and marts of the warehouse, and what a row of each is."""
        with _sandbox(warehouse) as connection:
            comments = relation_comments(connection)
        known = "\n".join(relation_lines())
        others = [
            f"- `{name}`: {comment}"
            for name, comment in comments.items()
            if comment and f"`{name}`" not in known
        ]
        return "\n".join(["Most queries need these:", known, "", "The others:", *others])

    @server.tool()
    def describe_table(
        table: Annotated[str, Field(description="The name of a table, view or mart.")],
    ) -> str:
        """Describe the columns of a table, view or mart: types, units and meaning."""
        with _sandbox(warehouse) as connection:
            columns = connection.execute(
                "SELECT column_name, data_type, comment FROM duckdb_columns() "
                "WHERE table_name = ? AND NOT internal ORDER BY column_index",
                [table],
            ).fetchall()
            if not columns:
                known = relation_comments(connection)
                raise ToolError(f"There is no table {table!r}. {suggest(table, known)}")
            ((rows,),) = connection.table(table).count("*").fetchall()
        lines = [
            f"- `{name}` {kind}: {comment or ''}".rstrip(": ") for name, kind, comment in columns
        ]
        return "\n".join([f"`{table}` has {rows:,} rows.", *lines])

    @server.tool()
    def query(
        sql: Annotated[str, Field(description="One SELECT, in DuckDB's SQL.")],
        max_rows: Annotated[
            int, Field(description="The most rows to return.", ge=1, le=MOST_ROWS)
        ] = _DEFAULT_ROWS,
    ) -> dict[str, Any]:
        """Run one SELECT on the warehouse; return its columns and rows."""
        with _sandbox(warehouse) as connection:
            relation = read_relation(connection, sql.strip().rstrip(";"))
            columns = relation.columns
            rows = relation.limit(max_rows + 1).fetchall()
        answer: dict[str, Any] = {
            "columns": columns,
            "rows": [[_as_json(value) for value in row] for row in rows[:max_rows]],
        }
        if len(rows) > max_rows:
            answer["note"] = (
                f"Only the first {max_rows:,} rows are here; there are more. Aggregate, filter, or "
                f"ask for up to {MOST_ROWS:,} with max_rows."
            )
        return answer

    return server


@contextmanager
def _sandbox(warehouse: WarehouseLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a restricted connection for a limited time; errors are messages for the client."""
    try:
        with open_sandbox(warehouse) as (connection, _):
            timer = Timer(SECONDS, connection.interrupt)
            timer.daemon = True
            timer.start()
            try:
                yield connection
            finally:
                timer.cancel()
    except duckdb.InterruptException:
        raise ToolError(
            f"The query was stopped after {SECONDS:g} s. Query less: filter by subject_id or "
            "session_key, or use a mart instead of trials and attributes."
        ) from None
    except duckdb.Error as error:
        raise ToolError(str(query_error(error))) from None
    except AindEtlError as error:
        raise ToolError(str(error)) from None


def _as_json(value: object) -> object:
    """Return a DuckDB value as JSON represents it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return {str(key): _as_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(inner) for inner in value]
    return str(value)
