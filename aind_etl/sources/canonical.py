"""The canonical form of a document, the same whichever way the document arrived.

The canonical form is MongoDB's *relaxed extended JSON* with sorted keys and no white space: plain
JSON, in which a value that JSON lacks is an object whose only key begins with ``$``
(``{"$numberDouble":"NaN"}``, ``{"$oid":…}``, ``{"$date":…}``). BSON, JSON, JSON with bare ``NaN``
and both flavours of ``mongoexport`` give the same text, so equal hashes mean equal contents.

Bytes that are not a document become an unreadable document: its text is kept, and its id is derived
from its content.

The **record id** is the ``_id`` as text. Different ``_id`` values never have the same record id. A
string is used as it is. Any other value is written as ``_id:`` and its canonical JSON (``_id:5``,
``_id:{"$oid":"65f0…"}``); objects keep the order of their keys, because MongoDB compares it. A
string that begins with one of the prefixes below is written that way too (``_id:"_id:5"``).
"""

import json
import math
import platform
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import bson
import orjson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

UNREADABLE_PREFIX = "_unreadable:"
"""Prefix of the record id of bytes that are not valid JSON or BSON."""

WITHOUT_ID_PREFIX = "_without-id:"
"""Prefix of the record id of a JSON value without ``_id``."""

OTHER_ID_PREFIX = "_id:"
"""Prefix of the record id of an ``_id`` that is not a string, or a string with such a prefix."""

_RESERVED_PREFIXES = (OTHER_ID_PREFIX, UNREADABLE_PREFIX, WITHOUT_ID_PREFIX)
_MISSING = object()

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_DERIVED_ID_DIGITS = 32

# Every document is searched. Searching translated bytes is many times as fast as a regular
# expression.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
# The last two bytes of a little-endian double that is not finite are f0 to ff, and then 7f or ff.
# 7f is translated to ff: a false match only costs the slower conversion.
_ENDS = bytes.maketrans(bytes([*range(0xF0, 0xFF), 0x7F]), b"\xf0" * 15 + b"\xff")
_NOT_FINITE = (b"\xf0\xff", b"\xff\xff")

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=False
)
_RELAXED = json_util.RELAXED_JSON_OPTIONS
# Code is a str and Int64 an int in Python; `_extended` converts them.
_UNSORTED = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_ENCODING = _UNSORTED | orjson.OPT_SORT_KEYS


class Document(NamedTuple):
    """A document in canonical form.

    Attributes
    ----------
    record_id
        Its ``_id`` as text; see :func:`record_id_of`.
    text
        Its canonical JSON.
    content_hash
        SHA-256 of the canonical JSON in UTF-8, as hexadecimal digits.
    """

    record_id: str
    text: str
    content_hash: str

    @property
    def is_readable(self) -> bool:
        """Whether it is a JSON object, rather than the text of something unreadable."""
        return self.text.startswith("{")


class RawDocument(NamedTuple):
    """A document that has not been parsed yet.

    Attributes
    ----------
    raw
        Its BSON or JSON.
    parse
        Returns the document. For readable bytes this is :func:`document_from_bson` or
        :func:`document_from_json`, so the result depends on the bytes alone: no bytes are valid
        as both.
    """

    raw: bytes
    parse: Callable[[bytes], Document]


def canonical_document(document: RawDocument | Document) -> Document:
    """Return a document in canonical form."""
    return document.parse(document.raw) if isinstance(document, RawDocument) else document


def document_from_json(raw: bytes) -> Document:
    """Return the document whose JSON is ``raw``, or an unreadable document if it is not JSON.

    Bare ``NaN`` and ``Infinity`` and both flavours of extended JSON are accepted.
    """
    try:
        value = _load_json(raw)
        canonical = orjson.dumps(value, option=_ENCODING)
    except (ValueError, RecursionError, TypeError):
        return _unreadable(raw)
    return _document(value, canonical)


