"""The one form a document has after it left its source.

The canonical form is MongoDB's *relaxed extended JSON* with sorted keys and no white space:
plain JSON, in which what JSON lacks is an object whose one key begins with ``$``
(``{"$numberDouble":"NaN"}``, ``{"$oid":…}``, ``{"$date":…}``). It is the same whichever way
the document came (BSON, JSON, JSON with bare ``NaN``, either flavour of ``mongoexport``), so
equal hashes mean equal contents.

What cannot be read as a document at all gets an id of its own, made from its content, and
stays as text: it is counted, kept and reported like any other.

The **record id** is the ``_id`` as text, such that different ``_id`` never give the same text:
a string as it is, and anything else as ``_id:`` and its canonical JSON (``_id:5``,
``_id:{"$oid":"65f0…"}``), in which the keys of an object stay in their order, as MongoDB tells
objects apart by it. The few strings that begin like a made id are written that way as well
(``_id:"_id:5"``).
"""

import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple

import bson
import orjson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion

UNREADABLE_PREFIX = "_unreadable:"
"""Begins the record id of something that is not a JSON or BSON document."""

WITHOUT_ID_PREFIX = "_without-id:"
"""Begins the record id of a JSON value that has no ``_id``."""

OTHER_ID_PREFIX = "_id:"
"""Begins the record id of a document whose ``_id`` is no string, or one that begins so itself."""

_RESERVED_PREFIXES = (OTHER_ID_PREFIX, UNREADABLE_PREFIX, WITHOUT_ID_PREFIX)
_MISSING = object()

_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
_MADE_ID_DIGITS = 32

# Searching translated bytes for a run is many times as fast as a regular expression here, and it
# is done for every document.
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
# The last two bytes of a little-endian double that is not finite are f0 to ff, and then 7f or ff.
# A 7f is searched for as if it were ff: a false match costs only a second look.
_ENDS = bytes.maketrans(bytes([*range(0xF0, 0xFF), 0x7F]), b"\xf0" * 15 + b"\xff")
_NOT_FINITE = (b"\xf0\xff", b"\xff\xff")

_CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS, tz_aware=False
)
_RELAXED = json_util.RELAXED_JSON_OPTIONS
# Code is text and Int64 an integer to Python; `_extended` converts them.
_UNSORTED = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS
_ENCODING = _UNSORTED | orjson.OPT_SORT_KEYS


