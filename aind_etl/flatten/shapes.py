"""Shapes: what documents with the same structure have in common.

Cut at its quotation marks, canonical JSON is a sequence of *pieces*: strings, and the punctuation,
numbers and literals between two strings. Documents that have the same pieces but for values have
one *shape*: the position of a piece determines what the contract makes of its value. A shape is
learned by giving the plain reader (:mod:`.document_reader`) a document whose values are replaced
by markers, and finding where they appear in its rows.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import orjson
import polars as pl

from aind_etl.contract import DataType
from aind_etl.flatten.columns import (
    BOUNDS,
    FITTED_NAMES,
    MAPS,
    list_paths,
    list_types,
    read_types,
    scalar_columns,
)
from aind_etl.flatten.document_reader import Process, Rejection, read_document

_SCALAR = re.compile(r'[^\[\]{},:"]+')
_NESTED = re.compile(r"[\[\]{}]")
# Markers are whole numbers from here on: in the range of every column, and not to be taken for
# the digits of a piece.
_FIRST_MARKER = 1
_LAST_MARKER = 30_000
_TEXT_MARKER = "text-"


Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]

SCALARS = tuple(read_types())
"""The columns of `analyses` that are read, in the order of the gathered frame."""

_LISTS_OF_TEXTS = frozenset(name for name, inner in list_types().items() if inner == pl.String)
RUNS = tuple(name for name in list_types() if name not in MAPS and name not in _LISTS_OF_TEXTS)
"""The columns of lists of numbers."""

EMPTY_LIST = -2


class Begins(IntEnum):
    """How a value that is no string begins; tells the kinds of JSON's values apart."""

    OTHERWISE = 0
    NUMBER = 1
    BOOLEAN = 2
    NULL = 3


BEGINS = np.zeros(256, np.uint8)
"""For each byte, what begins with it: a member of :class:`Begins`."""
for _kind, _bytes in {
    Begins.NUMBER: b"-0123456789",
    Begins.BOOLEAN: b"tf",
    Begins.NULL: b"n",
}.items():
    BEGINS[list(_bytes)] = _kind


class Edges(NamedTuple):
    """The punctuation of a piece, before and after what it holds."""

    before: str
    after: str


class ListColumn(NamedTuple):
    """A column of lists in a shape, whose entries have a piece each.

    Attributes
    ----------
    pieces
        Position of each entry's piece; -1 for one that is null.
    names
        The entries' names, for an object of the contract.
    """

    pieces: Positions
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class AttributePlaces:
    """The attributes of one kind in a shape.

    Attributes
    ----------
    sections, paths
        Where they stand, as in the table.
    pieces
        Positions of their pieces.
    elements
        Their positions among the values of the piece; -1 where it holds one value.
    overruled_by
        Positions of the pieces with the value they must differ from to be attributes; -1 for
        none.
    """

    sections: pl.Series
    paths: pl.Series
    pieces: Positions
    elements: Positions
    overruled_by: Positions


