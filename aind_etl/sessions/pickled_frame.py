"""A pickled pandas frame, read as data: nothing that the pickle names is called.

A pickle is a program, and loading it runs the program. Here it may name only the constructors of
pandas, numpy and datetime on a short list, and each is replaced by an inert record of its
arguments. The records are converted to columns by the layout that pandas 1, 2 and 3 share.
Anything else, and anything damaged or too large, is refused with the name of what the pickle asked
for.

The file imports nothing else of the package, because it runs as a process of its own with limited
memory and time::

    python -I pickled_frame.py MEMORY_BYTES CPU_SECONDS < frame.pkl > frame.arrow

The columns come out as an Arrow stream: named by their number, with the labels they have in the
frame as a list in JSON under ``labels`` in the field's metadata, index levels first. A refusal is
a line on standard error, and exit code 1.
"""

import io
import json
import math
import pickle
import re
import resource
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, ClassVar, NoReturn, Self
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

REFUSED = 1
"""Exit code of a pickle that is refused."""

LABELS = b"labels"
"""Where a field's metadata holds the labels the column has in the frame."""

_SHOWN_CHARACTERS = 120
_SHOWN_BYTES = 16
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - moments without a zone are counted from it
# A small pickle may repeat itself: this many values are always let pass.
_MOST_VALUES = 1_000_000


class RefusedError(Exception):
    """The pickle is refused; the message says why."""


def read_frame(content: bytes) -> pa.Table:
    """Return the columns of a pickled frame.

    Parameters
    ----------
    content
        The pickle.

    Returns
    -------
    pyarrow.Table
        A column for each level of the frame's index and each of its columns. Numbers, booleans,
        texts, dates, times and moments keep their types; a duration becomes seconds; a list,
        array or object becomes JSON; a column that mixes types becomes text.

    Raises
    ------
    RefusedError
        The pickle asks for something that a frame does not need, is no frame, is damaged, or
        repeats itself without end.
    """
    if not content.startswith(pickle.PROTO):
        raise RefusedError(f"It is no pickle: it begins with {content[:_SHOWN_BYTES]!r}.")
    try:
        frame = _Unpickler(io.BytesIO(content)).load()
        return _table(frame, _Cells(max(len(content), _MOST_VALUES)))
    except RefusedError:
        raise
    except RecursionError:
        raise RefusedError("It is nested deeper than a table can be.") from None
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a pickle can fail in any way its writer likes
        said = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        raise RefusedError(f"It is damaged, or no pickled frame ({said}).") from None


# --- the pickle -----------------------------------------------------------------------------


class _Record:
    """What a pickle would have called, with what it would have been given."""

    name: ClassVar[str]
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: object) -> Self:
        record = object.__new__(cls)
        record.arguments = arguments
        record.state = None
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


_FRAME, _MANAGER, _BLOCK, _INDEX = "DataFrame", "BlockManager", "_unpickle_block", "_new_Index"
_MULTI_INDEX, _RANGE_INDEX = "MultiIndex", "RangeIndex"
_FROM_BUFFER, _RECONSTRUCT, _DTYPE, _SCALAR = "_frombuffer", "_reconstruct", "dtype", "scalar"
_BACKED, _ARROW, _CHUNKS, _ARROW_BUFFER = (
    "__pyx_unpickle_NDArrayBacked",
    "_restore_array",
    "chunked_array",
    "py_buffer",
)
_ARROW_TYPE, _CATEGORICAL, _ZONED = "type_for_alias", "Categorical", "DatetimeTZDtype"
_TIMESTAMP, _TIMEDELTA = "_unpickle_timestamp", "_timedelta_unpickle"
_NOTHING = ("NA", "NAType", "__nat_unpickle", "_nat_unpickle")
_ZONES = ("_UTC", "_p", "_FixedOffset", "timezone", "ZoneInfo", "tzutc", "tzoffset")