class Document(NamedTuple):
    """A document as every source gives it.

    Attributes
    ----------
    record_id
        Its ``_id`` as text, as :func:`record_id_of` makes it.
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
        """Whether it is a document, rather than a placeholder for an unreadable one."""
        return self.text.startswith("{")


class RawDocument(NamedTuple):
    """A document as its source wrote it, not parsed yet.

    Attributes
    ----------
    raw
        Its BSON or JSON.
    make
        Returns the document that such bytes are. Where it is readable, it is what
        :func:`document_from_bson` or :func:`document_from_json` returns: it follows from the bytes,
        whichever source wrote them, as nothing is readable as both.
    """

    raw: bytes
    make: Callable[[bytes], Document]


def canonical_document(given: RawDocument | Document) -> Document:
    """Return what a source gave, in canonical form."""
    return given.make(given.raw) if isinstance(given, RawDocument) else given


def document_from_json(raw: bytes) -> Document:
    """Return the document whose JSON text is ``raw``.

    Bare ``NaN`` and ``Infinity`` and both flavours of extended JSON are understood. Text that
    is no JSON becomes a document of its own (see the module's description).
    """
    try:
        if _needs_care_in_json(raw):
            value = _normalise(json.loads(raw))
        else:
            try:
                value = orjson.loads(raw)
            except orjson.JSONDecodeError:
                value = _normalise(json.loads(raw))
        canonical = orjson.dumps(value, option=_ENCODING)
    except (ValueError, RecursionError, TypeError):
        return _unreadable(raw)
    return _document(value, canonical)


def document_from_bson(raw: bytes) -> Document:
    """Return the document whose BSON is ``raw``.

    Bytes that are no BSON become a document of its own (see the module's description).
    """
    try:
        value: Any = bson.decode(raw, _CODEC)
        if _needs_care_in_bson(raw):
            value = _normalise(value)
        canonical = orjson.dumps(value, default=_extended, option=_ENCODING)
    except (bson.errors.BSONError, ValueError, RecursionError, TypeError, OverflowError):
        return _unreadable(raw)
    return _document(value, canonical)


def record_id_of(identity: object) -> str:
    """Return an ``_id`` as text; see the module's description.

    Parameters
    ----------
    identity
        A value as BSON or JSON gives it.
    """
    if isinstance(identity, str) and not identity.startswith(_RESERVED_PREFIXES):
        return str(identity)
    written = orjson.dumps(_normalise(identity), default=_extended, option=_UNSORTED)
    plain = orjson.loads(written)
    return OTHER_ID_PREFIX + orjson.dumps(_with_sorted_types(plain)).decode()


def string_id(record_id: str) -> str | None:
    """Return the ``_id`` that is a string and has a record id; None where there is no such."""
    if not record_id.startswith(_RESERVED_PREFIXES):
        return record_id
    if record_id.startswith(f'{OTHER_ID_PREFIX}"'):
        try:
            return str(orjson.loads(record_id.removeprefix(OTHER_ID_PREFIX)))
        except orjson.JSONDecodeError:
            pass  # Nobody's: it was not made here.
    return None


def canonical_json(value: object) -> str:
    """Return the canonical JSON of a value that JSON or BSON gives."""
    return orjson.dumps(_normalise(value), default=_extended, option=_ENCODING).decode()


def explain_unreadable(text: str) -> str:
    """Return why ``text``, kept from something unreadable, is no JSON document."""
    if _NOT_UTF8.search(text):
        return "it is not valid UTF-8"
    try:
        json.loads(text)
    except RecursionError:
        return "it is nested too deeply"
    except ValueError as error:
        return str(error)
    return "it is nested too deeply, or holds text that is not valid Unicode"


# How bytes that are no UTF-8 are kept in a text.
_NOT_UTF8 = re.compile(r"\\x[89a-f][0-9a-f]")


def _needs_care_in_json(raw: bytes) -> bool:
    """Return whether the quick way could get a JSON text wrong.

    That is extended JSON, and integers longer than 64 bits, which orjson reads as floats.
    """
    return b'"$' in raw or _LONG_NUMBER in raw.translate(_DIGITS)


def _needs_care_in_bson(raw: bytes) -> bool:
    """Return whether there may be numbers that are not finite; orjson writes those as null."""
    ends = raw.translate(_ENDS)
    return any(end in ends for end in _NOT_FINITE)


def _document(value: object, canonical: bytes) -> Document:
    content_hash = sha256(canonical).hexdigest()
    identity = value.get("_id", _MISSING) if isinstance(value, dict) else _MISSING
    if identity is _MISSING:
        record_id = WITHOUT_ID_PREFIX + content_hash[:_MADE_ID_DIGITS]
    else:
        record_id = record_id_of(identity)
    return Document(record_id, canonical.decode(), content_hash)


def _with_sorted_types(value: Any) -> Any:  # noqa: ANN401 - any JSON in, any JSON out
    """Return ``value`` with the keys sorted of those objects that stand for another type."""
    if isinstance(value, dict):
        if len(value) == 1 and next(iter(value)).startswith("$"):
            return orjson.loads(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))
        return {key: _with_sorted_types(inner) for key, inner in value.items()}
    return value


def _unreadable(raw: bytes) -> Document:
    canonical = orjson.dumps(raw.decode("utf-8", "backslashreplace"))
    content_hash = sha256(canonical).hexdigest()
    record_id = UNREADABLE_PREFIX + content_hash[:_MADE_ID_DIGITS]
    return Document(record_id, canonical.decode(), content_hash)


def _normalise(value: Any) -> Any:  # noqa: ANN401 - any JSON in, any JSON out
    """Return ``value`` in relaxed extended JSON, with nothing left that orjson would alter."""
    if isinstance(value, dict):
        if len(value) == 1:
            key, inner = next(iter(value.items()))
            if key.startswith("$"):
                return _relax(key, inner)
        return {key: _normalise(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_normalise(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {"$numberDouble": _name_of(value)}
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
        pass  # Not what its key promises: an object like any other, kept as it is.
    return {key: _normalise(inner)}


def _date_text(moment: str | int) -> str | dict[str, str]:
    """Return a date as ISO 8601 in UTC, or as milliseconds where the calendar ends."""
    if isinstance(moment, str) and not moment.lstrip("-").isdigit():
        parsed = datetime.fromisoformat(moment)
        # Without a zone it is UTC, wherever this runs.
        parsed = parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    else:
        try:
            parsed = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(moment))
        except OverflowError:
            return {"$numberLong": str(moment)}
    precision = "milliseconds" if parsed.microsecond else "seconds"
    return parsed.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def _name_of(number: float) -> str:
    if math.isnan(number):
        return "NaN"
    return "Infinity" if number > 0 else "-Infinity"


def _extended(value: object) -> object:
    """Return relaxed extended JSON for a BSON type that JSON lacks."""
    if isinstance(value, bson.DatetimeMS):
        return {"$date": _date_text(int(value))}
    return json_util.default(value, _RELAXED)
