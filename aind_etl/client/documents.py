"""Whole documents of a collection, as the database's API returns them."""

from collections.abc import Mapping
from typing import Any

import duckdb
import orjson
from bson import json_util

from aind_etl.client.projection import JsonDocument, parse_projection
from aind_etl.client.records import matching_records
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

# Rows of the change log that are not a document with an _id.
_NO_DOCUMENT = "starts_with(record_id, '_unreadable:') OR starts_with(record_id, '_without-id:')"
_CHUNK_ROWS = 1_000


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


def _parse(text: str) -> JsonDocument:
    """Return a document as pymongo would, from its canonical JSON."""
    # In extended JSON, values without a JSON type are objects with a key that begins with $. Few
    # documents have one, and json_util is slow.
    document: JsonDocument = json_util.loads(text) if '{"$' in text else orjson.loads(text)
    return document
