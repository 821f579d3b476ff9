"""Pages of a collection behind a gateway, in the order of ``_id``.

Documents that exceed the gateway's payload limit are assembled from parts.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import pairwise
from typing import Any

import orjson
from pymongo import ASCENDING, DESCENDING

from aind_etl.contract.id_ranges import Split
from aind_etl.errors import SourceError
from aind_etl.sources.canonical import Document, document_from_json, record_id_of, string_id
from aind_etl.sources.gateway.client import GatewayClient
from aind_etl.sources.gateway.replies import Page, TooLargeError

_FIRST_PAGE_DOCUMENTS = 64
_RESTARTS = 10
_ONLY_ID = {"_id": 1}
_OTHER_IDS = {"_id": {"$not": {"$type": "string"}}}
_ASSEMBLIES = 3
# It replaces a document with a part that is too large, and is shown in its rejection.
_TOO_LARGE = "larger than a reply of the gateway may be, and so is a part of it"
# Top-level keys that may be large. All other keys are read in one request.
_LARGE_KEYS = (
    *("analysis_results", "analysis_spec", "processing", "acquisition", "instrument", "procedures"),
    *("subject", "data_description", "quality_control", "model", "session", "rig"),
)


@dataclass(frozen=True)
class Pages:
    """Reads documents and ids of a collection, a page at a time.

    Every method raises a :class:`SourceError` if the gateway cannot be read.
    """

    client: GatewayClient
    collection: str

    @property
    def name(self) -> str:
        """The collection's name in messages."""
        return f"{self.client.name}/{self.collection}"

    def first_and_last(self, condition: Mapping[str, Any]) -> list[Document]:
        """Return the first and the last ``_id`` that meet a condition; empty if none does.

        Ids are sorted by type first: if both of these are strings, all are.
        """
        edges = [
            edge
            for direction in (ASCENDING, DESCENDING)
            for edge in self._find(condition, 1, projection=_ONLY_ID, direction=direction).documents
        ]
        # An empty collection would mean that everything was deleted, so the count must agree.
        if not edges and self.client.count_documents(self.collection, condition):
            raise SourceError(
                f"The source {self.name} returns no documents, although it counts some. Run "
                "again; if it persists, report it to those who run the gateway."
            )
        return edges

    def with_string_ids(self, split: Split, *, ids_only: bool) -> Iterator[list[Document]]:
        """Yield pages of the documents in a split whose ``_id`` is a string; no page is empty.

        The next page is requested while a page is processed.
        """
        limits = self.client.limits
        most = limits.page_ids if ids_only else limits.page_documents
        limit = most if ids_only else min(most, _FIRST_PAGE_DOCUMENTS)
        most_bytes = limits.page_bytes
        next_page = partial(self._next_page, ids_only=ids_only)
        coming = self.client.workers.submit(next_page, id_range(split), limit)
        try:
            while (page := coming.result()).documents:
                if page.was_refused:
                    # A larger page would be refused again.
                    most_bytes = page.bytes
                mean_bytes = max(1, page.bytes // len(page.documents))
                limit = max(1, min(most, page.limit * 2, most_bytes // mean_bytes))
                rest = id_range(split, self.string_id(page.documents[-1]))
                coming = self.client.workers.submit(next_page, rest, limit)
                yield page.documents
        finally:
            coming.cancel()

    def with_ids(self, identities: Sequence[str]) -> list[Document]:
        """Return the documents with one of a few string ids."""
        found: list[Document] = []
        missing = set(identities)
        limit = len(missing)
        while missing:
            condition = {"_id": {"$in": sorted(missing)}}
            page, done = self._find_whole(condition, min(limit, len(missing)))
            if not done:
                break
            if not missing.issuperset(done):
                raise self._not_requested()
            found += page.documents
            missing.difference_update(done)
            limit = page.limit if page.was_refused else page.limit * 2
        return found

    def with_other_ids(self) -> Iterator[Document]:
        """Yield the documents whose ``_id`` is not a string.

        Filters in plain JSON cannot compare such ids, so pages are requested by position. Documents
        that are inserted or deleted meanwhile shift those after them; then reading starts over.
        """
        seen: set[str] = set()
        for _ in range(_RESTARTS):
            if (yield from self._by_position(seen)):
                return
        raise SourceError(
            f"The source {self.name} changes faster than its documents whose _id is not a string "
            "can be read. Run again when less is written to it."
        )

    def _by_position(self, seen: set[str]) -> Generator[Document, None, bool]:
        """Yield the documents not seen yet; return whether none was shifted meanwhile."""
        position = 0
        last: str | None = None
        while True:
            page = self._find(_OTHER_IDS, self.client.limits.page_documents, skip=position)
            # The last document of the previous page, and the first one of this page.
            seam = self._find(
                _OTHER_IDS, 2, projection=_ONLY_ID, skip=max(0, position - 1)
            ).documents
            if last is not None and [one.record_id for one in seam[:1]] != [last]:
                return False
            if not page.documents:
                if len(seam) == (last is not None):
                    return True
                raise SourceError(
                    f"The source {self.name} has a document that is {_TOO_LARGE}, after {position} "
                    "others with an _id that is not a string. Read this collection from MongoDB "
                    "itself, or exclude it."
                )
            for document in page.documents:
                if document.record_id not in seen:
                    seen.add(document.record_id)
                    yield document
            position += len(page.documents)
            last = page.documents[-1].record_id

    def string_id(self, document: Document) -> str:
        """Return the ``_id`` of a document that was requested by a string."""
        identity = string_id(document.record_id)
        if identity is None:
            raise self._not_requested()
        return identity

    def _next_page(self, ids: Mapping[str, str], limit: int, *, ids_only: bool) -> Page:
        """Return the first documents whose ``_id`` is in a range; an empty page is the end."""
        while True:
            condition = {"_id": ids}
            if ids_only:
                page = self._find(condition, limit, projection=_ONLY_ID)
                done = list(map(self.string_id, page.documents))
            else:
                page, done = self._find_whole(condition, limit)
            after = [ids["$gt"], *done] if "$gt" in ids else done
            if any(one >= other for one, other in pairwise(after)):
                raise self._not_requested()
            if page.documents or not done:
                return page
            ids = {**ids, "$gt": done[-1]}

    def _find_whole(self, condition: Mapping[str, Any], limit: int) -> tuple[Page, list[str]]:
        """Return the first documents that meet a condition, and their ids.

        A document that is too large for a reply is assembled from parts. If it is deleted
        meanwhile, only its id is returned. Without any id, no document meets the condition.
        """
        try:
            page = self._find(condition, limit, is_divisible=True)
        except TooLargeError:
            page = Page([], 0, 1, was_refused=True)
        if page.documents:
            return page, list(map(self.string_id, page.documents))
        # The first document alone may exceed the payload limit.
        first = self._find(condition, 1, projection=_ONLY_ID).documents
        done = list(map(self.string_id, first))
        documents = [document for document in map(self._assemble, done) if document]
        size = sum(len(document.text) for document in documents)
        return Page(documents, size, 1), done

    def _assemble(self, identity: str) -> Document | None:
        """Return a document that is too large for one reply, or None if it was deleted.

        A document with a part that is too large as well is replaced by :data:`_TOO_LARGE`.
        """
        find = partial(self._find, {"_id": identity}, 1)
        rest = dict.fromkeys(_LARGE_KEYS, 0)
        for _ in range(_ASSEMBLIES):
            try:
                # The projections are complementary, so no key is missing.
                first = _part(find, rest)
                parts = [first, *_parts(find, _LARGE_KEYS)]
                last = _part(find, rest)
            except TooLargeError:
                if not find(projection=_ONLY_ID).documents:
                    return None
                text = orjson.dumps(_TOO_LARGE).decode()
                return Document(record_id_of(identity), text, sha256(text.encode()).hexdigest())
            if last == first:
                whole: dict[str, Any] = {}
                for part in parts:
                    whole |= orjson.loads(part.text)
                return document_from_json(orjson.dumps(whole))
        raise SourceError(
            f"The document {identity!r} of {self.name} changes while it is read. Run again when "
            "nothing writes to it."
        )

    def _find(self, condition: Mapping[str, Any], limit: int, **more: Any) -> Page:  # noqa: ANN401
        return self.client.find(self.collection, condition, limit, **more)

    def _not_requested(self) -> SourceError:
        return SourceError(
            f"The source {self.name} returns documents that were not requested: it ignores the "
            "filter or the sort. Check that the address is that of a gateway."
        )


def id_range(split: Split, after: str | None = None) -> dict[str, str]:
    """Return the condition on a string ``_id`` in a split, or in the rest of it after an id.

    An ``_id`` that is not a string never meets it.
    """
    lower = {"$gte": split.lower} if after is None else {"$gt": after}
    return lower | ({"$lt": split.upper} if split.upper else {})


def _parts(find: Callable[..., Page], keys: Sequence[str]) -> list[Document]:
    """Return the values of some keys of a document, in as many requests as needed."""
    is_divisible = len(keys) > 1
    try:
        return [_part(find, dict.fromkeys(keys, 1), is_divisible=is_divisible)]
    except TooLargeError:
        if not is_divisible:
            raise
    middle = len(keys) // 2
    return [*_parts(find, keys[:middle]), *_parts(find, keys[middle:])]


def _part(
    find: Callable[..., Page], projection: Mapping[str, int], *, is_divisible: bool = False
) -> Document:
    """Return a part of a document, or raise a TooLargeError if it is too large or missing."""
    documents = find(projection=projection, is_divisible=is_divisible).documents
    if not documents:
        raise TooLargeError("No reply of the gateway is so large.")
    return documents[0]
