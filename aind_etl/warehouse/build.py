"""Building the warehouse: one DuckDB file from the lake and ``sql/``.

The file is built aside and replaces the published one in one step. Readers that have the old file
open keep reading it, and new readers get the new one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from aind_etl.contract import TABLES, Partitioning, Table, tables
from aind_etl.contract.ddl import comments, create_table, quote_identifier, quote_text
from aind_etl.contract.id_ranges import Split
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.sql_files import Kind, SqlFile, in_order, read_sql_files

if TYPE_CHECKING:
    # The lake is passed in: readers of a warehouse need not load its libraries.
    from aind_etl.lake import Lake
    from aind_etl.lake.storage.protocol import Location
from aind_etl.text import first_line
from aind_etl.warehouse.connection import (
    INFO_TABLE,
    LAYOUT_NAME,
    LAYOUT_VERSION,
    MADE_AGAIN,
    READ_CONFIG,
    REMEDY,
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
        every_table = _tables(lake)
        files = _files(lake)
        told = _facts(lake, _fingerprint(lake, sql)) | dict(facts or {})
        with duckdb.connect(":memory:", config=_BUILD_CONFIG) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.execute(
                f"ATTACH {quote_text(str(building))} AS building "
                f"(STORAGE_VERSION {quote_text(STORAGE_VERSION)}, ROW_GROUP_SIZE {_ROW_GROUP_ROWS})"
            )
            connection.execute("USE building")
            register_filesystem(connection, lake)
            for table in every_table:
                progress(table.name)
                connection.execute(create_table(table))
                waiting = _waiting(lake) if table is tables.DOCUMENTS else []
                _load(connection, table, files.get(table.name, []), waiting)
            _load_collections(connection, lake)
            # Together: a transaction each would be a write to the disk each.
            connection.begin()
            for table in every_table:
                for statement in comments(table):
                    connection.execute(statement)
            connection.commit()
            write_info(connection, told)
            _apply_sql(connection, sql, progress)
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


def run_checks(
    connection: duckdb.DuckDBPyConnection, checks: Iterable[SqlFile]
) -> Iterator[tuple[SqlFile, int]]:
    """Run checks of ``sql/checks``; yield each with the number of offending rows.

    Raises
    ------
    ConfigurationError
        A check cannot be run.
    """
    for check in checks:
        try:
            # A statement may end in a comment.
            counted = connection.execute(f"SELECT count(*) FROM (\n{check.statement}\n)").fetchall()
        except duckdb.Error as error:
            raise ConfigurationError(
                f"sql/{check.kind}/{check.name}.sql cannot be run: {error}"
            ) from None
        ((offending,),) = counted
        yield check, offending


def _in_lake(table: Table) -> bool:
    return table.partitioning is not Partitioning.WAREHOUSE_ONLY


def _tables(lake: "Lake") -> list[Table]:
    """Return every table, with the further columns that its file may have."""
    return [lake.tables.as_written(table) for table in TABLES]


def _files(lake: "Lake") -> dict[str, list["Location"]]:
    """Return the files of every table of the lake, by the table's name."""
    return {table.name: lake.tables.files(table) for table in TABLES if _in_lake(table)}


@contextmanager
def _holding_tables(lake: "Lake") -> Iterator[None]:
    """Keep every table as it is, so that all are seen of one moment."""
    with ExitStack() as held:
        for collection in lake.collections():
            held.enter_context(lake.tables_lock(collection))
        held.enter_context(lake.table_lock(tables.SESSIONS))
        yield


def _waiting(lake: "Lake") -> list[tuple[str, Split, int]]:
    """Return what has batches that are not flattened yet: collection, split, last one that is.

    Their documents come into the warehouse with their analyses, never before.
    """
    through = [
        (name, shard, shard.state(name).flattened_through)
        for name in lake.collections()
        for shard in lake.shards(name)
    ]
    return [
        (name, shard.shard.ids, batch)
        for name, shard, batch in through
        if batch < shard.change_log(name).last_batch()
    ]


def _is_waiting(collection: str, split: Split, through: int) -> str:
    condition = (
        f"source_collection = {quote_text(collection)} AND batch_id > {through} "
        f"AND record_id >= {quote_text(split.lower)}"
    )
    upper = "" if split.upper is None else f" AND record_id < {quote_text(split.upper)}"
    return f"({condition}{upper})"


def _load(
    connection: duckdb.DuckDBPyConnection,
    table: Table,
    files: Sequence["Location"],
    waiting: Sequence[tuple[str, Split, int]],
) -> None:
    if not files:
        return
    left_out = " OR ".join(_is_waiting(*one) for one in waiting)
    columns = ", ".join(quote_identifier(name) for name in table.column_names)
    listed = ", ".join(quote_text(str(path)) for path in files)
    try:
        connection.execute(
            f"INSERT INTO {quote_identifier(table.name)} ({columns}) SELECT {columns} "
            f"FROM read_parquet([{listed}], hive_partitioning = false, union_by_name = true) "
            f"WHERE NOT ({left_out or 'false'})"
        )
    except duckdb.Error as error:
        raise DataError(
            f"The table {table.name!r} of the lake cannot be read ({first_line(error)}). "
            f"{REMEDY.get(table, MADE_AGAIN)}"
        ) from None


