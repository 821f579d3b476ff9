"""From parsed processes to columns: the step from Python values to polars.

Values go straight into one list per column, so that a batch holds few Python objects at a time.
Values that fit only together with others (lists of the same length, bounds and their names) are
checked here; nothing is derived here.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from aind_etl.contract import Column, DataType, tables
from aind_etl.contract.columns import KEY
from aind_etl.contract.schemas import POLARS_TYPES
from aind_etl.flatten.derived import agent_alias
from aind_etl.flatten.document_reader import (
    LARGEST_EXACT,
    LONGEST_LIST,
    Attribute,
    Process,
    RejectedValue,
)

_KEY_NAMES = frozenset(column.name for column in KEY)
_MADE_OF_TEXT = frozenset({DataType.DATE, DataType.TIME, DataType.TIMESTAMPTZ})

FITTED_NAMES = "parameter"
BOUNDS = ("lower_bound", "upper_bound")
FOLD_MEASURES = tuple(
    column.name
    for column in tables.CROSS_VALIDATION.columns
    if column.name not in _KEY_NAMES and column.prototype.paths
)
"""The measures that cross-validation gives one value per fold of."""

PARALLEL_LISTS = ((FITTED_NAMES, *BOUNDS), FOLD_MEASURES)
"""Columns whose lists in one process are equally long."""

MAPS = ("value", "value_without_polishing")
"""Columns of numbers that have names, which a column ``<name>_name`` lists."""

REJECTED: dict[str, pl.DataType] = {name: pl.String() for name in RejectedValue._fields}
"""The columns of :meth:`Gathered.rejected_values` besides ``row``, and their types."""

_CHILDREN = (tables.FIT_PARAMETERS, tables.CROSS_VALIDATION, tables.INPUT_ASSETS)


@cache
def scalar_columns(pipeline_format: str) -> tuple[tuple[Column, tuple[str, ...]], ...]:
    """Return the columns of `analyses` that are read from a format, with their paths."""
    return tuple(
        (column, paths)
        for column in tables.ANALYSES.columns
        if column.name != "record_id" and (paths := column.origins[pipeline_format].paths)
    )


@cache
def list_paths(pipeline_format: str) -> dict[str, str]:
    """Return the columns of the children that are read, with their path in a format, or ""."""
    return {
        column.name: next(iter(column.origins[pipeline_format].paths), "")
        for table in _CHILDREN
        for column in table.columns
        if column.name not in _KEY_NAMES and column.is_read
    }


def read_types() -> dict[str, pl.DataType]:
    """Return the scalar columns of :meth:`Gathered.frame` that are read, and their types there.

    Dates and times are still texts.
    """
    return {
        column.name: pl.String() if column.type in _MADE_OF_TEXT else POLARS_TYPES[column.type]
        for column in tables.ANALYSES.columns
        if column.is_read and column.name not in _KEY_NAMES
    }


def list_types() -> dict[str, pl.DataType]:
    """Return the columns of lists of :meth:`Gathered.frame`, and the types of their entries."""
    names = (*list_paths("prototype"), *(f"{name}_name" for name in MAPS))
    return {name: _inner_type(name) for name in names}


class Gathered:
    """The processes of one format, column by column.

    Parameters
    ----------
    pipeline_format
        ``prototype`` or ``framework``.
    """

    def __init__(self, pipeline_format: str) -> None:
        self._format = pipeline_format
        self._scalars: list[tuple[Column, tuple[str, ...], list[Any]]] = [
            (column, paths, []) for column, paths in scalar_columns(pipeline_format)
        ]
        self._list_paths = list_paths(pipeline_format)
        self._lists = {name: _Lists() for name in list_types()}
        self._class_paths = next(
            paths for column, paths, _ in self._scalars if column.name == "agent_class"
        )
        self._numbers: list[int] = []
        self._indices: list[int] = []
        self._aliases: list[str | None] = []
        self._attributes: list[Attribute] = []
        self._attribute_counts: list[int] = []
        self._rejected: list[tuple[int, RejectedValue]] = []

    def add(self, number: int, processes: Sequence[Process]) -> None:
        """Take a document's processes.

        Lists that do not fit together, or are too long, are rejected as values of theirs.

        Parameters
        ----------
        number
            The document's position in its batch.
        processes
            All its processes.
        """
        for process in processes:
            self._reject_lists(process)
            self._reject_unnamed_bounds(process)
            self._add_process(number, process)

    def frame(self) -> pl.DataFrame:
        """Return one row per process: the scalars as they were read, and the lists.

        Dates and times are still texts. Columns the format does not have are NULL.
        """
        read = {column.name: (paths, values) for column, paths, values in self._scalars}
        columns = [
            pl.Series("number", self._numbers, pl.UInt32),
            pl.Series("process_index", self._indices, pl.Int16),
            pl.repeat(self._format, len(self._numbers), eager=True).alias("pipeline_format"),
            pl.Series("derived_alias", self._aliases, pl.String),
        ]
        for name, data_type in read_types().items():
            values = read[name][1] if name in read else [None] * len(self._numbers)
            columns.append(pl.Series(name, values, data_type))
        columns += [
            lists.series(f"{name}_list", _inner_type(name)) for name, lists in self._lists.items()
        ]
        return pl.DataFrame(columns)

    def attributes(self) -> pl.DataFrame:
        """Return one row per attribute, with the position of its process in :meth:`frame`."""
        sections, paths, values = (
            zip(*self._attributes, strict=True) if self._attributes else ((), (), ())
        )
        owners = np.repeat(np.arange(len(self._numbers)), self._attribute_counts)
        texts = [
            str(value) if type(value) is int and abs(value) > LARGEST_EXACT else value
            for value in values
        ]
        return pl.DataFrame(
            {
                "row": pl.Series(owners, dtype=pl.UInt32),
                "section": pl.Series(sections, dtype=pl.String),
                "path": pl.Series(paths, dtype=pl.String),
                "value_text": _only(texts, frozenset({str}), pl.String()),
                "value_number": _only(values, frozenset({int, float}), pl.Float64()),
                "value_boolean": _only(values, frozenset({bool}), pl.Boolean()),
            }
        )

    def rejected_values(self) -> pl.DataFrame:
        """Return one row per rejected value, with the position of its process in :meth:`frame`."""
        rows = [(row, *value) for row, value in self._rejected]
        return pl.DataFrame(rows, schema={"row": pl.UInt32(), **REJECTED}, orient="row")

    def _reject_lists(self, process: Process) -> None:
        """Reject lists of the same things that differ in length, and lists that are too long."""
        values = process.values
        for names in PARALLEL_LISTS:
            paths = [path for name in names if (path := self._list_paths[name]) in values]
            if len({len(values[path]) for path in paths}) > 1:
                counts = ", ".join(f"{_last_key(path)} has {len(values[path])}" for path in paths)
                for path in paths:
                    _reject_list(
                        process, path, "lengths_differ", f"lists of the same length; {counts}"
                    )
        for path in self._list_paths.values():
            if len(values.get(path) or ()) > LONGEST_LIST:
                _reject_list(process, path, "wrong_value", f"at most {LONGEST_LIST:,} entries")

    def _reject_unnamed_bounds(self, process: Process) -> None:
        """Reject bounds that belong to no parameter, or to one that is named several times."""
        path_of_names = self._list_paths[FITTED_NAMES]
        names = process.values.get(path_of_names)
        counts = Counter(names or ())
        expected = f"bounds of a parameter that '{_last_key(path_of_names)}' names once"
        for path in (self._list_paths[bound] for bound in BOUNDS):
            bounds = process.values.get(path)
            if not bounds:
                continue
            if names is None:
                _reject_list(process, path, "unnamed_bounds", expected)
                continue
            place = _place(path, process.index)
            is_named = [name is not None and counts[name] == 1 for name in names]
            process.values[path] = [
                bound if named else None for bound, named in zip(bounds, is_named, strict=True)
            ]
            for index, (bound, named) in enumerate(zip(bounds, is_named, strict=True)):
                if bound is not None and not named:
                    process.reject(f"{place}[{index}]", bound, "unnamed_bounds", expected)

    def _add_process(self, number: int, process: Process) -> None:
        values = process.values
        self._rejected += [(len(self._numbers), value) for value in process.rejected]
        self._numbers.append(number)
        self._indices.append(process.index)
        for _, paths, column in self._scalars:
            value = values.get(paths[0])
            if value is None and len(paths) > 1:
                value = next((values[path] for path in paths[1:] if path in values), None)
            column.append(value)
        self._add_lists(values)
        agent_class = next((values[path] for path in self._class_paths if path in values), None)
        self._aliases.append(agent_alias(agent_class, process.agent_options))
        self._attributes += process.attributes
        self._attribute_counts.append(len(process.attributes))

    def _add_lists(self, values: dict[str, Any]) -> None:
        for names in PARALLEL_LISTS:
            # A list that is missing beside others is one of nothing, as long as they are.
            paths = [self._list_paths[name] for name in names]
            length = next((len(values[path]) for path in paths if path in values), None)
            absent = None if length is None else [None] * length
            for name, path in zip(names, paths, strict=True):
                self._lists[name].add(values.get(path, absent))
        for name in MAPS:
            entries = values.get(self._list_paths[name])
            self._lists[name].add(None if entries is None else entries.values())
            self._lists[f"{name}_name"].add(None if entries is None else entries.keys())
        self._lists["url"].add(values.get(self._list_paths["url"]))


def _place(path: str, index: int) -> str:
    """Return the path of a list or an object of the contract in the process at ``index``."""
    place = path.removesuffix("[]").removesuffix(".*").replace("[]", f"[{index}]", 1)
    return place.partition("[]")[0]  # Of objects in a list, the list.


def _reject_list(process: Process, path: str, reason: str, expected: str) -> None:
    """Reject a list or an object as a whole."""
    value = process.values.pop(path)
    place = _place(path, process.index)
    process.reject(place, process.unconverted.get(path, value), reason, expected)


def _last_key(path: str) -> str:
    return path.removesuffix("[]").rpartition(".")[2]


class _Lists:
    """A column of lists: one flat list, where each ends, and which are missing."""

    def __init__(self) -> None:
        self._values: list[Any] = []
        self._ends = [0]
        self._missing: list[bool] = []

    def add(self, values: Iterable[Any] | None) -> None:
        self._missing.append(values is None)
        self._values.extend(values or ())
        self._ends.append(len(self._values))

    def series(self, name: str, inner: pl.DataType) -> pl.Series:
        flat = pl.Series(self._values, dtype=inner)
        if inner.is_float():
            # What is not a number is no value.
            flat = flat.fill_nan(None)
        return lists_of(
            pl.Series(self._ends, dtype=pl.Int64), flat, pl.Series(self._missing)
        ).alias(name)


def lists_of(ends: pl.Series, values: pl.Series, is_missing: pl.Series) -> pl.Series:
    """Return a column of lists.

    Parameters
    ----------
    ends
        0, and where each list ends among the values, shape (n + 1,).
    values
        The entries of all lists, one after the other.
    is_missing
        Which lists there are none of, shape (n,).
    """
    # Made of Python's or numpy's values by pyarrow, ends and mask would take pandas along, which
    # is slow to import.
    return pl.Series(
        pa.LargeListArray.from_arrays(
            ends.to_arrow(), values.to_arrow(), mask=is_missing.cast(pl.Boolean).to_arrow()
        )
    )


def _inner_type(name: str) -> pl.DataType:
    texts = name in {FITTED_NAMES, "url"} or name.endswith("_name")
    return pl.String() if texts else pl.Float64()


def _only(values: Sequence[Any], kinds: frozenset[type], data_type: pl.DataType) -> pl.Series:
    """Return the values of some types, NULL in place of the others."""
    return pl.Series([value if type(value) in kinds else None for value in values], dtype=data_type)
