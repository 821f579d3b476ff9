"""Replies of a gateway: errors are classified, and bodies are parsed."""

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx
import orjson

from aind_etl.errors import SourceError
from aind_etl.sources.canonical import Document, documents_from_json_array

_TRANSIENT_STATUSES = frozenset({408, 425, 429})
# The gateway asks all clients to slow down.
_BUSY_STATUSES = frozenset({429, 503})

_BLANKS = b" \t\r\n"
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_QUOTED_CHARACTERS = 200


class Page(NamedTuple):
    """The documents of one reply.

    Attributes
    ----------
    bytes
        Size of the body.
    limit
        The limit of the request; ``was_refused`` if a larger one was refused as too large.
    """

    documents: list[Document]
    bytes: int
    limit: int
    was_refused: bool = False


@dataclass(eq=False)
class TransientError(Exception):
    """A request failed, and a retry may succeed.

    Attributes
    ----------
    may_be_size
        Whether a smaller request may succeed.
    is_busy
        Whether other requests have to wait too.
    wait
        Seconds that the gateway asks to wait.
    """

    reason: str
    may_be_size: bool = False
    is_busy: bool = False
    wait: float = 0.0

    def __str__(self) -> str:
        return self.reason


class TooLargeError(SourceError):
    """A requested document does not fit into a reply."""


class RefusedError(SourceError):
    """The gateway rejects a request, and retries do not help."""

    def __init__(self, message: str, status: int, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def check_reply(address: str, reply: httpx.Response, body: bytes) -> None:
    """Raise the error that a reply reports, if any; see :meth:`.GatewayClient._get`."""
    status = reply.status_code
    is_html = "html" in reply.headers.get("content-type", "").lower() or (
        body.lstrip(_BLANKS)[:1] == b"<"
    )
    content = _describe_html(body) if is_html else quoted(body)
    if reply.is_success:
        if is_html:
            raise TransientError(
                f"the reply is {content} instead of JSON, most likely from a proxy or a sign-in "
                "page"
            )
        return
    reason = f"status {status} with {content}"
    if status == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
        raise TooLargeError(f"The gateway refuses {address} as too large: {reason}.")
    if reply.is_server_error or status in _TRANSIENT_STATUSES:
        raise TransientError(
            reason,
            may_be_size=reply.is_server_error and status not in _BUSY_STATUSES,
            is_busy=status in _BUSY_STATUSES,
            wait=_retry_after(reply.headers.get("retry-after", "")),
        )
    if reply.is_redirect:
        location = reply.headers.get("location", "").partition("?")[0]
        reason += f", a redirect to {location!r}"
    raise RefusedError(
        f"The gateway refuses {address}: {reason}. Check the address, which ends in the name of "
        "the database, and the collection's name.",
        status,
        reason,
    )


def parse_documents(body: bytes) -> list[Document]:
    """Return the documents of a body, or raise a TransientError if it is not an array of them."""
    try:
        return documents_from_json_array(body)
    except ValueError as error:
        raise TransientError(
            f"the reply is not an array of documents ({error}): {quoted(body)}", may_be_size=True
        ) from None


def _retry_after(text: str) -> float:
    """Return the seconds to wait by a ``Retry-After`` header: a number of seconds, or a date."""
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


def quoted(body: bytes) -> str:
    """Return the message, or the beginning, of a reply's body, for an error message."""
    try:
        message = orjson.loads(body)["message"]
    except (ValueError, TypeError, KeyError):
        message = body.decode("utf-8", "replace")
    text = " ".join(str(message).split())
    if len(text) > _QUOTED_CHARACTERS:
        text = f"{text[:_QUOTED_CHARACTERS]}…"
    return repr(text) if text else "no content"


def _describe_html(body: bytes) -> str:
    match = _TITLE.search(body)
    return f"a web page (HTML) with the title {quoted(match[1])}" if match else "a web page (HTML)"
