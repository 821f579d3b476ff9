"""A database behind its REST gateway, as anyone may read it.

Here belong the address, the questions (``find`` and ``count_documents``, by GET alone), how fast
and how often they are asked, how replies are told from what looks like one, and how documents
larger than a reply may be are fetched. What documents mean, and the form they are brought into,
do not belong here.

The gateway sends as many documents as fit into its payload cap, so a page may be short although
there are more, and knows no cursor: a collection is read in pages by ``_id``, each asked for
from the last ``_id`` seen, until there is nothing behind it.
"""

import json
import logging
import math
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from hashlib import sha256
from importlib.metadata import version
from itertools import count
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import quote, urlencode

import httpx
import orjson

from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.canonical import WITHOUT_ID_PREFIX, Document, document_from_json

KNOWN_COLLECTIONS = (
    "architecture_example_v2",
    "dynamic-foraging-analysis",
    "dynamic-foraging-lifetime",
    "dynamic-foraging-model-fitting",
    "dynamic-foraging-nm",
)
"""The public collections; the gateway cannot be asked for their names."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

# No "@": credentials are of no use to a gateway that anyone may read.
_URL = re.compile(r"https?://(?P<host>[\w.:\[\]-]+)/[^@?#\s]*[^@?#\s/]/*", re.IGNORECASE)
_EXAMPLE = "https://api.allenneuraldynamics.org/v1/analysis"

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
_FIRST_PAGE_DOCUMENTS = 64
# Servers refuse addresses of 8 kB; the rest is for all but the ids.
_ASKED_IDS_BYTES = 6 << 10
# From here on it is worth a question whether to read everything is quicker.
_MANY_IDS = 1000
# How often a single document is asked for that does not come, before its parts are.
_SINGLE_ATTEMPTS = 4
_ASSEMBLIES = 3
_RESTARTS = 10

# Top-level keys that may hold much. What is not among them is fetched together.
_LARGE_KEYS = (
    "analysis_results",
    "analysis_spec",
    "processing",
    "acquisition",
    "instrument",
    "procedures",
    "subject",
    "data_description",
    "quality_control",
    "model",
    "session",
    "rig",
)
# Short: this is repeated where the document is rejected.
_TOO_LARGE = "larger than a reply of the gateway may be, and so is a part of it"

_NO_STRING = {"$not": {"$type": "string"}}
_ASCENDING, _DESCENDING = 1, -1

_TOO_LARGE_STATUS = 413
_PASSING_STATUSES = frozenset({408, 425, 429})
_SERVER_ERROR = 500
# Statuses by which a gateway asks everyone to come back later.
_BUSY_STATUSES = frozenset({429, 503})
# What a gateway says of a collection, or an address, that it does not have.
_ABSENT_STATUSES = frozenset({403, 404})

# All that stands before the next bracket, strings whole, and the bracket. Nothing is tried twice.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
_IN_ARRAY = 2
_BLANKS = b" \t\r\n"
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_QUOTED_CHARACTERS = 200


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
        if not _is_address(url):
            raise ConfigurationError(
                "The address of the gateway is not understood (it is not shown: it may hold a "
                f"password). Expected is something like {_EXAMPLE}: the host and the database, "
                "without credentials and without anything after '?' or '#'."
            )
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
        self.name = url.rstrip("/")
        self._collections = sorted(set(collections))
        self._deadline = deadline
        self._reply_timeout = reply_timeout
        self._page_documents = page_documents
        self._page_ids = page_ids
        self._page_bytes = page_bytes
        self._concurrency = concurrency
        self._closed = threading.Event()
        self._pace = _Pace(requests_per_second, self._closed)
        self._under_way = threading.BoundedSemaphore(concurrency)
        self._workers = ThreadPoolExecutor(concurrency, thread_name_prefix="gateway")
        self._reached = False
        self._client = httpx.Client(
            http2=True,
            headers={
                "accept": "application/json",
                "user-agent": f"aind-etl/{version('aind-etl')}",
            },
            timeout=httpx.Timeout(self._reply_timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

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
                if self._edges(collection):
                    found.append(collection)
            except _RefusedError as error:
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

    def list_ids(self, collection: str) -> Iterator[str]:
        """Yield the record id of every document of a collection, reading nothing but ids.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        for document in self._read(collection, ids_only=True):
            yield document.record_id

    def read_documents(self, collection: str) -> Iterator[Document]:
        """Yield every document of a collection, in the order of ``_id``.

        What is inserted, changed or deleted meanwhile may be seen or not; nothing is given twice.
        In place of a document that is too large for the gateway stands a text that says so.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        return self._read(collection, ids_only=False)

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
        if len(record_ids) > _MANY_IDS and len(record_ids) * 2 > self._count(collection):
            # Pages hold many times as many documents as an address has room for ids.
            for document in self._read(collection, ids_only=False):
                if document.record_id in record_ids:
                    yield document
            return
        asked: deque[Future[list[Document]]] = deque()
        try:
            for chunk in _chunks(sorted(record_ids)):
                asked.append(self._workers.submit(self._read_chunk, collection, chunk))
                if len(asked) == self._concurrency:
                    yield from asked.popleft().result()
            while asked:
                yield from asked.popleft().result()
        finally:
            for future in asked:
                future.cancel()
        if not all(map(_has_text_id, self._edges(collection))):
            for document in self._read_others(collection):
                if document.record_id in record_ids:
                    yield document

    def fingerprint(self, collection: str) -> str:
        """Return how many documents the gateway counts.

        The newest analysis time would tell more, but no index helps the server to find it.

        Raises
        ------
        SourceError
            The gateway cannot be asked.
        """
        return f"{self._count(collection)} documents"

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up what is under way, and close the connections."""
        self._closed.set()
        self._workers.shutdown(cancel_futures=True)
        self._client.close()

    def _read(self, collection: str, *, ids_only: bool) -> Iterator[Document]:
        """Yield the documents of a collection, or nothing but their ids.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        edges = self._edges(collection)
        if not edges:
            return
        last_given = ""
        for page in self._pages(collection, ids_only=ids_only):
            last_given = page[-1].record_id
            yield from page
        last = edges[-1]
        if (
            _has_text_id(last)
            and last.record_id > last_given
            and self._edges(collection)[-1:] == [last]
        ):
            raise SourceError(
                f"The source {self.name}/{collection} gave documents up to the _id {last_given!r} "
                f"only, though there is {last.record_id!r}: most likely it shows ids as text that "
                "are none. Read this collection from MongoDB itself, or leave it out."
            )
        if not all(map(_has_text_id, edges)):
            yield from self._read_others(collection)

    def _edges(self, collection: str) -> list[Document]:
        """Return the first and the last ``_id`` of a collection, or nothing.

        Ids are sorted by type first: if both of these are text, all are.

        Raises
        ------
        SourceError
            The gateway cannot be asked, or contradicts itself.
        """
        edges = [
            edge
            for direction in (_ASCENDING, _DESCENDING)
            for edge in self._find(
                collection, {}, 1, projection={"_id": 1}, direction=direction
            ).documents
        ]
        # None would mean that everything is gone: that takes two witnesses.
        if not edges and self._count(collection):
            raise SourceError(
                f"The source {self.name}/{collection} gives no documents, although it counts "
                "some. Try again; if it stays so, it is for those who run the gateway to mend."
            )
        return edges

    def _pages(self, collection: str, *, ids_only: bool) -> Iterator[list[Document]]:
        """Yield the documents whose ``_id`` is text, in order; none of the pages is empty.

        While a page is looked at, the next one is on its way.

        Raises
        ------
        SourceError
            A page cannot be had.
        """
        most = self._page_ids if ids_only else self._page_documents
        limit = most if ids_only else min(most, _FIRST_PAGE_DOCUMENTS)
        most_bytes = self._page_bytes
        coming = self._workers.submit(self._next_page, collection, None, limit, ids_only=ids_only)
        try:
            while (page := coming.result()).documents:
                if page.was_refused:
                    # What fitted is known now. Asking for more would be refused every time.
                    most_bytes = page.bytes
                mean_bytes = max(1, page.bytes // len(page.documents))
                limit = max(1, min(most, page.limit * 2, most_bytes // mean_bytes))
                last = page.documents[-1].record_id
                coming = self._workers.submit(
                    self._next_page, collection, last, limit, ids_only=ids_only
                )
                yield page.documents
        finally:
            coming.cancel()

    def _next_page(
        self, collection: str, after: str | None, limit: int, *, ids_only: bool
    ) -> "_Page":
        """Return the documents behind an ``_id``; none if there are none.

        Raises
        ------
        SourceError
            They cannot be had.
        """
        projection = {"_id": 1} if ids_only else None
        while True:
            condition = {"_id": {"$gte": ""} if after is None else {"$gt": after}}
            try:
                page = self._find(
                    collection,
                    condition,
                    limit,
                    projection=projection,
                    is_divisible=not ids_only,
                )
            except _TooLargeError:
                if ids_only:
                    raise
                page = _Page([], 0, 1, was_refused=True)
            before = after
            for document in page.documents:
                if before is not None and document.record_id <= before:
                    raise self._ignored(collection)
                before = document.record_id
            if page.documents or ids_only:
                return page
            # Nothing may mean that the next document alone is more than a reply may hold.
            following = self._find(collection, condition, 1, projection={"_id": 1}).documents
            if not following:
                return page
            after = following[0].record_id
            document_from_parts = self._assemble(collection, after)
            if document_from_parts:
                return _Page([document_from_parts], len(document_from_parts.text), 1)

    def _read_chunk(self, collection: str, record_ids: Sequence[str]) -> list[Document]:
        """Return the documents that have one of a few ids.

        Raises
        ------
        SourceError
            They cannot be had.
        """
        found: list[Document] = []
        missing = set(record_ids)
        limit = len(missing)
        while missing:
            condition = {"_id": {"$in": sorted(missing)}}
            try:
                page = self._find(
                    collection, condition, min(limit, len(missing)), is_divisible=True
                )
            except _TooLargeError:
                page = _Page([], 0, 1, was_refused=True)
            if not page.documents:
                # Gone, all of them, or the first one alone is more than a reply may hold.
                following = self._find(collection, condition, 1, projection={"_id": 1}).documents
                if not following:
                    break
                given = [following[0].record_id]
                assembled = self._assemble(collection, given[0])
                found += [assembled] if assembled else []
            else:
                given = [document.record_id for document in page.documents]
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
            They cannot be had, or never stay where they are.
        """
        condition = {"_id": _NO_STRING}
        given: set[str] = set()
        for _ in range(_RESTARTS):
            position, last = 0, None
            while True:
                page = self._find(collection, condition, self._page_documents, skip=position)
                at_the_seam = self._find(
                    collection,
                    condition,
                    2,
                    projection={"_id": 1},
                    skip=max(0, position - 1),
                ).documents
                if last is not None and not (at_the_seam and _same_id(at_the_seam[0], last)):
                    break
                if not page.documents:
                    if len(at_the_seam) == (last is not None):
                        return
                    raise SourceError(
                        f"The source {self.name}/{collection} has a document that is "
                        f"{_TOO_LARGE}, behind {position} others with an _id that is no text. "
                        "Read this collection from MongoDB itself, or leave it out."
                    )
                for document in page.documents:
                    if document.record_id not in given:
                        given.add(document.record_id)
                        yield document
                position += len(page.documents)
                last = page.documents[-1]
        raise SourceError(
            f"The source {self.name}/{collection} changes faster than its documents with an _id "
            "that is no text can be read. Try again when less is written to it."
        )

    def _assemble(self, collection: str, record_id: str) -> Document | None:
        """Return a document that is too large for one reply, or None if it is gone.

        It is put together from parts. If one of them is too large as well, what is returned in
        its place says so.

        Raises
        ------
        SourceError
            A part cannot be had for another reason, or they keep changing.
        """
        condition = {"_id": record_id}
        rest = dict.fromkeys(_LARGE_KEYS, 0)
        for _ in range(_ASSEMBLIES):
            try:
                # All but the large keys, and then these: together nothing can be missing.
                begun = self._part(collection, condition, rest)
                parts = [begun, *self._parts(collection, condition, _LARGE_KEYS)]
                ended = self._part(collection, condition, rest)
            except _TooLargeError:
                if not self._find(collection, condition, 1, projection={"_id": 1}).documents:
                    return None
                text = orjson.dumps(_TOO_LARGE).decode()
                return Document(record_id, text, sha256(text.encode()).hexdigest())
            if ended == begun:
                whole: dict[str, Any] = {}
                for part in parts:
                    whole |= orjson.loads(part.text)
                return document_from_json(orjson.dumps(whole))
        raise SourceError(
            f"The document {record_id!r} of {self.name}/{collection} changes while it is read. "
            "Try again when it is not written to."
        )

    def _parts(
        self, collection: str, condition: Mapping[str, Any], keys: Sequence[str]
    ) -> list[Document]:
        """Return the part of a document under some keys, in as many pieces as it takes.

        Raises
        ------
        SourceError
            It cannot be had.
        """
        try:
            return [
                self._part(
                    collection, condition, dict.fromkeys(keys, 1), is_divisible=len(keys) > 1
                )
            ]
        except _TooLargeError:
            if len(keys) == 1:
                raise
        middle = len(keys) // 2
        return [
            *self._parts(collection, condition, keys[:middle]),
            *self._parts(collection, condition, keys[middle:]),
        ]

    def _part(
        self,
        collection: str,
        condition: Mapping[str, Any],
        projection: Mapping[str, int],
        *,
        is_divisible: bool = False,
    ) -> Document:
        """Return a part of a document.

        Raises
        ------
        SourceError
            It cannot be had; :class:`_TooLargeError` if it is too large, or there is none.
        """
        documents = self._find(
            collection, condition, 1, projection=projection, is_divisible=is_divisible
        ).documents
        if not documents:
            raise _TooLargeError(f"The source {self.name}/{collection} gives no reply so large.")
        return documents[0]

    def _find(  # noqa: PLR0913 - the parameters of a find
        self,
        collection: str,
        condition: Mapping[str, Any],
        limit: int,
        *,
        projection: Mapping[str, int] | None = None,
        direction: int = _ASCENDING,
        skip: int = 0,
        is_divisible: bool = False,
    ) -> "_Page":
        """Return the first documents that meet a condition, in the order of ``_id``.

        A page may be short, or empty, although there are more. What ``is_divisible`` counts as
        too large as well when it does not come and nobody knows why: its parts may come.

        Raises
        ------
        SourceError
            They cannot be had; :class:`_TooLargeError` if one alone is too large.
        """
        address = f"{self.name}/{quote(collection, safe='')}/find"
        parameters = {"filter": _json(condition), "sort": _json({"_id": direction})}
        if projection:
            parameters["projection"] = _json(projection)
        if skip:
            parameters["skip"] = str(skip)
        singles = count(1)
        was_refused = False

        def question() -> _Page:
            nonlocal limit, was_refused
            while True:
                try:
                    body = self._get(address, parameters | {"limit": str(limit)})
                    return _Page(_documents(body), len(body), limit, was_refused=was_refused)
                except _TooLargeError:
                    if limit == 1:
                        raise
                    limit //= 2
                    was_refused = True
                except _PassingError as fault:
                    # Some gateways fail, or cut off, where a reply is too large or takes too long.
                    if not fault.may_be_size:
                        raise
                    if is_divisible and limit == 1 and next(singles) == _SINGLE_ATTEMPTS:
                        raise _TooLargeError(f"{address}: {fault}.") from fault
                    limit = max(1, limit // 8)
                    raise

        return self._ask(address, question)

    def _count(self, collection: str) -> int:
        """Return the number of documents of a collection.

        Raises
        ------
        SourceError
            The gateway cannot be asked.
        """
        address = f"{self.name}/{quote(collection, safe='')}/count_documents"

        def question() -> int:
            body = self._get(address, {"filter": "{}"})
            try:
                return int(orjson.loads(body)["total_record_count"])
            except (ValueError, TypeError, KeyError):
                raise _PassingError(f"it answered {_quoted(body)}, which holds no count") from None

        return self._ask(address, question)

    def _ask(self, address: str, question: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a question, asking again while that may help.

        Raises
        ------
        SourceError
            The gateway refuses to answer, or does not until the deadline.
        """
        began = time.monotonic()
        for attempt in count():
            try:
                answer = question()
            except _PassingError as fault:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                # Clients that failed together must not come back together.
                pause *= random.uniform(0.5, 1)  # noqa: S311 - guards nothing
                pause = max(pause, fault.wait)
                self._reached |= fault.is_answer
                # An address that never led to a gateway is most likely the wrong one.
                patience = self._deadline if self._reached else min(self._deadline, _REACH_SECONDS)
                if time.monotonic() + pause > began + patience:
                    raise self._given_up(address, fault, attempt + 1, patience) from fault
                _log.warning("%s: %s; asking again in %.1f s", address, fault, pause)
                if fault.for_everyone:
                    self._pace.hold(pause)
                self._pace.sleep(pause)
            else:
                self._reached = True
                return answer
        raise AssertionError

    def _get(self, address: str, parameters: Mapping[str, str]) -> bytes:
        """Return the body of the reply to a single request.

        Raises
        ------
        _PassingError
            There is none, or none from the gateway, and it may help to ask again.
        SourceError
            The gateway refuses to answer.
        """
        with self._under_way:
            self._pace.wait()
            give_up = time.monotonic() + self._reply_timeout
            chunks = []
            try:
                url = f"{address}?{urlencode(parameters, quote_via=quote)}"
                with self._client.stream("GET", url) as reply:
                    # As they come, still packed: unpacked, a trickle of bytes may be none.
                    for chunk in reply.iter_raw():
                        chunks.append(chunk)
                        if time.monotonic() > give_up:
                            raise _PassingError(
                                f"a reply took longer than {self._reply_timeout:g} s",
                                may_be_size=True,
                            )
                body = httpx.Response(200, headers=reply.headers, content=b"".join(chunks)).content
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise _PassingError(f"no connection: {_reason(error)}") from error
            except httpx.TimeoutException as error:
                raise _PassingError(
                    f"no reply within {self._reply_timeout:g} s", may_be_size=True
                ) from error
            except httpx.InvalidURL as error:
                raise SourceError(
                    f"The gateway cannot be asked at {address}: {_reason(error)}. Most likely an "
                    "_id or the collection's name is too long for an address."
                ) from error
            except httpx.HTTPError as error:
                raise _PassingError(
                    f"the reply was cut off or damaged: {_reason(error)}", may_be_size=True
                ) from error
        self._judge(address, reply, body)
        return body

    def _judge(self, address: str, reply: httpx.Response, body: bytes) -> None:
        """Do nothing if a reply is what was asked for.

        Raises
        ------
        _PassingError
            It is not, and it may help to ask again.
        SourceError
            The gateway refuses to answer.
        """
        status = reply.status_code
        is_page = "html" in reply.headers.get("content-type", "").lower() or (
            body.lstrip(_BLANKS)[:1] == b"<"
        )
        said = _page_title(body) if is_page else _quoted(body)
        if reply.is_success:
            if is_page:
                raise _PassingError(
                    f"in place of JSON came {said}, most likely from a proxy or a sign-in page"
                )
            return
        said = f"status {status} with {said}"
        if status == _TOO_LARGE_STATUS:
            raise _TooLargeError(f"The gateway refuses {address} as too large: {said}.")
        if status >= _SERVER_ERROR or status in _PASSING_STATUSES:
            raise _PassingError(
                said,
                is_answer=True,
                may_be_size=status >= _SERVER_ERROR and status not in _BUSY_STATUSES,
                for_everyone=status in _BUSY_STATUSES,
                wait=_retry_after(reply.headers.get("retry-after", "")),
            )
        if reply.is_redirect:
            said += f", and leads to {_without_query(reply.headers.get('location', ''))!r}"
        raise _RefusedError(
            f"The gateway refuses {address}: {said}. Check the address, which ends in the name of "
            "the database, and the collection's name.",
            status,
            said,
        )

    def _given_up(
        self, address: str, fault: "_PassingError", attempts: int, patience: float
    ) -> SourceError:
        """Return the error for a question that was asked often enough."""
        if fault.wait > patience:
            return SourceError(
                f"The gateway asks to be left alone for {fault.wait:.0f} s, which is longer than "
                f"the {patience:g} s that {address} is waited for: {fault}. What was read stays: "
                "run again later, or with a lower request rate."
            )
        if not self._reached:
            return SourceError(
                f"The gateway cannot be reached at {address}: {fault}. Check the address, and the "
                "way to it: the network, a proxy, a sign-in page."
            )
        return SourceError(
            f"The gateway did not answer {address} within {patience:g} s, though asked {attempts} "
            f"times; at last: {fault}. What was read stays: run again when it is well."
        )

    def _ignored(self, collection: str) -> SourceError:
        return SourceError(
            f"The source {self.name}/{collection} gives documents that were not asked for: it "
            "keeps to no filter or to no sort. Check that the address is that of a gateway."
        )


class _Pace:
    """Keeps requests apart, and all of them back while the gateway asks for it.

    Parameters
    ----------
    requests_per_second
        The most requests begun in a second.
    closed
        Set when there is nothing to wait for any more.
    """

    def __init__(self, requests_per_second: float, closed: threading.Event) -> None:
        self._interval = 1 / requests_per_second
        self._closed = closed
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Wait until a request may begin, and count it as begun."""
        while True:
            with self._lock:
                now = time.monotonic()
                pause = self._next - now
                if pause <= 0:
                    self._next = now + self._interval
                    return
            self.sleep(pause)

    def hold(self, seconds: float) -> None:
        """Let no request begin for some time."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait.

        Raises
        ------
        SourceError
            The source was closed meanwhile.
        """
        if self._closed.wait(seconds):
            raise SourceError("The source was closed while it was read.")


class _Page(NamedTuple):
    """One reply.

    Attributes
    ----------
    documents
        What it holds.
    bytes
        The size of its body.
    limit
        How many documents were asked for at last.
    was_refused
        Whether more of them were too large.
    """

    documents: list[Document]
    bytes: int
    limit: int
    was_refused: bool = False


class _PassingError(Exception):
    """There was no answer, and it may help to ask again.

    Parameters
    ----------
    reason
        What happened.
    is_answer
        Whether it was the gateway that said so.
    may_be_size
        Whether it may help to ask for less.
    for_everyone
        Whether other questions have to wait too.
    wait
        Seconds that the gateway asks to wait.
    """

    def __init__(
        self,
        reason: str,
        *,
        is_answer: bool = False,
        may_be_size: bool = False,
        for_everyone: bool = False,
        wait: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.is_answer = is_answer
        self.may_be_size = may_be_size
        self.for_everyone = for_everyone
        self.wait = wait


class _TooLargeError(SourceError):
    """What was asked for does not fit into a reply."""


class _RefusedError(SourceError):
    """The gateway does not answer such questions."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status = status
        self.said = said


def _documents(body: bytes) -> list[Document]:
    """Return the documents of a body.

    Raises
    ------
    _PassingError
        It is no whole array of JSON objects.
    """
    try:
        documents = [document_from_json(raw) for raw in _split(body)]
    except ValueError as error:
        raise _PassingError(f"the reply was {error}: {_quoted(body)}", may_be_size=True) from None
    # What is no JSON, or no object, is text of another form.
    if not all(document.text.startswith("{") for document in documents):
        raise _PassingError(f"the reply holds what is no JSON: {_quoted(body)}", may_be_size=True)
    return documents


def _split(body: bytes) -> Iterator[bytes]:
    """Yield the objects of an array of JSON as they stand, without looking into them.

    Raises
    ------
    ValueError
        It is no such array, or is cut off.
    """
    depth = begin = end = 0
    expected = b""
    while match := _TO_BRACKET.match(body, end):
        bracket = match[1]
        opens = bracket in b"{["
        if depth <= 1:
            # Between the objects there is nothing but commas, and around the array nothing.
            between = body[end : match.start(1)].strip(_BLANKS)
            is_sound = bracket == b"[" if depth == 0 else opens or bracket == b"]"
            if not is_sound or between != (expected if opens else b""):
                raise ValueError("no array of documents")
        end = match.end()
        depth += 1 if opens else -1
        if depth == 0:
            if body[end:].strip(_BLANKS):
                raise ValueError("more than an array of documents")
            return
        if depth == 1 and not opens:
            yield body[begin:end]
            expected = b","
        elif depth == _IN_ARRAY and opens:
            begin = match.start(1)
    raise ValueError("cut off, or no array of documents")


def _chunks(record_ids: Iterable[str]) -> Iterator[list[str]]:
    """Yield ids in lists that an address has room for."""
    chunk: list[str] = []
    size = 0
    for record_id in record_ids:
        length = len(quote(f"{_json(record_id)},"))
        if chunk and size + length > _ASKED_IDS_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(record_id)
        size += length
    if chunk:
        yield chunk


def _is_address(url: str) -> bool:
    """Return whether a URL is one of a database behind a gateway."""
    try:
        return bool(_URL.fullmatch(url)) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def _json(value: object) -> str:
    """Return a value as short JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _has_text_id(document: Document) -> bool:
    """Return whether the ``_id`` is text, of a document that has nothing else."""
    return document.text.startswith('{"_id":"')


def _same_id(one: Document, other: Document) -> bool:
    """Return whether two documents, one of them whole, have the same ``_id``."""
    # What has no id but null gets one made from its content; there cannot be two of these.
    return one.record_id == other.record_id or (
        one.record_id.startswith(WITHOUT_ID_PREFIX)
        and other.record_id.startswith(WITHOUT_ID_PREFIX)
    )


def _retry_after(text: str) -> float:
    """Return the seconds that a ``Retry-After`` asks to wait: a number, or until a date."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return 0.0
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0


def _quoted(body: bytes) -> str:
    """Return what a reply says, for a message."""
    try:
        said = orjson.loads(body)["message"]
    except (ValueError, TypeError, KeyError):
        said = body.decode("utf-8", "replace")
    text = " ".join(str(said).split())
    if len(text) > _QUOTED_CHARACTERS:
        text = f"{text[:_QUOTED_CHARACTERS]}…"
    return repr(text) if text else "no content"


def _page_title(body: bytes) -> str:
    """Return a description of a web page, for a message."""
    match = _TITLE.search(body)
    return f"a web page (HTML) with the title {_quoted(match[1])}" if match else "a web page (HTML)"


def _without_query(url: str) -> str:
    return url.partition("?")[0]


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