@dataclass(frozen=True, slots=True)
class ProcessShape:
    """What the contract makes of the pieces of one process.

    Attributes
    ----------
    index
        The process' position in the document.
    scalars
        For each of :data:`SCALARS`, the position of its piece; -1 for none.
    runs
        For each of :data:`RUNS`, the position of the piece with its numbers; -1 for none,
        :data:`EMPTY_LIST` for an empty list.
    lists
        Columns of lists whose entries have a piece each.
    texts, numbers, booleans
        Attributes, by the kind of their values.
    alias_from
        Where the agent's alias must be derived: positions of the pieces it follows from.
    """

    index: int
    scalars: Positions
    runs: Positions
    lists: dict[str, ListColumn]
    texts: AttributePlaces
    numbers: AttributePlaces
    booleans: AttributePlaces
    alias_from: Positions | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What documents of one shape have in common.

    Attributes
    ----------
    pipeline_format
        Their format.
    processes
        How their values are converted.
    constants
        Positions of the pieces that are the same in all of them.
    constant_hashes
        Hashes of these pieces, each with its quotation mark.
    kinds
        For each piece that is no string and no constant: position, number of bytes before its
        first value, and how that begins.
    numbers, booleans
        Positions of the pieces with one such value, by their punctuation.
    runs
        Positions of the pieces with numbers in a list, and how many there must be, or -1 for any
        number; by their punctuation.
    left
        Positions of the pieces whose values become nothing, by their punctuation.
    integers
        Positions of the pieces with whole numbers, by the column's type.
    """

    pipeline_format: str
    processes: list[ProcessShape]
    constants: Positions
    constant_hashes: np.ndarray[Any, np.dtype[np.uint64]]
    kinds: Positions
    numbers: dict[Edges, Positions]
    booleans: dict[Edges, Positions]
    runs: dict[Edges, Positions]
    left: dict[Edges, Positions]
    integers: dict[DataType, Positions]


class _Unfit(Exception):  # noqa: N818 - a finding, not an error
    """Documents of this shape are for the plain reader."""


def learn(text: str) -> Shape | None:
    """Return the shape of a document.

    Parameters
    ----------
    text
        Canonical JSON of an object, without backslashes.

    Returns
    -------
    Shape or None
        None where only the plain reader can convert such documents.
    """
    try:
        return _Learner(text).shape()
    except (_Unfit, Rejection):
        return None


class _Value(NamedTuple):
    """A value of the document that the shape is learned from."""

    piece: int
    element: int
    kind: type


class _Learner:
    """Finds the values in a document, marks them, and sees what the reader makes of the marks."""

    def __init__(self, text: str) -> None:
        if '{"$' in text:
            raise _Unfit
        # The first piece begins at the first quotation mark. The last one takes the brace of
        # the document after it along.
        self._pieces = (text[1:] + "{").split('"')[1:]
        self._values: dict[object, _Value] = {}
        self._booleans: list[tuple[int, int]] = []
        self._edges: dict[int, Edges] = {}
        self._lengths: dict[int, int] = {}
        self._kinds: list[tuple[int, int, int]] = []
        self._marked = list(self._pieces)
        self._used: set[int] = set()
        self._fixed: set[int] = set()
        self._integers: dict[DataType, list[int]] = {}
        self._boolean_at: dict[tuple[int, object], _Value] = {}
        self._find_values()

    def shape(self) -> Shape:
        """Return the shape.

        Raises
        ------
        _Unfit
            There is something in it that needs a look at each document.
        Rejection
            The reader rejects documents of this shape.
        """
        pipeline_format, processes = self._read(self._marked)
        self._find_booleans(processes)
        made = [
            self._process(pipeline_format, number, process)
            for number, process in enumerate(processes)
        ]
        varying = {value.piece for value in self._values.values()} | self._edges.keys()
        constants = [n for n in range(len(self._pieces)) if n not in varying]
        boolean = {piece for piece, _ in self._booleans}
        left = self._edges.keys() - self._used
        several = self._edges.keys() & self._lengths.keys() - left
        if several & boolean or any(self._lengths[piece] == -1 for piece in several):
            raise _Unfit
        single = self._edges.keys() - left - several
        runs = {
            edges: np.stack(
                [positions, [self._lengths[n] if n in self._fixed else -1 for n in positions]]
            )
            for edges, positions in self._by_edges(several).items()
        }
        return Shape(
            pipeline_format,
            made,
            np.array(constants, np.int64),
            pl.Series([f'"{self._pieces[n]}' for n in constants]).hash().to_numpy(),
            np.array(self._kinds, np.int64).reshape(-1, 3).T,
            self._by_edges(single - boolean),
            self._by_edges(single & boolean),
            runs,
            self._by_edges(left),
            {kind: np.array(sorted(set(found))) for kind, found in self._integers.items()},
        )

    def _by_edges(self, pieces: Iterable[int]) -> dict[Edges, Positions]:
        found: dict[Edges, list[int]] = {}
        for piece in sorted(pieces):
            found.setdefault(self._edges[piece], []).append(piece)
        return {edges: np.array(positions, np.int64) for edges, positions in found.items()}

    def _find_values(self) -> None:
        for n, piece in enumerate(self._pieces):
            if n % 2 == 0:
                if not self._pieces[n + 1].startswith(":"):
                    self._marked[n] = self._mark(n, -1, str)
                continue
            found = list(_SCALAR.finditer(piece))
            if not found or all(match[0] == "null" for match in found):
                continue
            before, after = piece[: found[0].start()], piece[found[-1].end() :]
            between = piece[found[0].start() : found[-1].end()]
            self._edges[n] = Edges(f'"{before}', after)
            self._kinds.append((n, len(before) + 1, int(BEGINS[ord(between[0])])))
            if _NESTED.search(between) is not None:
                self._lengths[n] = -1
            elif before.endswith("[") or len(found) > 1:
                self._lengths[n] = len(found)
            self._marked[n] = (
                before + self._marked_values(n, between, is_list=n in self._lengths) + after
            )

    def _marked_values(self, n: int, between: str, *, is_list: bool) -> str:
        """Return the values of a piece with markers in their places."""
        elements = iter(range(len(between)))

        def mark(match: re.Match[str]) -> str:
            element = next(elements) if is_list else -1
            if match[0] == "null":
                return "null"
            if match[0] in {"true", "false"}:
                self._booleans.append((n, element))
                return "false"
            return self._mark(n, element, float)

        return _SCALAR.sub(mark, between)

    def _mark(self, piece: int, element: int, kind: type) -> str:
        number = _FIRST_MARKER + len(self._values)
        if number > _LAST_MARKER:
            raise _Unfit
        marker: object = f"{_TEXT_MARKER}{number}" if kind is str else number
        self._values[marker] = _Value(piece, element, kind)
        return str(marker)

    @staticmethod
    def _read(pieces: list[str]) -> tuple[str, list[Process]]:
        text = '{"' + '"'.join(pieces)[:-1]
        document = orjson.loads(text)
        if "object_type" in document and "processing" not in document:
            raise _Unfit  # Its value may decide about the format.
        return read_document("", text)

    def _find_booleans(self, processes: list[Process]) -> None:
        """Find which values depend on which boolean, by setting one at a time to true.

        Values stand for themselves in what the reader gives; a boolean is found by what changes.
        """
        false = [dict(_leaves(process)) for process in processes]
        for piece, element in self._booleans:
            if element != -1:
                continue  # In a list: it may be there as long as it becomes nothing.
            pieces = list(self._marked)
            edges = self._edges[piece]
            pieces[piece] = f"{edges.before[1:]}true{edges.after}"
            _, changed = self._read(pieces)
            true = [dict(_leaves(process)) for process in changed]
            for number, (one, other) in enumerate(zip(false, true, strict=True)):
                if one.keys() != other.keys():
                    raise _Unfit
                for place, value in one.items():
                    if other[place] is not value and other[place] is True:
                        self._boolean_at[number, place] = _Value(piece, -1, bool)

    def _value_at(self, number: int, place: object, marker: object) -> _Value:
        found = (
            self._boolean_at.get((number, place))
            if isinstance(marker, bool)
            else self._values.get(marker)
            if isinstance(marker, str | int)
            else None
        )
        if found is None:
            raise _Unfit
        self._used.add(found.piece)
        return found

    def _process(self, pipeline_format: str, number: int, process: Process) -> ProcessShape:
        if process.rejected:
            raise _Unfit
        scalars = dict.fromkeys(SCALARS, -1)
        for column, paths in scalar_columns(pipeline_format):
            path = next((path for path in paths if path in process.values), None)
            if path is None:
                continue
            value = self._value_at(number, ("value", path), process.values[path])
            scalars[column.name] = value.piece
            if column.type.is_integer:
                self._integers.setdefault(column.type, []).append(value.piece)
        runs = dict.fromkeys(RUNS, -1)
        lists = {}
        for name, path in list_paths(pipeline_format).items():
            if path not in process.values:
                continue
            entries = process.values[path]
            if name in runs:
                runs[name] = self._run(number, entries) if entries else EMPTY_LIST
            else:
                lists[name] = self._list(number, name, entries)
        if FITTED_NAMES not in lists and any(runs[bound] != -1 for bound in BOUNDS):
            raise _Unfit
        alias_from = None
        if scalars["agent_alias"] == -1:
            options = process.agent_options or {}
            pieces = [
                self._value_at(number, ("option", key), value).piece
                for key, value in options.items()
                if value is not None
            ]
            pieces.append(scalars["agent_class"])
            alias_from = np.array([piece for piece in pieces if piece != -1], np.int64)
        return ProcessShape(
            process.index,
            np.array(list(scalars.values()), np.int64),
            np.array(list(runs.values()), np.int64),
            lists,
            **self._attributes(number, process),
            alias_from=alias_from,
        )

    def _run(self, number: int, entries: list[Any]) -> int:
        """Return the piece that holds all of a list of numbers, which may be of any length."""
        pieces = {
            self._value_at(number, None, entry).piece for entry in entries if entry is not None
        }
        if len(pieces) != 1:
            raise _Unfit
        (piece,) = pieces
        if self._lengths.get(piece) != len(entries):
            raise _Unfit
        return piece

    def _list(self, number: int, name: str, entries: Any) -> ListColumn:  # noqa: ANN401 - a list or an object
        values = entries.values() if name in MAPS else entries
        pieces = [
            -1 if value is None else self._value_at(number, None, value).piece for value in values
        ]
        if name not in MAPS and -1 in pieces:
            raise _Unfit
        return ListColumn(np.array(pieces, np.int64), tuple(entries) if name in MAPS else ())

    def _attributes(self, number: int, process: Process) -> dict[str, AttributePlaces]:
        """Return the attributes of a process by the kind of their values."""
        found: dict[type, list[tuple[str, str, int, int, int]]] = {str: [], float: [], bool: []}
        for position, (section, path, marker) in enumerate(process.attributes):
            value = self._value_at(number, ("attribute", position), marker)
            overruled_by = -1
            if position in process.overruled:
                first = process.overruled[position]
                overruled_by = self._value_at(number, ("value", first), process.values[first]).piece
            if value.element != -1:
                if "null" in self._pieces[value.piece]:
                    raise _Unfit
                self._fixed.add(value.piece)
            found[value.kind].append((section, path, value.piece, value.element, overruled_by))
        return {
            name: AttributePlaces(
                pl.Series([place[0] for place in places], dtype=pl.String),
                pl.Series([place[1] for place in places], dtype=pl.String),
                *np.array([place[2:] for place in places], np.int64).reshape(-1, 3).T,
            )
            for name, places in zip(("texts", "numbers", "booleans"), found.values(), strict=True)
        }


def _leaves(process: Process) -> Iterator[tuple[object, object]]:
    """Yield the place of each scalar that the reader took, and the scalar."""
    for path, value in process.values.items():
        yield ("value", path), value
    for position, attribute in enumerate(process.attributes):
        yield ("attribute", position), attribute[2]
    for key, value in (process.agent_options or {}).items():
        yield ("option", key), value
