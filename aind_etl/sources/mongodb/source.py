"""Reading a MongoDB database.

Every request is a ``find`` that is sorted by ``_id``, bounded, and answered in one reply, so that
it can be repeated from the last ``_id``. Only features of DocumentDB are used; nothing is written.

A collection whose ``_id`` are all strings, or all ObjectIds, is paged through by ranges of them. In
any other its ids are listed first, from the index, and the documents asked for by them: comparisons
of a filter hold between values of one type only.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import partial
from glob import escape
from typing import Any, Self

import bson
from pydantic import SecretStr
from pymongo import ASCENDING, DESCENDING
from pymongo.errors import InvalidName

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.canonical import (
    OTHER_ID_PREFIX,
    Document,
    RawDocument,
    record_id_of,
    string_id,
)
from aind_etl.sources.kinds import SourceOptions
from aind_etl.sources.mongodb.address import EXAMPLE, open_client, parse_address, read_credentials
from aind_etl.sources.mongodb.faults import Retries
from aind_etl.sources.mongodb.pages import Pages

_OBJECT_ID_TEXT = re.compile(r'_id:\{"\$oid":"([0-9a-f]{24})"\}')


class MongoSource:
    """One database, of which every collection is a collection of the source.

    The record id of a document is its ``_id`` as text, also where the document cannot be read
    otherwise: ids can be listed without the documents, and have to be the same.

    Parameters
    ----------
    url
        The address, ``mongodb://`` or ``mongodb+srv://``, with the name of the database. Its
        options (TLS, read preference, time-outs) are pymongo's; writes are never retried.
    username, password
        Credentials; they take precedence over those in the address.
    include, exclude
        Patterns (``*``, ``?``, ``[…]``) of the collections to discover: those that match one of
        ``include``, or all where none is given, and none of ``exclude``.
    deadline
        Seconds until a question is given up that the server does not answer. The last of the
        attempts may outlast it, by no more than ``reply_timeout``.
    reply_timeout
        Seconds the server may take for one reply.
    connections
        The most questions asked at a time, unless the address says ``maxPoolSize``. Besides the
        connections for these there is one that watches the server.
    page_documents, page_ids
        The most documents, and the most ids, asked for at a time.
    page_bytes
        About how many bytes a page of documents may have, judged by the page before; the server
        sends no more than 16 MB in any case.

    Raises
    ------
    ConfigurationError
        The address or its options are wrong.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the caller's
        self,
        url: str,
        *,
        username: str | None = None,
        password: SecretStr | str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        deadline: float = 300.0,
        reply_timeout: float = 60.0,
        connections: int = 4,
        page_documents: int = 1000,
        page_ids: int = 5_000,
        page_bytes: int = 8 << 20,
    ) -> None:
        address = parse_address(url)
        self.name = address.name
        self._include = include
        self._exclude = exclude
        self._page_documents = page_documents
        self._page_ids = page_ids
        max_time_ms = max(1, int(min(deadline, reply_timeout) * 1000))
        retries = Retries(self.name, deadline)
        self._ask = retries.ask
        self._found = False
        self._client = open_client(
            address,
            username=username,
            password=password,
            connections=connections,
            deadline=deadline,
            reply_timeout_ms=max_time_ms,
        )
        # None, or 0, is no limit: then the usual one does.
        self.connections = int(self._client.options.pool_options.max_pool_size or connections)
        try:
            self._database = self._client[address.database]
        except InvalidName as error:
            raise ConfigurationError(
                f"The source {self.name} names no database that can be: {error}. Write its name "
                f"after the host: {EXAMPLE}."
            ) from None
        self._pages = Pages(
            self.name,
            self._database,
            retries,
            max_time_ms=max_time_ms,
            page_documents=page_documents,
            page_bytes=page_bytes,
        )

    def __repr__(self) -> str:
        return f"MongoSource({self.name!r})"

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted: no system's, no empty ones, no views.

        Raises
        ------
        SourceError
            The server cannot be asked, or has no such database.
        """
        return [
            name
            for name in sorted(self._discover())
            if any(fnmatchcase(name, pattern) for pattern in self._include or ["*"])
            and not any(fnmatchcase(name, pattern) for pattern in self._exclude)
            and self._pages.ids(name, {}, 1)
        ]

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int:
        """Return how many documents of a split the server counts.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        self._find_database()
        if split == ALL_IDS:
            return self._count(collection, {})
        ranges = self._ranges(collection, split)
        if ranges is None:
            return sum(1 for _ in self.list_ids(collection, split))
        return sum(self._count(collection, {"_id": condition}) for condition in ranges)

    def _count(self, collection: str, condition: Mapping[str, Any]) -> int:
        return int(self._ask(lambda _: self._database[collection].count_documents(condition)))

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a split, reading nothing but ids.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        ranges = self._ranges(collection, split)
        if ranges is None:
            yield from map(record_id_of, self._pages.list_all(collection, split))
            return
        for condition in ranges:
            while page := self._pages.ids(collection, {"_id": condition}, self._page_ids):
                yield from map(record_id_of, page)
                condition = {**condition, "$gt": page[-1]}  # noqa: PLW2901 - the next page's

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument]:
        """Yield every document of a split, in the order of ``_id``.

        What is inserted, changed or deleted meanwhile may be seen or not; nothing is given twice.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        make = partial(self._pages.document, collection)
        ranges = self._ranges(collection, split)
        if ranges is None:
            documents = self._pages.documents_with(
                collection, self._pages.list_all(collection, split)
            )
            yield from (RawDocument(raw, make) for raw in documents)
            return
        for condition in ranges:
            limit = self._page_documents
            while page := self._pages.documents(collection, condition, limit):
                yield from (RawDocument(raw, make) for raw in page)
                condition = {**condition, "$gt": self._pages.identity(collection, page[-1])}  # noqa: PLW2901
                limit = self._pages.next_limit(page)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``.

        Raises
        ------
        SourceError
            They cannot be read to their end.
        """
        if not record_ids:
            return
        self._find_database()
        identities: list[Any] = [_identity_of(record_id) for record_id in sorted(record_ids)]
        if None in identities and self._ranges(collection, ALL_IDS) is None:
            listed = self._pages.list_all(collection, ALL_IDS)
            identities = [value for value in listed if record_id_of(value) in record_ids]
        else:
            known = [value for value in identities if value is not None]
            identities = sorted(known, key=lambda value: (not isinstance(value, str), value))
        for raw in self._pages.documents_with(collection, identities):
            document = self._pages.document(collection, raw)
            if document.record_id in record_ids:
                yield document

    def fingerprint(self, collection: str) -> str:
        """Return how many documents the server counts, and how many bytes they have.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        facts = self._statistics(collection)
        return f"{facts.get('count', 0)} documents, {facts.get('size', 0)} bytes"

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the connections."""
        self._client.close()

    def _discover(self) -> list[str]:
        """Return the names of the database's own collections.

        Raises
        ------
        SourceError
            The server cannot be asked, or has no such database.
        """
        found = self._ask(lambda _: list(self._database.list_collections(nameOnly=True)))
        if not found:
            raise SourceError(
                f"There is no database {self._database.name!r} at {self.name}, or it has no "
                "collection that this user may see. Check the name after the host, which must "
                "match in upper and lower case, and the user's rights."
            )
        self._found = True
        return [
            entry["name"]
            for entry in found
            if entry.get("type", "collection") == "collection"
            and not entry["name"].startswith("system.")
        ]

    def _find_database(self) -> None:
        """Make sure, once, that there is the database; a missing one looks like an empty one.

        Raises
        ------
        SourceError
            There is no such database.
        """
        if not self._found:
            self._discover()

    def _statistics(self, collection: str) -> Mapping[str, Any]:
        """Return what the server knows of a collection without reading it.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        self._find_database()
        return self._ask(
            lambda _: self._database.command(
                "collStats", collection, read_preference=self._database.read_preference
            )
        )

    def _ranges(self, collection: str, split: Split) -> list[Mapping[str, Any]] | None:
        """Return the conditions on the ``_id`` of a split's documents.

        None where the collection has ids that are neither all strings nor all ObjectIds.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        self._find_database()
        # The server sorts by type first: everything between two strings is a string.
        edges = [
            *self._pages.ids(collection, {}, 1, ASCENDING),
            *self._pages.ids(collection, {}, 1, DESCENDING),
        ]
        if all(type(edge) is str for edge in edges):
            upper = {"$lt": split.upper} if split.upper else {}
            return [{"$gte": split.lower} | upper] if edges else []
        if all(isinstance(edge, bson.ObjectId) for edge in edges):
            # All of them belong to one split.
            return [{"$gte": bson.ObjectId(bytes(12))}] if split.holds(OTHER_ID_PREFIX) else []
        return None


def open_url(
    url: str, options: SourceOptions, environment: Mapping[str, str] = os.environ
) -> MongoSource:
    """Return the source at an address, with the credentials that the environment has.

    Raises
    ------
    ConfigurationError
        The address is wrong, or the password's file cannot be read.
    """
    username, password = read_credentials(environment)
    return MongoSource(
        url,
        username=username,
        password=password,
        include=[escape(name) for name in options.collections] or options.include,
        exclude=() if options.collections else options.exclude,
        connections=options.connections,
    )


def _identity_of(record_id: str) -> str | bson.ObjectId | None:
    """Return the ``_id`` that a record id encodes; None where the text does not tell.

    Values of other types cannot be restored from the text, if only for the order of an object's
    keys.
    """
    text = string_id(record_id)
    match = _OBJECT_ID_TEXT.fullmatch(record_id) if text is None else None
    return bson.ObjectId(match[1]) if match else text
