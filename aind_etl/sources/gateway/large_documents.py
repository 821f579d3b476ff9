"""Documents that are larger than a reply of the gateway may be, put together from their parts."""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import orjson

from aind_etl.errors import SourceError
from aind_etl.sources.canonical import Document, document_from_json, record_id_of
from aind_etl.sources.gateway.client import GatewayClient
from aind_etl.sources.gateway.replies import TooLargeError

TOO_LARGE = "larger than a reply of the gateway may be, and so is a part of it"
"""Said in place of a document whose parts are too large as well; repeated where it is rejected."""

_ASSEMBLIES = 3

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


def assemble(client: GatewayClient, collection: str, identity: str) -> Document | None:
    """Return a document that is too large for one reply, or None if it is gone.

    It is put together from parts. If one of them is too large as well, what is returned in
    its place says so.

    Raises
    ------
    SourceError
        A part cannot be read for another reason, or the parts keep changing.
    """
    condition = {"_id": identity}
    rest = dict.fromkeys(_LARGE_KEYS, 0)
    for _ in range(_ASSEMBLIES):
        try:
            # All but the large keys, and then these: together nothing can be missing.
            begun = _part(client, collection, condition, rest)
            parts = [begun, *_parts(client, collection, condition, _LARGE_KEYS)]
            ended = _part(client, collection, condition, rest)
        except TooLargeError:
            if not client.find(collection, condition, 1, projection={"_id": 1}).documents:
                return None
            text = orjson.dumps(TOO_LARGE).decode()
            return Document(record_id_of(identity), text, sha256(text.encode()).hexdigest())
        if ended == begun:
            whole: dict[str, Any] = {}
            for part in parts:
                whole |= orjson.loads(part.text)
            return document_from_json(orjson.dumps(whole))
    raise SourceError(
        f"The document {identity!r} of {client.name}/{collection} changes while it is read. "
        "Try again when it is not written to."
    )


def _parts(
    client: GatewayClient, collection: str, condition: Mapping[str, Any], keys: Sequence[str]
) -> list[Document]:
    """Return the part of a document under some keys, in as many pieces as it takes.

    Raises
    ------
    SourceError
        It cannot be read.
    """
    try:
        return [
            _part(client, collection, condition, dict.fromkeys(keys, 1), is_divisible=len(keys) > 1)
        ]
    except TooLargeError:
        if len(keys) == 1:
            raise
    middle = len(keys) // 2
    return [
        *_parts(client, collection, condition, keys[:middle]),
        *_parts(client, collection, condition, keys[middle:]),
    ]


def _part(
    client: GatewayClient,
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
        It cannot be read; :class:`TooLargeError` if it is too large, or there is none.
    """
    documents = client.find(
        collection, condition, 1, projection=projection, is_divisible=is_divisible
    ).documents
    if not documents:
        raise TooLargeError(f"The source {client.name}/{collection} gives no reply so large.")
    return documents[0]
