"""A database behind a REST gateway, read without credentials.

A reply holds as many documents as fit into the gateway's payload limit, so a page may be short
although there are more, and there are no cursors. A collection is read in pages sorted by ``_id``,
each starting after the last ``_id`` of the previous page.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import SourceError
from aind_etl.settings import Settings
from aind_etl.sources.canonical import OTHER_ID_PREFIX, Document, string_id
from aind_etl.sources.gateway.client import GatewayClient, as_json
from aind_etl.sources.gateway.pages import Pages, id_range
from aind_etl.sources.gateway.replies import RefusedError
from aind_etl.sources.paging import Limits, chunks
from aind_etl.sources.protocol import Source

KNOWN_COLLECTIONS = (
    "architecture_example_v2",
    "dynamic-foraging-analysis",
    "dynamic-foraging-lifetime",
    "dynamic-foraging-model-fitting",
    "dynamic-foraging-nm",
)
"""The public collections; the gateway cannot be asked for their names."""

LIMITS = Limits(page_ids=20_000, page_bytes=4 << 20)
# Servers refuse URLs of more than 8 kB; the rest is for everything but the ids.
_URL_IDS_BYTES = 6 << 10
# A gateway replies with one of these for an unknown collection or address.
_ABSENT_STATUSES = frozenset({403, 404})


class GatewaySource(Source):
    """Named collections of one database behind a gateway.

    Parameters
    ----------
    url
        The address of the database: ``https://host/v1/analysis``, or ``http://``.
    collections
        Names of the collections; those that are missing or empty are not listed.
    limits
        Apply to all threads together.
    requests_per_second
        The most requests per second, including retries.

    Raises
    ------
    ConfigurationError
        The address is wrong.
    """

    def __init__(
        self,
        url: str,
        collections: Sequence[str] = KNOWN_COLLECTIONS,
        limits: Limits = LIMITS,
        *,
        requests_per_second: float = 5.0,
    ) -> None:
        self.connections = limits.connections
        self._collections = sorted(set(collections))
        self._client = GatewayClient(url, limits, requests_per_second)
        self.name = self._client.name
        self._pages = partial(Pages, self._client)

    def __repr__(self) -> str:
        return f"GatewaySource({self.name!r})"

    def list_collections(self) -> list[str]:
        """Return the names of the collections that exist and are not empty, sorted."""
        found = []
        refusal = ""
        for collection in self._collections:
            try:
                if self._pages(collection).first_and_last({}):
                    found.append(collection)
            except RefusedError as error:
                if error.status not in _ABSENT_STATUSES:
                    raise
                refusal = f" The gateway replied: {error.reason}."
        if not found:
            raise SourceError(
                f"The source {self.name} has no documents in any of the collections "
                f"{', '.join(map(repr, self._collections))}.{refusal} Check the address, which "
                "ends in the name of the database, and the names, which are case-sensitive."
            )
        return found

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int:
        """Return the number of documents in a split."""
        count = self._client.count_documents
        if split == ALL_IDS:
            return count(collection, {})
        counted = count(collection, {"_id": id_range(split)})
        if split.holds(OTHER_ID_PREFIX):
            # All ids that are not strings belong to one split.
            counted += count(collection, {}) - count(collection, {"_id": id_range(ALL_IDS)})
        return counted

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document in a split, reading only ids."""
        for document in self._read(collection, split, ids_only=True):
            yield document.record_id

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[Document]:
        """Yield every document in a split, parsed, in the order of ``_id``, each once.

        Documents that are inserted, changed or deleted meanwhile may be missing or not. A document
        that is too large for the gateway is replaced by a text that says so.
        """
        return self._read(collection, split, ids_only=False)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        pages = self._pages(collection)
        strings = {identity for identity in map(string_id, record_ids) if identity is not None}
        pending = deque[Future[list[Document]]]()
        try:
            for chunk in chunks(sorted(strings), _bytes_in_url, most_bytes=_URL_IDS_BYTES):
                pending.append(self._client.workers.submit(pages.with_ids, chunk))
                if len(pending) == self.connections:
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
        if len(strings) < len(record_ids):
            for document in pages.with_other_ids():
                if document.record_id in record_ids:
                    yield document

    def fingerprint(self, collection: str) -> str:
        """Return the number of documents.

        The newest analysis time would add little, and no index helps the server to find it.
        """
        return f"{self.count_documents(collection)} documents"

    def __exit__(self, *exception: object) -> None:
        """Cancel pending requests, and close the connections."""
        self._client.close()

    def _read(self, collection: str, split: Split, *, ids_only: bool) -> Iterator[Document]:
        """Yield the documents of a split, or only their ids."""
        pages = self._pages(collection)
        condition = {} if split == ALL_IDS else {"_id": id_range(split)}
        edges = pages.first_and_last(condition)
        if edges:
            last_read = ""
            for page in pages.with_string_ids(split, ids_only=ids_only):
                last_read = pages.string_id(page[-1])
                yield from page
            last = string_id(edges[-1].record_id) or ""
            if last > last_read and pages.first_and_last(condition)[-1:] == edges[-1:]:
                raise SourceError(
                    f"The source {pages.name} returned documents up to the _id {last_read!r} "
                    f"only, although it has {last!r}: most likely it writes ids of other types as "
                    "strings. Read this collection from MongoDB itself, or exclude it."
                )
        if split.holds(OTHER_ID_PREFIX):
            ends = edges if split == ALL_IDS else pages.first_and_last({})
            if not all(end.text.startswith('{"_id":"') for end in ends):
                yield from pages.with_other_ids()


def _bytes_in_url(identity: str) -> int:
    return len(quote(f"{as_json(identity)},"))


def open_source(settings: Settings) -> GatewaySource:
    """Return the database behind the gateway at an address."""
    return GatewaySource(
        settings.source,
        settings.collections or KNOWN_COLLECTIONS,
        replace(LIMITS, connections=settings.connections),
        requests_per_second=settings.requests_per_second,
    )
