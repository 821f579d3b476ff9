"""The server for language models, asked by the protocol's own client."""

import json
import os
import sys
from pathlib import Path

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client

from aind_etl.client import mcp_server
from aind_etl.client.context import context_page
from aind_etl.client.mcp_server import MOST_ROWS, create_server


async def answer(client, tool, **arguments):
    """Return whether a tool failed, and what it said."""
    answered = await client.call_tool(tool, arguments)
    return answered.is_error, "\n".join(part.text for part in answered.content)


def call(warehouse, tool, **arguments):
    """Return whether a tool of the server in this process failed, and what it said."""

    async def run():
        async with Client(create_server(warehouse)) as client:
            return await answer(client, tool, **arguments)

    return anyio.run(run)


def query(warehouse, sql, **options):
    failed, text = call(warehouse, "query", sql=sql, **options)
    assert not failed, text
    return json.loads(text)


def test_tables_are_listed_described_and_queried_over_stdio(built):
    server = StdioServerParameters(
        command=str(Path(sys.executable).with_name("aind-etl")),
        args=["mcp", "--warehouse", str(built.warehouse)],
        env=dict(os.environ),
    )
    won = (
        "SELECT agent_alias, count(*) AS won FROM best_models "
        "WHERE criterion = 'aic' GROUP BY ALL ORDER BY won DESC, agent_alias"
    )

    async def converse():
        async with Client(stdio_client(server)) as client:
            return (
                client.instructions,
                [tool.name for tool in (await client.list_tools()).tools],
                await answer(client, "list_tables"),
                await answer(client, "describe_table", table="best_models"),
                await answer(client, "query", sql=won),
            )

    instructions, tools, *answers = anyio.run(converse)
    assert instructions == context_page()
    assert tools == ["list_tables", "describe_table", "query"]
    (_, listed), (_, described), (_, rows) = answers
    assert not any(failed for failed, _ in answers)
    assert "`best_models`: One row per session and criterion" in listed
    assert "`result_files`" in listed
    assert "- `margin` DOUBLE: " in described
    assert json.loads(rows)["columns"] == ["agent_alias", "won"]
    assert sum(won for _, won in json.loads(rows)["rows"]) > 10


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("query", {"sql": "DROP TABLE analyses"}, "not one query that returns rows"),
        ("query", {"sql": "SET enable_external_access = true"}, "not one query that returns rows"),
        ("query", {"sql": "FROM read_csv('/etc/passwd')"}, "file system operations are disabled"),
        ("query", {"sql": "FROM read_parquet('s3://bucket/x')"}, "The query cannot be run"),
        ("query", {"sql": "SELECT nothing FROM analyses"}, "nothing"),
        ("describe_table", {"table": "best_model"}, "Did you mean 'best_models'"),
    ],
)
def test_an_error_is_explained(built, tool, arguments, words):
    failed, text = call(built.warehouse, tool, **arguments)
    assert failed
    assert words in text
    assert "Traceback" not in text


def test_rows_are_limited_with_a_note(built):
    few = query(built.warehouse, "SELECT range FROM range(5000)", max_rows=3)
    assert few["rows"] == [[0], [1], [2]]
    assert "Only the first 3 rows" in few["note"]
    all_of_them = query(built.warehouse, "SELECT range FROM range(3)", max_rows=3)
    assert "note" not in all_of_them
    assert len(query(built.warehouse, "FROM range(5000)")["rows"]) == 100
    failed, text = call(built.warehouse, "query", sql="FROM range(5)", max_rows=MOST_ROWS + 1)
    assert failed
    assert str(MOST_ROWS) in text


def test_a_query_that_takes_too_long_is_stopped_with_an_explanation(built, monkeypatch):
    monkeypatch.setattr(mcp_server, "SECONDS", 0.5)
    endless = "FROM range(100000000000) AS a, range(1000) AS b WHERE a.range + b.range = -1"
    failed, text = call(built.warehouse, "query", sql=endless)
    assert failed
    assert "stopped after 0.5 s" in text
    assert query(built.warehouse, "SELECT 1 AS one")["rows"] == [[1]]


def test_values_of_every_type_are_returned_as_json(built):
    found = query(
        built.warehouse,
        "SELECT DATE '2026-01-02', 'nan'::DOUBLE, [1, NULL], {'a': 1.5::DOUBLE}, "
        "MAP {'k': true}, NULL, TIME '08:00', 170141183460469231731687303715884105727::HUGEINT, "
        "0.1::DECIMAL(3, 1)",
    )
    assert found["rows"] == [
        ["2026-01-02", "nan", [1, None], {"a": 1.5}, {"k": True}, None, "08:00:00", 2**127 - 1, 0.1]
    ]


def test_a_missing_warehouse_is_explained(tmp_path):
    failed, text = call(tmp_path / "nowhere.duckdb", "query", sql="SELECT 1")
    assert failed
    assert "There is no warehouse at" in text
