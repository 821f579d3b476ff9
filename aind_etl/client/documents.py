"""The documents of a collection that meet a MongoDB filter, and the paths that filters name.

The filter is evaluated on the JSON of documents, after strings in it have narrowed them down.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import duckdb
import orjson
import polars as pl
from bson import json_util

from aind_etl.client.document_filter import DocumentFilter, Names
from aind_etl.client.json_sql import values_at
from aind_etl.client.projection import JsonDocument, parse_projection
from aind_etl.contract import Column, tables
from aind_etl.contract.columns import FIT, LEFT_IN_DOCUMENTS
from aind_etl.errors import ArgumentError
from aind_etl.sources.canonical import record_id_of
from aind_etl.text import suggest

# Rows of the change log that are not JSON are left out.
_LIVE_DOCUMENTS = (
    "WITH candidates AS (SELECT DISTINCT record_id, content_hash FROM analyses "
    "WHERE source_collection = $collection UNION ALL "
    "SELECT record_id, content_hash FROM rejected_documents "
    "WHERE source_collection = $collection AND NOT starts_with(record_id, '_unreadable:')) "
    "SELECT record_id, document::JSON AS document FROM documents "
    "JOIN candidates USING (record_id, content_hash) "
    "WHERE source_collection = $collection AND operation = 'upsert'"
)
# Rows of the change log that are not a document with an _id.
_NO_DOCUMENT = "starts_with(record_id, '_unreadable:') OR starts_with(record_id, '_without-id:')"
_CHUNK_ROWS = 1_000
_COLUMNS_OF_ANSWER = {
    **{name.upper(): name for name in ("aic", "bic", "lpt", "lpt_aic", "lpt_bic")},
    "analysis_time": "finished_at",
    "analysis_tag": "analysis_version",
    "S3_location": "result_location",
    "CO_asset_id": "url",
    "params": "value",
}
"""Columns of the model-fitting answer whose names in the contract differ."""


def find_documents(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    query: Mapping[str, Any] | None,
    projection: Mapping[str, Any] | None,
    limit: int | None,
) -> list[JsonDocument]:
    """Return the documents of a collection that meet a filter, in the order of their ids.

    Raises
    ------
    ArgumentError
        There is no such collection, or the filter, the projection or the limit is wrong.
    """
    project = parse_projection(projection)
    if limit is not None and (not isinstance(limit, int) or limit < 0):
        raise ArgumentError(f"limit is {limit!r}; expected a number of documents.")
    rows = connection.execute("SELECT source_collection FROM collections").fetchall()
    known = [name for (name,) in rows]
    if collection not in known:
        raise ArgumentError(f"There is no collection {collection!r}. {suggest(collection, known)}")
    is_matching = "TRUE"
    if query:
        found = matching_records(connection, collection, query)
        connection.register("matching", found.to_frame().to_arrow())
        is_matching = "record_id IN (FROM matching)"
    # The last version of a deleted document has no text.
    answer = connection.execute(
        "SELECT arg_max(document, batch_id) FROM documents "
        f"WHERE source_collection = $collection AND NOT ({_NO_DOCUMENT}) AND {is_matching} "
        "GROUP BY record_id HAVING arg_max(operation, batch_id) = 'upsert' "
        f"ORDER BY record_id LIMIT {'NULL' if limit is None else limit}",
        {"collection": collection},
    )
    documents: list[JsonDocument] = []
    while texts := answer.fetchmany(_CHUNK_ROWS):
        documents.extend(project(_parse(text)) for (text,) in texts)
    return documents


def matching_records(
    connection: duckdb.DuckDBPyConnection,
    collection: str,
    query: Mapping[str, Any],
    names: Names | None = None,
) -> pl.Series:
    """Return the ids of the records of a collection that meet a MongoDB filter.

    Parameters
    ----------
    query
        The filter, as :class:`DocumentFilter` takes it.
    names
        Names with the paths that they stand for; see :func:`paths_by_name`.

    Raises
    ------
    ArgumentError
        It is not a filter, names a path at which no document has a value, or has a part that is
        not supported.
    """
    condition = DocumentFilter(query, names or {})
    for path in sorted(condition.paths):
        _refuse_unknown_path(connection, collection, path)
    # Few documents need to be parsed if all that match have the same text.
    texts = {
        f"text_{n}": json.dumps(text, ensure_ascii=False) for n, text in enumerate(_texts(query))
    }
    narrowing = "".join(f" AND contains(documents.document, ${name})" for name in texts)
    parameters = {"collection": collection} | texts | condition.parameters
    if isinstance(query.get("_id"), str):
        parameters["record_id"] = record_id_of(query["_id"])
        narrowing += " AND record_id = $record_id"
    statement = (
        f"WITH live AS MATERIALIZED ({_LIVE_DOCUMENTS}{narrowing}) "
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
    parameters = {"collection": collection}
    exists = DocumentFilter({path: {"$exists": True}}, {}).predicate
    statement = f"SELECT 1 FROM ({_LIVE_DOCUMENTS}) WHERE {exists} LIMIT 1"
    if connection.execute(statement, parameters).fetchall():
        return
    above, _, _ = path.rpartition(".")
    objects = values_at("document", above, is_whole=False) if above else "[document]"
    beside = connection.execute(
        f"SELECT DISTINCT unnest(json_keys(value)) FROM (SELECT unnest({objects}) AS value "
        f"FROM ({_LIVE_DOCUMENTS})) WHERE json_type(value) = 'OBJECT'",
        parameters,
    ).fetchall()
    names = [f"{above}.{key}" if above else key for (key,) in beside]
    raise ArgumentError(
        f"No document of the collection {collection!r} has a value at the filter's path '{path}'. "
        f"{suggest(path, sorted(names) or sorted(known_paths()))}"
    )


def _texts(query: Mapping[str, Any]) -> Iterator[str]:
    """Yield the strings that every document which meets a filter has as a value."""
    for key, value in query.items():
        text = value.get("$eq") if isinstance(value, Mapping) else value
        if key == "$and":
            for one in value:
                yield from _texts(one)
        elif isinstance(text, str):
            yield text


def _parse(text: str) -> JsonDocument:
    """Return a document as pymongo would, from its canonical JSON."""
    # In extended JSON, values without a JSON type are objects with a key that begins with $. Few
    # documents have one, and json_util is slow.
    document: JsonDocument = json_util.loads(text) if '{"$' in text else orjson.loads(text)
    return document


@cache
def known_paths() -> frozenset[str]:
    """Return the paths from which values are read, and of large values that are not."""
    left = (f"{fit}.{path}" for fit in FIT.values() for path in LEFT_IN_DOCUMENTS)
    columns = (column for table in tables.ANALYSIS_TABLES for column in table.columns)
    return frozenset([*left, *(path for column in columns for path in _paths(column))])


@cache
def paths_by_name() -> dict[str, tuple[str, ...]]:
    """Return the paths in either format of each name that needs no path in a filter.

    The two formats keep the same values in different places, so a filter by a path finds documents
    of one format only. The names are columns of the model-fitting answer and of `analyses`.
    """
    found: dict[str, tuple[str, ...]] = {}
    children = (tables.FIT_PARAMETERS, tables.CROSS_VALIDATION, tables.INPUT_ASSETS)
    for column in (column for table in (tables.ANALYSES, *children) for column in table.columns):
        paths = tuple(_paths(column))
        if paths and column.name != "record_id":
            found.setdefault(column.name, paths)
    names = {name: found[column] for name, column in _COLUMNS_OF_ANSWER.items()}
    return names | {
        name: paths
        for name, paths in found.items()
        # Other names of the child tables are too common to replace.
        if name in tables.ANALYSES.column_names or name.startswith("prediction")
    }


def _paths(column: Column) -> Iterator[str]:
    for origin in column.origins.values():
        for path in origin.paths:
            yield path.replace("[]", "").removesuffix(".*")
