"""Requests to a REST gateway: ``find`` and ``count_documents`` of one database, by GET alone.

The client limits the rate, retries, and adapts the page size.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from itertools import count
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

import httpx
import orjson
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_before_delay,
    wait_random_exponential,
)

from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.gateway.replies import (
    Page,
    PassingError,
    TooLargeError,
    documents_of,
    judge,
    quoted,
)

ASCENDING, DESCENDING = 1, -1
"""The directions of an order."""

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")

# No "@": credentials are of no use to a gateway that anyone may read.
_URL = re.compile(r"https?://(?P<host>[\w.:\[\]-]+)/[^@?#\s]*[^@?#\s/]/*", re.IGNORECASE)
_EXAMPLE = "https://api.allenneuraldynamics.org/v1/analysis"

FIRST_PAUSE = 0.5
"""Seconds before the first retry, at most."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts, at most, unless the gateway asks for more."""
_PIECE_BYTES = 1 << 14
_LARGEST_REPLY_BYTES = 1 << 28
_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
# How often a single document is asked for that does not come, before its parts are.
_SINGLE_ATTEMPTS = 4


class GatewayClient:
    """One database behind a gateway.

    It may be used by several threads: rate and concurrency are kept for all of them together.

    Parameters
    ----------
    url
        The address of the database.
    requests_per_second
        The most requests begun in a second, repeated ones included.
    concurrency
        The most requests under way at a time.
    deadline
        Seconds until a question is given up that the gateway does not answer.
    reply_timeout
        Seconds that one reply may take, to its last byte.

    Raises
    ------
    ConfigurationError
        The address or a number is wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        requests_per_second: float,
        concurrency: int,
        deadline: float,
        reply_timeout: float,
    ) -> None:
        if not _is_address(url):
            raise ConfigurationError(
                "The address of the gateway is not understood (it is not shown: it may hold a "
                f"password). Expected is something like {_EXAMPLE}: the host and the database, "
                "without credentials and without anything after '?' or '#'."
            )
        self.name = url.rstrip("/")
        self._deadline = deadline
        self._reply_timeout = reply_timeout
        self._reached = False
        self._closed = threading.Event()
        self._pace = Pace(requests_per_second, self._closed)
        self._under_way = threading.BoundedSemaphore(concurrency)
        self._client = httpx.Client(
            http2=True,
            headers={
                "accept": "application/json",
                "user-agent": f"aind-etl/{version('aind-etl')}",
            },
            timeout=httpx.Timeout(self._reply_timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        )

    def give_up(self) -> None:
        """Stop waiting: requests under way raise an error."""
        self._closed.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def find(  # noqa: PLR0913 - the parameters of a find
        self,
        collection: str,
        condition: Mapping[str, Any],
        limit: int,
        *,
        projection: Mapping[str, int] | None = None,
        direction: int = ASCENDING,
        skip: int = 0,
        is_divisible: bool = False,
    ) -> Page:
        """Return the first documents that meet a condition, in the order of ``_id``.

        A page may be short, or empty, although there are more. What ``is_divisible`` counts as
        too large as well when it fails for no known reason: its parts may succeed.

        Raises
        ------
        SourceError
            They cannot be read; :class:`TooLargeError` if one alone is too large.
        """
        address = f"{self.name}/{quote(collection, safe='')}/find"
        parameters = {"filter": as_json(condition), "sort": as_json({"_id": direction})}
        if projection:
            parameters["projection"] = as_json(projection)
        if skip:
            parameters["skip"] = str(skip)
        singles = count(1)
        was_refused = False

        def question() -> Page:
            nonlocal limit, was_refused
            while True:
                try:
                    body = self._get(address, parameters | {"limit": str(limit)})
                    return Page(documents_of(body), len(body), limit, was_refused=was_refused)
                except TooLargeError:
                    if limit == 1:
                        raise
                    limit //= 2
                    was_refused = True
                except PassingError as fault:
                    # Some gateways fail, or cut off, where a reply is too large or takes too long.
                    if not fault.may_be_size:
                        raise
                    if is_divisible and limit == 1 and next(singles) == _SINGLE_ATTEMPTS:
                        raise TooLargeError(f"{address}: {fault}.") from fault
                    limit = max(1, limit // 8)
                    raise

        return self._ask(address, question)

    def count_documents(self, collection: str, condition: Mapping[str, Any]) -> int:
        """Return the number of documents that meet a condition.

        Raises
        ------
        SourceError
            The gateway cannot be asked.
        """
        address = f"{self.name}/{quote(collection, safe='')}/count_documents"

        def question() -> int:
            body = self._get(address, {"filter": as_json(condition)})
            try:
                return int(orjson.loads(body)["filtered_record_count"])
            except (ValueError, TypeError, KeyError):
                raise PassingError(f"it answered {quoted(body)}, which holds no count") from None

        return self._ask(address, question)

    def _ask(self, address: str, question: Callable[[], _Answer]) -> _Answer:
        """Return the answer to a question, asking again while that may help.

        Raises
        ------
        SourceError
            The gateway refuses to answer, or does not until the deadline.
        """
        # At random, as clients that failed together must not come back together.
        backoff = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)

        def wait(state: RetryCallState) -> float:
            fault = _fault_of(state)
            self._reached |= fault.is_answer
            return max(backoff(state), fault.wait)

        def stop(state: RetryCallState) -> bool:
            return stop_before_delay(self._patience)(state)

        def before_sleep(state: RetryCallState) -> None:
            fault, pause = _fault_of(state), state.upcoming_sleep
            _log.warning("%s: %s; asking again in %.1f s", address, fault, pause)
            if fault.for_everyone:
                self._pace.hold(pause)

        retrying = Retrying(
            retry=retry_if_exception_type(PassingError),
            wait=wait,
            stop=stop,
            before_sleep=before_sleep,
            sleep=self._pace.sleep,
            reraise=True,
        )
        try:
            answer = retrying(question)
        except PassingError as fault:
            attempts = int(retrying.statistics["attempt_number"])
            raise self._given_up(address, fault, attempts) from fault
        self._reached = True
        return answer

    @property
    def _patience(self) -> float:
        """Seconds until a question is given up."""
        # An address that never led to a gateway is most likely the wrong one.
        return self._deadline if self._reached else min(self._deadline, _REACH_SECONDS)

    def _get(self, address: str, parameters: Mapping[str, str]) -> bytes:
        """Return the body of the reply to a single request.

        Raises
        ------
        PassingError
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
                            raise PassingError(
                                f"a reply took longer than {self._reply_timeout:g} s",
                                may_be_size=True,
                            )
                body = _unpacked(reply.headers, b"".join(chunks))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise PassingError(f"no connection: {_reason(error)}") from error
            except httpx.TimeoutException as error:
                raise PassingError(
                    f"no reply within {self._reply_timeout:g} s", may_be_size=True
                ) from error
            except httpx.InvalidURL as error:
                raise SourceError(
                    f"The gateway cannot be asked at {address}: {_reason(error)}. Most likely an "
                    "_id or the collection's name is too long for an address."
                ) from error
            except httpx.HTTPError as error:
                raise PassingError(
                    f"the reply was cut off or damaged: {_reason(error)}", may_be_size=True
                ) from error
        judge(address, reply, body)
        return body

    def _given_up(self, address: str, fault: PassingError, attempts: int) -> SourceError:
        """Return the error for a question that was asked often enough."""
        patience = self._patience
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


class Pace:
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


def _fault_of(state: RetryCallState) -> PassingError:
    """Return why an attempt failed."""
    return cast("PassingError", state.outcome.exception() if state.outcome else None)


def _is_address(url: str) -> bool:
    """Return whether a URL is one of a database behind a gateway."""
    try:
        return bool(_URL.fullmatch(url)) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def as_json(value: object) -> str:
    """Return a value as short JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _unpacked(headers: httpx.Headers, body: bytes) -> bytes:
    """Return the body of a reply as it was before it was packed.

    Raises
    ------
    PassingError
        It is larger than any page of documents.
    """
    # In pieces, so that a small reply cannot fill the memory before its size is seen.
    pieces = (body[begin : begin + _PIECE_BYTES] for begin in range(0, len(body), _PIECE_BYTES))
    whole = bytearray()
    for piece in httpx.Response(200, headers=headers, content=pieces).iter_bytes():
        whole += piece
        if len(whole) > _LARGEST_REPLY_BYTES:
            raise PassingError(
                f"a reply unpacks to more than {_LARGEST_REPLY_BYTES:,} bytes", may_be_size=True
            )
    return bytes(whole)


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
