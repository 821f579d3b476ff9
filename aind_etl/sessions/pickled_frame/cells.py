"""Cells of a frame: Python's values from records, and columns of one type from values."""

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from .arrays import numpy_array, numpy_dtype
from .unpickling import NOTHING, NUMPY_ARRAYS, ZONES, Record, RefusedError, expect, shown

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - times without a zone are counted from it
# The types that JSON has as well.
_SIMPLE = frozenset({str, int, bool, type(None)})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

_NAIVE, _AWARE = "naive", "aware"
_ARROW_TYPES: dict[object, pa.DataType] = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    date: pa.date32(),
    time: pa.time64("us"),
    _NAIVE: pa.timestamp("us"),
    _AWARE: pa.timestamp("us", "UTC"),
}


class ColumnReader:
    """Converts values to columns of arrow, and limits the number of nested values.

    A pickle with more values in lists, arrays and objects than bytes repeats itself.
    """

    def __init__(self, most_values: int) -> None:
        self._most = most_values
        self._left = most_values

    def read(self, values: Any) -> pa.Array:  # noqa: ANN401 - an array of numpy or arrow
        """Return values as a column of arrow; refuse those that no table has."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if isinstance(values, pa.Array):
            return values
        match values.dtype.kind:
            case "M":
                return pa.array(values.astype("M8[us]"), from_pandas=True)
            case "m":
                return pa.array(values / np.timedelta64(1, "s"), from_pandas=True)
            case "S" | "O":
                return self._read_objects([as_plain(value) for value in values.tolist()])
        return pa.array(values.astype(values.dtype.newbyteorder("=")), from_pandas=True)

    def _read_objects(self, values: list[Any]) -> pa.Array:
        """Return Python's objects as a column: of their type if they share one, or as text."""
        kinds = set(map(_kind, values)) - {None}
        if kinds == {timedelta}:
            seconds = [None if value is None else value.total_seconds() for value in values]
            return pa.array(seconds, pa.float64())
        if kinds == {int, float}:
            kinds = {float}
        arrow_type = _ARROW_TYPES.get(kinds.pop()) if len(kinds) == 1 else None
        if arrow_type is not None:
            try:
                return pa.array(values, arrow_type)
            except (OverflowError, pa.ArrowInvalid):
                pass  # Integers beyond 64 bits, or years beyond those of arrow.
        return pa.array([self._object_text(value) for value in values], pa.string())

    def _object_text(self, value: object) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list | dict):
            # The values in a cell count, not the cell.
            self._left += 1
            return _encode(self._as_json(value))
        return as_text(value)

    def _as_json(self, value: object) -> object:
        """Return a nested value as JSON has it, and count it with the values in it."""
        self._left -= 1
        if self._left < 0:
            raise RefusedError(
                f"It repeats itself: it has more than {self._most:,} values in its cells, and "
                "fewer bytes."
            )
        value = as_plain(value)
        if isinstance(value, list):
            return [self._as_json(one) for one in value]
        if isinstance(value, dict):
            return {as_text(key): self._as_json(one) for key, one in value.items()}
        if isinstance(value, float) and math.isinf(value):
            return as_text(value)
        return value if value is None or isinstance(value, str | int | float) else as_text(value)


def _kind(value: object) -> object:
    """Return what decides a column's type; None for no value."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return _NAIVE if value.tzinfo is None else _AWARE
    return type(value)


def as_text(value: object) -> str:
    """Return any value as text."""
    value = as_plain(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def as_plain(value: object) -> object:  # noqa: PLR0911 - one for each kind
    """Return a value as Python has it; None for every kind of missing value."""
    if isinstance(value, str) and not value.isascii():
        # Half of a surrogate pair, which no column can hold, is escaped.
        return value.encode(errors="backslashreplace").decode()
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=as_text)
    if getattr(value, "name", None) in NOTHING:
        return None  # A record, or the class of one.
    if not isinstance(value, Record):
        return value
    if value.name in NUMPY_ARRAYS:
        return numpy_array(value).tolist()
    if value.name in _PLAIN:
        return _PLAIN[value.name](value)
    raise RefusedError(f"It has a value of the kind {shown(value.name)} in a cell.")


def _scalar(record: Record) -> object:
    dtype, data = record.arguments
    kind = numpy_dtype(dtype)
    return as_plain(data if kind.hasobject else np.frombuffer(data, kind)[0].item())


# numpy's numbers of the units, as pandas writes them.
_NANOSECONDS = 10
_UNITS_PER_SECOND = {7: 1, 8: 10**3, 9: 10**6, _NANOSECONDS: 10**9}


def _duration(count: int, unit: int) -> timedelta:
    return timedelta(microseconds=count * 10**6 // _UNITS_PER_SECOND[unit])


def _timestamp(record: Record) -> datetime:
    count, _, zone, *unit = record.arguments
    # pandas before 1.5 wrote no unit.
    moment = _EPOCH + _duration(count, unit[0] if unit else _NANOSECONDS)
    return moment if zone is None else moment.replace(tzinfo=UTC)


def _timedelta(record: Record) -> timedelta:
    count, unit = (*record.arguments, _NANOSECONDS)[:2]
    return _duration(count, unit)


# Given one argument of bytes, they read it as the state that pickling writes.
_FROM_BYTES: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}


def _from_bytes(record: Record) -> Any:  # noqa: ANN401 - a date, a time or both
    data = record.arguments[0]
    if not isinstance(data, bytes):
        raise RefusedError(f"It has {shown(type(data).__name__)} where the bytes of a date belong.")
    return _FROM_BYTES[record.name](data)


def _datetime(record: Record) -> datetime:
    moment: datetime = _from_bytes(record)
    zones = [_zone(zone) for zone in record.arguments[1:2]]
    return moment.replace(tzinfo=zones[0]).astimezone(UTC) if zones else moment


def _zone(zone: object) -> tzinfo:
    """Return a zone of pytz, dateutil or Python as one of Python."""
    record = expect(zone, *ZONES)
    arguments = record.arguments
    match record.name:
        case "_UTC" | "tzutc":
            return UTC
        case "_p" | "ZoneInfo":
            return ZoneInfo(str(arguments[0])) if arguments[0] != "UTC" else UTC
        case "_FixedOffset":
            return timezone(timedelta(minutes=arguments[0]))
        case "timezone":
            return _fixed_zone(arguments[0])
        case _:
            return _fixed_zone(arguments[1])


def _fixed_zone(offset: object) -> timezone:
    plain = as_plain(offset)
    return timezone(plain if isinstance(plain, timedelta) else timedelta(seconds=float(str(plain))))


_PLAIN: dict[str, Callable[[Record], object]] = {
    "scalar": _scalar,
    "_unpickle_timestamp": _timestamp,
    "Timestamp": _timestamp,
    "_timedelta_unpickle": _timedelta,
    "Timedelta": _timedelta,
    "datetime": _datetime,
    "date": _from_bytes,
    "time": _from_bytes,
    "timedelta": lambda record: timedelta(*record.arguments),
}
