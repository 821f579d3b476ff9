"""The records of a collection that meet a MongoDB filter.

The filter is evaluated on the JSON of documents, after columns of `analyses` have narrowed them
down.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb
import polars as pl

from aind_etl.client.document_filter import (
    AllOf,
    AnyOf,
    At,
    Compare,
    Condition,
    HasEntry,
    Not,
    OneOf,
    parse_filter,
)
from aind_etl.client.filter_sql import DocumentSql
from aind_etl.contract import FORMATS, DataType, tables
from aind_etl.contract.columns import FIT, LEFT_IN_DOCUMENTS
from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

_LIVE_DOCUMENTS = (
    "SELECT record_id, document::JSON AS document FROM documents "
    "JOIN candidates USING (record_id, content_hash) "
    "WHERE source_collection = $collection AND operation = 'upsert'"
)
# Documents without a row of `analyses`, apart from rows that are not JSON.
_REJECTED = (
    "SELECT record_id, content_hash FROM rejected_documents "
    "WHERE source_collection = $collection AND NOT starts_with(record_id, '_unreadable:')"
)


def matching_records(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    query: Mapping[str, Any],
    *,
    wanted: str = "TRUE",
    with_rejected: bool = False,
) -> pl.Series:
    """Return the ids of the records of a collection that meet a MongoDB filter.

    Parameters
    ----------
    query
        The filter, as :func:`parse_filter` takes it.
    wanted
        SQL over a row of `analyses`: only records with such a row are searched.
    with_rejected
        Whether documents without a row of `analyses` are searched as well.

    Raises
    ------
    ArgumentError
        It is not a filter, names a path at which no document has a value, or has a part that is
        not supported.
    """
    condition = parse_filter(query)
    for path in sorted(set(_paths(condition))):
        _refuse_unknown_path(connection, collection, path)
    sql = DocumentSql()
    predicate = sql.meets("document", condition)
    parameters: dict[str, object] = {"collection": collection}
    # One aggregate each: different processes of a document may meet different conditions.
    narrowing = "".join(f" AND bool_or({one})" for one in _narrowing(condition, parameters))
    rejected = f" UNION ALL {_REJECTED}" if with_rejected else ""
    statement = (
        "WITH candidates AS (SELECT record_id, any_value(content_hash) AS content_hash "
        "FROM analyses WHERE source_collection = $collection GROUP BY record_id "
        f"HAVING bool_or({wanted}){narrowing}{rejected}), "
        f"live AS MATERIALIZED ({_LIVE_DOCUMENTS}) "
        f"SELECT DISTINCT record_id FROM live WHERE {predicate}"
    )
    for name, function in sql.functions.items():
        connection.create_function(name, function, ["VARCHAR"], "BOOLEAN")
    try:
        found: pl.DataFrame = connection.sql(statement, params=parameters | sql.parameters).pl()
    finally:
        for name in sql.functions:
            connection.remove_function(name)
    return found["record_id"]


def _paths(condition: Condition, above: str = "") -> Iterator[str]:
    """Yield every path that a condition names."""
    match condition:
        case At(path, test):
            full = ".".join(filter(None, (above, path)))
            yield full
            if isinstance(test, HasEntry):
                yield from _paths(test.condition, full)
        case AllOf(conditions) | AnyOf(conditions):
            for one in conditions:
                yield from _paths(one, above)
        case Not(denied):
            yield from _paths(denied, above)


def _refuse_unknown_path(connection: duckdb.DuckDBPyConnection, collection: str, path: str) -> None:
    """Raise an ArgumentError for a path at which no document has a value."""
    plain = ".".join(step for step in path.split(".") if not step.isdecimal())
    if any(known == plain or known.startswith(f"{plain}.") for known in _known_paths()):
        return
    documents = (
        "WITH candidates AS (SELECT DISTINCT record_id, content_hash FROM analyses "
        f"WHERE source_collection = $collection UNION ALL {_REJECTED}) {_LIVE_DOCUMENTS}"
    )
    values = DocumentSql().values_at("document", path, is_whole=True)
    parameters = {"collection": collection}
    has_value = f"len(list_filter({values}, lambda v: v IS NOT NULL)) > 0"
    statement = f"SELECT 1 FROM ({documents}) WHERE {has_value} LIMIT 1"
    if connection.execute(statement, parameters).fetchall():
        return
    above, _, _ = path.rpartition(".")
    objects = DocumentSql().values_at("document", above, is_whole=False) if above else "[document]"
    beside = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(value)) FROM (SELECT unnest({objects}) AS value "
        f"FROM ({documents})) WHERE json_type(value) = 'OBJECT'",
        parameters,
    ).fetchall()
    names = [f"{above}.{key}" if above else key for (key,) in beside]
    raise ArgumentError(
        f"No document of the collection {collection!r} has a value at the filter's path '{path}'. "
        f"{suggest(path, sorted(names) or sorted(_known_paths()))}"
    )


@cache
def _known_paths() -> frozenset[str]:
    """Return the paths that the contract names, without positions."""
    paths = {f"{fit}.{path}" for fit in FIT.values() for path in LEFT_IN_DOCUMENTS}
    for table in tables.ANALYSIS_TABLES:
        for column in table.columns:
            paths.update(path for origin in column.origins.values() for path in origin.paths)
    return frozenset(path.replace("[]", "") for path in paths)


def _narrowing(condition: Condition, parameters: dict[str, object]) -> Iterator[str]:
    """Yield predicates over `analyses` that some row of every matching record meets."""
    match condition:
        case AllOf(conditions):
            for one in conditions:
                yield from _narrowing(one, parameters)
        case At(path, Compare("=", str() as text)):
            yield _has_text(path, [text], parameters)
        case At(path, OneOf(texts)):
            yield _has_text(path, sorted(texts), parameters)


def _has_text(path: str, texts: list[str], parameters: dict[str, object]) -> str:
    columns = {
        pipeline_format: column.name
        for column in tables.ANALYSES.columns
        for pipeline_format in FORMATS
        if column.type is DataType.VARCHAR
        and not column.origins[pipeline_format].note
        and [known.replace("[]", "") for known in column.origins[pipeline_format].paths] == [path]
    }
    if not columns:
        return "TRUE"
    name = f"texts_{len(parameters)}"
    parameters[name] = texts
    # Values that do not fit their column, and fields of the other format, are not in the column.
    begin, _, _ = path.partition(".")
    formats = ", ".join(map(quote_text, columns))
    elsewhere = (
        f"n_rejected_values > 0 OR pipeline_format NOT IN ({formats}) AND record_id IN "
        "(SELECT record_id FROM attributes "
        f"WHERE source_collection = $collection AND starts_with(path, {quote_text(begin)}))"
    )
    inside = [
        f"pipeline_format = '{pipeline_format}' AND {quote_identifier(column)} "
        f"IN (SELECT unnest(${name}))"
        for pipeline_format, column in columns.items()
    ]
    return " OR ".join([*inside, elsewhere])
