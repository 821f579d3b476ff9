"""Pages of a collection: requests that are answered in one reply and can be repeated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.database import Database

from aind_etl.contract.id_ranges import Split
from aind_etl.errors import SourceError
from aind_etl.sources.canonical import (
    UNREADABLE_PREFIX,
    Document,
    document_from_bson,
    record_id_of,
)
from aind_etl.sources.mongodb.faults import Retries

# The most ids in one request. The server accepts 16 MB, and ids have any length.
_REQUEST_IDS = 1000
_REQUEST_BYTES = 1 << 20

_IDS: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
# Text that is not UTF-8 must not prevent reading the ``_id`` beside it.
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
# Types that an _id may have. JavaScript code, which Python decodes as a str, is not one of them.
_ID_TYPES = {str, bson.ObjectId, type(None), bool, int, float, bytes, dict, bson.Int64, bson.Binary}
_ID_TYPES |= {
    bson.DBRef,
    bson.DatetimeMS,
    bson.Decimal128,
    bson.MaxKey,
    bson.MinKey,
    bson.Timestamp,
}


@dataclass(frozen=True)
class Pages:
    """Reads documents and ids of a database, a page at a time.

    Every method raises a :class:`SourceError` if the server does not answer before the deadline.

    Attributes
    ----------
    name
        The source's name, for error messages.
    max_time_ms
        Milliseconds that the server may take for one reply.
    page_documents
        The most documents per request.
    page_bytes
        Approximate size of a page of documents.
    """

    name: str
    database: Database[dict[str, Any]]
    retries: Retries
    max_time_ms: int
    page_documents: int
    page_bytes: int

    def list_all(self, collection: str, split: Split) -> list[Any]:
        """Return every ``_id`` of a split in order, for a collection with several types of ids.

        Raises
        ------
        SourceError
            An ``_id`` has a type that is not supported, or cannot be read.
        """

        def find(_: int) -> list[Any]:
            found = self.database.get_collection(collection, _IDS).find(
                {}, {"_id": 1}, sort={"_id": ASCENDING}, batch_size=10**6
            )
            return [document["_id"] for document in found.max_time_ms(self.max_time_ms)]

        with self._reading_ids(collection):
            identities = self.retries.call(find)
        for value in identities:
            if type(value) not in _ID_TYPES:
                raise SourceError(
                    f"The collection {collection!r} of {self.name} has an _id of the type "
                    f"{type(value).__name__}, which cannot be told from other types. Exclude the "
                    "collection, or give the document another _id."
                )
        return [value for value in identities if split.holds(record_id_of(value))]

    def documents_with(self, collection: str, identities: Iterable[Any]) -> Iterator[bytes]:
        """Yield the documents with one of these ``_id``, which must be in the server's order."""
        limit = self.page_documents
        for chunk in _chunks(identities):
            record_ids = [record_id_of(value) for value in chunk]
            begin = 0
            while begin < len(chunk) and (
                page := self.documents(collection, {"$in": chunk[begin:]}, limit)
            ):
                yield from page
                last = self.document(collection, page[-1]).record_id
                begin = record_ids.index(last, begin) + 1
                limit = self.next_limit(page)

    def next_limit(self, page: Sequence[bytes]) -> int:
        """Return how many documents to request next, from the sizes in the previous page."""
        mean_bytes = max(1, sum(map(len, page)) // len(page))
        return min(self.page_documents, max(1, self.page_bytes // mean_bytes))

    def document(self, collection: str, raw: bytes) -> Document:
        """Return the document whose BSON is ``raw``; an unreadable one keeps its ``_id``.

        Raises
        ------
        SourceError
            Its ``_id`` cannot be read either.
        """
        document = document_from_bson(raw)
        if document.record_id.startswith(UNREADABLE_PREFIX):
            identity = self.identity(collection, raw)
            document = document._replace(record_id=record_id_of(identity))
        return document

    def identity(self, collection: str, raw: bytes) -> Any:  # noqa: ANN401 - any type
        """Return the ``_id`` of a document whose other values may be unreadable."""
        with self._reading_ids(collection):
            value = RawBSONDocument(raw, _RAW)["_id"]
            if isinstance(value, str):
                value.encode()
            return value

    @contextmanager
    def _reading_ids(self, collection: str) -> Iterator[None]:
        try:
            yield
        except (bson.errors.BSONError, UnicodeError, KeyError) as error:
            raise SourceError(
                f"The collection {collection!r} of {self.name} has an _id that cannot be read: "
                "most likely it is not valid UTF-8. Give the document another _id, or exclude "
                "the collection."
            ) from error

    def ids(
        self,
        collection: str,
        condition: Mapping[str, Any],
        limit: int,
        direction: int = ASCENDING,
    ) -> list[Any]:
        """Return the first ``_id`` values that meet a condition; an empty page is the end."""

        def find(attempt: int) -> list[Any]:
            found = self.database.get_collection(collection, _IDS).find(
                condition, {"_id": 1}, **self._bounds(limit, attempt, direction)
            )
            return [document["_id"] for document in found]

        with self._reading_ids(collection):
            return self.retries.call(find)

    def documents(self, collection: str, condition: Mapping[str, Any], limit: int) -> list[bytes]:
        """Return the BSON of the first documents whose ``_id`` meets a condition.

        A page may be short although there are more; an empty page is the end.
        """

        def find(attempt: int) -> bytes:
            found = self.database[collection].find_raw_batches(
                {"_id": condition}, **self._bounds(limit, attempt)
            )
            return b"".join(iter(found))

        return [bytes(document.raw) for document in bson.decode_all(self.retries.call(find), _RAW)]

    def _bounds(self, limit: int, attempt: int, direction: int = ASCENDING) -> dict[str, Any]:
        """Return the options of a request that is answered in a single reply."""
        # A request that took too long is repeated with a smaller limit.
        smaller = max(1, limit >> attempt)
        return {
            "sort": {"_id": direction},
            # A negative limit leaves no cursor open.
            "limit": -smaller,
            "batch_size": smaller,
            "max_time_ms": self.max_time_ms,
        }


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield values in lists that fit into a request."""
    chunk: list[Any] = []
    size = 0
    for value in values:
        chunk.append(value)
        size += len(bson.encode({"": value}))
        if len(chunk) >= _REQUEST_IDS or size >= _REQUEST_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