_INDEXES = (
    *("Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "TimedeltaIndex", "CategoricalIndex"),
    *("Int64Index", "UInt64Index", "Float64Index", "NumericIndex"),
)
_ARRAYS = (
    *("DatetimeArray", "TimedeltaArray", "StringArray", "ArrowStringArray", "Categorical"),
    *("IntegerArray", "FloatingArray", "BooleanArray"),
    *("CategoricalDtype", "DatetimeTZDtype", "StringDtype", "BooleanDtype"),
    *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    *("Float32Dtype", "Float64Dtype"),
)
_MODULES: dict[tuple[str, ...], tuple[str, ...]] = {
    # pandas 3 names its public modules, earlier ones the modules that define the code.
    ("pandas", "pandas.core.frame"): (_FRAME,),
    ("pandas.core.internals.managers", "pandas.core.internals"): (_MANAGER,),
    ("pandas._libs.internals",): (_BLOCK,),
    ("pandas._libs.arrays",): (_BACKED,),
    ("pandas.core.indexes.base",): (_INDEX,),
    ("pandas.core.indexes.datetimes",): ("_new_DatetimeIndex",),
    (
        "pandas",
        *(
            f"pandas.core.indexes.{module}"
            for module in (
                *("base", "range", "multi", "datetimes", "timedeltas", "category", "numeric"),
            )
        ),
    ): _INDEXES,
    (
        "pandas",
        "pandas.arrays",
        "pandas.core.dtypes.dtypes",
        *(
            f"pandas.core.arrays.{module}"
            for module in (
                *("datetimes", "timedeltas", "string_", "string_arrow", "categorical"),
                *("integer", "floating", "boolean"),
            )
        ),
    ): _ARRAYS,
    ("pandas", "pandas._libs.missing"): ("NA", "NAType"),
    ("pandas._libs.tslibs.nattype",): ("__nat_unpickle", "_nat_unpickle"),
    ("pandas._libs.tslibs.timestamps",): (_TIMESTAMP, "Timestamp"),
    ("pandas._libs.tslibs.timedeltas",): (_TIMEDELTA, "Timedelta"),
    # numpy 2 renamed its inner module.
    ("numpy.core.multiarray", "numpy._core.multiarray"): (_RECONSTRUCT, _SCALAR),
    ("numpy.core.numeric", "numpy._core.numeric"): (_FROM_BUFFER,),
    ("numpy",): ("ndarray", _DTYPE),
    ("pyarrow.lib",): (_ARROW, _CHUNKS, _ARROW_BUFFER, _ARROW_TYPE),
    ("datetime",): ("date", "datetime", "time", "timedelta", "timezone"),
    ("pytz", "pytz.tzinfo"): ("_UTC", "_p", "_FixedOffset"),
    ("zoneinfo",): ("ZoneInfo",),
    ("dateutil.tz.tz", "dateutil.tz"): ("tzutc", "tzoffset"),
    ("builtins", "__builtin__"): ("slice",),
}
_ADMITTED: dict[tuple[str, str], type[_Record]] = {
    (module, name): type(name, (_Record,), {"name": name})
    for modules, names in _MODULES.items()
    for module in modules
    for name in names
}


class _Bytes:
    """Bytes as protocol 2 writes them: a text of which each character is a byte."""

    def __new__(cls, text: str, encoding: str) -> Any:  # noqa: ANN401 - a pickle gets the bytes themselves
        if encoding != "latin1":
            raise RefusedError(f"It asks for the encoding {_shown(encoding)}.")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        """Take no state: bytes have none."""


class _ByteArray:
    """Bytes as protocols before the fifth write those that can be changed."""

    def __new__(cls, data: object = b"", encoding: str = "latin-1") -> Any:  # noqa: ANN401 - a pickle gets the bytes themselves
        if isinstance(data, str) and encoding == "latin-1":
            return data.encode("latin-1")
        if not isinstance(data, bytes):
            raise RefusedError(f"It asks for a bytearray of {_shown(data)}.")
        return data

    def __setstate__(self, state: object) -> None:
        """Take no state: bytes have none."""


class _MemberOfZoneInfo:
    """The one attribute that frames use: the function that restores a ZoneInfo."""

    def __new__(cls, owner: object, name: str) -> Any:  # noqa: ANN401 - a pickle gets the class itself
        zone_info = _ADMITTED["zoneinfo", "ZoneInfo"]
        if owner is not zone_info or name != "_unpickle":
            named = getattr(owner, "name", type(owner).__name__)
            raise RefusedError(f"It asks for the attribute {_shown(name)} of {_shown(named)}.")
        return zone_info

    def __setstate__(self, state: object) -> None:
        """Take no state: it is a function."""


_MADE: dict[tuple[str, str], type] = {
    ("_codecs", "encode"): _Bytes,
    ("builtins", "bytearray"): _ByteArray,
    ("__builtin__", "bytearray"): _ByteArray,
    ("builtins", "getattr"): _MemberOfZoneInfo,
    ("__builtin__", "getattr"): _MemberOfZoneInfo,
}


class _Unpickler(pickle.Unpickler):
    """An unpickler to which every name is either a record's or refused."""

    def find_class(self, module: str, name: str) -> type:
        found = _ADMITTED.get((module, name)) or _MADE.get((module, name))
        if found is None:
            raise RefusedError(
                f"It asks for {_shown(f'{module}.{name}')}, which a table of sessions does not "
                "need."
            )
        return found

    def persistent_load(self, identifier: object) -> NoReturn:
        raise RefusedError(f"It asks for the object {_shown(identifier)} outside itself.")


def _shown(value: object) -> str:
    return repr(str(value))[:_SHOWN_CHARACTERS]


# --- the frame ------------------------------------------------------------------------------


class _Column:
    """Values with their labels."""

    def __init__(self, labels: Sequence[object], values: pa.Array) -> None:
        self.labels = [_text(label) for label in labels]
        self.values = values


def _table(frame: object, cells: "_Cells") -> pa.Table:
    state = _expect(frame, _FRAME).state
    manager = _expect(state["_mgr"] if "_mgr" in state else state["_data"], _MANAGER)
    axes, blocks = _axes_and_blocks(manager)
    labels = list(zip(*_levels(axes[0], None), strict=True))
    levels = _levels(axes[1], None)
    n_rows = len(levels[0])
    columns: list[pa.Array | None] = [None] * len(labels)
    for values, placement in blocks:
        positions = _positions(placement, len(labels))
        parts = _parts(values, len(positions))
        for position, part in zip(positions, parts, strict=True):
            if columns[position] is not None or len(part) != n_rows:
                raise RefusedError("Its columns do not fit together.")
            columns[position] = cells.column(part)
    names = _level_names(axes[1])
    index = [
        _Column([name], cells.column(values))
        for name, values in zip(names, levels, strict=True)
        if name is not None
    ]
    found = [
        _Column([label for label in labels_of_one if label is not None], values)
        for labels_of_one, values in zip(labels, columns, strict=True)
        if values is not None
    ]
    if len(found) != len(labels):
        raise RefusedError("Some of its columns have no values.")
    every = [*index, *found]
    return pa.Table.from_arrays(
        [column.values for column in every],
        schema=pa.schema(
            pa.field(
                str(number),
                column.values.type,
                metadata={LABELS: json.dumps(column.labels).encode()},
            )
            for number, column in enumerate(every)
        ),
    )


def _axes_and_blocks(manager: _Record) -> tuple[Sequence[object], list[tuple[object, object]]]:
    """Return the axes and, block by block, values and the positions of their columns."""
    if manager.arguments:
        blocks, axes = manager.arguments
        made = [_expect(block, _BLOCK) for block in blocks]
        return axes, [(block.arguments[0], block.arguments[1]) for block in made]
    # pandas before 1.3.
    parts = manager.state[3]["0.14.1"]
    return parts["axes"], [(block["values"], block["mgr_locs"]) for block in parts["blocks"]]


def _positions(placement: object, n_columns: int) -> Sequence[int]:
    if isinstance(placement, _Record) and placement.name == "slice":
        return range(n_columns)[slice(*placement.arguments)]
    positions: list[int] = _numpy(placement).tolist()
    if any(not 0 <= position < n_columns for position in positions):
        raise RefusedError("It has values for columns that it does not have.")
    return positions


def _parts(values: object, n_columns: int) -> Sequence[Any]:
    """Return the values of a block, column by column."""
    found = _values(values)
    if isinstance(found, np.ndarray) and found.ndim > 1:
        return [found[row] for row in range(found.shape[0])]
    if n_columns != 1:
        raise RefusedError("Its columns do not fit together.")
    return [found]


def _levels(index: object, n_rows: int | None) -> list[Any]:
    """Return the values of an index, level by level."""
    made = _expect(index, _INDEX, "_new_DatetimeIndex")
    kind, facts = made.arguments
    if kind.name == _MULTI_INDEX:
        return [
            _take(_levels(level, n_rows)[0], _numpy(codes))
            for level, codes in zip(facts["levels"], facts["codes"], strict=True)
        ]
    if kind.name == _RANGE_INDEX:
        positions = range(facts["start"], facts["stop"], facts["step"])
        if len(positions) > _MOST_VALUES:
            raise RefusedError(f"It has {len(positions):,} rows.")
        return [np.array(positions, dtype=np.int64)]
    return [_values(facts["data"])]


def _level_names(index: object) -> list[object]:
    kind, facts = _expect(index, _INDEX, "_new_DatetimeIndex").arguments
    return list(facts["names"]) if kind.name == _MULTI_INDEX else [facts.get("name")]


def _take(values: Any, codes: np.ndarray) -> Any:  # noqa: ANN401 - an array of one library or the other
    """Return the values that codes point at; -1 points at none."""
    if isinstance(values, np.ndarray):
        values = (
            pa.array(_plain_values(values), from_pandas=True)
            if values.dtype == object
            else (pa.array(values, from_pandas=True))
        )
    return values.take(pa.array(codes, mask=codes < 0))


def _plain_values(values: np.ndarray) -> list[object]:
    return [_plain(value) for value in values.tolist()]


def _values(values: object) -> Any:  # noqa: ANN401 - an array of one library or the other
    """Return an array of numpy or pandas as one of numpy or, where values are missing, of arrow."""
    record = _expect(values)
    if record.name in (_FROM_BUFFER, _RECONSTRUCT):
        return _numpy(record)
    if record.name == _BACKED:
        kind, (dtype, data) = record.arguments[0].name, record.state[:2]
        return _backed(kind, dtype, data)
    state = record.state
    if record.name == _CATEGORICAL:
        return _backed(record.name, state["_dtype"], state["_codes"])
    if record.name == "ArrowStringArray":
        return _arrow(state["_pa_array"] if "_pa_array" in state else state["_data"])
    if record.name in ("IntegerArray", "FloatingArray", "BooleanArray"):
        return pa.array(_numpy(state["_data"]), mask=_numpy(state["_mask"]).astype(bool))
    if record.name in ("DatetimeArray", "TimedeltaArray", "StringArray"):
        data = state["_ndarray"] if "_ndarray" in state else state["_data"]
        return _backed(record.name, state["_dtype"], data)
    raise RefusedError(f"It has values of the kind {_shown(record.name)}.")


def _backed(kind: str, dtype: object, data: object) -> Any:  # noqa: ANN401 - an array of one library or the other
    """Return an array that pandas keeps as one of numpy beside a type."""
    values = _numpy(data)
    if kind == _CATEGORICAL:
        return _take(_levels(_expect(dtype).state["categories"], None)[0], values.ravel())
    if isinstance(dtype, _Record) and dtype.name == _ZONED:
        moments = values.ravel().astype("M8[us]")
        return pa.array(moments, from_pandas=True).cast(pa.timestamp("us", "UTC"))
    return values


def _numpy(array: object) -> np.ndarray:
    """Return a numpy array, built from its bytes or its list of objects."""
    record = _expect(array, _FROM_BUFFER, _RECONSTRUCT)
    if record.name == _FROM_BUFFER:
        data, dtype, shape, order = record.arguments
    else:
        _, shape, dtype, is_fortran, data = record.state
        order = "F" if is_fortran else "C"
    kind = _dtype(dtype)
    if kind == np.dtype(object):
        values = np.empty(len(data), dtype=object)
        values[:] = data if len(data) != 1 else [data[0]]
        return values.reshape(shape)
    return np.frombuffer(data, kind).reshape(shape, order=order)


def _dtype(dtype: object) -> np.dtype[Any]:
    """Return a type of numpy, if it is one of those that hold plain values."""
    record = _expect(dtype, _DTYPE)
    text, state = str(record.arguments[0]), record.state
    if not re.fullmatch(r"b1|[iu][1248]|f[248]|[OMm]8|[US]\d{1,5}", text):
        raise RefusedError(f"It has values of numpy's type {_shown(text)}.")
    if text == "O8":
        return np.dtype(object)
    order = state[1] if state and state[1] in "<>" else "="
    unit = ""
    if text[0] in "Mm":
        ((_, (name, count, *_)),) = state[8:]
        unit = f"[{count}{name.decode()}]"
    return np.dtype(f"{order}{text}{unit}")


def _arrow(array: object) -> pa.ChunkedArray:
    """Return an Arrow array, built from its buffers and validated."""
    record = _expect(array, _ARROW, _CHUNKS)
    if record.name == _CHUNKS:
        chunks = [chunk for one in record.arguments[0] for chunk in _arrow(one).chunks]
        return pa.chunked_array(chunks, type=None if chunks else pa.large_string())
    alias, length, null_count, offset, buffers, children, dictionary = record.arguments[0]
    kind = str(_expect(alias, _ARROW_TYPE).arguments[0])
    if kind not in ("string", "large_string") or children or dictionary is not None:
        raise RefusedError(f"It has values of arrow's type {_shown(kind)}.")
    parts = [
        buffer and pa.py_buffer(bytes(_expect(buffer, _ARROW_BUFFER).arguments[0]))
        for buffer in buffers
    ]
    made = pa.Array.from_buffers(pa.type_for_alias(kind), length, parts, null_count, offset)
    made.validate(full=True)
    return pa.chunked_array([made])


def _expect(value: object, *names: str) -> _Record:
    """Return a record, if it is one, of one of these names."""
    if not isinstance(value, _Record) or (names and value.name not in names):
        found = value.name if isinstance(value, _Record) else type(value).__name__
        wanted = " or ".join(names) or "an array"
        raise RefusedError(f"It has {_shown(found)} where {wanted} belongs.")
    return value


# --- cells ----------------------------------------------------------------------------------


# What JSON has as it is.
_SIMPLE = frozenset({str, int, bool, type(None)})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


class _Cells:
    """Turns values into columns of one type, as many as it may.

    Parameters
    ----------
    most
        How many values there may be in lists, arrays and objects: as many as the pickle has bytes,
        or it repeats itself.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._left = most

    def column(self, values: Any) -> pa.Array:  # noqa: ANN401 - an array of one library or the other
        """Return values as a column of arrow."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if isinstance(values, pa.Array):
            return values
        match values.dtype.kind:
            case "M":
                return pa.array(values.astype("M8[us]"), from_pandas=True)
            case "m":
                seconds = values / np.timedelta64(1, "s")
                return pa.array(seconds, from_pandas=True)
            case "S":
                return pa.array([_text(value) for value in values.tolist()], pa.string())
            case "O":
                return self._objects([_plain(value) for value in values.tolist()])
        return pa.array(values.astype(values.dtype.newbyteorder("=")), from_pandas=True)

    def _objects(self, values: list[object]) -> pa.Array:
        """Return Python's objects as a column: of their type, if they have one in common."""
        kinds = {_kind(value) for value in values} - {None}
        if kinds == {int, float}:
            kinds = {float}
        if len(kinds) == 1:
            (kind,) = kinds
            make = _TYPES.get(kind) if kind is not None else None
            if make is not None:
                try:
                    return make(values)
                except (OverflowError, pa.ArrowInvalid):
                    pass  # Whole numbers beyond 64 bits, years beyond those of arrow.
        return pa.array([self._as_text(value) for value in values], pa.string())

    def _as_text(self, value: object) -> str | None:
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, list) and _SIMPLE.issuperset(map(type, value)):
            text = _encode(value)
            if text.isascii():
                self._count(len(value))
                return text
        if isinstance(value, list | dict):
            return _encode(self._countable(value))
        return _text(value)

    def _countable(self, value: object) -> object:
        """Return a nested value as JSON has it, and count it."""
        self._count(1)
        value = _plain(value)
        if isinstance(value, list):
            return [self._countable(one) for one in value]
        if isinstance(value, dict):
            return {_text(_plain(key)): self._countable(one) for key, one in value.items()}
        if isinstance(value, float) and math.isinf(value):
            return _text(value)
        return value if value is None or isinstance(value, str | int | float) else _text(value)

    def _count(self, values: int) -> None:
        self._left -= values
        if self._left < 0:
            raise RefusedError(
                f"It repeats itself: it has more than {self._most:,} values in its cells, and "
                "fewer bytes."
            )


