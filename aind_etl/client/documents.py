"""Whole documents of a collection, as the database's API gives them."""

from collections.abc import Mapping
from typing import Any

import duckdb
import orjson
from bson import json_util

from aind_etl.client.projection import JsonDocument, parse_projection
from aind_etl.client.records import matching_records
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

# What is neither of these is a document with an _id.
_NO_DOCUMENTS = "starts_with(record_id, '_unreadable:') OR starts_with(record_id, '_without-id:')"
_CHUNK = 1_000


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
    statement = (
        "SELECT arg_max(document, batch_id) FROM documents WHERE source_collection = $collection "
        f"AND NOT ({_NO_DOCUMENTS})"
    )
    if query:
        found = matching_records(connection, collection, query, with_rejected=True)
        connection.register("matching", found.to_frame().to_arrow())
        statement += " AND record_id IN (FROM matching)"
    # A document that was deleted ends with a version without a text.
    statement += (
        " GROUP BY record_id HAVING arg_max(operation, batch_id) = 'upsert' ORDER BY record_id"
    )
    if limit is not None:
        statement += f" LIMIT {limit}"
    documents: list[JsonDocument] = []
    answer = connection.execute(statement, {"collection": collection})
    while texts := answer.fetchmany(_CHUNK):
        documents.extend(project(_parse(text)) for (text,) in texts)
    return documents


def _parse(text: str) -> JsonDocument:
    """Return a document as pymongo would, from its canonical JSON."""
    # What JSON cannot say is an object with one key that begins with $: few documents have one.
    found: JsonDocument = json_util.loads(text) if '{"$' in text else orjson.loads(text)
    return found
