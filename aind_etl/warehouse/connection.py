"""Read-only connections to a warehouse, always to the file that is published now."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import duckdb

from aind_etl.contract.ddl import quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.location import locate_warehouse

if TYPE_CHECKING:
    # Readers of a warehouse need not load the lake's libraries.
    from aind_etl.lake import Lake
from aind_etl.text import first_line

Config: TypeAlias = dict[str, str | bool | int | float | list[str]]
"""A configuration of DuckDB."""
INFO_TABLE = "warehouse_info"

# The name under which a warehouse is attached.
LAYOUT_NAME = "warehouse"
LAYOUT_VERSION = 1
# Extensions are not downloaded during a query: an error that names the missing one is clearer.
READ_CONFIG: Config = {"autoinstall_known_extensions": False, "autoload_known_extensions": False}
OUT_OF_MEMORY = (duckdb.OutOfMemoryException, duckdb.TransactionException)
"""The errors of a statement without memory; the second is that of a commit."""


def register_filesystem(connection: duckdb.DuckDBPyConnection, lake: "Lake") -> None:
    """Register the file system of a lake on an object store; a local lake needs none."""
    file_system = lake.storage.file_system()
    if file_system is not None:
        connection.register_filesystem(file_system)


def is_whole(path: Path) -> bool:
    """Return whether a DuckDB file can be opened and is not truncated."""
    try:
        with open_alone(path) as connection:
            size = "SELECT block_size * total_blocks FROM pragma_database_size() "
            found = connection.execute(f"{size} WHERE database_name = ?", [LAYOUT_NAME]).fetchone()
    except duckdb.Error:
        return False
    return found is not None and path.stat().st_size >= found[0]


def connect(location: WarehouseLocation) -> duckdb.DuckDBPyConnection:
    """Open the warehouse read-only.

    The current file is opened, even if this process still has a previous file of that path open.

    Raises
    ------
    ConfigurationError
        There is no warehouse, it cannot be read, or its layout is later than this version knows.
    """
    connection = duckdb.connect(":memory:", config=READ_CONFIG)
    try:
        _attach(connection, locate_warehouse(location).file())
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def opened(location: WarehouseLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open the warehouse for a ``with`` block, and close the file afterwards.

    Like :func:`connect`, but faster from the second call on: the in-memory database, which takes
    longer to create than a file takes to attach, is reused. Several threads may call it at once;
    each gets a database of its own.
    """
    path = locate_warehouse(location).file()
    try:
        memory = idle_connections.pop()
    except IndexError:
        memory = duckdb.connect(":memory:", config=READ_CONFIG)
    try:
        # Temporary tables and settings end with the cursor.
        with memory.cursor() as connection:
            _attach(connection, path)
            yield connection
            connection.execute("USE memory")
            connection.execute(f"DETACH {LAYOUT_NAME}")
    except BaseException:
        # Its state is unknown.
        memory.close()
        raise
    if len(idle_connections) < _IDLE_AT_MOST:
        idle_connections.append(memory)


idle_connections: list[duckdb.DuckDBPyConnection] = []
_IDLE_AT_MOST = 4

if hasattr(os, "register_at_fork"):
    # The threads of a database do not survive a fork.
    os.register_at_fork(before=idle_connections.clear)


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Attach the warehouse at a path to an in-memory database.

    Within a process, `duckdb.connect(path)` returns the file that is already open under the path,
    even if it has been replaced since. A file attached to a separate database is the current one.
    """
    try:
        _use(connection, path)
        _refuse_later_layout(connection, path)
    except duckdb.Error as error:
        raise ConfigurationError(
            f"The warehouse {str(path)!r} cannot be opened ({first_line(error)}). If it was "
            "copied, copy it again; 'aind-etl run' builds it again."
        ) from None


def _use(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    # A fixed name: a file may be called like one of DuckDB's own databases.
    connection.execute(f"ATTACH {quote_text(str(path))} AS {LAYOUT_NAME} (READ_ONLY)")
    connection.execute(f"USE {LAYOUT_NAME}")


@contextmanager
def open_alone(path: Path, config: Config = READ_CONFIG) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a file read-only in a database that no other connection of the process shares."""
    with duckdb.connect(":memory:", config=config) as connection:
        _use(connection, path)
        yield connection


def _refuse_later_layout(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    try:
        facts = dict(connection.execute(f"SELECT name, value FROM {INFO_TABLE}").fetchall())
    except duckdb.CatalogException:
        raise ConfigurationError(
            f"The database {str(path)!r} is not one of aind-etl: it has no table {INFO_TABLE!r}. "
            "Name the warehouse with --warehouse or AIND_ETL_WAREHOUSE."
        ) from None
    layout = facts.get("layout", "")
    if not layout.isdecimal() or int(layout) > LAYOUT_VERSION:
        raise ConfigurationError(
            f"The warehouse {str(path)!r} has layout {layout or 'unknown'}, built by "
            f"{facts.get('built_by', 'an unknown program')}; aind-etl {version('aind-etl')} reads "
            f"layouts up to {LAYOUT_VERSION}. Update aind-etl, or build the "
            "warehouse with this version."
        )
