"""Documents of one shape are parsed together, without a Python object per value.

A batch of canonical JSON is split into pieces, documents of a known shape are found, and their
pieces become columns as :class:`~.columns.Gathered` returns them. A document that differs from its
shape in any way (another type, a number out of range, lists of different lengths) is left to the
plain reader, which alone rejects values.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from aind_etl.flatten.columns import (
    FITTED_NAMES,
    MAPS,
    PARALLEL_LISTS,
    list_types,
    lists_of,
    read_types,
    scalar_columns,
)
from aind_etl.flatten.derived import agent_alias
from aind_etl.flatten.document_reader import LARGEST_EXACT, LONGEST_LIST, read_document
from aind_etl.flatten.shapes import (
    BEGINS,
    RUNS,
    AttributePlaces,
    Edges,
    Positions,
    Shape,
    learn,
)

_Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
_Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
_Key: TypeAlias = tuple[int, int]

_QUOTATION_MARK, _COLON = ord('"'), ord(":")
# Learning a shape costs as much as reading this many documents one by one: so many of its keys
# are read that way before it is learned.
_WORTH_LEARNING = 12
# How many shapes are tried on documents with the same keys, and learned from in vain.
_TRIES = 6
_REFUSALS = 3
# How many sets of keys are remembered; a collection has some hundreds.
_REMEMBERED = 5_000


@dataclass(frozen=True, slots=True)
class Taken:
    """What was taken from a batch of documents together.

    Attributes
    ----------
    frame
        As :meth:`~.gathering.Gathered.frame`, of either format.
    attributes
        As :meth:`~.gathering.Gathered.attributes`.
    left
        Numbers of the documents that the plain reader must look at.
    """

    frame: pl.DataFrame
    attributes: pl.DataFrame
    left: list[int]


class ShapeReader:
    """Parses documents of one shape together, and remembers the shapes it has seen."""

    def __init__(self) -> None:
        self._shapes: dict[_Key, list[Shape]] = {}
        self._met: Counter[_Key] = Counter()
        self._refused: Counter[_Key] = Counter()

    def take(self, documents: pl.Series) -> Taken:
        """Take a batch of documents apart, as far as they are of shapes that repeat.

        Parameters
        ----------
        documents
            Canonical JSON, by number.
        """
        # An object that is not empty, and whose strings end at the next quotation mark.
        is_plain = documents.str.starts_with('{"') & ~documents.str.contains("\\", literal=True)
        pieces = _Pieces(documents.filter(is_plain))
        matched = self._match(pieces)
        values = _Values(pieces, matched)
        blocks = [
            (shape, sound)
            for shape, found in matched
            if (sound := found[values.is_sound[found]]).size
        ]
        rows = _Rows(pieces, values, blocks)
        frame, attributes = rows.frame(), rows.attributes()
        numbers = is_plain.arg_true().to_numpy()
        frame = frame.with_columns(pl.Series("number", numbers[frame["number"]], pl.UInt32))
        left = np.ones(documents.len(), np.bool_)
        left[frame["number"].to_numpy()] = False
        return Taken(frame, attributes, np.flatnonzero(left).tolist())

    def _match(self, pieces: "_Pieces") -> list[tuple[Shape, Positions]]:
        """Return shapes, and the documents that are of them but perhaps for their values."""
        if len(self._shapes) > _REMEMBERED:
            self._shapes.clear()
            self._met.clear()
            self._refused.clear()
        matched: list[tuple[Shape, Positions]] = []
        pending = list(pieces.alike())
        for number in range(_TRIES):
            tried = []
            for key, documents in pending:
                known = self._shapes.setdefault(key, [])
                if number == len(known):
                    self._met[key] += documents.size
                    if self._met[key] >= _WORTH_LEARNING:
                        self._learn(key, pieces.text(documents[0]))
                if number < len(known):
                    tried.append((key, known[number], documents))
            pending = []
            fits = pieces.fit([(shape, documents) for _, shape, documents in tried])
            for (key, shape, documents), fit in zip(tried, fits, strict=True):
                if fit.any():
                    matched.append((shape, documents[fit]))
                if not fit.all():
                    pending.append((key, documents[~fit]))
            if not pending:
                break
        return matched

    def _learn(self, key: _Key, text: str) -> None:
        if self._refused[key] == _REFUSALS:
            return
        shape = learn(text)
        self._met[key] = 0
        if shape is None:
            self._refused[key] += 1
        else:
            self._shapes[key].append(shape)


class _Pieces:
    """A batch of documents, cut at the quotation marks.

    Attributes
    ----------
    first
        Position of the first piece of each document, and of the one after the last.
    texts
        The pieces, each with its quotation mark. Those at even positions are strings.
    """

    def __init__(self, documents: pl.Series) -> None:
        self._documents = documents
        # The last piece of each document takes the brace of the next one along.
        whole = pl.concat([documents, pl.Series(['{"'], dtype=pl.String)]).rechunk()
        _, offsets, data = whole.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
        ends = np.frombuffer(offsets, np.int64)[: whole.len() + 1]
        self._bytes = np.frombuffer(data, np.uint8)[: ends[-1]]
        self._marks = np.flatnonzero(self._bytes == _QUOTATION_MARK)
        self.first: Positions = np.searchsorted(self._marks, ends[:-1])
        count = len(self._marks) - 1
        self.texts = pl.Series(
            pa.LargeStringArray.from_buffers(count, pa.py_buffer(self._marks), data)
        )
        self._hashes = self.texts.hash().to_numpy()

    def text(self, document: int) -> str:
        """Return the text of a document."""
        return self._documents[int(document)]  # type: ignore[no-any-return]

    def alike(self) -> Iterator[tuple[_Key, Positions]]:
        """Yield the documents that have the same keys and as many pieces, and what they share."""
        if not self._documents.len():
            return
        first = self.first[:-1]
        counts = np.diff(self.first)
        is_key = self._bytes[self._marks[1::2] + 1] == _COLON
        hashes = self._hashes[::2] * is_key
        places = np.arange(len(hashes)) - np.repeat(first // 2, counts // 2)
        sums = np.add.reduceat(hashes * (2 * places + 1).astype(np.uint64), first // 2)
        sums ^= counts.astype(np.uint64)
        order = np.argsort(sums, kind="stable")
        borders = np.flatnonzero(np.diff(sums[order])) + 1
        for documents in np.split(order, borders):
            yield (int(counts[documents[0]]), int(sums[documents[0]])), documents

    def fit(self, tried: list[tuple[Shape, Positions]]) -> Iterator[_Flags]:
        """Yield, for shapes and documents, which documents have the shape's constant pieces.

        Pieces are compared by hashes of 64 bits.
        """
        for shape, documents in tried:
            same = self._hashes[self._places(documents, shape.constants)] == shape.constant_hashes
            fits = same.all(axis=1)
            pieces, before, kind = shape.kinds
            begins = self._marks[self._places(documents, pieces)] + before
            # A document that differs may be shorter.
            begins = np.minimum(begins, len(self._bytes) - 1)
            yield fits & (BEGINS[self._bytes[begins]] == kind).all(axis=1)

    def _places(self, documents: Positions, pieces: Positions) -> Positions:
        return self.first[documents][:, None] + pieces

    def owners(self, pieces: Positions) -> Positions:
        """Return the documents that pieces belong to."""
        return np.searchsorted(self.first, pieces, side="right") - 1

    def stripped(self, pieces: Positions, edges: Edges) -> pl.Series:
        """Return what pieces hold; where they have other punctuation, some of it is left."""
        texts = self.texts.gather(pieces)
        return texts.str.strip_prefix(edges.before).str.strip_suffix(edges.after)

    def strings(self, pieces: Positions) -> pl.Series:
        """Return strings; NULL for negative positions."""
        places = pl.Series(pieces)
        if len(pieces) and pieces.min() < 0:
            places = places.set(places < 0, None)
        return self.texts.gather(places).str.strip_prefix('"')


class _Values:
    """The values of a batch that are no strings, by the positions of their pieces.

    Attributes
    ----------
    is_sound
        For each document, whether all its values are of the kind that its shape says.
    """

    def __init__(self, pieces: _Pieces, matched: list[tuple[Shape, Positions]]) -> None:
        self._pieces = pieces
        self._matched = matched
        self.is_sound: _Flags = np.ones(len(pieces.first) - 1, np.bool_)
        half = len(pieces.texts) // 2
        self._numbers: _Floats = np.full(half, np.nan)
        self._run_begins: Positions = np.zeros(half, np.int64)
        self._run_lengths: Positions = np.zeros(half, np.int64)
        self._run_values: _Floats = np.empty(0)
        self._read_numbers()
        self._read_booleans()
        self._read_runs()
        self._check_left()
        self._check_integers()

    def single(self, pieces: Positions) -> _Floats:
        """Return numbers, and booleans as 0 and 1; NaN for negative positions."""
        numbers: _Floats = np.where(pieces < 0, np.nan, self._numbers[pieces >> 1])
        return numbers

    def element(self, pieces: Positions, elements: Positions) -> _Floats:
        """Return numbers out of lists."""
        values: _Floats = self._run_values[self._run_begins[pieces >> 1] + elements]
        return values

    def runs(self, pieces: Positions) -> tuple[Positions, _Floats]:
        """Return the lengths and, one after the other, the numbers of lists."""
        lengths = np.where(pieces < 0, 0, self._run_lengths[pieces >> 1])
        ends = np.cumsum(lengths)
        begins = self._run_begins[pieces >> 1] - (ends - lengths)
        total = int(ends[-1]) if len(ends) else 0
        return lengths, self._run_values[np.repeat(begins, lengths) + np.arange(total)]

    def _places(self, filed: str) -> Iterator[tuple[Edges, Positions, Positions]]:
        """Yield the pieces filed alike in their shapes, by punctuation, and their lengths."""
        found: dict[Edges, list[tuple[Positions, Positions]]] = {}
        for shape, documents in self._matched:
            first = self._pieces.first[documents][:, None]
            for edges, positions in getattr(shape, filed).items():
                pieces, lengths = positions if positions.ndim > 1 else (positions, positions)
                found.setdefault(edges, []).append(
                    ((first + pieces).ravel(), np.tile(lengths, len(documents)))
                )
        for edges, parts in found.items():
            places, lengths = zip(*parts, strict=True)
            yield edges, np.concatenate(places), np.concatenate(lengths)

    def _reject(self, pieces: Positions) -> None:
        self.is_sound[self._pieces.owners(pieces)] = False

    def _read_numbers(self) -> None:
        for edges, pieces, _ in self._places("numbers"):
            numbers = _to_floats(self._pieces.stripped(pieces, edges))
            self._numbers[pieces >> 1] = numbers
            self._reject(pieces[~_is_exact(numbers)])

    def _read_booleans(self) -> None:
        for edges, pieces, _ in self._places("booleans"):
            words = self._pieces.stripped(pieces, edges)
            is_true = (words == "true").to_numpy()
            self._numbers[pieces >> 1] = is_true
            self._reject(pieces[~is_true & (words != "false").to_numpy()])

    def _read_runs(self) -> None:
        parts = []
        begin = 0
        for edges, pieces, expected in self._places("runs"):
            words = self._pieces.stripped(pieces, edges).str.split(",")
            lengths = words.list.len().to_numpy().astype(np.int64)
            words = words.explode()
            values = _to_floats(words)
            ends = begin + np.cumsum(lengths)
            self._run_begins[pieces >> 1] = ends - lengths
            self._run_lengths[pieces >> 1] = lengths
            owners = np.repeat(np.arange(len(pieces)), lengths)
            missing = np.isnan(values)
            is_word = missing & (words != "null").to_numpy()
            self._reject(pieces[owners[is_word]])
            # What becomes an attribute is as long as the shape says, and has no gaps.
            is_fixed = expected != -1
            self._reject(pieces[is_fixed & (lengths != expected)])
            self._reject(pieces[owners[~_is_exact(values) & is_fixed[owners]]])
            parts.append(values)
            begin += len(values)
        self._run_values = np.concatenate(parts) if parts else np.empty(0)

    def _check_left(self) -> None:
        for edges, pieces, _ in self._places("left"):
            texts = self._pieces.texts.gather(pieces)
            inner = texts.str.strip_prefix(edges.before).str.strip_suffix(edges.after)
            fits = texts.str.ends_with(edges.after) & ~inner.str.contains('["{}]')
            self._reject(pieces[~fits.to_numpy()])

    def _check_integers(self) -> None:
        for shape, documents in self._matched:
            first = self._pieces.first[documents][:, None]
            for data_type, positions in shape.integers.items():
                pieces = (first + positions).ravel()
                values = self._numbers[pieces >> 1]
                smallest, largest = data_type.integer_range
                fits = (values >= smallest) & (values <= largest) & (np.floor(values) == values)
                self._reject(pieces[~fits])


class _Rows:
    """One row per process of the documents that were matched, and one an attribute."""

    def __init__(
        self, pieces: _Pieces, values: _Values, blocks: list[tuple[Shape, Positions]]
    ) -> None:
        self._pieces = pieces
        self._values = values
        self._blocks = [
            (shape, process, documents, pieces.first[documents][:, None])
            for shape, documents in blocks
            for process in shape.processes
        ]
        self._kept: _Flags | None = None

    def frame(self) -> pl.DataFrame:
        """Return the processes; ``number`` is the document's among those cut into pieces."""
        if not self._blocks:
            return _nothing()
        scalars = self._matrix([process.scalars for _, process, _, _ in self._blocks])
        runs = self._matrix([process.runs for _, process, _, _ in self._blocks])
        sizes = [len(documents) for _, _, documents, _ in self._blocks]
        numbers = np.concatenate([documents for _, _, documents, _ in self._blocks])
        indices = np.repeat([process.index for _, process, _, _ in self._blocks], sizes)
        formats = pl.Series([shape.pipeline_format for shape, _, _, _ in self._blocks])
        columns = [
            pl.Series("number", numbers, pl.UInt32),
            pl.Series("process_index", indices, pl.Int16),
            formats.gather(np.repeat(np.arange(len(sizes)), sizes)).alias("pipeline_format"),
            self._aliases(),
        ]
        for number, (name, data_type) in enumerate(read_types().items()):
            columns.append(self._scalar(scalars[:, number], data_type).alias(name))
        lists = {name: self._run(runs[:, number]) for number, name in enumerate(RUNS)}
        for name in list_types():
            if name not in RUNS and not name.endswith("_name"):
                lists |= self._list(name)
        frame = pl.DataFrame(columns + [lists[name].alias(f"{name}_list") for name in list_types()])
        return self._checked(frame)

    def attributes(self) -> pl.DataFrame:
        """Return the attributes of the processes that :meth:`frame` returned before."""
        parts = [
            self._attributes_of("texts", "value_text"),
            self._attributes_of("numbers", "value_number"),
            self._attributes_of("booleans", "value_boolean"),
        ]
        found = pl.concat(parts, how="diagonal")
        if self._kept is not None:
            rows = found["row"].to_numpy()
            is_kept = self._kept[rows]
            positions = (np.cumsum(self._kept) - 1)[rows[is_kept]]
            found = found.filter(pl.Series(is_kept)).with_columns(
                pl.Series("row", positions, pl.UInt32)
            )
        return found.select(_ATTRIBUTES)

    def _matrix(self, positions: list[Positions]) -> Positions:
        """Return pieces, a row per process and a column a position of its shape."""
        return np.concatenate(
            [
                np.where(some < 0, some, first + some)
                for some, (_, _, _, first) in zip(positions, self._blocks, strict=True)
            ]
        )

    def _scalar(self, pieces: Positions, data_type: pl.DataType) -> pl.Series:
        if (pieces < 0).all():
            return pl.Series([None], dtype=data_type).new_from_index(0, len(pieces))
        if data_type == pl.String:
            return self._pieces.strings(pieces)
        values = pl.Series(self._values.single(pieces), nan_to_null=True)
        return (values == 1) if data_type == pl.Boolean else values.cast(data_type)

    def _run(self, pieces: Positions) -> pl.Series:
        lengths, values = self._values.runs(pieces)
        return _lists(lengths, pl.Series(values, nan_to_null=True), pieces == -1)

    def _list(self, name: str) -> dict[str, pl.Series]:
        """Return a column of lists whose entries have a piece each; of a map, the names too."""
        lengths, places, names, is_missing = [], [], [], []
        known: list[str] = []
        base = 0
        for _, process, documents, first in self._blocks:
            column = process.lists.get(name)
            count = len(documents)
            is_missing.append(np.full(count, column is None))
            size = 0 if column is None else len(column.pieces)
            lengths.append(np.full(count, size))
            if column is not None and size:
                places.append(np.where(column.pieces < 0, -1, first + column.pieces).ravel())
                if column.names:
                    known.extend(column.names)
                    names.append(np.tile(np.arange(base, base + size), count))
                    base += size
        length, missing = np.concatenate(lengths), np.concatenate(is_missing)
        pieces = _joined(places)
        if name not in MAPS:
            return {name: _lists(length, self._pieces.strings(pieces), missing)}
        numbers = pl.Series(self._values.single(pieces), nan_to_null=True, dtype=pl.Float64)
        texts = pl.Series(known, dtype=pl.String).gather(_joined(names))
        return {
            name: _lists(length, numbers, missing),
            f"{name}_name": _lists(length, texts, missing),
        }

    def _aliases(self) -> pl.Series:
        """Return the aliases of agents that documents do not give."""
        aliases: list[str | None] = []
        known: dict[tuple[object, ...], str | None] = {}
        for number, (_, process, documents, first) in enumerate(self._blocks):
            if process.alias_from is None:
                aliases += [None] * len(documents)
                continue
            texts = self._pieces.texts.gather((first + process.alias_from).ravel()).to_list()
            width = len(process.alias_from)
            for position, document in enumerate(documents):
                key = (number, *texts[position * width : (position + 1) * width])
                if key not in known:
                    known[key] = self._alias(document, process.index)
                aliases.append(known[key])
        return pl.Series("derived_alias", aliases, pl.String)

    def _alias(self, document: int, process_index: int) -> str | None:
        pipeline_format, processes = read_document("", self._pieces.text(document))
        process = next(one for one in processes if one.index == process_index)
        paths = next(
            paths
            for column, paths in scalar_columns(pipeline_format)
            if column.name == "agent_class"
        )
        agent_class = next((process.values[path] for path in paths if path in process.values), None)
        return agent_alias(agent_class, process.agent_options)

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the processes whose lists the plain reader would not look at again."""
        unfit = pl.any_horizontal(
            pl.col(f"{name}_list").list.len() > LONGEST_LIST for name in list_types()
        )
        names = pl.col(f"{FITTED_NAMES}_list")
        unfit |= names.list.n_unique() != names.list.len()
        for parallel in PARALLEL_LISTS:
            lengths = [pl.col(f"{name}_list").list.len() for name in parallel]
            unfit |= pl.min_horizontal(lengths) != pl.max_horizontal(lengths)
        unfit = pl.col("number").is_in(
            pl.col("number").filter(unfit.fill_null(value=False)).implode()
        )
        is_unfit = frame.select(unfit).to_series()
        if is_unfit.any():
            self._kept = (~is_unfit).to_numpy()
            frame = frame.filter(~is_unfit)
        return frame.with_columns(
            _filled(name, parallel) for parallel in PARALLEL_LISTS for name in parallel
        )

    def _attributes_of(self, kind: str, column: str) -> pl.DataFrame:
        rows, codes, pieces, elements, overruled = [], [], [], [], []
        places: list[AttributePlaces] = []
        row = base = 0
        for _, process, documents, first in self._blocks:
            some: AttributePlaces = getattr(process, kind)
            count, size = len(documents), len(some.pieces)
            if size:
                places.append(some)
                rows.append(np.repeat(np.arange(row, row + count), size))
                codes.append(np.tile(np.arange(base, base + size), count))
                pieces.append((first + some.pieces).ravel())
                elements.append(np.tile(some.elements, count))
                by = some.overruled_by
                overruled.append(np.where(by < 0, -1, first + by).ravel())
                base += size
            row += count
        if not places:
            return _nothing_of(column)
        place, element, by = _joined(pieces), _joined(elements), _joined(overruled)
        code = _joined(codes)
        found = pl.DataFrame(
            {
                "row": pl.Series(_joined(rows), dtype=pl.UInt32),
                "section": pl.concat([some.sections for some in places]).gather(code),
                "path": pl.concat([some.paths for some in places]).gather(code),
                column: self._attribute_values(column, place, element),
            }
        )
        ruled = np.flatnonzero(by >= 0)
        if not len(ruled):
            return found
        # A value in a second place is one only where it differs from the first.
        differs = np.ones(len(by), np.bool_)
        first_values = self._attribute_values(column, by[ruled], np.full(len(ruled), -1))
        differs[ruled] = (found[column].gather(ruled) != first_values).to_numpy()
        return found.filter(pl.Series(differs))

    def _attribute_values(self, column: str, pieces: Positions, elements: Positions) -> pl.Series:
        if column == "value_text":
            return self._pieces.strings(pieces)
        values = self._values.single(pieces)
        if column == "value_boolean":
            return pl.Series(values == 1)
        in_lists = np.flatnonzero(elements >= 0)
        values[in_lists] = self._values.element(pieces[in_lists], elements[in_lists])
        return pl.Series(values)


_ATTRIBUTES = ("row", "section", "path", "value_text", "value_number", "value_boolean")


def _nothing() -> pl.DataFrame:
    """Return the frame of no processes."""
    columns = {
        "number": pl.UInt32(),
        "process_index": pl.Int16(),
        "pipeline_format": pl.String(),
        "derived_alias": pl.String(),
        **read_types(),
        **{f"{name}_list": pl.List(inner) for name, inner in list_types().items()},
    }
    return pl.DataFrame(schema=columns)


def _nothing_of(column: str) -> pl.DataFrame:
    types = {"value_text": pl.String(), "value_number": pl.Float64(), "value_boolean": pl.Boolean()}
    return pl.DataFrame(
        schema={
            "row": pl.UInt32(),
            "section": pl.String(),
            "path": pl.String(),
            column: types[column],
        }
    )


def _to_floats(words: pl.Series) -> _Floats:
    """Return the numbers that JSON writes so; NaN for other words."""
    return words.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _is_exact(numbers: _Floats) -> _Flags:
    """Return which are numbers, and hold all digits of an integer."""
    return np.abs(numbers) <= LARGEST_EXACT  # False for NaN.


def _joined(parts: list[Positions]) -> Positions:
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def _lists(lengths: Positions, values: pl.Series, is_missing: _Flags) -> pl.Series:
    ends = np.concatenate([[0], np.cumsum(lengths)])
    return lists_of(pl.Series(ends, dtype=pl.Int64), values, pl.Series(is_missing))


def _filled(name: str, parallel: Iterable[str]) -> pl.Expr:
    """Return a column of lists in which one that is missing beside others is one of nothing."""
    column = pl.col(f"{name}_list")
    length = pl.coalesce(pl.col(f"{other}_list").list.len() for other in parallel)
    nothing = pl.lit(None, list_types()[name]).repeat_by(length)
    is_absent = column.is_null() & length.is_not_null()
    return pl.when(is_absent).then(nothing).otherwise(column).alias(f"{name}_list")
