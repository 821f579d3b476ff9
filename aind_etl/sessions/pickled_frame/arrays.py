"""Arrays of numpy and arrow, built from their records."""

import re
from typing import Any

import numpy as np
import pyarrow as pa

from .unpickling import ARROW_ARRAYS, NUMPY_ARRAYS, RefusedError, expect, shown


def numpy_array(array: object) -> np.ndarray:
    """Return a numpy array, built from its bytes or its list of objects."""
    record = expect(array, *NUMPY_ARRAYS)
    if record.name == "_frombuffer":
        data, dtype, shape, order = record.arguments
    else:
        _, shape, dtype, is_fortran, data = record.state
        order = "F" if is_fortran else "C"
    kind = numpy_dtype(dtype)
    if kind == np.dtype(object):
        values = np.empty(len(data), dtype=object)
        values[:] = data if len(data) != 1 else [data[0]]
        return values.reshape(shape)
    return np.frombuffer(data, kind).reshape(shape, order=order)


def numpy_dtype(dtype: object) -> np.dtype[Any]:
    """Return a type of numpy, if it is one of those that hold plain values."""
    record = expect(dtype, "dtype")
    text, state = str(record.arguments[0]), record.state
    if not re.fullmatch(r"b1|[iu][1248]|f[248]|[OMm]8|[US]\d{1,5}", text):
        raise RefusedError(f"It has values of numpy's type {shown(text)}.")
    if text == "O8":
        return np.dtype(object)
    order = state[1] if state and state[1] in "<>" else "="
    unit = ""
    if text[0] in "Mm":
        ((_, (name, count, *_)),) = state[8:]
        unit = f"[{count}{name.decode()}]"
    return np.dtype(f"{order}{text}{unit}")


def arrow_array(array: object) -> pa.ChunkedArray:
    """Return an Arrow array of texts, built from its buffers and validated."""
    record = expect(array, *ARROW_ARRAYS)
    if record.name == "chunked_array":
        chunks = [chunk for one in record.arguments[0] for chunk in arrow_array(one).chunks]
        return pa.chunked_array(chunks, type=None if chunks else pa.large_string())
    alias, length, null_count, offset, buffers, children, dictionary = record.arguments[0]
    kind = str(expect(alias, "type_for_alias").arguments[0])
    if kind not in ("string", "large_string") or children or dictionary is not None:
        raise RefusedError(f"It has values of arrow's type {shown(kind)}.")
    parts = [
        buffer and pa.py_buffer(bytes(expect(buffer, "py_buffer").arguments[0]))
        for buffer in buffers
    ]
    built = pa.Array.from_buffers(pa.type_for_alias(kind), length, parts, null_count, offset)
    built.validate(full=True)
    return pa.chunked_array([built])
