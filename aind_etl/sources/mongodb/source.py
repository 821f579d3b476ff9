"""Reading a MongoDB database.

Every request is a ``find`` that is sorted by ``_id``, bounded, and answered in one reply, so that
reading can resume after the last ``_id``. Only features that DocumentDB has are used; nothing is
written.

A collection whose ``_id`` values are all strings, or all ObjectIds, is read by ranges of them. In
any other collection the ids are listed first, from the index, and the documents are read by id,
because a filter only compares values of the same type.
"""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import cache
from typing import Any

import bson
from pymongo import ASCENDING, DESCENDING

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import SourceError
from aind_etl.settings import Settings
from aind_etl.sources.canonical import (
    OTHER_ID_PREFIX,
    Document,
    RawDocument,
    record_id_of,
    string_id,
)
from aind_etl.sources.mongodb.address import open_database, read_credentials
from aind_etl.sources.mongodb.faults import Retries
from aind_etl.sources.mongodb.pages import Pages
from aind_etl.sources.paging import Limits
from aind_etl.sources.protocol import Source

# The server sends at most 16 MB.
LIMITS = Limits(page_ids=5_000, page_bytes=8 << 20)
_OBJECT_ID_TEXT = re.compile(r'_id:\{"\$oid":"([0-9a-f]{24})"\}')


class MongoSource(Source):
    """The collections of one database.

    The record id of a document is its ``_id`` as text even if the rest of the document cannot be
    read, because ids are also listed without the documents.

    Parameters
    ----------
    url
        The address, ``mongodb://`` or ``mongodb+srv://``, with the name of the database. Its
        options (TLS, read preference, timeouts) are pymongo's; writes are never retried.
    username, password
        Credentials; they override those in the address.
    includes
        Returns whether to list a collection; by default all are listed.
    limits
        Its number of connections applies unless the address sets ``maxPoolSize``. One more
        connection monitors the server.

    Raises
    ------
    ConfigurationError
        The address or its options are wrong.
    """

    def __init__(
        self,
        url: str,
        limits: Limits = LIMITS,
        *,
        username: str | None = None,
        password: str | None = None,
        includes: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._includes = includes
        self._limits = limits
        self.name, self._database = open_database(url, username, password, limits)
        self._client = self._database.client
        # None or 0 means no limit.
        pool_size = self._client.options.pool_options.max_pool_size
        self.connections = int(pool_size or limits.connections)
        self._retries = Retries(self.name, limits.deadline)
        # Checked once: a missing database looks like an empty one.
        self._find_database = cache(self._discover)

    def __repr__(self) -> str:
        return f"MongoSource({self.name!r})"

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted, without views, system and empty ones."""
        self._find_database.cache_clear()  # Others may have been added since.
        return [
            name
            for name in sorted(self._find_database())
            if self._includes(name) and self._pages(name).ids({}, 1)
        ]

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int:
        """Return the number of documents in a split."""
        self._find_database()
        condition: Mapping[str, Any] = {}
        if split != ALL_IDS:
            ids = self._condition(collection, split)
            if ids is None:
                return sum(1 for _ in self.list_ids(collection, split))
            condition = {"_id": ids}
        return self._retries.call(
            lambda _: int(self._database[collection].count_documents(condition))
        )

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document in a split, reading only the index."""
        pages = self._pages(collection)
        condition = self._condition(collection, split)
        if condition is None:
            yield from map(record_id_of, pages.list_all(split))
            return
        while page := pages.ids({"_id": condition}, self._limits.page_ids):
            yield from map(record_id_of, page)
            condition = {**condition, "$gt": page[-1]}

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument]:
        """Yield every document in a split, in the order of ``_id``, each once.

        Documents that are inserted, changed or deleted meanwhile may be missing or not.
        """
        pages = self._pages(collection)
        condition = self._condition(collection, split)
        if condition is None:
            for raw in pages.documents_with(pages.list_all(split)):
                yield RawDocument(raw, pages.document)
            return
        limit = self._limits.page_documents
        while page := pages.documents(condition, limit):
            yield from (RawDocument(raw, pages.document) for raw in page)
            condition = {**condition, "$gt": pages.identity(page[-1])}
            limit = pages.next_limit(page)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        if not record_ids:
            return
        self._find_database()
        pages = self._pages(collection)
        identities: list[Any] = [_identity_of(record_id) for record_id in sorted(record_ids)]
        if None in identities and self._condition(collection, ALL_IDS) is None:
            listed = pages.list_all(ALL_IDS)
            identities = [value for value in listed if record_id_of(value) in record_ids]
        else:
            known = [value for value in identities if value is not None]
            identities = sorted(known, key=lambda value: (not isinstance(value, str), value))
        for document in map(pages.document, pages.documents_with(identities)):
            if document.record_id in record_ids:
                yield document

    def fingerprint(self, collection: str) -> str:
        """Return the number of documents and their total size."""
        self._find_database()
        statistics = self._retries.call(
            lambda _: self._database.command(
                "collStats", collection, read_preference=self._database.read_preference
            )
        )
        return f"{statistics.get('count', 0)} documents, {statistics.get('size', 0)} bytes"

    def __exit__(self, *exception: object) -> None:
        """Close the connections."""
        self._client.close()

    def _pages(self, collection: str) -> Pages:
        return Pages(self._retries, self._limits, self._database, collection)

    def _discover(self) -> list[str]:
        """Return the names of the collections, or raise a SourceError if there is no database."""
        found = self._retries.call(lambda _: list(self._database.list_collections(nameOnly=True)))
        if not found:
            raise SourceError(
                f"There is no database {self._database.name!r} at {self.name}, or this user can "
                "see none of its collections. Check the name after the host, which is "
                "case-sensitive, and the user's rights."
            )
        return [
            entry["name"]
            for entry in found
            if entry.get("type", "collection") == "collection"
            and not entry["name"].startswith("system.")
        ]

    def _condition(self, collection: str, split: Split) -> Mapping[str, Any] | None:
        """Return the condition on the ``_id`` that selects a split.

        None if the collection's ids are neither all strings nor all ObjectIds.
        """
        self._find_database()
        # The server sorts by type first: all ids between two strings are strings.
        edges = [
            *self._pages(collection).ids({}, 1, ASCENDING),
            *self._pages(collection).ids({}, 1, DESCENDING),
        ]
        types = set(map(type, edges))
        # All ids that are not strings belong to one split. No range of strings holds them.
        if types == {bson.ObjectId} and split.holds(OTHER_ID_PREFIX):
            return {"$gte": bson.ObjectId(bytes(12))}
        if types <= {str} or types == {bson.ObjectId}:
            return {"$gte": split.lower} | ({"$lt": split.upper} if split.upper else {})
        return None


def open_source(settings: Settings, environment: Mapping[str, str] = os.environ) -> MongoSource:
    """Return the source at an address, with the credentials from the environment.

    Raises
    ------
    ConfigurationError
        The address is wrong, or the password file cannot be read.
    """
    username, password = read_credentials(environment)
    return MongoSource(
        settings.source,
        replace(LIMITS, connections=settings.connections),
        username=username,
        password=password,
        includes=settings.includes,
    )


def _identity_of(record_id: str) -> str | bson.ObjectId | None:
    """Return the ``_id`` that has a record id; None for types that cannot be restored from text."""
    text = string_id(record_id)
    match = _OBJECT_ID_TEXT.fullmatch(record_id) if text is None else None
    return bson.ObjectId(match[1]) if match else text
