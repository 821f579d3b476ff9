"""The columns of a pickled frame, by the layout that pandas 1, 2 and 3 share."""

import io
import json
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .arrays import arrow_array, numpy_array
from .cells import ColumnReader, as_plain, as_text
from .unpickling import NUMPY_ARRAYS, Record, RefusedError, Unpickler, expect, shown

LABELS = b"labels"
"""The key of a field's metadata under which the labels of the column in the frame are."""

_SHOWN_CHARACTERS = 120
_SHOWN_BYTES = 16
# A small pickle may repeat itself: this many values are always admitted.
_MOST_VALUES = 1_000_000


def read_frame(content: bytes) -> pa.Table:
    """Return the columns of a pickled frame.

    Returns
    -------
    pyarrow.Table
        A column for each level of the frame's index and each of its columns, named by its number.
        The labels that it has in the frame are a list in JSON under :data:`LABELS` in the field's
        metadata. Numbers, booleans, texts, dates and times keep their types; a duration becomes
        seconds; a list, array or object becomes JSON; a column that mixes types becomes text.

    Raises
    ------
    RefusedError
        The pickle asks for something that a frame does not need, is no frame, is damaged, or
        repeats itself without end.
    """
    if not content.startswith(pickle.PROTO):
        raise RefusedError(f"It is not a pickle: it begins with {content[:_SHOWN_BYTES]!r}.")
    try:
        frame = Unpickler(io.BytesIO(content)).load()
        return _table(frame, ColumnReader(max(len(content), _MOST_VALUES)))
    except (RefusedError, MemoryError):
        raise
    except RecursionError:
        raise RefusedError("It is nested deeper than a table can be.") from None
    except Exception as error:  # noqa: BLE001 - a pickle can fail in any way its writer likes
        reason = " ".join(str(error).split())[:_SHOWN_CHARACTERS]
        raise RefusedError(f"It is damaged, or not a pickled frame ({reason}).") from None


def _table(frame: object, reader: ColumnReader) -> pa.Table:
    state = expect(frame, "DataFrame").state
    manager = expect(state["_mgr"] if "_mgr" in state else state["_data"], "BlockManager")
    axes, blocks = _axes_and_blocks(manager)
    labels = list(zip(*_levels(axes[0]), strict=True))
    levels = _levels(axes[1])
    columns: dict[int, pa.Array] = {}
    for values, placement in blocks:
        positions = _positions(placement, len(labels))
        parts = _columns_of_block(values, len(positions))
        for position, part in zip(positions, parts, strict=True):
            if position in columns or len(part) != len(levels[0]):
                raise RefusedError("Its columns do not fit together.")
            columns[position] = reader.read(part)
    if len(columns) != len(labels):
        raise RefusedError("Some of its columns have no values.")
    labelled = [
        *(((name,), reader.read(values)) for name, values in _named(axes[1], levels)),
        *((label, columns[position]) for position, label in enumerate(labels)),
    ]
    fields = [
        pa.field(str(number), values.type, metadata={LABELS: _label_json(label)})
        for number, (label, values) in enumerate(labelled)
    ]
    return pa.Table.from_arrays([values for _, values in labelled], schema=pa.schema(fields))


def _label_json(label: Sequence[object]) -> bytes:
    return json.dumps([as_text(part) for part in label if part is not None]).encode()


def _axes_and_blocks(manager: Record) -> tuple[Sequence[object], list[tuple[object, object]]]:
    """Return the axes and, for each block, its values and the positions of their columns."""
    if manager.arguments:
        blocks, axes = manager.arguments
        records = [expect(block, "_unpickle_block") for block in blocks]
        return axes, [(block.arguments[0], block.arguments[1]) for block in records]
    # pandas before 1.3.
    parts = manager.state[3]["0.14.1"]
    return parts["axes"], [(block["values"], block["mgr_locs"]) for block in parts["blocks"]]


