"""The table ``warehouse_info``: when, where and from what a warehouse was built."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import duckdb

from aind_etl.contract.ddl import quote_text
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.connection import INFO_TABLE, open_alone
from aind_etl.warehouse.location import locate_warehouse

_INFO_COMMENT = "One row per fact about this file: when, from what and by what it was built."


def read_info(location: WarehouseLocation) -> dict[str, str]:
    """Return the rows of ``warehouse_info``; empty if the warehouse cannot be read."""
    target = locate_warehouse(location)
    facts: dict[str, str] = {}
    with suppress(DataError):  # The local copy has them too.
        facts = target.metadata()
    try:
        return facts or read_info_of_file(target.file())
    except ConfigurationError:
        return {}


def read_info_of_file(path: Path) -> dict[str, str]:
    """Return the rows of ``warehouse_info`` of a file; empty if it has no such table."""
    try:
        with open_alone(path) as connection:
            return dict(connection.execute(f"SELECT name, value FROM {INFO_TABLE}").fetchall())
    except duckdb.Error:
        return {}


def read_sources(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the sources of the warehouse's documents, sorted."""
    found = connection.execute(
        "SELECT DISTINCT source FROM collections WHERE source <> '' ORDER BY source"
    ).fetchall()
    return [source for (source,) in found]


def write_info(connection: duckdb.DuckDBPyConnection, facts: Mapping[str, str]) -> None:
    """Write the table ``warehouse_info``."""
    connection.execute(f"CREATE TABLE {INFO_TABLE} (name VARCHAR NOT NULL, value VARCHAR)")
    connection.execute(f"COMMENT ON TABLE {INFO_TABLE} IS {quote_text(_INFO_COMMENT)}")
    connection.executemany(f"INSERT INTO {INFO_TABLE} VALUES (?, ?)", list(facts.items()))
