"""Reading a server page by page: limits of the requests, and ids in chunks that fit into one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of the requests of a source.

    Attributes
    ----------
    connections
        The most concurrent requests.
    deadline
        Seconds after which a request is no longer retried. The last attempt may exceed it by
        ``reply_timeout``.
    reply_timeout
        Seconds that one reply may take, to its last byte.
    page_documents, page_ids
        The most documents, and the most ids, per request.
    page_bytes
        Approximate size of a page of documents, estimated from the previous page.
    """

    connections: int = 4
    deadline: float = 300.0
    reply_timeout: float = 60.0
    page_documents: int = 1000
    page_ids: int
    page_bytes: int

    @property
    def reply_ms(self) -> int:
        """Milliseconds that one reply may take: never more than the deadline."""
        return max(1, int(min(self.deadline, self.reply_timeout) * 1000))


def chunks(
    values: Iterable[_Value],
    size_of: Callable[[_Value], int],
    *,
    most_bytes: int,
    most: int | None = None,
) -> Iterator[list[_Value]]:
    """Yield values in lists of limited size and length, or of a single value that is larger."""
    chunk: list[_Value] = []
    chunk_bytes = 0
    for value in values:
        size = size_of(value)
        if chunk and (chunk_bytes + size > most_bytes or len(chunk) == most):
            yield chunk
            chunk, chunk_bytes = [], 0
        chunk.append(value)
        chunk_bytes += size
    if chunk:
        yield chunk
