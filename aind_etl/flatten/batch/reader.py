"""Parsing documents of known shapes by columns, and remembering shapes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import polars as pl

from aind_etl.flatten.batch.learner import learn
from aind_etl.flatten.batch.rows import read_rows
from aind_etl.flatten.batch.segments import Segments
from aind_etl.flatten.batch.shapes import Positions, Shape
from aind_etl.flatten.batch.values import Values
from aind_etl.flatten.columns import ProcessColumns

# Learning a shape takes as long as parsing this many documents one by one, so that many are parsed
# one by one first.
_WORTH_LEARNING = 12
# How many shapes are tried on documents with the same keys, and how often learning may fail.
_MOST_SHAPES = 6
_MOST_FAILURES = 3
# How many sets of keys are remembered; a collection has some hundreds.
_MOST_STRUCTURES = 5_000


@dataclass(slots=True)
class _Structure:
    """What is known of the documents with the same keys."""

    shapes: list[Shape] = field(default_factory=list)
    n_unknown: int = 0  # documents of another shape since the last one was learned
    n_failures: int = 0

    def learn(self, n_documents: int, text: str) -> None:
        """Learn the shape of a document, one of ``n_documents``, if that is worth it."""
        self.n_unknown += n_documents
        if self.n_unknown < _WORTH_LEARNING or self.n_failures == _MOST_FAILURES:
            return
        shape = learn(text)
        self.n_unknown = 0
        if shape is None:
            self.n_failures += 1
        else:
            self.shapes.append(shape)

    def match(self, documents: Positions, segments: Segments) -> Iterator[tuple[Shape, Positions]]:
        """Yield shapes and the documents that match them."""
        for number in range(_MOST_SHAPES):
            if number == len(self.shapes):
                self.learn(documents.size, segments.documents[int(documents[0])])
            if number == len(self.shapes):
                return
            matches = segments.matches(self.shapes[number], documents)
            if matches.any():
                yield self.shapes[number], documents[matches]
            documents = documents[~matches]
            if not documents.size:
                return


class BatchReader:
    """Parses documents of the same shape together, and remembers the shapes."""

    def __init__(self) -> None:
        self._structures: dict[tuple[int, int], _Structure] = {}

    def read(self, documents: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return processes and attributes of the documents that are of a known shape.

        They are as those of :class:`~..columns.ProcessColumns`; the documents are canonical JSON.
        """
        # Objects that are not empty, and whose strings end at the next quotation mark.
        is_plain = documents.str.starts_with('{"') & ~documents.str.contains("\\", literal=True)
        segments = Segments(documents.filter(is_plain))
        matched = self._match(segments)
        values = Values(segments, matched)
        blocks = [
            (process, valid)
            for shape, of_shape in matched
            if (valid := of_shape[values.is_valid[of_shape]]).size
            for process in shape.processes
        ]
        if not blocks:
            nothing = ProcessColumns()
            return nothing.frame(), nothing.attributes()
        processes, attributes = read_rows(blocks, segments.first, values)
        numbers = is_plain.arg_true().gather(processes["number"])
        return processes.with_columns(numbers.alias("number")), attributes

    def _match(self, segments: Segments) -> list[tuple[Shape, Positions]]:
        if len(self._structures) > _MOST_STRUCTURES:
            self._structures.clear()
        return [
            found
            for key, documents in segments.by_structure()
            for found in self._structures.setdefault(key, _Structure()).match(documents, segments)
        ]
