"""Requests to a REST gateway: ``find`` and ``count_documents`` of one database, by GET only.

The client limits the request rate, retries, and adapts the page size.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import version
from itertools import count
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

import httpx
import orjson
from pymongo import ASCENDING
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
    TooLargeError,
    TransientError,
    check_reply,
    parse_documents,
    quoted,
)
from aind_etl.sources.paging import Limits

_log = logging.getLogger(__name__)
_Reply = TypeVar("_Reply")

# "@" is refused: a gateway needs no credentials.
_URL = re.compile(r"https?://[\w.:\[\]-]+/[^@?#\s]*[^@?#\s/]/*", re.IGNORECASE)
_EXAMPLE = "https://api.allenneuraldynamics.org/v1/analysis"

FIRST_PAUSE = 0.5
"""The most seconds before the first retry."""
LONGEST_PAUSE = 30.0
"""The most seconds between two attempts, unless the gateway asks for more."""
_PIECE_BYTES = 1 << 14
_LARGEST_REPLY_BYTES = 1 << 28
_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 10.0
# How often a single document is requested before it is read in parts.
_SINGLE_ATTEMPTS = 4


class GatewayClient:
    """Makes the requests of a :class:`~aind_etl.sources.gateway.GatewaySource`.

    Threads may share a client; its limits apply to all of them together. Its ``workers`` make
    requests ahead.
    """

    def __init__(self, url: str, limits: Limits, requests_per_second: float) -> None:
        if not _is_address(url):
            raise ConfigurationError(
                "The address of the gateway is not understood (it is not shown: it may hold a "
                f"password). Expected is something like {_EXAMPLE}: the host and the database, "
                "without credentials and without '?' or '#'."
            )
        self.name = url.rstrip("/")
        self.limits = limits
        self._is_reached = False
        self._is_closed = threading.Event()
        self._rate_limiter = RateLimiter(requests_per_second, self._is_closed)
        self._slots = threading.BoundedSemaphore(limits.connections)
        self.workers = ThreadPoolExecutor(limits.connections, thread_name_prefix="gateway")
        self._client = httpx.Client(
            http2=True,
            headers={"accept": "application/json", "user-agent": f"aind-etl/{version('aind-etl')}"},
            timeout=httpx.Timeout(limits.reply_timeout, connect=_CONNECT_SECONDS, pool=None),
            limits=httpx.Limits(
                max_connections=limits.connections, max_keepalive_connections=limits.connections
            ),
        )

    def close(self) -> None:
        """Close the connections; requests that wait or retry raise an error."""
        self._is_closed.set()
        self.workers.shutdown(cancel_futures=True)
        self._client.close()

    def find(  # noqa: PLR0913
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

        A page may be short, or empty, although there are more documents. If ``is_divisible``, a
        single document that keeps failing for an unknown reason counts as too large, because its
        parts may succeed.

        Raises
        ------
        SourceError
            The page cannot be read; a :class:`TooLargeError` if a single document is too large.
        """
        address = f"{self.name}/{quote(collection, safe='')}/find"
        parameters = {"filter": as_json(condition), "sort": as_json({"_id": direction})}
        if projection:
            parameters["projection"] = as_json(projection)
        if skip:
            parameters["skip"] = str(skip)
        singles = count(1)
        was_refused = False

        def request_page() -> Page:
            nonlocal limit, was_refused
            while True:
                try:
                    body = self._get(address, parameters | {"limit": str(limit)})
                    return Page(parse_documents(body), len(body), limit, was_refused=was_refused)
                except TooLargeError:
                    if limit == 1:
                        raise
                    limit //= 2
                    was_refused = True
                except TransientError as error:
                    # Some gateways fail, or truncate, if a reply is too large or takes too long.
                    if not error.may_be_size:
                        raise
                    if is_divisible and limit == 1 and next(singles) == _SINGLE_ATTEMPTS:
                        raise TooLargeError(f"{address}: {error}.") from error
                    limit = max(1, limit // 8)
                    raise

        return self._retry(address, request_page)

    def count_documents(self, collection: str, condition: Mapping[str, Any]) -> int:
        """Return the number of documents that meet a condition."""
        address = f"{self.name}/{quote(collection, safe='')}/count_documents"

        def request_count() -> int:
            body = self._get(address, {"filter": as_json(condition)})
            try:
                return int(orjson.loads(body)["filtered_record_count"])
            except (ValueError, TypeError, KeyError):
                raise TransientError(f"the reply {quoted(body)} holds no count") from None

        return self._retry(address, request_count)

    def _retry(self, address: str, request: Callable[[], _Reply]) -> _Reply:
        """Return what ``request`` returns, retrying after transient errors until the deadline."""
        # Clients that failed together must not retry together: the pauses are random.
        backoff = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)

        def stop(state: RetryCallState) -> bool:
            # The deadline depends on the attempts so far.
            return stop_before_delay(self._current_deadline)(state)

        def before_sleep(state: RetryCallState) -> None:
            error, pause = _error_of(state.outcome), state.upcoming_sleep
            _log.warning("%s: %s; retrying in %.1f s", address, error, pause)
            if error.is_busy:
                self._rate_limiter.hold(pause)

        retrying = Retrying(
            retry=retry_if_exception_type(TransientError),
            wait=lambda state: max(backoff(state), _error_of(state.outcome).wait),
            stop=stop,
            before_sleep=before_sleep,
            sleep=self._rate_limiter.sleep,
            reraise=True,
        )
        try:
            reply = retrying(request)
        except TransientError as error:
            attempts = retrying.statistics["attempt_number"]
            raise SourceError(self._explain(address, error, attempts)) from error
        self._is_reached = True
        return reply

    @property
    def _current_deadline(self) -> float:
        # An address at which no gateway has replied is most likely wrong.
        deadline = self.limits.deadline
        return deadline if self._is_reached else min(deadline, _REACH_SECONDS)

    def _get(self, address: str, parameters: Mapping[str, str]) -> bytes:
        """Return the body of the reply to a single request.

        A :class:`TransientError` is raised if a retry may succeed, and otherwise a SourceError.
        """
        with self._slots:
            self._rate_limiter.wait()
            timeout = self.limits.reply_timeout
            give_up = time.monotonic() + timeout
            chunks = []
            try:
                url = f"{address}?{urlencode(parameters, quote_via=quote)}"
                with self._client.stream("GET", url) as reply:
                    # Raw chunks: a slow trickle of compressed bytes may decompress to nothing.
                    for chunk in reply.iter_raw():
                        chunks.append(chunk)
                        if time.monotonic() > give_up:
                            raise TransientError(
                                f"a reply took longer than {timeout:g} s", may_be_size=True
                            )
                body = _decompressed(reply.headers, b"".join(chunks))
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise TransientError(f"no connection: {_reason(error)}") from error
            except httpx.TimeoutException as error:
                raise TransientError(f"no reply within {timeout:g} s", may_be_size=True) from error
            except httpx.InvalidURL as error:
                raise SourceError(
                    f"The request to {address} is invalid: {_reason(error)}. Most likely an _id "
                    "or the collection's name is too long for an address."
                ) from error
            except httpx.HTTPError as error:
                raise TransientError(
                    f"the reply was truncated or damaged: {_reason(error)}", may_be_size=True
                ) from error
        try:
            check_reply(address, reply, body)
        except TransientError:
            # A refusal, or a page that succeeds, may come from a proxy.
            if reply.is_error:
                self._is_reached = True
            raise
        return body

    def _explain(self, address: str, error: TransientError, attempts: int) -> str:
        """Return the message for a request that is no longer retried."""
        deadline = self._current_deadline
        if error.wait > deadline:
            return (
                f"The gateway asks to wait {error.wait:.0f} s, which is longer than the deadline "
                f"of {deadline:g} s for {address}: {error}. What was read is kept: run again "
                "later, or with a lower request rate."
            )
        if not self._is_reached:
            return (
                f"The gateway cannot be reached at {address}: {error}. Check the address and the "
                "network (a proxy, a sign-in page)."
            )
        return (
            f"The gateway did not answer {address} within {deadline:g} s and {attempts} attempts; "
            f"the last error: {error}. What was read is kept: run again when it has recovered."
        )