def _seconds(values: list[object]) -> pa.Array:
    return pa.array(
        [one.total_seconds() if isinstance(one, timedelta) else None for one in values],
        pa.float64(),
    )


def _made_as(kind: pa.DataType) -> Callable[[list[object]], pa.Array]:
    return lambda values: pa.array(values, kind)


_NAIVE, _AWARE = "naive", "aware"
_TYPES: dict[object, Callable[[list[object]], pa.Array]] = {
    bool: _made_as(pa.bool_()),
    int: _made_as(pa.int64()),
    float: _made_as(pa.float64()),
    date: _made_as(pa.date32()),
    time: _made_as(pa.time64("us")),
    timedelta: _seconds,
    _NAIVE: _made_as(pa.timestamp("us")),
    _AWARE: _made_as(pa.timestamp("us", "UTC")),
}


def _kind(value: object) -> object:
    """Return what decides a column's type; None where there is no value."""
    if value is None:
        return None
    if isinstance(value, datetime):
        return _NAIVE if value.tzinfo is None else _AWARE
    return type(value)


def _text(value: object) -> str:
    value = _plain(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _plain(value: object) -> object:  # noqa: PLR0911 - one a kind
    """Return a value as Python has it; None for every way of saying that there is none."""
    if isinstance(value, str) and not value.isascii():
        # Half of a character, which no column can hold, is shown as it is escaped.
        return value.encode(errors="backslashreplace").decode()
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=_text)
    if isinstance(value, type) and issubclass(value, _Record) and value.name in _NOTHING:
        return None
    if not isinstance(value, _Record):
        return value
    if value.name in _NOTHING:
        return None
    if value.name in (_FROM_BUFFER, _RECONSTRUCT):
        return _numpy(value).tolist()
    if value.name in _PLAIN:
        return _PLAIN[value.name](value)
    raise RefusedError(f"It has a value of the kind {_shown(value.name)} in a cell.")


