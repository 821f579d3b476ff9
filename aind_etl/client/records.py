"""The records of a collection that meet a MongoDB filter.

The filter is evaluated on the JSON of documents, after columns of `analyses` have narrowed them
down.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import polars as pl

from aind_etl.client.document_filter import NO_NAMES, DocumentFilter, Names
from aind_etl.client.document_paths import known_paths, text_columns
from aind_etl.client.json_sql import values_at
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
    names: Names = NO_NAMES,
) -> pl.Series:
    """Return the ids of the records of a collection that meet a MongoDB filter.

    Parameters
    ----------
    query
        The filter, as :class:`DocumentFilter` takes it.
    names
        Names with the paths that they stand for; see :func:`.document_paths.paths_by_name`.

    Raises
    ------
    ArgumentError
        It is not a filter, names a path at which no document has a value, or has a part that is
        not supported.
    """
    condition = DocumentFilter(query, names)
    for path in sorted(condition.paths):
        _refuse_unknown_path(connection, collection, path)
    parameters: dict[str, object] = {"collection": collection} | condition.parameters
    # One aggregate each: different processes of a document may meet different conditions.
    narrowing = "".join(f" AND bool_or({one})" for one in _narrowing(query, names, parameters))
    statement = (
        "WITH candidates AS (SELECT record_id, any_value(content_hash) AS content_hash "
        "FROM analyses WHERE source_collection = $collection GROUP BY record_id "
        f"HAVING TRUE{narrowing} UNION ALL {_REJECTED}), "
        f"live AS MATERIALIZED ({_LIVE_DOCUMENTS}) "
        f"SELECT DISTINCT record_id FROM live WHERE {condition.predicate}"
    )
    for name, function in condition.functions.items():
        connection.create_function(name, function, ["VARCHAR"], "BOOLEAN")
    try:
        found: pl.DataFrame = connection.sql(statement, params=parameters).pl()
    finally:
        for name in condition.functions:
            connection.remove_function(name)
    return found["record_id"]


def _refuse_unknown_path(connection: duckdb.DuckDBPyConnection, collection: str, path: str) -> None:
    """Raise an ArgumentError for a path at which no document has a value."""
    plain = ".".join(step for step in path.split(".") if not step.isdecimal())
    if any(known == plain or known.startswith(f"{plain}.") for known in known_paths()):
        return
    documents = (
        "WITH candidates AS (SELECT DISTINCT record_id, content_hash FROM analyses "
        f"WHERE source_collection = $collection UNION ALL {_REJECTED}) {_LIVE_DOCUMENTS}"
    )
    values = values_at("document", path, is_whole=True)
    parameters = {"collection": collection}
    has_value = f"len(list_filter({values}, lambda v: v IS NOT NULL)) > 0"
    statement = f"SELECT 1 FROM ({documents}) WHERE {has_value} LIMIT 1"
    if connection.execute(statement, parameters).fetchall():
        return
    above, _, _ = path.rpartition(".")
    objects = values_at("document", above, is_whole=False) if above else "[document]"
    beside = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(value)) FROM (SELECT unnest({objects}) AS value "
        f"FROM ({documents})) WHERE json_type(value) = 'OBJECT'",
        parameters,
    ).fetchall()
    names = [f"{above}.{key}" if above else key for (key,) in beside]
    raise ArgumentError(
        f"No document of the collection {collection!r} has a value at the filter's path '{path}'. "
        f"{suggest(path, sorted(names) or sorted(known_paths()))}"
    )


def _narrowing(
    query: Mapping[str, Any], names: Names, parameters: dict[str, object]
) -> Iterator[str]:
    """Yield predicates over `analyses` that some row of every matching record meets."""
    for key, value in query.items():
        path, *others = names.get(key, (key,))
        text = value.get("$eq") if isinstance(value, Mapping) else value
        columns = {} if others else text_columns(path)
        if key == "$and":
            for one in value:
                yield from _narrowing(one, names, parameters)
        elif columns and isinstance(text, str):
            name = f"text_{len(parameters)}"
            parameters[name] = text
            yield _has_text(path, columns, f"${name}")


def _has_text(path: str, columns: Mapping[str, str], text: str) -> str:
    # Values that do not fit their column, and fields of the other format, are not in the column.
    begin, _, _ = path.partition(".")
    formats = ", ".join(map(quote_text, columns))
    elsewhere = (
        f"n_rejected_values > 0 OR pipeline_format NOT IN ({formats}) AND record_id IN "
        "(SELECT record_id FROM attributes "
        f"WHERE source_collection = $collection AND starts_with(path, {quote_text(begin)}))"
    )
    inside = [
        f"pipeline_format = '{pipeline_format}' AND {quote_identifier(column)} = {text}"
        for pipeline_format, column in columns.items()
    ]
    return " OR ".join([*inside, elsewhere])