def documents_from_json_array(raw: bytes) -> list[Document]:
    """Return the documents in the JSON array ``raw``.

    Raises
    ------
    ValueError
        It is not an array of JSON objects.
    """
    try:
        values = _load_json(raw)
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ValueError("expected an array of JSON objects")
        return [_document(value, orjson.dumps(value, option=_ENCODING)) for value in values]
    except (RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error


def document_from_bson(raw: bytes) -> Document:
    """Return the document whose BSON is ``raw``, or an unreadable document if it is not BSON."""
    try:
        value: Any = bson.decode(raw, _CODEC)
        if _may_hold_non_finite(raw):
            value = _normalise(value)
        canonical = orjson.dumps(value, default=_extended, option=_ENCODING)
    except (bson.errors.BSONError, ValueError, RecursionError, TypeError, OverflowError):
        return _unreadable(raw)
    return _document(value, canonical)


def record_id_of(identity: object) -> str:
    """Return the record id of an ``_id`` decoded from BSON or JSON."""
    if isinstance(identity, str) and not identity.startswith(_RESERVED_PREFIXES):
        return str(identity)
    plain = orjson.loads(orjson.dumps(_normalise(identity), default=_extended, option=_UNSORTED))
    return OTHER_ID_PREFIX + orjson.dumps(_with_sorted_types(plain)).decode()


def string_id(record_id: str) -> str | None:
    """Return the string ``_id`` that has this record id, or None if no string has it."""
    if not record_id.startswith(_RESERVED_PREFIXES):
        return record_id
    if record_id.startswith(f'{OTHER_ID_PREFIX}"'):
        try:
            return str(orjson.loads(record_id.removeprefix(OTHER_ID_PREFIX)))
        except orjson.JSONDecodeError:
            pass  # No ``_id`` has this record id.
    return None


def canonical_json(value: object) -> str:
    """Return the canonical JSON of a value decoded from JSON or BSON."""
    return orjson.dumps(_normalise(value), default=_extended, option=_ENCODING).decode()


def explain_unreadable(text: str) -> str:
    """Return why ``text``, kept from an unreadable document, is not JSON."""
    if _NOT_UTF8.search(text):
        return "it is not valid UTF-8"
    try:
        json.loads(text)
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return str(error)
    return "it is nested too deeply, or holds text that is not valid Unicode"


@cache
def canonical_version() -> str:
    """Return a text that changes whenever the conversion to canonical form may change.

    It is derived from this module's code and the versions of its dependencies. Raw hashes stored
    under another version are not used.
    """
    import pymongo  # noqa: PLC0415 - slow to import, and only a pass needs it

    code = sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    versions = f"orjson {orjson.__version__}, pymongo {pymongo.version}"
    return f"{code}, {versions}, Python {platform.python_version()}"


# How `backslashreplace` writes bytes that are not UTF-8.
_NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")


def _load_json(raw: bytes) -> Any:  # noqa: ANN401 - any JSON
    if not _needs_slow_json(raw):
        # orjson refuses bare NaN.
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(raw)
    return _normalise(json.loads(raw))


def _needs_slow_json(raw: bytes) -> bool:
    """Return whether JSON may hold extended JSON or integers that orjson would read as floats."""
    return b'"$' in raw or _LONG_NUMBER in raw.translate(_DIGITS)


def _may_hold_non_finite(raw: bytes) -> bool:
    """Return whether BSON may hold NaN or infinities, which orjson writes as null."""
    ends = raw.translate(_ENDS)
    return any(end in ends for end in _NOT_FINITE)


def _document(value: object, canonical: bytes) -> Document:
    content_hash = sha256(canonical).hexdigest()
    identity = value.get("_id", _MISSING) if isinstance(value, dict) else _MISSING
    if identity is _MISSING:
        record_id = WITHOUT_ID_PREFIX + content_hash[:_DERIVED_ID_DIGITS]
    else:
        record_id = record_id_of(identity)
    return Document(record_id, canonical.decode(), content_hash)


def _with_sorted_types(value: Any) -> Any:  # noqa: ANN401 - any JSON in, any JSON out
    """Return ``value`` with sorted keys in the objects that encode a BSON type."""
    if isinstance(value, dict):
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return orjson.loads(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        return {key: _with_sorted_types(inner) for key, inner in value.items()}
    return value


def _unreadable(raw: bytes) -> Document:
    canonical = orjson.dumps(raw.decode("utf-8", "backslashreplace"))
    content_hash = sha256(canonical).hexdigest()
    record_id = UNREADABLE_PREFIX + content_hash[:_DERIVED_ID_DIGITS]
    return Document(record_id, canonical.decode(), content_hash)


def _normalise(value: Any) -> Any:  # noqa: ANN401 - any JSON in, any JSON out
    """Return ``value`` in relaxed extended JSON, without values that orjson would change."""
    if isinstance(value, dict):
        if len(value) == 1:
            key, inner = next(iter(value.items()))
            if key.startswith("$"):
                return _relax(key, inner)
        return {key: _normalise(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normalise(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        name = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        return {"$numberDouble": name}
    if isinstance(value, int) and not _INT64_MIN <= value <= _INT64_MAX:
        return {"$numberDecimal": str(value)}
    return value


def _relax(key: str, inner: Any) -> Any:  # noqa: ANN401
    """Return the relaxed form of the extended JSON ``{key: inner}``."""
    try:
        if key in {"$numberInt", "$numberLong"} and isinstance(inner, str):
            return _normalise(int(inner))
        if key == "$numberDouble" and isinstance(inner, str):
            return _normalise(float(inner))
        if key == "$date":
            moment = inner["$numberLong"] if isinstance(inner, dict) else inner
            return {"$date": _date_text(moment)}
    except (KeyError, TypeError, ValueError, OverflowError):
        pass  # Not valid extended JSON: kept as an ordinary object.
    return {key: _normalise(inner)}


def _date_text(moment: str | int) -> str | dict[str, str]:
    """Return a date as ISO 8601 in UTC, or as milliseconds outside the years 1 to 9999."""
    if isinstance(moment, str) and not moment.lstrip("-").isdigit():
        parsed = datetime.fromisoformat(moment)
        # A date without a zone is UTC, whatever the machine's zone.
        parsed = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    else:
        try:
            parsed = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(moment))
        except OverflowError:
            return {"$numberLong": str(moment)}
    precision = "milliseconds" if parsed.microsecond else "seconds"
    return parsed.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _extended(value: object) -> object:
    """Return relaxed extended JSON for a BSON type that JSON lacks."""
    if isinstance(value, bson.DatetimeMS):
        return {"$date": _date_text(int(value))}
    return json_util.default(value, _RELAXED)
