"""A database behind a REST gateway, read without credentials.

The gateway sends as many documents as fit into its payload cap, so a page may be short although
there are more, and it has no cursors. A collection is read in pages sorted by ``_id``, each
starting after the last ``_id`` of the previous page.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self
from urllib.parse import quote

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.canonical import OTHER_ID_PREFIX, Document, string_id
from aind_etl.sources.gateway.client import ASCENDING, DESCENDING, GatewayClient, as_json
from aind_etl.sources.gateway.large_documents import TOO_LARGE, assemble
from aind_etl.sources.gateway.replies import Page, RefusedError, TooLargeError
from aind_etl.sources.kinds import SourceOptions

KNOWN_COLLECTIONS = (
    "architecture_example_v2",
    "dynamic-foraging-analysis",
    "dynamic-foraging-lifetime",
    "dynamic-foraging-model-fitting",
    "dynamic-foraging-nm",
)
"""The public collections; the gateway cannot be asked for their names."""

_FIRST_PAGE_DOCUMENTS = 64
# Servers refuse addresses of 8 kB; the rest is for all but the ids.
_ASKED_IDS_BYTES = 6 << 10
_RESTARTS = 10

_NO_STRING = {"$not": {"$type": "string"}}
# What a gateway says of a collection, or an address, that it does not have.
_ABSENT_STATUSES = frozenset({403, 404})


class GatewaySource:
    """One database behind a gateway, of which every named collection is one of the source.

    It may be used by several threads: rate and concurrency are kept for all of them together.

    Parameters
    ----------
    url
        The address of the database: ``https://host/v1/analysis``, or ``http://``.
    collections
        Names of the collections; those that the gateway does not have, or that are empty, are
        not listed.
    requests_per_second
        The most requests begun in a second, repeated ones included.
    concurrency
        The most requests under way at a time.
    deadline
        Seconds until a question is given up that the gateway does not answer. The last of the
        attempts may outlast it, by no more than ``reply_timeout``.
    reply_timeout
        Seconds that one reply may take, to its last byte.
    page_documents, page_ids
        The most documents, and the most ids, asked for at a time.
    page_bytes
        About how many bytes a page may have, judged by the page before.

    Raises
    ------
    ConfigurationError
        The address or a number is wrong.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the caller's
        self,
        url: str,
        collections: Sequence[str] = KNOWN_COLLECTIONS,
        *,
        requests_per_second: float = 5.0,
        concurrency: int = 4,
        deadline: float = 300.0,
        reply_timeout: float = 60.0,
        page_documents: int = 1000,
        page_ids: int = 20_000,
        page_bytes: int = 4 << 20,
    ) -> None:
        limits = {
            "requests_per_second": requests_per_second,
            "concurrency": concurrency,
            "deadline": deadline,
            "reply_timeout": reply_timeout,
            "page_documents": page_documents,
            "page_ids": page_ids,
            "page_bytes": page_bytes,
        }
        for name, value in limits.items():
            if not value > 0:
                raise ConfigurationError(
                    f"The gateway's {name} is {value!r}; expected a number above 0."
                )
        self._page_documents = page_documents
        self._page_ids = page_ids
        self._page_bytes = page_bytes
        self.connections = concurrency
        self._collections = sorted(set(collections))
        self._workers = ThreadPoolExecutor(concurrency, thread_name_prefix="gateway")
        self._client = GatewayClient(
            url,
            requests_per_second=requests_per_second,
            concurrency=concurrency,
            deadline=deadline,
            reply_timeout=reply_timeout,
        )
        self.name = self._client.name

    def __repr__(self) -> str:
        return f"GatewaySource({self.name!r})"

    def list_collections(self) -> list[str]:
        """Return the names of the collections that are there and not empty, sorted.

        Raises
        ------
        SourceError
            The gateway cannot be asked, or has none of the collections.
        """
        found = []
        refusal = ""
        for collection in self._collections:
            try:
                if self._edges(collection, {}):
                    found.append(collection)
            except RefusedError as error:
                if error.status not in _ABSENT_STATUSES:
                    raise
                refusal = f" It says: {error.said}."
        if not found:
            raise SourceError(
                f"The source {self.name} has no documents in any of the collections "
                f"{', '.join(map(repr, self._collections))}.{refusal} Check the address, which "
                "ends in the name of the database, and the names, which must match in upper and "
                "lower case."
            )
        return found

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int:
        """Return how many documents of a split the gateway counts.

        Raises
        ------
        SourceError
            The gateway cannot be asked.
        """
        if split == ALL_IDS:
            return self._client.count_documents(collection, {})
        counted = self._client.count_documents(collection, {"_id": _range(split)})
        if split.holds(OTHER_ID_PREFIX):
            # All ids that are no text belong to one split.
            texts = self._client.count_documents(collection, {"_id": _range(ALL_IDS)})
            counted += self._client.count_documents(collection, {}) - texts
        return counted

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a split, reading nothing but ids.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        for document in self._read(collection, split, ids_only=True):
            yield document.record_id

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[Document]:
        """Yield every document of a split, in the order of ``_id``, each parsed already.

        What is inserted, changed or deleted meanwhile may be seen or not; nothing is given twice.
        A document that is too large for the gateway is replaced by a text that says so.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        return self._read(collection, split, ids_only=False)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``.

        Raises
        ------
        SourceError
            They cannot be read to their end.
        """
        texts = {text for text in map(string_id, record_ids) if text is not None}
        asked: deque[Future[list[Document]]] = deque()
        try:
            for chunk in _chunks(sorted(texts)):
                asked.append(self._workers.submit(self._read_chunk, collection, chunk))
                if len(asked) == self.connections:
                    yield from asked.popleft().result()
            while asked:
                yield from asked.popleft().result()
        finally:
            for future in asked:
                future.cancel()
        if len(texts) < len(record_ids):
            for document in self._read_others(collection):
                if document.record_id in record_ids:
                    yield document

    def fingerprint(self, collection: str) -> str:
        """Return how many documents the gateway counts.

        The newest analysis time would tell little more, and no index helps the server to find it.

        Raises
        ------
        SourceError
            The gateway cannot be asked.
        """
        return f"{self.count_documents(collection)} documents"

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up what is under way, and close the connections."""
        self._client.give_up()
        self._workers.shutdown(cancel_futures=True)
        self._client.close()

    def _read(self, collection: str, split: Split, *, ids_only: bool) -> Iterator[Document]:
        """Yield the documents of a split, or nothing but their ids.

        Raises
        ------
        SourceError
            The split cannot be read to its end.
        """
        condition = {} if split == ALL_IDS else {"_id": _range(split)}
        edges = self._edges(collection, condition)
        if edges:
            last_given = ""
            for page in self._pages(collection, split, ids_only=ids_only):
                last_given = self._string_id(collection, page[-1])
                yield from page
            last = edges[-1]
            last_there = string_id(last.record_id) or ""
            if last_there > last_given and self._edges(collection, condition)[-1:] == [last]:
                raise SourceError(
                    f"The source {self.name}/{collection} gave documents up to the _id "
                    f"{last_given!r} only, though there is {last_there!r}: most likely it shows "
                    "ids as text that are none. Read this collection from MongoDB itself, or "
                    "leave it out."
                )
        if split.holds(OTHER_ID_PREFIX):
            ends = edges if split == ALL_IDS else self._edges(collection, {})
            if not all(map(_has_text_id, ends)):
                yield from self._read_others(collection)

    def _edges(self, collection: str, condition: Mapping[str, Any]) -> list[Document]:
        """Return the first and the last ``_id`` that meet a condition, or nothing.

        Ids are sorted by type first: if both of these are text, all are.

        Raises
        ------
        SourceError
            The gateway cannot be asked, or contradicts itself.
        """
        edges = [
            edge
            for direction in (ASCENDING, DESCENDING)
            for edge in self._client.find(
                collection, condition, 1, projection={"_id": 1}, direction=direction
            ).documents
        ]
        # None would mean that everything is gone: that takes two witnesses.
        if not edges and self._client.count_documents(collection, condition):
            raise SourceError(
                f"The source {self.name}/{collection} gives no documents, although it counts "
                "some. Try again; if it stays so, it is for those who run the gateway to mend."
            )
        return edges

    def _pages(self, collection: str, split: Split, *, ids_only: bool) -> Iterator[list[Document]]:
        """Yield the documents of a split whose ``_id`` is text, in order; no page is empty.

        The next page is requested while one is processed.

        Raises
        ------
        SourceError
            A page cannot be read.
        """
        most = self._page_ids if ids_only else self._page_documents
        limit = most if ids_only else min(most, _FIRST_PAGE_DOCUMENTS)
        most_bytes = self._page_bytes
        coming = self._workers.submit(
            self._next_page, collection, _range(split), limit, ids_only=ids_only
        )
        try:
            while (page := coming.result()).documents:
                if page.was_refused:
                    # What fitted is known now. Asking for more would be refused every time.
                    most_bytes = page.bytes
                mean_bytes = max(1, page.bytes // len(page.documents))
                limit = max(1, min(most, page.limit * 2, most_bytes // mean_bytes))
                following = _range(split, self._string_id(collection, page.documents[-1]))
                coming = self._workers.submit(
                    self._next_page, collection, following, limit, ids_only=ids_only
                )
                yield page.documents
        finally:
            coming.cancel()

    def _next_page(
        self, collection: str, identities: Mapping[str, str], limit: int, *, ids_only: bool
    ) -> Page:
        """Return the first documents whose ``_id`` is in a range; none if there are none.

        Raises
        ------
        SourceError
            They cannot be read.
        """
        projection = {"_id": 1} if ids_only else None
        while True:
            condition = {"_id": identities}
            try:
                page = self._client.find(
                    collection,
                    condition,
                    limit,
                    projection=projection,
                    is_divisible=not ids_only,
                )
            except TooLargeError:
                if ids_only:
                    raise
                page = Page([], 0, 1, was_refused=True)
            before = identities.get("$gt")
            for document in page.documents:
                identity = self._string_id(collection, document)
                if before is not None and identity <= before:
                    raise self._ignored(collection)
                before = identity
            if page.documents or ids_only:
                return page
            # Nothing may mean that the next document alone is more than a reply may hold.
            following = self._client.find(collection, condition, 1, projection={"_id": 1}).documents
            if not following:
                return page
            identity = self._string_id(collection, following[0])
            document_from_parts = assemble(self._client, collection, identity)
            if document_from_parts:
                return Page([document_from_parts], len(document_from_parts.text), 1)
            identities = {**identities, "$gt": identity}

    def _read_chunk(self, collection: str, identities: Sequence[str]) -> list[Document]:
        """Return the documents whose ``_id`` is one of a few.

        Raises
        ------
        SourceError
            They cannot be read.
        """
        found: list[Document] = []
        missing = set(identities)
        limit = len(missing)
        while missing:
            condition = {"_id": {"$in": sorted(missing)}}
            try:
                page = self._client.find(
                    collection, condition, min(limit, len(missing)), is_divisible=True
                )
            except TooLargeError:
                page = Page([], 0, 1, was_refused=True)
            if not page.documents:
                # Gone, all of them, or the first one alone is more than a reply may hold.
                following = self._client.find(
                    collection, condition, 1, projection={"_id": 1}
                ).documents
                if not following:
                    break
                given = [self._string_id(collection, following[0])]
                assembled = assemble(self._client, collection, given[0])
                found += [assembled] if assembled else []
            else:
                given = [self._string_id(collection, document) for document in page.documents]
                found += page.documents
            if not missing.issuperset(given):
                raise self._ignored(collection)
            missing.difference_update(given)
            limit = page.limit if page.was_refused else page.limit * 2
        return found

    def _read_others(self, collection: str) -> Iterator[Document]:
        """Yield the documents whose ``_id`` is no text.

        Filters in plain JSON cannot compare such ids, so pages are counted off. Whatever is
        deleted or inserted meanwhile moves those behind it: then it is begun again.

        Raises
        ------
        SourceError
            They cannot be read, or keep changing place.
        """
        condition = {"_id": _NO_STRING}
        given: set[str] = set()
        for _ in range(_RESTARTS):
            position = 0
            last: str | None = None
            while True:
                page = self._client.find(collection, condition, self._page_documents, skip=position)
                at_the_seam = self._client.find(
                    collection,
                    condition,
                    2,
                    projection={"_id": 1},
                    skip=max(0, position - 1),
                ).documents
                if last is not None and [one.record_id for one in at_the_seam[:1]] != [last]:
                    break
                if not page.documents:
                    if len(at_the_seam) == (last is not None):
                        return
                    raise SourceError(
                        f"The source {self.name}/{collection} has a document that is "
                        f"{TOO_LARGE}, behind {position} others with an _id that is no text. "
                        "Read this collection from MongoDB itself, or leave it out."
                    )
                for document in page.documents:
                    if document.record_id not in given:
                        given.add(document.record_id)
                        yield document
                position += len(page.documents)
                last = page.documents[-1].record_id
        raise SourceError(
            f"The source {self.name}/{collection} changes faster than its documents with an _id "
            "that is no text can be read. Try again when less is written to it."
        )

    def _string_id(self, collection: str, document: Document) -> str:
        """Return the ``_id`` of a document that was asked for by a string.

        Raises
        ------
        SourceError
            It has another one.
        """
        identity = string_id(document.record_id)
        if identity is None:
            raise self._ignored(collection)
        return identity

    def _ignored(self, collection: str) -> SourceError:
        return SourceError(
            f"The source {self.name}/{collection} gives documents that were not asked for: it "
            "keeps to no filter or to no sort. Check that the address is that of a gateway."
        )


def _chunks(identities: Iterable[str]) -> Iterator[list[str]]:
    """Yield ids in lists that fit into a URL."""
    chunk: list[str] = []
    size = 0
    for identity in identities:
        length = len(quote(f"{as_json(identity)},"))
        if chunk and size + length > _ASKED_IDS_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(identity)
        size += length
    if chunk:
        yield chunk


def _has_text_id(document: Document) -> bool:
    """Return whether the ``_id`` is text, of a document that has nothing else."""
    return document.text.startswith('{"_id":"')


def _range(split: Split, after: str | None = None) -> dict[str, str]:
    """Return the condition that the strings of a split meet, those behind one perhaps.

    No other ``_id`` meets it.
    """
    lower = {"$gte": split.lower} if after is None else {"$gt": after}
    return lower | ({"$lt": split.upper} if split.upper else {})


def open_url(url: str, options: SourceOptions) -> GatewaySource:
    """Return the database behind the gateway at an address."""
    return GatewaySource(
        url,
        options.collections or KNOWN_COLLECTIONS,
        concurrency=options.connections,
        requests_per_second=options.requests_per_second,
    )
