"""Pages of a collection: requests that are answered in one reply and can be repeated."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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

# A BSON document begins with its own length.
_LENGTH_BYTES = 4
# What is asked for by id at a time. The server takes 16 MB, and ids have any length.
_ASKED_IDS = 1000
_ASKED_BYTES = 1 << 20

_IDS: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
# Text that is no UTF-8 must not hinder reading the ``_id`` beside it.
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)
# Types that an _id may have; JavaScript, which is a text in Python, is none of them.
_ID_TYPES = {str, bson.ObjectId, type(None), bool, int, float, bytes, dict, bson.Int64, bson.Binary}
_ID_TYPES |= {
    bson.DBRef,
    bson.DatetimeMS,
    bson.Decimal128,
    bson.MaxKey,
    bson.MinKey,
    bson.Timestamp,
}


class Pages:
    """Reads documents and ids of a database, a page at a time.

    Parameters
    ----------
    name
        The source, for messages.
    database
        The database.
    retries
        What asks a question again while that may help.
    max_time_ms
        Milliseconds the server may take for one reply.
    page_documents
        The most documents asked for at a time.
    page_bytes
        About how many bytes a page of documents may have.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the source's
        self,
        name: str,
        database: Database[dict[str, Any]],
        retries: Retries,
        *,
        max_time_ms: int,
        page_documents: int,
        page_bytes: int,
    ) -> None:
        self._name = name
        self._database = database
        self._ask = retries.ask
        self._max_time_ms = max_time_ms
        self._page_documents = page_documents
        self._page_bytes = page_bytes

    def list_all(self, collection: str, split: Split) -> list[Any]:
        """Return every ``_id`` of a split of a collection that has several types of them, in order.

        Raises
        ------
        SourceError
            They cannot be read, or one has a type that does not occur as an id.
        """

        def find(_: int) -> list[Any]:
            found = self._database.get_collection(collection, _IDS).find(
                {}, {"_id": 1}, sort={"_id": ASCENDING}, batch_size=10**6
            )
            return [document["_id"] for document in found.max_time_ms(self._max_time_ms)]

        try:
            identities = self._ask(find)
        except bson.errors.BSONError as error:
            raise self._unreadable_identity(collection) from error
        for value in identities:
            if type(value) not in _ID_TYPES:
                raise SourceError(
                    f"The collection {collection!r} of {self._name} has an _id of the type "
                    f"{type(value).__name__}, which cannot be told apart from others. Leave the "
                    "collection out, or give the document another _id."
                )
        return [value for value in identities if split.holds(record_id_of(value))]

    def documents_with(self, collection: str, identities: Iterable[Any]) -> Iterator[bytes]:
        """Yield the documents that have one of some ``_id``, which are in the server's order."""
        limit = self._page_documents
        for some in _chunks(identities):
            names = [record_id_of(value) for value in some]
            begin = 0
            while begin < len(some) and (
                page := self.documents(collection, {"$in": some[begin:]}, limit)
            ):
                yield from page
                last = self.document(collection, page[-1]).record_id
                begin = names.index(last, begin) + 1
                limit = self.next_limit(page)

    def next_limit(self, page: Sequence[bytes]) -> int:
        """Return how many documents to ask for, by the size of those of the page before."""
        mean_bytes = max(1, sum(map(len, page)) // len(page))
        return min(self._page_documents, max(1, self._page_bytes // mean_bytes))

    def document(self, collection: str, raw: bytes) -> Document:
        """Return the document whose BSON is ``raw``, with its ``_id`` if it is not readable.

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
        """Return the ``_id`` of a document that may not be readable otherwise.

        Raises
        ------
        SourceError
            It cannot be read either.
        """
        try:
            value = RawBSONDocument(raw, _RAW)["_id"]
            if isinstance(value, str):
                value.encode()
        except (bson.errors.BSONError, UnicodeError, KeyError) as error:
            raise self._unreadable_identity(collection) from error
        return value

    def _unreadable_identity(self, collection: str) -> SourceError:
        return SourceError(
            f"The collection {collection!r} of {self._name} has an _id that cannot be read: most "
            "likely it is not valid UTF-8. Give the document another _id, or leave the "
            "collection out."
        )

    def ids(
        self,
        collection: str,
        condition: Mapping[str, Any],
        limit: int,
        direction: int = ASCENDING,
    ) -> list[Any]:
        """Return the first ``_id`` that meet a condition; none after the last.

        Raises
        ------
        SourceError
            The server did not give them until the deadline, or they cannot be read.
        """

        def find(attempt: int) -> list[Any]:
            smaller = max(1, limit >> attempt)
            # A negative limit asks for a single reply, after which no cursor stays open.
            found = self._database.get_collection(collection, _IDS).find(
                condition,
                {"_id": 1},
                sort={"_id": direction},
                limit=-smaller,
                batch_size=smaller,
                max_time_ms=self._max_time_ms,
            )
            return [document["_id"] for document in found]

        try:
            return self._ask(find)
        except bson.errors.BSONError as error:
            raise self._unreadable_identity(collection) from error

    def documents(self, collection: str, condition: Mapping[str, Any], limit: int) -> list[bytes]:
        """Return the BSON of the first documents whose ``_id`` meets a condition.

        There may be fewer than asked for although there are more; after the last there are none.

        Raises
        ------
        SourceError
            The server did not give them until the deadline.
        """

        def find(attempt: int) -> bytes:
            # What was too slow may be done in smaller steps.
            smaller = max(1, limit >> attempt)
            found = self._database[collection].find_raw_batches(
                {"_id": condition},
                sort={"_id": ASCENDING},
                limit=-smaller,
                batch_size=smaller,
                max_time_ms=self._max_time_ms,
            )
            return b"".join(iter(found))

        batch = self._ask(find)
        documents = []
        begin = 0
        while begin < len(batch):
            end = begin + int.from_bytes(batch[begin : begin + _LENGTH_BYTES], "little")
            documents.append(batch[begin:end])
            begin = end
        return documents


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield values in lists that the server takes."""
    chunk: list[Any] = []
    size = 0
    for value in values:
        chunk.append(value)
        size += len(bson.encode({"": value}))
        if len(chunk) >= _ASKED_IDS or size >= _ASKED_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
