"""An unpickler that calls nothing: each admitted constructor becomes a record of its arguments."""

import pickle
from collections.abc import Callable
from typing import Any, ClassVar, NoReturn, Self

_SHOWN_CHARACTERS = 120


class RefusedError(Exception):
    """The pickle is refused; the message says why."""


class Record:
    """A constructor that a pickle would have called, with its arguments and the object's state."""

    name: ClassVar[str]
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *arguments: object) -> Self:
        """Record the arguments."""
        record = object.__new__(cls)
        record.arguments = arguments
        record.state = None
        return record

    def __setstate__(self, state: object) -> None:
        self.state = state


NUMPY_ARRAYS = ("_frombuffer", "_reconstruct")
ARROW_ARRAYS = ("_restore_array", "chunked_array")
NOTHING = ("NA", "NAType", "__nat_unpickle", "_nat_unpickle")
ZONES = ("_UTC", "_p", "_FixedOffset", "timezone", "ZoneInfo", "tzutc", "tzoffset")

_INDEX_MODULES = ("base", "range", "multi", "datetimes", "timedeltas", "category", "numeric")
_INDEXES = (
    *("Index", "RangeIndex", "MultiIndex", "DatetimeIndex", "TimedeltaIndex", "CategoricalIndex"),
    *("Int64Index", "UInt64Index", "Float64Index", "NumericIndex"),
)
_ARRAY_MODULES = (
    *("datetimes", "timedeltas", "string_", "string_arrow", "categorical"),
    *("integer", "floating", "boolean"),
)
_ARRAYS = (
    *("DatetimeArray", "TimedeltaArray", "StringArray", "ArrowStringArray", "Categorical"),
    *("IntegerArray", "FloatingArray", "BooleanArray"),
    *("CategoricalDtype", "DatetimeTZDtype", "StringDtype", "BooleanDtype"),
    *(f"{sign}Int{bits}Dtype" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    *("Float32Dtype", "Float64Dtype"),
)
_MODULES: dict[tuple[str, ...], tuple[str, ...]] = {
    # pandas 3 writes the names of its public modules, earlier versions those that define the code.
    ("pandas", "pandas.core.frame"): ("DataFrame",),
    ("pandas.core.internals.managers", "pandas.core.internals"): ("BlockManager",),
    ("pandas._libs.internals",): ("_unpickle_block",),
    ("pandas._libs.arrays",): ("__pyx_unpickle_NDArrayBacked",),
    ("pandas.core.indexes.base",): ("_new_Index",),
    ("pandas.core.indexes.datetimes",): ("_new_DatetimeIndex",),
    ("pandas", *(f"pandas.core.indexes.{module}" for module in _INDEX_MODULES)): _INDEXES,
    (
        *("pandas", "pandas.arrays", "pandas.core.dtypes.dtypes"),
        *(f"pandas.core.arrays.{module}" for module in _ARRAY_MODULES),
    ): _ARRAYS,
    ("pandas", "pandas._libs.missing"): ("NA", "NAType"),
    ("pandas._libs.tslibs.nattype",): ("__nat_unpickle", "_nat_unpickle"),
    ("pandas._libs.tslibs.timestamps",): ("_unpickle_timestamp", "Timestamp"),
    ("pandas._libs.tslibs.timedeltas",): ("_timedelta_unpickle", "Timedelta"),
    # numpy 2 renamed its inner module.
    ("numpy.core.multiarray", "numpy._core.multiarray"): ("_reconstruct", "scalar"),
    ("numpy.core.numeric", "numpy._core.numeric"): ("_frombuffer",),
    ("numpy",): ("ndarray", "dtype"),
    ("pyarrow.lib",): (*ARROW_ARRAYS, "py_buffer", "type_for_alias"),
    ("datetime",): ("date", "datetime", "time", "timedelta", "timezone"),
    ("pytz", "pytz.tzinfo"): ("_UTC", "_p", "_FixedOffset"),
    ("zoneinfo",): ("ZoneInfo",),
    ("dateutil.tz.tz", "dateutil.tz"): ("tzutc", "tzoffset"),
    ("builtins",): ("slice",),
}
_RECORDS: dict[tuple[str, str], type[Record]] = {
    (module, name): type(name, (Record,), {"name": name})
    for modules, names in _MODULES.items()
    for module in modules
    for name in names
}


class _Function:
    """A function that a pickle may call. A pickle that sets its state changes nothing."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> None:
        """Take no state."""


def _encode(text: str, encoding: str) -> bytes:
    """Return bytes as protocol 2 writes them: a text of which each character is a byte."""
    if encoding != "latin1":
        raise RefusedError(f"It asks for the encoding {shown(encoding)}.")
    return text.encode("latin1")


def _bytearray(data: object = b"", encoding: str = "latin-1") -> bytes:
    """Return a bytearray as protocols before the fifth write it."""
    if isinstance(data, str) and encoding == "latin-1":
        return data.encode("latin-1")
    if not isinstance(data, bytes):
        raise RefusedError(f"It asks for a bytearray of {shown(data)}.")
    return data


def _getattr(owner: object, name: str) -> type[Record]:
    """Return the one attribute that frames use: the function that restores a ZoneInfo."""
    zone_info = _RECORDS["zoneinfo", "ZoneInfo"]
    if owner is not zone_info or name != "_unpickle":
        named = getattr(owner, "name", type(owner).__name__)
        raise RefusedError(f"It asks for the attribute {shown(name)} of {shown(named)}.")
    return zone_info


_FUNCTIONS: dict[tuple[str, str], _Function] = {
    ("_codecs", "encode"): _Function(_encode),
    ("builtins", "bytearray"): _Function(_bytearray),
    ("builtins", "getattr"): _Function(_getattr),
}


class Unpickler(pickle.Unpickler):
    """An unpickler for which every name is either a record or refused."""

    def find_class(self, module: str, name: str) -> object:
        """Return the record or the function for a name."""
        # Protocol 2 has the names of Python 2.
        key = (module.replace("__builtin__", "builtins"), name)
        found = _RECORDS.get(key) or _FUNCTIONS.get(key)
        if found is None:
            raise RefusedError(
                f"It asks for {shown(f'{module}.{name}')}, which a table of sessions does not need."
            )
        return found

    def persistent_load(self, identifier: object) -> NoReturn:
        """Refuse an object outside the pickle."""
        raise RefusedError(f"It asks for the object {shown(identifier)} outside itself.")


def expect(value: object, *names: str) -> Record:
    """Return a record of one of these names, or of any where none are given; refuse others."""
    if not isinstance(value, Record) or (names and value.name not in names):
        found = value.name if isinstance(value, Record) else type(value).__name__
        wanted = " or ".join(names) or "an array"
        raise RefusedError(f"It has {shown(found)} where {wanted} belongs.")
    return value


def shown(value: object) -> str:
    """Return a value in quotes, shortened to what a message can show."""
    return repr(str(value))[:_SHOWN_CHARACTERS]
