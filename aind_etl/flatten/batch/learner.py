"""Learning the shape of documents from one of them.

The texts and numbers of the document are replaced by markers, and the document reader parses the
result: the columns and attributes in which the markers appear tell where each value goes.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson
import polars as pl

from aind_etl.flatten.batch.shapes import (
    EMPTY_LIST,
    ENTRIES,
    FALSE,
    NONE,
    NUMBER_LISTS,
    TRUE,
    Affixes,
    Positions,
    ProcessShape,
    Shape,
)
from aind_etl.flatten.columns import (
    BOUNDS,
    FITTED_NAMES,
    LIST_PATHS,
    MAPS,
    first_value,
)
from aind_etl.flatten.document_reader import Process, Rejection, read_document
from aind_etl.flatten.paths import SCALAR_PATHS

_SCALAR = re.compile(r'[^\[\]{},:"]+')
_BRACKET = re.compile(r"[\[\]{}]")
# Markers of numbers are integers that fit every column.
_LAST_MARKER = 30_000
_ATTRIBUTE_COLUMNS = {str: "value_text", int: "value_number", bool: "value_boolean"}
_Entry: TypeAlias = tuple[str, str | None, str | None, int, int, int]


class _UnsupportedError(Exception):
    """Only the document reader can parse documents of this shape."""


def learn(text: str) -> Shape | None:
    """Return the shape of a document; None if only the document reader can parse such documents.

    The text is canonical JSON of an object, without backslashes.
    """
    try:
        return _Learner(text).shape()
    except (_UnsupportedError, Rejection):
        return None


class _Value(NamedTuple):
    """Where a value is: its segment, and its position among the values of the segment."""

    segment: int
    element: int = 0


class _Learner:
    """Finds where the values of a document go, with markers in place of its texts and numbers.

    ``_values`` are those that the markers stand for. A segment with numbers or lists has affixes
    and a length: the number of its values, or -1 for nested lists or objects.
    """

    def __init__(self, text: str) -> None:
        if '{"$' in text:
            raise _UnsupportedError
        # The first segment begins at the first quotation mark. The last one also contains the
        # opening brace of the next document.
        self._segments = (text[1:] + "{").split('"')[1:]
        self._values: dict[object, _Value] = {}
        self._affixes: dict[int, Affixes] = {}
        self._lengths: dict[int, int] = {}
        # The segments whose values go anywhere, and those that must have as many as here.
        self._used: set[int] = set()
        self._fixed: set[int] = set()
        self._marked = list(self._segments)
        for n in range(0, len(self._segments), 2):
            if not self._segments[n + 1].startswith(":"):
                self._marked[n] = self._mark(_Value(n), "text-")
            self._mark_numbers(n + 1)

    def shape(self) -> Shape:
        text = '{"' + '"'.join(self._marked)[:-1]
        document = orjson.loads(text)
        if "object_type" in document and "processing" not in document:
            raise _UnsupportedError  # Its value may determine the format.
        pipeline_format, processes = read_document("", text)
        process_shapes = [self._process(pipeline_format, process) for process in processes]
        varying = {value.segment for value in self._values.values()} | self._affixes.keys()
        constants = [n for n in range(len(self._segments)) if n not in varying]
        used = self._affixes.keys() & self._used
        for n in used:
            if self._lengths[n] == -1 or re.search("true|false", self._segments[n]):
                raise _UnsupportedError
        return Shape(
            process_shapes,
            np.array(constants, np.int64),
            pl.Series([f'"{self._segments[n]}' for n in constants]).hash().to_numpy(),
            self._by_affixes(used),
            self._by_affixes(self._affixes.keys() - used),
        )

    def _by_affixes(self, segments: Iterable[int]) -> dict[Affixes, Positions]:
        """Group segments by their affixes, as :attr:`Shape.numbers`."""
        found: defaultdict[Affixes, list[tuple[int, int]]] = defaultdict(list)
        for segment in sorted(segments):
            length = self._lengths[segment] if segment in self._fixed else -1
            found[self._affixes[segment]].append((segment, length))
        return {affixes: np.array(pairs, np.int64).T for affixes, pairs in found.items()}

    def _mark_numbers(self, n: int) -> None:
        segment = self._segments[n]
        found = list(_SCALAR.finditer(segment))
        words = {match[0] for match in found}
        if words <= {"null"}:
            return
        prefix, suffix = segment[: found[0].start()], segment[found[-1].end() :]
        between = segment[found[0].start() : found[-1].end()]
        is_list = prefix.endswith("[") or len(found) > 1
        if words <= {"true", "false"} and not is_list:
            return  # Documents with another boolean have another shape.
        self._lengths[n] = -1 if _BRACKET.search(between) else len(found)
        self._affixes[n] = Affixes(f'"{prefix}', suffix)
        elements = iter(range(len(found)))

        def marker(match: re.Match[str]) -> str:
            element = next(elements)
            return "null" if match[0] == "null" else self._mark(_Value(n, element))

        self._marked[n] = prefix + _SCALAR.sub(marker, between) + suffix

    def _mark(self, value: _Value, prefix: str = "") -> str:
        number = 1 + len(self._values)
        if number > _LAST_MARKER:
            raise _UnsupportedError
        marker = f"{prefix}{number}"
        self._values[marker if prefix else number] = value
        return marker

    def _value(self, marker: object, *, is_fixed: bool = True) -> _Value:
        """Return the value that a marker stands for."""
        if isinstance(marker, bool):
            return _Value(TRUE if marker else FALSE)
        found = self._values.get(marker) if isinstance(marker, str | int) else None
        if found is None:
            raise _UnsupportedError
        self._used.add(found.segment)
        if is_fixed:
            self._fixed.add(found.segment)
        return found

    def _segment(self, marker: object) -> int:
        return NONE if marker is None else self._value(marker).segment

    def _process(self, pipeline_format: str, process: Process) -> ProcessShape:
        if process.rejected:
            raise _UnsupportedError
        values = process.values
        lists = LIST_PATHS[pipeline_format]
        if lists[FITTED_NAMES] not in values and any(lists[bound] in values for bound in BOUNDS):
            raise _UnsupportedError
        scalars = [
            self._segment(first_value(values, paths))
            for paths in SCALAR_PATHS[pipeline_format].values()
        ]
        number_lists = [self._number_list(values.get(lists[name])) for name in NUMBER_LISTS]
        entries = [
            entry
            for name, path in lists.items()
            if path in values and name not in NUMBER_LISTS
            for entry in self._entries(name, values[path])
        ]
        return ProcessShape(
            pipeline_format,
            process.index,
            np.array(scalars + number_lists, np.int64),
            pl.DataFrame([*entries, *self._attributes(process)], schema=ENTRIES, orient="row"),
        )

    def _number_list(self, entries: list[Any] | None) -> int:
        """Return the segment that has all of a list of numbers, which may be of any length."""
        if not entries:
            return NONE if entries is None else EMPTY_LIST
        values = (self._value(entry, is_fixed=False) for entry in entries if entry is not None)
        segments = {value.segment for value in values}
        if [self._lengths.get(segment) for segment in segments] != [len(entries)]:
            raise _UnsupportedError
        return segments.pop()

    def _entries(self, column: str, values: Any) -> Iterator[_Entry]:  # noqa: ANN401
        """Yield the entries of a list or an object, as :attr:`ProcessShape.entries`."""
        if not values or (column not in MAPS and None in values):
            raise _UnsupportedError
        named = values.items() if column in MAPS else ((None, marker) for marker in values)
        for name, marker in named:
            yield column, None, name, self._segment(marker), 0, NONE

    def _attributes(self, process: Process) -> Iterator[_Entry]:
        """Yield the attributes of a process, as :attr:`ProcessShape.entries`."""
        for position, (section, path, marker) in enumerate(process.attributes):
            segment, element = self._value(marker)
            conflicting = NONE
            if position in process.conflicting:
                conflicting = self._value(process.values[process.conflicting[position]]).segment
                if conflicting < 0 or segment < 0:
                    raise _UnsupportedError
            if type(marker) is int and "null" in self._segments[segment]:
                raise _UnsupportedError
            yield _ATTRIBUTE_COLUMNS[type(marker)], section, path, segment, element, conflicting