def _scalar(record: _Record) -> object:
    dtype, data = record.arguments
    kind = _dtype(dtype)
    if kind == np.dtype(object):
        return _plain(data)
    return _plain(np.frombuffer(data, kind)[0].item())


# numpy's numbers of the units, as pandas writes them.
_NANOSECONDS = 10
_UNITS_A_SECOND = {7: 1, 8: 10**3, 9: 10**6, _NANOSECONDS: 10**9}


def _span(count: int, unit: int) -> timedelta:
    return timedelta(microseconds=count * 10**6 // _UNITS_A_SECOND[unit])


def _timestamp(record: _Record) -> datetime:
    count, _, zone, *unit = record.arguments
    # Before pandas 1.5 there was no unit.
    moment = _EPOCH + _span(count, unit[0] if unit else _NANOSECONDS)
    return moment if zone is None else moment.replace(tzinfo=UTC)


def _timedelta(record: _Record) -> timedelta:
    count, unit = (*record.arguments, _NANOSECONDS)[:2]
    return _span(count, unit)


# Given one text of bytes, they read it as the state that pickling writes.
_AS_PICKLED: dict[str, Any] = {"datetime": datetime, "date": date, "time": time}


def _datetime(record: _Record) -> datetime:
    data, *rest = record.arguments
    moment: datetime = _AS_PICKLED["datetime"](_state_bytes(data))
    zone = _zone(rest[0]) if rest else None
    return moment if zone is None else moment.replace(tzinfo=zone).astimezone(UTC)


def _day_or_clock(record: _Record) -> object:
    return _AS_PICKLED[record.name](_state_bytes(record.arguments[0]))


def _state_bytes(data: object) -> bytes:
    if not isinstance(data, bytes):
        raise RefusedError(
            f"It has {_shown(type(data).__name__)} where the bytes of a date belong."
        )
    return data


def _zone(zone: object) -> tzinfo:
    """Return a zone of pytz, dateutil or Python as one of Python."""
    record = _expect(zone, *_ZONES)
    arguments = record.arguments
    match record.name:
        case "_UTC" | "tzutc":
            return UTC
        case "_p" | "ZoneInfo":
            return ZoneInfo(str(arguments[0])) if arguments[0] != "UTC" else UTC
        case "_FixedOffset":
            return timezone(timedelta(minutes=arguments[0]))
        case "timezone":
            offset = _plain(arguments[0])
            return timezone(offset if isinstance(offset, timedelta) else timedelta())
        case _:
            offset = _plain(arguments[1])
            return timezone(
                offset if isinstance(offset, timedelta) else timedelta(seconds=float(str(offset)))
            )


_PLAIN: dict[str, Callable[[_Record], object]] = {
    _SCALAR: _scalar,
    _TIMESTAMP: _timestamp,
    "Timestamp": _timestamp,
    _TIMEDELTA: _timedelta,
    "Timedelta": _timedelta,
    "datetime": _datetime,
    "date": _day_or_clock,
    "time": _day_or_clock,
    "timedelta": lambda record: timedelta(*record.arguments),
}


# --- the process ----------------------------------------------------------------------------


def _limit(memory_bytes: int, cpu_seconds: int) -> None:
    """Take the right to more memory, time, files and processes away from this process."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(what, (most, most))


def main(arguments: Sequence[str]) -> int:
    """Read a pickled frame from standard input, and write its columns to standard output."""
    memory_bytes, cpu_seconds = map(int, arguments)
    _limit(memory_bytes, cpu_seconds)
    try:
        table = read_frame(sys.stdin.buffer.read())
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
            stream.write_table(table)
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except MemoryError:
        sys.stderr.write(f"It needs more than {memory_bytes >> 20:,} MB of memory.\n")
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
