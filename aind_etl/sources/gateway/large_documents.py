"""Documents that exceed the gateway's payload limit, assembled from parts."""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from aind_etl.errors import SourceError
from aind_etl.sources.canonical import Document, document_from_json, record_id_of
from aind_etl.sources.gateway.replies import Page, TooLargeError

TOO_LARGE = "larger than a reply of the gateway may be, and so is a part of it"
"""Text that replaces a document with a part that is too large; shown in its rejection."""

_ATTEMPTS = 3

# Top-level keys that may be large. All other keys are read in one request.
_LARGE_KEYS = (
    *("analysis_results", "analysis_spec", "processing", "acquisition", "instrument", "procedures"),
    *("subject", "data_description", "quality_control", "model", "session", "rig"),
)


def assemble(find: Callable[..., Page], name: str, identity: str) -> Document | None:
    """Return a document that is too large for one reply, or None if it was deleted.

    ``find`` requests it with a projection; ``name`` is that of the collection, for messages. A
    document with a part that is too large as well is replaced by :data:`TOO_LARGE`. A SourceError
    is raised if a part cannot be read for another reason, or the document keeps changing.
    """
    rest = dict.fromkeys(_LARGE_KEYS, 0)
    for _ in range(_ATTEMPTS):
        try:
            # The projections are complementary, so no key is missing.
            first = _part(find, rest)
            parts = [first, *_parts(find, _LARGE_KEYS)]
            last = _part(find, rest)
        except TooLargeError:
            if not find(projection={"_id": 1}).documents:
                return None
            text = orjson.dumps(TOO_LARGE).decode()
            return Document(record_id_of(identity), text, sha256(text.encode()).hexdigest())
        if last == first:
            whole: dict[str, Any] = {}
            for part in parts:
                whole |= orjson.loads(part.text)
            return document_from_json(orjson.dumps(whole))
    raise SourceError(
        f"The document {identity!r} of {name} changes while it is read. Run again when nothing "
        "writes to it."
    )


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
