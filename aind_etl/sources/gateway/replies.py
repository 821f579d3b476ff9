"""Replies of a gateway: bodies are split into documents, and faults are classified."""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import httpx
import orjson

from aind_etl.errors import SourceError
from aind_etl.sources.canonical import Document, document_from_json

_TOO_LARGE_STATUS = 413
_PASSING_STATUSES = frozenset({408, 425, 429})
_SERVER_ERROR = 500
# Statuses by which a gateway asks everyone to come back later.
_BUSY_STATUSES = frozenset({429, 503})

# Everything up to and including the next bracket, with whole strings. Nothing is tried twice.
_TO_BRACKET = re.compile(rb'(?:[^"{}\[\]]++|"(?:[^"\\]++|\\.)*+")*+([{}\[\]])', re.DOTALL)
_IN_ARRAY = 2
_BLANKS = b" \t\r\n"
_TITLE = re.compile(rb"<title[^>]*>([^<]*)", re.IGNORECASE)
_QUOTED_CHARACTERS = 200


class Page(NamedTuple):
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


class PassingError(Exception):
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


class TooLargeError(SourceError):
    """What was asked for does not fit into a reply."""


class RefusedError(SourceError):
    """The gateway does not answer such questions."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status = status
        self.said = said


def judge(address: str, reply: httpx.Response, body: bytes) -> None:
    """Do nothing if a reply is what was asked for.

    Raises
    ------
    PassingError
        It is not, and it may help to ask again.
    SourceError
        The gateway refuses to answer.
    """
    status = reply.status_code
    is_page = "html" in reply.headers.get("content-type", "").lower() or (
        body.lstrip(_BLANKS)[:1] == b"<"
    )
    said = _page_title(body) if is_page else quoted(body)
    if reply.is_success:
        if is_page:
            raise PassingError(
                f"in place of JSON came {said}, most likely from a proxy or a sign-in page"
            )
        return
    said = f"status {status} with {said}"
    if status == _TOO_LARGE_STATUS:
        raise TooLargeError(f"The gateway refuses {address} as too large: {said}.")
    if status >= _SERVER_ERROR or status in _PASSING_STATUSES:
        raise PassingError(
            said,
            is_answer=True,
            may_be_size=status >= _SERVER_ERROR and status not in _BUSY_STATUSES,
            for_everyone=status in _BUSY_STATUSES,
            wait=_retry_after(reply.headers.get("retry-after", "")),
        )
    if reply.is_redirect:
        said += f", and leads to {_without_query(reply.headers.get('location', ''))!r}"
    raise RefusedError(
        f"The gateway refuses {address}: {said}. Check the address, which ends in the name of "
        "the database, and the collection's name.",
        status,
        said,
    )


def documents_of(body: bytes) -> list[Document]:
    """Return the documents of a body.

    Raises
    ------
    PassingError
        It is no whole array of JSON objects.
    """
    try:
        documents = [document_from_json(raw) for raw in split(body)]
    except ValueError as error:
        raise PassingError(f"the reply was {error}: {quoted(body)}", may_be_size=True) from None
    # What is no JSON, or no object, is text of another form.
    if not all(document.text.startswith("{") for document in documents):
        raise PassingError(f"the reply holds what is no JSON: {quoted(body)}", may_be_size=True)
    return documents


def split(body: bytes) -> Iterator[bytes]:
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


def quoted(body: bytes) -> str:
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
    return f"a web page (HTML) with the title {quoted(match[1])}" if match else "a web page (HTML)"


def _without_query(url: str) -> str:
    return url.partition("?")[0]
