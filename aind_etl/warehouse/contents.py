"""The contents of a warehouse: the lake's tables, `collections`, and what ``sql/`` defines.

Tables are loaded two at a time, and then views and marts that do not depend on each other are made
two at a time; in a large warehouse, one at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import duckdb

from aind_etl.contract import TABLES, Partitioning, Table, tables
from aind_etl.contract.ddl import comments, create_table, quote_identifier, quote_text
from aind_etl.contract.id_ranges import Split
from aind_etl.errors import ConfigurationError, DamagedTableError, DataError
from aind_etl.text import first_line
from aind_etl.warehouse.connection import OUT_OF_MEMORY
from aind_etl.warehouse.parallel import STATEMENTS, run_parallel
from aind_etl.warehouse.sql_files import Kind, SqlFile, dependencies, tables_read

if TYPE_CHECKING:
    # Readers of a warehouse need not load the lake's libraries.
    from aind_etl.lake import Lake
    from aind_etl.lake.state import CollectionState
    from aind_etl.lake.storage.protocol import Location

_Step = Callable[[duckdb.DuckDBPyConnection], None]

# For so many analyses, the memory of a build suffices for two statements at a time.
_MOST_ANALYSES_IN_PARALLEL = 200_000
_NOTHING = "false"

LAKE_TABLES = tuple(
    table for table in TABLES if table.partitioning is not Partitioning.WAREHOUSE_ONLY
)
"""The tables that are parquet files in the lake."""

COLLECTIONS_QUERY = """
WITH last_versions AS (
    SELECT source_collection, arg_max(operation, batch_id) AS operation
    FROM documents
    GROUP BY source_collection, record_id
),
documents_counted AS (
    SELECT
        source_collection,
        count_if(operation = 'upsert') AS live_documents,
        count_if(operation = 'delete') AS deleted_documents
    FROM last_versions
    GROUP BY source_collection
),
rejected_counted AS (
    SELECT source_collection, count(*) AS rejected_documents
    FROM rejected_documents
    GROUP BY source_collection
),
analyses_counted AS (
    SELECT
        source_collection,
        count_if(process_index = 0 AND pipeline_format = 'prototype') AS prototype_documents,
        count_if(process_index = 0 AND pipeline_format = 'framework') AS framework_documents,
        count_if(outcome = 'success') AS successful_analyses,
        count_if(outcome = 'skipped') AS skipped_analyses,
        count_if(outcome = 'failed') AS failed_analyses,
        count_if(outcome = 'unknown') AS unknown_analyses,
        max(finished_at) AS newest_finished_at
    FROM analyses
    GROUP BY source_collection
)
SELECT
    source_collection,
    source,
    coalesce(COLUMNS('.*_(documents|analyses)'), 0),
    newest_finished_at,
    last_new_pass_at,
    last_full_pass_at
