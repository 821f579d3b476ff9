"""Columns of parsed processes: the step from Python values to polars.

Values that must agree with each other (lists of the same length, bounds and their names) are
checked here. Nothing is derived here.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from aind_etl.contract import FORMATS, DataType, tables
from aind_etl.contract.columns import KEY
from aind_etl.contract.schemas import POLARS_TYPES
from aind_etl.flatten.conversion import LARGEST_EXACT
from aind_etl.flatten.document_reader import LONGEST_LIST, Attribute, Process, RejectedValue
from aind_etl.flatten.paths import SCALAR_PATHS, columns_read

_READ_AS_TEXT = frozenset({DataType.DATE, DataType.TIME, DataType.TIMESTAMPTZ})


_CHILD_COLUMNS = columns_read(tables.FIT_PARAMETERS, tables.CROSS_VALIDATION, tables.INPUT_ASSETS)

FITTED_NAMES = "parameter"
BOUNDS = ("lower_bound", "upper_bound")
FOLD_MEASURES = tuple(column.name for column in columns_read(tables.CROSS_VALIDATION))
"""The measures with one value per fold of the cross-validation."""
PARALLEL_LISTS = ((FITTED_NAMES, *BOUNDS), FOLD_MEASURES)
"""Columns whose lists have the same length in a process."""
MAPS = ("value", "value_without_polishing")
"""Columns whose numbers have names, which are in the column ``<name>_name``."""

SCALARS: dict[str, pl.DataType] = {
    column.name: pl.String() if column.type in _READ_AS_TEXT else POLARS_TYPES[column.type]
    for column in columns_read(tables.ANALYSES)
}
"""The columns of `analyses` that are read, and their types; dates and times are still texts."""
LISTS: dict[str, pl.DataType] = {
    column.name: POLARS_TYPES[column.type] for column in _CHILD_COLUMNS
} | {f"{name}_name": pl.String() for name in MAPS}
"""The lists that are read, and the types of their entries."""
REJECTED = {"row": pl.UInt32(), **dict.fromkeys(RejectedValue._fields, pl.String())}
"""Schema of :meth:`ProcessColumns.rejected_values`."""
ATTRIBUTES = {"row": pl.UInt32()} | {
    column.name: POLARS_TYPES[column.type]
    for column in tables.ATTRIBUTES.columns
    if column not in KEY
}
"""Schema of :meth:`ProcessColumns.attributes`."""
ORIGINS = {"number": pl.UInt32(), "process_index": pl.Int16(), "pipeline_format": pl.String()}

LIST_PATHS = {
    name: {column.name: next(iter(column.origins[name].paths), "") for column in _CHILD_COLUMNS}
    for name in FORMATS
}
"""The path of each list that is read, by format; "" if the format does not have it."""


class ProcessColumns:
    """Processes of documents, column by column; ``first_row`` is the ``row`` of the first."""

    def __init__(self, first_row: int = 0) -> None:
        self._first_row = first_row
        self._scalars: dict[str, list[Any]] = {name: [] for name in ORIGINS | SCALARS}
        self._lists: dict[str, list[list[Any] | None]] = {name: [] for name in LISTS}
        self._attributes: list[Attribute] = []
        self._attribute_rows: list[int] = []
        self._rejected: list[tuple[int, str, str, str, str]] = []

    def add(self, number: int, pipeline_format: str, processes: Iterable[Process]) -> None:
        """Add the processes of a document, whose position in its batch is ``number``.

        Lists that do not agree with each other, or are too long, are rejected as values.
        """
        paths = LIST_PATHS[pipeline_format]
        for process in processes:
            _reject_lists(process, paths)
            _reject_unnamed_bounds(process, paths)
            row = self._first_row + len(self._scalars["number"])
            self._rejected += [(row, *value) for value in process.rejected]
            for name, value in zip(ORIGINS, (number, process.index, pipeline_format), strict=True):
                self._scalars[name].append(value)
            for name, paths_of_scalar in SCALAR_PATHS[pipeline_format].items():
                self._scalars[name].append(first_value(process.values, paths_of_scalar))
            for name, path in paths.items():
                self._add_list(name, process.values.get(path))
            self._attributes += process.attributes
            self._attribute_rows += [row] * len(process.attributes)

    def frame(self) -> pl.DataFrame:
        """Return one row per process: the scalars as they were read, and the lists.

        Dates and times are still texts. NaN is NULL, as are columns that the format does not have.
        """
        return pl.DataFrame(self._scalars, schema=ORIGINS | SCALARS).with_columns(
            pl.col(pl.Float64).fill_nan(None),
            *(self._list_column(name, inner) for name, inner in LISTS.items()),
        )

    def attributes(self) -> pl.DataFrame:
        """Return one row per attribute, with the ``row`` of its process."""
        sections, paths, values = (
            zip(*self._attributes, strict=True) if self._attributes else ((), (), ())
        )
        texts = [
            str(value) if type(value) is int and abs(value) > LARGEST_EXACT else value
            for value in values
        ]
        columns = (
            *(self._attribute_rows, sections, paths),
            *(_of_types(texts, {str}), _of_types(values, {int, float}), _of_types(values, {bool})),
        )
        return pl.DataFrame(dict(zip(ATTRIBUTES, columns, strict=True)), schema=ATTRIBUTES)

    def rejected_values(self) -> pl.DataFrame:
        """Return one row per rejected value, with the ``row`` of its process."""
        return pl.DataFrame(self._rejected, schema=REJECTED, orient="row")

    def _list_column(self, name: str, inner: pl.DataType) -> pl.Series:
        lists = self._lists[name]
        values = pl.Series([value for entries in lists for value in entries or ()], dtype=inner)
        return list_series(
            f"{name}_list",
            np.array([len(entries or ()) for entries in lists], np.int64),
            values.fill_nan(None) if inner.is_float() else values,
            pl.Series([entries is None for entries in lists], dtype=pl.Boolean),
        )

    def _add_list(self, name: str, entries: Any) -> None:  # noqa: ANN401 - a list or an object
        if name in MAPS:
            self._lists[f"{name}_name"].append(None if entries is None else list(entries))
            entries = None if entries is None else list(entries.values())
        self._lists[name].append(entries)


def list_series(
    name: str,
    lengths: np.ndarray[Any, np.dtype[np.int64]],
    values: pl.Series,
    is_missing: pl.Series,
) -> pl.Series:
    """Return a column of lists of these lengths, with all their values one after the other.

    For Python lists of lists, the constructor of polars is many times slower.
    """
    ends = pl.Series(np.concatenate([[0], np.cumsum(lengths)]), dtype=pl.Int64)
    # From numpy's arrays, pyarrow would make these with pandas, which is slow to import.
    lists = pa.LargeListArray.from_arrays(
        ends.to_arrow(), values.to_arrow(), mask=is_missing.to_arrow()
    )
    return pl.Series(name, lists)


def _reject_lists(process: Process, list_paths: Mapping[str, str]) -> None:
    """Reject parallel lists that differ in length, and lists that are too long."""
    values = process.values
    for names in PARALLEL_LISTS:
        paths = [path for name in names if (path := list_paths[name]) in values]
        if len({len(values[path]) for path in paths}) > 1:
            counts = ", ".join(f"{_last_key(path)} has {len(values[path])}" for path in paths)
            expected = f"lists of the same length; {counts}"
            for path in paths:
                _reject_list(process, path, "lengths_differ", expected)
    for path in list_paths.values():
        if len(values.get(path) or ()) > LONGEST_LIST:
            _reject_list(process, path, "wrong_value", f"at most {LONGEST_LIST:,} entries")


def _reject_unnamed_bounds(process: Process, list_paths: Mapping[str, str]) -> None:
    """Reject bounds of a parameter that has no name, or whose name is not unique."""
    path_of_names = list_paths[FITTED_NAMES]
    names = process.values.get(path_of_names)
    counts = Counter(names or ())
    expected = f"bounds of a parameter that '{_last_key(path_of_names)}' names once"
    for path in (list_paths[bound] for bound in BOUNDS):
        bounds = process.values.get(path)
        if not bounds:
            continue
        if names is None:
            _reject_list(process, path, "unnamed_bounds", expected)
            continue
        place = _place(path, process.index)
        named_bounds = []
        for index, (bound, name) in enumerate(zip(bounds, names, strict=True)):
            is_named = name is not None and counts[name] == 1
            named_bounds.append(bound if is_named else None)
            if bound is not None and not is_named:
                process.reject(f"{place}[{index}]", bound, "unnamed_bounds", expected)
        process.values[path] = named_bounds


def first_value(values: dict[str, Any], paths: Iterable[str]) -> Any:  # noqa: ANN401
    """Return the value of a process at the first of ``paths`` that has one; None without any."""
    for path in paths:
        if path in values:
            return values[path]
    return None


def _place(path: str, index: int) -> str:
    """Return the path of a list or an object of the contract in the process at ``index``."""
    place = path.removesuffix("[]").removesuffix(".*").replace("[]", f"[{index}]", 1)
    return place.partition("[]")[0]  # For a list of objects, the path of the list.


def _reject_list(process: Process, path: str, reason: str, expected: str) -> None:
    """Reject a list or an object as a whole."""
    value = process.values.pop(path)
    place = _place(path, process.index)
    process.reject(place, process.unconverted.get(path, value), reason, expected)


def _last_key(path: str) -> str:
    return path.removesuffix("[]").rpartition(".")[2]


def _of_types(values: Iterable[Any], types: Collection[type]) -> list[Any]:
    """Return the values of some Python types, and None in place of the others."""
    return [value if type(value) in types else None for value in values]
