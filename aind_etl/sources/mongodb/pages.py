"""Pages of a collection: requests that are answered in one reply and can be repeated."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING
from pymongo.database import Database

from aind_etl.contract.id_ranges import Split
from aind_etl.errors import SourceError
from aind_etl.sources.canonical import UNREADABLE_PREFIX, Document, document_from_bson, record_id_of
from aind_etl.sources.mongodb.faults import Retries
from aind_etl.sources.paging import Limits, chunks

# The most ids in one request. The server accepts 16 MB, and ids have any length.
_REQUEST_IDS = 1000
_REQUEST_BYTES = 1 << 20
# Without a limit: as many as fit into a reply.
_LARGEST_BATCH = 10**6

_Found = TypeVar("_Found")

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
_ID_TYPES = {
    *(str, type(None), bool, int, float, bytes, dict, bson.Int64, bson.ObjectId, bson.Binary),
    *(bson.DBRef, bson.DatetimeMS, bson.Decimal128, bson.MaxKey, bson.MinKey, bson.Timestamp),
}


@dataclass(frozen=True)
class Pages:
    """Reads documents and ids of a collection, a page at a time.

    Every method raises a :class:`SourceError` if the server does not answer before the deadline or
    an ``_id`` cannot be read.
    """

    retries: Retries
    limits: Limits
    database: Database[dict[str, Any]]
    collection: str

    def list_all(self, split: Split) -> list[Any]:
        """Return every ``_id`` of a split in order, for a collection with several types of ids."""
        identities = self.ids({}, None)
        for value in identities:
            if type(value) not in _ID_TYPES:
                raise SourceError(
                    f"{self} has an _id of the type {type(value).__name__}, which cannot be told "
                    "from other types. Exclude the collection, or give the document another _id."
                )
        return [value for value in identities if split.holds(record_id_of(value))]

    def documents_with(self, identities: Iterable[Any]) -> Iterator[bytes]:
        """Yield the documents with one of these ``_id``, which must be in the server's order."""
        limit = self.limits.page_documents
        for chunk in chunks(identities, _bytes, most_bytes=_REQUEST_BYTES, most=_REQUEST_IDS):
            record_ids = [record_id_of(value) for value in chunk]
            begin = 0
            while begin < len(chunk) and (page := self.documents({"$in": chunk[begin:]}, limit)):
                yield from page
                begin = record_ids.index(self.document(page[-1]).record_id, begin) + 1
                limit = self.next_limit(page)

    def next_limit(self, page: Sequence[bytes]) -> int:
        """Return how many documents to request next, from the sizes in the previous page."""
        mean_bytes = max(1, sum(map(len, page)) // len(page))
        return min(self.limits.page_documents, max(1, self.limits.page_bytes // mean_bytes))

    def document(self, raw: bytes) -> Document:
        """Return the document whose BSON is ``raw``; an unreadable one keeps its ``_id``."""
        document = document_from_bson(raw)
        if document.record_id.startswith(UNREADABLE_PREFIX):
            document = document._replace(record_id=record_id_of(self.identity(raw)))
        return document

    def identity(self, raw: bytes) -> Any:  # noqa: ANN401 - any type
        """Return the ``_id`` of a document whose other values may be unreadable."""
        with self._reading_ids():
            value = RawBSONDocument(raw, _RAW)["_id"]
            if isinstance(value, str):
                value.encode()
            return value

    def ids(
        self, condition: Mapping[str, Any], limit: int | None, direction: int = ASCENDING
    ) -> list[Any]:
        """Return the first ``_id`` values that meet a condition; an empty page is the end."""

        def parse(batch: bytes) -> list[Any]:
            return [document["_id"] for document in bson.decode_all(batch, _IDS)]

        with self._reading_ids():
            return self._find(parse, condition, limit, {"_id": 1}, direction)

    def documents(self, condition: Mapping[str, Any], limit: int) -> list[bytes]:
        """Return the BSON of the first documents whose ``_id`` meets a condition.

        A page may be short although there are more; an empty page is the end.
        """

        def parse(batch: bytes) -> list[bytes]:
            return [bytes(document.raw) for document in bson.decode_all(batch, _RAW)]

        return self._find(parse, {"_id": condition}, limit)

    def _find(
        self,
        parse: Callable[[bytes], list[_Found]],
        condition: Mapping[str, Any],
        limit: int | None,
        projection: Mapping[str, int] | None = None,
        direction: int = ASCENDING,
    ) -> list[_Found]:
        """Return what meets a condition; if there is a limit, what fits into a single reply."""

        def find(attempt: int) -> list[_Found]:
            # A request that took too long is repeated with a smaller limit.
            smaller = max(1, limit >> attempt) if limit else 0
            batches: Iterable[Any] = self.database[self.collection].find_raw_batches(
                condition,
                projection,
                sort={"_id": direction},
                # A negative limit leaves no cursor open.
                limit=-smaller,
                batch_size=smaller or _LARGEST_BATCH,
                max_time_ms=self.limits.reply_ms,
            )
            return [found for batch in batches for found in parse(batch)]

        return self.retries.call(find)

    @contextmanager
    def _reading_ids(self) -> Iterator[None]:
        try:
            yield
        except (bson.errors.BSONError, UnicodeError, KeyError) as error:
            raise SourceError(
                f"{self} has an _id that cannot be read: most likely it is not valid UTF-8. Give "
                "the document another _id, or exclude the collection."
            ) from error

    def __str__(self) -> str:
        return f"The collection {self.collection!r} of {self.retries.name}"


def _bytes(identity: Any) -> int:  # noqa: ANN401 - any type
    return len(bson.encode({"": identity}))
