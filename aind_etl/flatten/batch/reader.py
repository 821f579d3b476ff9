"""Parsing documents of known shapes by columns, and remembering shapes."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from aind_etl.contract import FORMATS
from aind_etl.flatten.batch.learner import learn
from aind_etl.flatten.batch.rows import Rows
from aind_etl.flatten.batch.segments import Segments, Structure
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


@dataclass(frozen=True, slots=True)
class ParsedBatch:
    """What was parsed of a batch.

    Attributes
    ----------
    processes
        As :meth:`~.columns.ProcessColumns.frame`, of either format.
    attributes
        As :meth:`~.columns.ProcessColumns.attributes`.
    unparsed
        Numbers of the documents that are left to the document reader.
    """

    processes: pl.DataFrame
    attributes: pl.DataFrame
    unparsed: list[int]


@dataclass(slots=True)
class _Known:
    """What is known of the documents with the same keys.

    Attributes
    ----------
    shapes
        Their shapes.
    n_unknown
        How many of another shape there were since the last one was learned.
    n_failures
        How often no shape could be learned.
    """

    shapes: list[Shape] = field(default_factory=list)
    n_unknown: int = 0
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


class BatchReader:
    """Parses documents of the same shape together, and remembers the shapes."""

    def __init__(self) -> None:
        self._known: dict[Structure, _Known] = {}

    def read(self, documents: pl.Series) -> ParsedBatch:
        """Parse the documents of a batch that are of a known shape.

        Parameters
        ----------
        documents
            Canonical JSON.
        """
        # Objects that are not empty, and whose strings end at the next quotation mark.
        is_plain = documents.str.starts_with('{"') & ~documents.str.contains("\\", literal=True)
        segments = Segments(documents.filter(is_plain))
        matched = self._match(segments)
        rows = Rows(segments, Values(segments, matched), matched)
        if not rows:
            nothing = ProcessColumns(FORMATS[0])
            return ParsedBatch(nothing.frame(), nothing.attributes(), list(range(len(documents))))
        processes, attributes = rows.frames()
        numbers = is_plain.arg_true().gather(processes["number"])
        is_unparsed = np.ones(len(documents), np.bool_)
        is_unparsed[numbers.to_numpy()] = False
        return ParsedBatch(
            processes.with_columns(numbers.alias("number")),
            attributes,
            np.flatnonzero(is_unparsed).tolist(),
        )

    def _match(self, segments: Segments) -> list[tuple[Shape, Positions]]:
        """Return shapes, and the documents that have their structure and types of values."""
        if len(self._known) > _MOST_STRUCTURES:
            self._known.clear()
        return [
            found
            for structure, documents in segments.by_structure()
            for found in self._match_structure(
                self._known.setdefault(structure, _Known()), documents, segments
            )
        ]

    @staticmethod
    def _match_structure(
        known: _Known, documents: Positions, segments: Segments
    ) -> Iterator[tuple[Shape, Positions]]:
        for number in range(_MOST_SHAPES):
            if number == len(known.shapes):
                known.learn(documents.size, segments.document(documents[0]))
            if number == len(known.shapes):
                return
            shape = known.shapes[number]
            matches = segments.matches(shape, documents)
            if matches.any():
                yield shape, documents[matches]
            documents = documents[~matches]
            if not documents.size:
                return