FROM states
LEFT JOIN documents_counted USING (source_collection)
LEFT JOIN rejected_counted USING (source_collection)
LEFT JOIN analyses_counted USING (source_collection)
ORDER BY source_collection
"""
"""Rows of `collections`, by name, from the state files and the other tables."""


def fill(
    connection: duckdb.DuckDBPyConnection,
    lake: "Lake",
    sql: Mapping[Kind, Sequence[SqlFile]],
    progress: Callable[[str], None],
) -> None:
    """Make every table, view and mart in the current, empty database of a connection.

    ``progress`` is called with the name of each as work on it begins.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` cannot be run.
    DataError
        A file of the lake is damaged.
    duckdb.Error
        The memory does not suffice. The database cannot be used further.
    """
    # Together: a transaction each would be a write to the disk each.
    connection.begin()
    for table in written_tables(lake):
        for statement in (create_table(table), *comments(table)):
            connection.execute(statement)
    for macro in sql[Kind.MACRO]:
        _run_file(macro, connection, known={})
    connection.commit()
    known = {
        (name, kind): comment
        for table in (tables.SESSIONS, tables.ANALYSES)
        for name, kind, comment in _columns(connection, table.name)
        if comment
    }
    left_out = {tables.DOCUMENTS: _unflattened(lake)}
    loads: dict[str, _Step] = {
        table.name: partial(_load, table, lake.tables.files(table), left_out.get(table, _NOTHING))
        for table in map(lake.tables.as_written, LAKE_TABLES)
    }
    states = [lake.state(name) for name in lake.collections()]
    loads[tables.COLLECTIONS.name] = partial(_load_collections, states)
    reads = {tables.COLLECTIONS.name: tables_read(COLLECTIONS_QUERY, loads.keys())}
    at_a_time = _statements_at_a_time(lake)
    run_parallel(connection, loads, reads, progress, at_a_time=at_a_time)
    # Only when every table is loaded: a macro or a function may hide which of them a mart reads,
    # and a mart of a table that is still empty would be empty.
    files = [*sql[Kind.VIEW], *sql[Kind.MART]]
    steps = {file.name: partial(_run_file, file, known=known) for file in files}
    run_parallel(connection, steps, dependencies(files), progress, at_a_time=at_a_time)


def _statements_at_a_time(lake: "Lake") -> int:
    """Return how many statements may share the memory of a build."""
    try:
        analyses = lake.tables.count_rows(tables.ANALYSES)
    except DamagedTableError:
        return 1  # The statement that loads the table says what to do.
    return STATEMENTS if analyses <= _MOST_ANALYSES_IN_PARALLEL else 1


def written_tables(lake: "Lake") -> list[Table]:
    """Return every table, with the columns that its files have beyond the contract's."""
    return [lake.tables.as_written(table) for table in TABLES]


def unflattened_batches(lake: "Lake") -> list[tuple[str, Split, int]]:
    """Return the collections and splits with unflattened batches, and the last flattened batch.

    Their documents enter the warehouse together with their analyses, never before.
    """
    return [
        (name, shard.shard.ids, flattened)
        for name in lake.collections()
        for shard in lake.shards(name)
        if (flattened := shard.state(name).flattened_through) < shard.change_log(name).last_batch()
    ]


def _load(
    table: Table, files: Sequence["Location"], left_out: str, connection: duckdb.DuckDBPyConnection
) -> None:
    if not files:
        return
    columns = ", ".join(quote_identifier(name) for name in table.column_names)
    listed = ", ".join(quote_text(str(path)) for path in files)
    try:
        connection.execute(
            f"INSERT INTO {quote_identifier(table.name)} ({columns}) SELECT {columns} "
            f"FROM read_parquet([{listed}], hive_partitioning = false, union_by_name = true) "
            f"WHERE NOT ({left_out})"
        )
    except OUT_OF_MEMORY:
        raise
    except duckdb.Error as error:
        remedy = "'aind-etl rebuild' makes it again from the change log."
        if table is tables.DOCUMENTS:
            remedy = "'aind-etl verify' names the file; restore it from a backup."
        raise DataError(
            f"The table {table.name!r} of the lake cannot be read ({first_line(error)}). {remedy}"
        ) from None


def _unflattened(lake: "Lake") -> str:
    """Return the SQL condition for documents that are not flattened yet."""
    conditions = [_NOTHING]
    for collection, split, flattened in unflattened_batches(lake):
        condition = (
            f"source_collection = {quote_text(collection)} AND batch_id > {flattened} "
            f"AND record_id >= {quote_text(split.lower)}"
        )
        upper = "" if split.upper is None else f" AND record_id < {quote_text(split.upper)}"
        conditions.append(f"({condition}{upper})")
    return " OR ".join(conditions)


def _load_collections(
    states: Sequence["CollectionState"], connection: duckdb.DuckDBPyConnection
) -> None:
    connection.execute(
        "CREATE TEMP TABLE states (source_collection VARCHAR, source VARCHAR, "
        "last_new_pass_at TIMESTAMPTZ, last_full_pass_at TIMESTAMPTZ)"
    )
    for state in states:
        row = [state.collection, state.source, state.last_new_pass_at, state.last_full_pass_at]
        connection.execute("INSERT INTO states VALUES (?, ?, ?, ?)", row)
    connection.execute(f"INSERT INTO collections BY NAME {COLLECTIONS_QUERY}")


def _run_file(
    file: SqlFile, connection: duckdb.DuckDBPyConnection, *, known: Mapping[tuple[str, str], str]
) -> None:
    """Create the macro, view or mart of a file, with its comments.

    A column that the file does not describe gets the comment of the column of `analyses` or
    `sessions` with the same name and type (``known``).
    """
    name, comment = quote_identifier(file.name), quote_text(file.comment)
    try:
        if file.kind is Kind.MACRO:
            connection.execute(file.statement)
            return
        kind = "VIEW" if file.kind is Kind.VIEW else "TABLE"
        connection.begin()
        connection.execute(f"CREATE {kind} {name} AS {file.statement}")
        connection.execute(f"COMMENT ON {kind} {name} IS {comment}")
        for column, data_type, _ in _columns(connection, file.name):
            meaning = file.columns.get(column) or known.get((column, data_type))
            if meaning:
                path = f"{name}.{quote_identifier(column)}"
                connection.execute(f"COMMENT ON COLUMN {path} IS {quote_text(meaning)}")
        connection.commit()
    except OUT_OF_MEMORY:
        raise
    except duckdb.Error as error:
        raise ConfigurationError(
            f"{file.origin} cannot be run: {error}. The existing warehouse was left in place."
        ) from None


def _columns(
    connection: duckdb.DuckDBPyConnection, table: str
) -> list[tuple[str, str, str | None]]:
    """Return name, type and comment of each column of a table or view."""
    return connection.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [table],
    ).fetchall()
