"""Commands for language models: a page of context, and an MCP server."""

import typer

from aind_etl.cli.options import LakeOption, WarehouseOption, make_settings
from aind_etl.errors import needs_pipeline


def context() -> None:
    """Print a page about the warehouse for a language model that writes SQL.

    Paste it into a conversation: tables, columns, joins, traps and ten worked questions.
    """
    from aind_etl.client.context import context_page

    typer.echo(context_page(), nl=False)


def mcp(warehouse: WarehouseOption = None, lake: LakeOption = None) -> None:
    """Serve the warehouse to a language model, by the Model Context Protocol over stdio.

    The model can list and describe tables, and run one SELECT at a time, for at most 30 seconds and
    1,000 rows, without access to other files or the network. Needs `pip install 'aind-etl[mcp]'`.

    In the configuration of an assistant:
    `{"command": "aind-etl", "args": ["mcp", "--warehouse", "/path/warehouse.duckdb"]}`.
    """
    settings = make_settings(lake=lake, warehouse=warehouse)
    with needs_pipeline("'aind-etl mcp'", extra="mcp"):
        from aind_etl.client.mcp_server import create_server

    create_server(settings.warehouse_path).run("stdio")