def _load_collections(connection: duckdb.DuckDBPyConnection, lake: "Lake") -> None:
    """Fill `collections`: what the state files say, and counts of what was loaded."""
    connection.execute(
        "CREATE TEMP TABLE states (source_collection VARCHAR, source VARCHAR, "
        "last_new_pass_at TIMESTAMPTZ, last_full_pass_at TIMESTAMPTZ)"
    )
    states = [lake.state(name) for name in lake.collections()]
    if states:
        connection.executemany(
            "INSERT INTO states VALUES (?, ?, ?, ?)",
            [
                (state.collection, state.source, state.last_new_pass_at, state.last_full_pass_at)
                for state in states
            ],
        )
    names = ", ".join(tables.COLLECTIONS.column_names)
    connection.execute(f"INSERT INTO collections ({names}) {_COLLECTIONS}")
    connection.execute("DROP TABLE states")


_COLLECTIONS = """
WITH last_versions AS (
    SELECT source_collection, arg_max(operation, batch_id) AS operation
    FROM documents
    GROUP BY source_collection, record_id
),
documents_counted AS (
    SELECT
        source_collection,
        count(*) FILTER (operation = 'upsert') AS live,
        count(*) FILTER (operation = 'delete') AS deleted
    FROM last_versions
    GROUP BY source_collection
),
rejected_counted AS (
    SELECT source_collection, count(*) AS rejected
    FROM rejected_documents
    GROUP BY source_collection
),
analyses_counted AS (
    SELECT
        source_collection,
        count(*) FILTER (process_index = 0 AND pipeline_format = 'prototype') AS prototype,
        count(*) FILTER (process_index = 0 AND pipeline_format = 'framework') AS framework,
        count(*) FILTER (outcome = 'success') AS success,
        count(*) FILTER (outcome = 'skipped') AS skipped,
        count(*) FILTER (outcome = 'failed') AS failed,
        count(*) FILTER (outcome = 'unknown') AS unknown,
        max(finished_at) AS newest
    FROM analyses
    GROUP BY source_collection
)
SELECT
    source_collection,
    states.source,
    coalesce(live, 0),
    coalesce(rejected, 0),
    coalesce(deleted, 0),
    coalesce(prototype, 0),
    coalesce(framework, 0),
    coalesce(success, 0),
    coalesce(skipped, 0),
    coalesce(failed, 0),
    coalesce(unknown, 0),
    newest,
    states.last_new_pass_at,
    states.last_full_pass_at
FROM states
LEFT JOIN documents_counted USING (source_collection)
LEFT JOIN rejected_counted USING (source_collection)
LEFT JOIN analyses_counted USING (source_collection)
ORDER BY source_collection
"""


def _apply_sql(
    connection: duckdb.DuckDBPyConnection,
    sql: dict[Kind, list[SqlFile]],
    progress: Callable[[str], None],
) -> None:
    """Make macros, views and marts, each after what it builds on."""
    known = {
        (name, kind): comment
        for table in (tables.SESSIONS, tables.ANALYSES)
        for name, kind, comment in _columns(connection, table.name)
        if comment
    }
    for file in [*sql[Kind.MACRO], *in_order([*sql[Kind.VIEW], *sql[Kind.MART]])]:
        progress(file.name)
        name, comment = quote_identifier(file.name), quote_text(file.comment)
        try:
            if file.kind is Kind.MACRO:
                connection.execute(file.statement)
            elif file.kind is Kind.VIEW:
                connection.execute(f"CREATE VIEW {name} AS {file.statement}")
                connection.execute(f"COMMENT ON VIEW {name} IS {comment}")
            else:
                connection.execute(f"CREATE TABLE {name} AS {file.statement}")
                connection.execute(f"COMMENT ON TABLE {name} IS {comment}")
            _comment_columns(connection, file, known)
        except duckdb.Error as error:
            raise ConfigurationError(
                f"sql/{file.kind}/{file.name}.sql cannot be run: {error}. The warehouse was left "
                "as it was."
            ) from None


def _comment_columns(
    connection: duckdb.DuckDBPyConnection, file: SqlFile, known: Mapping[tuple[str, str], str]
) -> None:
    """Say what the columns of a view or mart mean.

    What its file does not say is said by `analyses`, or by `sessions`, of a column of the same name
    and type.
    """
    columns = _columns(connection, file.name)
    connection.begin()
    for name, kind, _ in columns:
        comment = file.columns.get(name) or known.get((name, kind))
        if comment:
            column = f"{quote_identifier(file.name)}.{quote_identifier(name)}"
            connection.execute(f"COMMENT ON COLUMN {column} IS {quote_text(comment)}")
    connection.commit()


def _columns(
    connection: duckdb.DuckDBPyConnection, table: str
) -> list[tuple[str, str, str | None]]:
    """Return the columns of a table or view: name, type and comment."""
    return connection.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [table],
    ).fetchall()


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
    for table in filter(_in_lake, TABLES):
        for name, mark in sorted(lake.storage.marks(table.name, ".parquet").items()):
            digest.update(f"{name}\0{mark}\0".encode())
    for table in _tables(lake):
        digest.update("\0".join([create_table(table), *comments(table)]).encode())
    for file in (file for kind in Kind for file in sql[kind]):
        digest.update(f"{file.kind}\0{file.name}\0{file.comment}\0{file.statement}\0".encode())
        digest.update(repr(file.columns).encode())
    digest.update(_COLLECTIONS.encode())
    digest.update("\0".join(lake.collections()).encode())
    digest.update(repr(_waiting(lake)).encode())
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
