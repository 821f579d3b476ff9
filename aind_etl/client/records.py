"""Which records of a collection meet a filter of documents.

The warehouse's columns are asked first, and the documents themselves where columns cannot tell.
"""

import logging
from collections.abc import Mapping
from typing import Any

import duckdb
import orjson
import polars as pl

from aind_etl.client.document_filter import Condition, parse_filter
from aind_etl.client.document_matching import meets
from aind_etl.client.filter_sql import ANY_REJECTED_VALUE, FilterSql, to_sql
from aind_etl.client.known_paths import ATTRIBUTE_PATHS, PARAMETER_NAMES, KnownPaths

_log = logging.getLogger(__name__)
_DOCUMENTS_AT_A_TIME = 1000


def matching_records(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    query: Mapping[str, Any],
    *,
    wanted: str = "TRUE",
) -> pl.Series:
    """Return the ids of the records of a collection that meet a filter.

    Parameters
    ----------
    connection
        A warehouse.
    collection
        The collection.
    query
        A MongoDB filter of its documents, as :func:`parse_filter` takes it.
    wanted
        SQL over a row of `analyses`: only records with such a row are looked for.

    Raises
    ------
    ArgumentError
        The filter is none, names a path at which no document has a value, or holds something that
        is not understood.
    """
    condition = parse_filter(query)
    known = KnownPaths(
        connection.execute(ATTRIBUTE_PATHS).fetchall(),
        [name for (name,) in connection.execute(PARAMETER_NAMES).fetchall()],
        has_rejected_values=bool(connection.execute(ANY_REJECTED_VALUE).fetchall()),
    )
    sql = to_sql(condition, known, lambda pattern: _is_readable(connection, pattern))
    found: pl.DataFrame = connection.sql(
        _statement(sql, wanted), params=sql.parameters | {"collection": collection}
    ).pl()
    undecided = found.filter(~pl.col("is_sure"))["record_id"]
    if undecided.is_empty():
        return found["record_id"]
    _log.info("Reading %s documents: columns do not decide of them", f"{undecided.len():,}")
    sure = found.filter("is_sure")["record_id"]
    return pl.concat([sure, _by_document(connection, collection, condition, undecided)])


def _statement(sql: FilterSql, wanted: str) -> str:
    flags = "".join(f", bool_or({expression}) AS {name}" for name, expression in sql.flags.items())
    return (
        f"WITH flagged AS (SELECT record_id, bool_or({wanted}) AS is_wanted{flags} FROM analyses "
        "WHERE source_collection = $collection GROUP BY record_id) "
        f"SELECT record_id, {sql.sure} AS is_sure FROM flagged WHERE is_wanted AND {sql.maybe}"
    )


def _by_document(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    condition: Condition,
    undecided: pl.Series,
) -> pl.Series:
    """Return which records meet a condition by their documents."""
    connection.register("undecided", undecided.to_frame().to_arrow())
    connection.execute(
        "WITH present AS (SELECT DISTINCT record_id, content_hash FROM analyses "
        "SEMI JOIN undecided USING (record_id) WHERE source_collection = $collection) "
        "SELECT record_id, any_value(document) FROM documents "
        "JOIN present USING (record_id, content_hash) "
        "WHERE source_collection = $collection AND operation = 'upsert' GROUP BY record_id",
        {"collection": collection},
    )
    met = []
    while documents := connection.fetchmany(_DOCUMENTS_AT_A_TIME):
        met += [
            record_id
            for record_id, document in documents
            if meets(orjson.loads(document), condition)
        ]
    connection.unregister("undecided")
    return pl.Series("record_id", met, dtype=pl.String)


def _is_readable(connection: duckdb.DuckDBPyConnection, pattern: str) -> bool:
    try:
        connection.execute("SELECT regexp_matches('', $pattern)", {"pattern": pattern}).fetchall()
    except duckdb.Error:
        return False
    return True
