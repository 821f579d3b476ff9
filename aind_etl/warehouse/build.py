"""Building the warehouse: one DuckDB file from the lake and ``sql/``.

The file is built in a scratch folder and replaces the published one in one step. Readers that have
the old file open keep reading it, and new readers get the new one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from aind_etl.contract import tables
from aind_etl.contract.ddl import comments, create_table, quote_text
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.contents import (
    COLLECTIONS_QUERY,
    LAKE_TABLES,
    fill,
    unflattened_batches,
    written_tables,
)
from aind_etl.warehouse.location import WarehouseFile, locate_warehouse
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files

if TYPE_CHECKING:
    # The lake is passed in: readers of a warehouse need not load its libraries.
    from aind_etl.lake import Lake
from aind_etl.text import first_line
from aind_etl.warehouse.connection import (
    INFO_TABLE,
    LAYOUT_NAME,
    LAYOUT_VERSION,
    OUT_OF_MEMORY,
    READ_CONFIG,
    Config,
    is_whole,
    open_alone,
    register_filesystem,
)
from aind_etl.warehouse.info import read_info_of_file, write_info

STORAGE_VERSION = "v1.0.0"
"""The file format written: the one that every DuckDB client from 1.0 on can open."""
# It suffices for half a million documents. Lists and windows over more are not all spilled to disk;
# then the build is repeated with the memory that DuckDB takes by default.
_BUILD_CONFIG = READ_CONFIG | {"memory_limit": "512MB"}
# A third of DuckDB's own: one of 122,880 documents does not fit the memory, and is written twice.
_ROW_GROUP_ROWS = 40_960


@dataclass(frozen=True, slots=True)
class BuildReport:
    """Result of a build.

    Attributes
    ----------
    published
        False if nothing has changed since the last build; the existing file is left in place.
    rows
        Number of rows of each table and mart, by name.
    """

    location: WarehouseLocation
    published: bool
    rows: dict[str, int]
    size_bytes: int


def build_warehouse(  # noqa: PLR0913 - inputs, output and two callbacks
    lake: "Lake",
    location: WarehouseLocation,
    *,
    sql_folder: Path | None = None,
    facts: Mapping[str, str] | None = None,
    progress: Callable[[str], None] = lambda _step: None,
    validate: Callable[[duckdb.DuckDBPyConnection], None] = lambda _built: None,
) -> BuildReport:
    """Build the warehouse from the lake and publish it, unless that would change nothing.

    Parameters
    ----------
    lake
        The lake that holds the tables.
    location
        Where to publish the warehouse. An existing file is left in place until the new one is
        complete.
    sql_folder
        The folder ``sql``; by default the one installed with the package.
    facts
        Rows of `warehouse_info` to add or to override.
    progress
        Called with the name of each table as its load begins.
    validate
        Called with the finished file, opened read-only, before it is published. If it raises, the
        file is discarded and the existing one is left in place.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` cannot be run, or ``location`` is a folder.
    DataError
        Another process is publishing, a file of the lake is damaged, the store of the warehouse
        does not answer, or the memory does not suffice.
    """
    if isinstance(location, Path) and location.is_dir():
        raise ConfigurationError(f"The warehouse {str(location)!r} is a folder; name a file.")
    target = locate_warehouse(location)
    sql = _read_sql(sql_folder)
    if _published_inputs(target) == _fingerprint(lake, sql):
        path = target.file()
        size = path.stat().st_size
        return BuildReport(location, published=False, rows=_count_rows(path), size_bytes=size)
    with (
        lake.storage.lock("warehouse", f"the warehouse {location}"),
        _tables_locked(lake),
        target.scratch_file() as building,
    ):
        replacing = target.current()
        info = _facts(lake, _fingerprint(lake, sql)) | dict(facts or {})
        build = partial(_build, building, lake, info, sql, progress, validate)
        try:
            build(_BUILD_CONFIG)
        except OUT_OF_MEMORY:
            # From the start: a database whose memory ran out during a commit can be inconsistent.
            for left in filter(Path.is_file, building.parent.iterdir()):
                left.unlink()
            try:
                build(READ_CONFIG)
            except OUT_OF_MEMORY as error:
                raise DataError(
                    f"The memory does not suffice to build the warehouse {location} "
                    f"({first_line(error)}). Give the process more."
                ) from None
        rows = _count_rows(building)
        size = target.publish(building, info, replacing=replacing)
    return BuildReport(location, published=True, rows=rows, size_bytes=size)


def is_current(lake: "Lake", location: WarehouseLocation) -> bool:
    """Return whether the published warehouse is what a build would produce.

    Raises
    ------
    DataError
        The store of the warehouse does not answer.
    """
    return _published_inputs(locate_warehouse(location)) == _fingerprint(lake, _read_sql())


def _published_inputs(target: WarehouseFile) -> str | None:
    """Return the fingerprint of the published warehouse; None if it cannot be used.

    An object is not downloaded: its metadata says what it was built from.
    """
    facts = target.metadata()
    if not facts and target.exists():
        path = target.file()
        facts = read_info_of_file(path) if is_whole(path) else {}
    return facts.get("inputs")


def _read_sql(folder: Path | None = None) -> dict[Kind, list[SqlFile]]:
    return {kind: read_sql_files(kind, folder) for kind in Kind}


def _build(  # noqa: PLR0913, PLR0917 - one call
    path: Path,
    lake: "Lake",
    info: Mapping[str, str],
    sql: Mapping[Kind, Sequence[SqlFile]],
    progress: Callable[[str], None],
    validate: Callable[[duckdb.DuckDBPyConnection], None],
    config: Config,
) -> None:
    """Write a warehouse to a new file, with a configuration of DuckDB, and validate it."""
    # Statements that do not fit the memory are continued on the disk.
    config = config | {"temp_directory": str(path.parent / "spilled")}
    with duckdb.connect(":memory:", config=config) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"ATTACH {quote_text(str(path))} AS building "
            f"(STORAGE_VERSION {quote_text(STORAGE_VERSION)}, ROW_GROUP_SIZE {_ROW_GROUP_ROWS})"
        )
        connection.execute("USE building")
        register_filesystem(connection, lake)
        write_info(connection, info)
        fill(connection, lake, sql, progress)
        connection.execute("CHECKPOINT building")
    with open_alone(path, config) as connection:
        validate(connection)


@contextmanager
def _tables_locked(lake: "Lake") -> Iterator[None]:
    """Lock every table, so that the warehouse is a consistent snapshot of the lake."""
    with ExitStack() as locks:
        for collection in lake.collections():
            locks.enter_context(lake.tables_lock(collection))
        locks.enter_context(lake.table_lock(tables.SESSIONS))
        yield


def _facts(lake: "Lake", inputs: str) -> dict[str, str]:
    """Return the rows of `warehouse_info`: when, from what and by what it was built."""
    return {
        "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "built_by": f"aind-etl {version('aind-etl')}, DuckDB {duckdb.__version__}",
        "lake": str(lake),
        "layout": str(LAYOUT_VERSION),
        "inputs": inputs,
    }


def _fingerprint(lake: "Lake", sql: dict[Kind, list[SqlFile]]) -> str:
    """Return a digest that changes whenever a build would produce another warehouse."""
    parts = [str(LAYOUT_VERSION), version("aind-etl"), duckdb.__version__, STORAGE_VERSION]
    for table in LAKE_TABLES:
        for name, stored in lake.storage.files(table.name, ".parquet").items():
            parts.append(f"{name}\0{stored.mark}\0")
    parts += ["\0".join([create_table(table), *comments(table)]) for table in written_tables(lake)]
    parts.append(COLLECTIONS_QUERY)
    for file in (file for kind in Kind for file in sql[kind]):
        parts.append(f"{file.kind}\0{file.name}\0{file.comment}\0{file.statement}\0{file.columns}")
    parts.append("\0".join(lake.collections()))
    parts.append(repr(unflattened_batches(lake)))
    return sha256("".join(parts).encode()).hexdigest()


def _count_rows(path: Path) -> dict[str, int]:
    with open_alone(path) as connection:
        # Nothing was deleted from the file, so the sizes are exact.
        rows = connection.execute(
            "SELECT table_name, estimated_size FROM duckdb_tables() WHERE NOT internal "
            "AND table_name <> ? AND database_name = ?",
            [INFO_TABLE, LAYOUT_NAME],
        )
        return dict(rows.fetchall())
