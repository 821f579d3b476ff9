"""Connections to a warehouse: read-only, and never to a file that was replaced."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from aind_etl.contract import tables
from aind_etl.contract.ddl import quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.location import locate_warehouse

if TYPE_CHECKING:
    # The lake is passed in: readers of a warehouse need not load its libraries.
    from aind_etl.lake import Lake
from aind_etl.text import first_line

INFO_TABLE = "warehouse_info"

# What a warehouse is attached as.
LAYOUT_NAME = "warehouse"
LAYOUT_VERSION = 1
# Extensions are never fetched while a query runs: an error that names what is missing is clearer.
READ_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
}


def register_filesystem(connection: duckdb.DuckDBPyConnection, lake: "Lake") -> None:
    """Let a connection read the files of a lake, also where that is on an object store."""
    file_system = lake.storage.file_system()
    if file_system is not None:
        connection.register_filesystem(file_system)


def is_whole(path: Path) -> bool:
    """Return whether a DuckDB file can be opened, and is not cut off."""
    try:
        with open_alone(path) as connection:
            size = "SELECT block_size * total_blocks FROM pragma_database_size() "
            found = connection.execute(f"{size} WHERE database_name = ?", [LAYOUT_NAME]).fetchone()
    except duckdb.Error:
        return False
    return found is not None and path.stat().st_size >= found[0]


def connect(place: WarehouseLocation) -> duckdb.DuckDBPyConnection:
    """Open the warehouse for reading.

    The present file is opened, even if this process still has the previous file of that path open
    before.

    Raises
    ------
    ConfigurationError
        There is none, it cannot be read, or it is of a later layout than this version knows.
    """
    connection = duckdb.connect(":memory:", config=READ_CONFIG)
    try:
        _attach(connection, locate_warehouse(place).file())
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def opened(place: WarehouseLocation) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give the warehouse for one question, and let go of the file after it.

    The same as :func:`connect`, but quicker from the second time on: the database in memory, which
    takes longer to make than a file to attach, is kept for the next question. It is of one question
    at a time, so that several threads may ask.

    Raises
    ------
    ConfigurationError
        There is none, it cannot be read, or it is of a later layout than this version knows.
    """
    path = locate_warehouse(place).file()
    try:
        memory = idle_connections.pop()
    except IndexError:
        memory = duckdb.connect(":memory:", config=READ_CONFIG)
    try:
        # What a question leaves behind ends with a connection of its own.
        with memory.cursor() as connection:
            _attach(connection, path)
            yield connection
            connection.execute("USE memory")
            connection.execute(f"DETACH {LAYOUT_NAME}")
    except BaseException:
        # Whatever state it is in.
        memory.close()
        raise
    if len(idle_connections) < _IDLE_AT_MOST:
        idle_connections.append(memory)


idle_connections: list[duckdb.DuckDBPyConnection] = []
_IDLE_AT_MOST = 4

if hasattr(os, "register_at_fork"):
    # A process does not take the threads of a database with it when it forks.
    os.register_at_fork(before=idle_connections.clear)


def _attach(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Make the warehouse at a path the one that a database in memory reads.

    Within a process, DuckDB connects to the file that is open under a path, even if it has been
    it replaced since. A file attached to a database of one's own is the one at the path.
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
    # Under a name of our own: a file may be called after a database that DuckDB has itself.
    connection.execute(f"ATTACH {quote_text(str(path))} AS {LAYOUT_NAME} (READ_ONLY)")
    connection.execute(f"USE {LAYOUT_NAME}")


@contextmanager
def open_alone(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection to a file that no other connection of the process shares."""
    with duckdb.connect(":memory:", config=READ_CONFIG) as connection:
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


MADE_AGAIN = "'aind-etl rebuild' makes it again from the change log."
REMEDY = {tables.DOCUMENTS: "'aind-etl verify' names the file; restore it from a backup."}