class RateLimiter:
    """Spaces requests out, and holds all of them back while the gateway asks for it.

    Waiting ends with an error when ``is_closed`` is set.
    """

    def __init__(self, requests_per_second: float, is_closed: threading.Event) -> None:
        self._interval = 1 / requests_per_second
        self._is_closed = is_closed
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
        """Let no request begin for so many seconds."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def sleep(self, seconds: float) -> None:
        """Wait, or raise a SourceError if the source is closed meanwhile."""
        if self._is_closed.wait(seconds):
            raise SourceError("The source was closed while it was read.")


def _error_of(attempt: Future[Any] | None) -> TransientError:
    return cast("TransientError", attempt and attempt.exception())


def _is_address(url: str) -> bool:
    try:
        return bool(_URL.fullmatch(url)) and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        return False


def as_json(value: object) -> str:
    """Return the compact JSON of a value."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _decompressed(headers: httpx.Headers, body: bytes) -> bytes:
    """Return the decompressed body, or raise a TransientError if it is implausibly large."""
    # In pieces, so that a small reply cannot fill the memory before its size is known.
    pieces = (body[begin : begin + _PIECE_BYTES] for begin in range(0, len(body), _PIECE_BYTES))
    whole = bytearray()
    for piece in httpx.Response(200, headers=headers, content=pieces).iter_bytes():
        whole += piece
        if len(whole) > _LARGEST_REPLY_BYTES:
            raise TransientError(
                f"a reply decompresses to more than {_LARGEST_REPLY_BYTES:,} bytes",
                may_be_size=True,
            )
    return bytes(whole)


def _reason(error: Exception) -> str:
    return str(error).rstrip(".") or type(error).__name__
