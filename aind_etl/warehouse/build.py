"""Building the warehouse: one DuckDB file from the lake and ``sql/``.

The file is built aside and replaces the published one in one step. Readers that have the old file
open keep reading it, and new readers get the new one.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from aind_etl.contract import tables
from aind_etl.contract.ddl import comments, create_table, quote_identifier, quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.contents import (
    COLLECTIONS_QUERY,
    LAKE_TABLES,
    fill,
    unflattened_batches,
    written_tables,
)
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files

if TYPE_CHECKING:
    # The lake is passed in: readers of a warehouse need not load its libraries.
    from aind_etl.lake import Lake
from aind_etl.warehouse.connection import (
    INFO_TABLE,
    LAYOUT_NAME,
    LAYOUT_VERSION,
    READ_CONFIG,
    connect,
    is_whole,
    open_alone,
    register_filesystem,
)
from aind_etl.warehouse.info import read_info_of_file, write_info

STORAGE_VERSION = "v1.0.0"
"""The file format written: the one that every DuckDB client from 1.0 on can open."""
_BUILD_CONFIG = READ_CONFIG | {"memory_limit": "512MB"}
# A third of DuckDB's own: one of 122,880 documents does not fit the memory, and is written twice.
_ROW_GROUP_ROWS = 40_960


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made.

    Attributes
    ----------
    place
        The warehouse.
    published
        False where nothing had changed since the last build, and the file was left alone.
    rows
        Rows of each table and mart, by name.
    size_bytes
        Size of the file.
    """

    place: WarehouseLocation
    published: bool
    rows: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0


def build_warehouse(  # noqa: PLR0913 - what is built, from what, and who is told
    lake: "Lake",
    place: WarehouseLocation,
    *,
    sql_folder: Path | None = None,
    facts: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _step: None,
    validate: Callable[[duckdb.DuckDBPyConnection], None] = lambda _built: None,
) -> BuildReport:
    """Build the warehouse from the lake, and publish it.

    Parameters
    ----------
    lake
        Where the tables come from.
    place
        Where the warehouse is published: a path, or the URL of an object. An existing file is left
        until the new one is whole.
    sql_folder
        The folder ``sql``; the one that travels with the package where none is given.
    facts
        What `warehouse_info` says besides, or instead of what a build says of itself.
    progress
        Called with the name of each table as it is begun.
    validate
        Called with the finished file, opened for reading, before it is published. What it raises
        keeps the file from being published; the existing one is left in place.

    Returns
    -------
    BuildReport
        What was made. Nothing is built where lake, ``sql/`` and versions are those of the file
        that stands there.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` cannot be run, or ``place`` is a folder. The existing file is left in
        place.
    DataError
        Another process is publishing, a file of the lake is damaged, or the store of the warehouse
        cannot be asked.
    """
    if isinstance(place, Path) and place.is_dir():
        raise ConfigurationError(f"The warehouse {str(place)!r} is a folder; name a file.")
    target = locate_warehouse(place)
    if is_current(lake, place, sql_folder=sql_folder):
        current = target.file()
        size = current.stat().st_size
        return BuildReport(place, published=False, rows=_count_rows(current), size_bytes=size)
    sql = {kind: read_sql_files(kind, sql_folder) for kind in Kind}
    with (
        lake.storage.lock("warehouse", f"the warehouse {place}"),
        _holding_tables(lake),
        target.scratch_file() as building,
    ):
        replacing = target.current()
        told = _facts(lake, _fingerprint(lake, sql)) | dict(facts or {})
        with duckdb.connect(":memory:", config=_BUILD_CONFIG) as connection:
            connection.execute("SET GLOBAL TimeZone = 'UTC'")
            connection.execute(
                f"ATTACH {quote_text(str(building))} AS building "
                f"(STORAGE_VERSION {quote_text(STORAGE_VERSION)}, ROW_GROUP_SIZE {_ROW_GROUP_ROWS})"
            )
            connection.execute("USE building")
            register_filesystem(connection, lake)
            write_info(connection, told)
            fill(connection, lake, sql, progress)
            connection.execute("CHECKPOINT building")
        rows = _count_rows(building)
        with connect(building) as connection:
            validate(connection)
        size = target.publish(building, told, replacing=replacing)
    return BuildReport(place, published=True, rows=rows, size_bytes=size)


def is_current(lake: "Lake", place: WarehouseLocation, *, sql_folder: Path | None = None) -> bool:
    """Return whether the published warehouse is what a build would produce.

    Of an object, its store is asked; it need not be fetched.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` cannot be read.
    DataError
        The store of the warehouse cannot be asked.
    """
    sql = {kind: read_sql_files(kind, sql_folder) for kind in Kind}
    target = locate_warehouse(place)
    facts = target.metadata()
    if not facts and target.exists():
        path = target.file()
        facts = read_info_of_file(path) if is_whole(path) else {}
    return facts.get("inputs") == _fingerprint(lake, sql)


@contextmanager
def _holding_tables(lake: "Lake") -> Iterator[None]:
    """Keep every table as it is, so that all are seen of one moment."""
    with ExitStack() as held:
        for collection in lake.collections():
            held.enter_context(lake.tables_lock(collection))
        held.enter_context(lake.table_lock(tables.SESSIONS))
        yield


def _facts(lake: "Lake", inputs: str) -> dict[str, str]:
    """Return what a warehouse says about itself: when, from what and by what it was built."""
    return {
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "built_by": f"aind-etl {version('aind-etl')}, DuckDB {duckdb.__version__}",
        "lake": str(lake),
        "layout": str(LAYOUT_VERSION),
        "inputs": inputs,
    }


def _fingerprint(lake: "Lake", sql: dict[Kind, list[SqlFile]]) -> str:
    """Return a text that differs whenever a build would give another warehouse."""
    digest = sha256()
    for made_by in (str(LAYOUT_VERSION), version("aind-etl"), duckdb.__version__, STORAGE_VERSION):
        digest.update(made_by.encode())
    for table in LAKE_TABLES:
        for name, mark in sorted(lake.storage.marks(table.name, ".parquet").items()):
            digest.update(f"{name}\0{mark}\0".encode())
    for table in written_tables(lake):
        digest.update("\0".join([create_table(table), *comments(table)]).encode())
    digest.update(COLLECTIONS_QUERY.encode())
    for file in (file for kind in Kind for file in sql[kind]):
        digest.update(f"{file.kind}\0{file.name}\0{file.comment}\0{file.statement}\0".encode())
        digest.update(repr(file.columns).encode())
    digest.update("\0".join(lake.collections()).encode())
    digest.update(repr(unflattened_batches(lake)).encode())
    return digest.hexdigest()


def _count_rows(path: Path) -> dict[str, int]:
    with open_alone(path) as connection:
        names = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal AND table_name <> ? "
            "AND database_name = ?",
            [INFO_TABLE, LAYOUT_NAME],
        ).fetchall()
        return {
            name: connection.execute(f"SELECT count(*) FROM {quote_identifier(name)}").fetchall()[
                0
            ][0]
            for (name,) in names
        }