def _positions(placement: object, n_columns: int) -> Sequence[int]:
    if isinstance(placement, Record) and placement.name == "slice":
        return range(n_columns)[slice(*placement.arguments)]
    positions: list[int] = numpy_array(placement).tolist()
    if any(not 0 <= position < n_columns for position in positions):
        raise RefusedError("It has values for columns that it does not have.")
    return positions


def _columns_of_block(values: object, n_columns: int) -> Sequence[Any]:
    found = _values(values)
    if isinstance(found, np.ndarray) and found.ndim > 1:
        return list(found)
    if n_columns != 1:
        raise RefusedError("Its columns do not fit together.")
    return [found]


def _index(index: object) -> tuple[Record, dict[str, Any]]:
    """Return the class of an index, and the arguments it is built from."""
    kind, facts = expect(index, "_new_Index", "_new_DatetimeIndex").arguments
    return kind, facts


def _levels(index: object) -> list[Any]:
    """Return the values of each level of an index."""
    kind, facts = _index(index)
    if kind.name == "MultiIndex":
        return [
            _take(_levels(level)[0], numpy_array(codes))
            for level, codes in zip(facts["levels"], facts["codes"], strict=True)
        ]
    if kind.name == "RangeIndex":
        positions = range(facts["start"], facts["stop"], facts["step"])
        if len(positions) > _MOST_VALUES:
            raise RefusedError(f"It has {len(positions):,} rows.")
        return [np.array(positions, dtype=np.int64)]
    return [_values(facts["data"])]


def _named(index: object, levels: Sequence[Any]) -> list[tuple[object, Any]]:
    """Return name and values of the levels of an index that have a name."""
    kind, facts = _index(index)
    names = facts["names"] if kind.name == "MultiIndex" else [facts.get("name")]
    return [pair for pair in zip(names, levels, strict=True) if pair[0] is not None]


def _take(values: Any, codes: np.ndarray) -> Any:  # noqa: ANN401 - an array of numpy or arrow
    """Return the values at the positions ``codes``; none for -1."""
    if isinstance(values, np.ndarray):
        if values.dtype == object:
            values = [as_plain(value) for value in values.tolist()]
        values = pa.array(values, from_pandas=True)
    return values.take(pa.array(codes, mask=codes < 0))


def _values(values: object) -> Any:  # noqa: ANN401 - an array of numpy or arrow
    """Return an array of numpy or pandas as one of numpy or, where values are missing, of arrow."""
    record = expect(values)
    if record.name in NUMPY_ARRAYS:
        return numpy_array(record)
    state = record.state
    if record.name == "__pyx_unpickle_NDArrayBacked":
        return _backed(record.arguments[0].name, *state[:2])
    if record.name == "Categorical":
        return _backed(record.name, state["_dtype"], state["_codes"])
    if record.name == "ArrowStringArray":
        return arrow_array(state["_pa_array"] if "_pa_array" in state else state["_data"])
    if record.name in ("IntegerArray", "FloatingArray", "BooleanArray"):
        mask = numpy_array(state["_mask"]).astype(bool)
        return pa.array(numpy_array(state["_data"]), mask=mask)
    if record.name in ("DatetimeArray", "TimedeltaArray", "StringArray"):
        data = state["_ndarray"] if "_ndarray" in state else state["_data"]
        return _backed(record.name, state["_dtype"], data)
    raise RefusedError(f"It has values of the kind {shown(record.name)}.")


def _backed(kind: str, dtype: object, data: object) -> Any:  # noqa: ANN401 - an array of numpy or arrow
    """Return an array of pandas that is one of numpy and a type."""
    values = numpy_array(data)
    if kind == "Categorical":
        return _take(_levels(expect(dtype).state["categories"])[0], values.ravel())
    if isinstance(dtype, Record) and dtype.name == "DatetimeTZDtype":
        moments = values.ravel().astype("M8[us]")
        return pa.array(moments, from_pandas=True).cast(pa.timestamp("us", "UTC"))
    return values
