"""The numbers of a batch."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl

from aind_etl.flatten.batch.segments import Flags, Floats, Segments
from aind_etl.flatten.batch.shapes import Affixes, Positions, Shape
from aind_etl.flatten.conversion import LARGEST_EXACT


class Values:
    """The numbers of documents, by the positions of their segments in the batch.

    Attributes
    ----------
    is_valid
        For each document, whether it has numbers where its shape has.
    """

    def __init__(self, segments: Segments, matched: list[tuple[Shape, Positions]]) -> None:
        self._segments = segments
        self._matched = matched
        self.is_valid: Flags = np.ones(len(segments.first) - 1, np.bool_)
        # Every other segment is a string.
        count = len(segments.texts) // 2
        self._singles: Floats = np.full(count, np.nan)
        self._list_begins: Positions = np.zeros(count, np.int64)
        self._list_lengths: Positions = np.zeros(count, np.int64)
        self._list_values: Floats = np.empty(0)
        self._read_numbers()
        self._read_number_lists()
        self._check_ignored()

    def singles(self, segments: Positions) -> Floats:
        """Return single numbers; NaN for negative positions."""
        values: Floats = np.where(segments < 0, np.nan, self._singles[segments >> 1])
        return values

    def elements(self, segments: Positions, elements: Positions) -> Floats:
        """Return one number of each of several lists."""
        values: Floats = self._list_values[self._list_begins[segments >> 1] + elements]
        return values

    def lists(self, segments: Positions) -> tuple[Positions, Floats]:
        """Return the lengths of lists, 0 for negative positions, and all their numbers."""
        lengths = np.where(segments < 0, 0, self._list_lengths[segments >> 1])
        begins = self._list_begins[segments >> 1] - (np.cumsum(lengths) - lengths)
        return lengths, self._list_values[np.repeat(begins, lengths) + np.arange(lengths.sum())]

    def _segments_of(self, kind: str) -> Iterator[tuple[Affixes, Positions, Positions]]:
        """Yield affixes, segments and (of number lists) lengths of a field of the shapes."""
        found: defaultdict[Affixes, list[tuple[Positions, Positions]]] = defaultdict(list)
        for shape, documents in self._matched:
            first = self._segments.first[documents][:, None]
            for affixes, positions in getattr(shape, kind).items():
                segments, lengths = positions if positions.ndim > 1 else (positions, positions)
                found[affixes].append(
                    ((first + segments).ravel(), np.tile(lengths, len(documents)))
                )
        for affixes, parts in found.items():
            segments, lengths = map(np.concatenate, zip(*parts, strict=True))
            yield affixes, segments, lengths

    def _reject(self, segments: Positions) -> None:
        self.is_valid[self._segments.documents_of(segments)] = False

    def _read_numbers(self) -> None:
        for affixes, segments, _ in self._segments_of("numbers"):
            numbers = _to_floats(self._segments.inner(segments, affixes))
            self._singles[segments >> 1] = numbers
            self._reject(segments[~_is_exact(numbers)])

    def _read_number_lists(self) -> None:
        parts = []
        begin = 0
        for affixes, segments, expected in self._segments_of("number_lists"):
            words = self._segments.inner(segments, affixes).str.split(",")
            lengths = words.list.len().to_numpy().astype(np.int64)
            words = words.explode()
            values = _to_floats(words)
            self._list_begins[segments >> 1] = begin + np.cumsum(lengths) - lengths
            self._list_lengths[segments >> 1] = lengths
            owners = np.repeat(np.arange(len(segments)), lengths)
            is_word = np.isnan(values) & (words != "null").to_numpy()
            self._reject(segments[owners[is_word]])
            # Lists that become attributes have the length of the shape, and no nulls.
            is_fixed = expected != -1
            self._reject(segments[is_fixed & (lengths != expected)])
            self._reject(segments[owners[~_is_exact(values) & is_fixed[owners]]])
            parts.append(values)
            begin += len(values)
        self._list_values = np.concatenate([self._list_values, *parts])

    def _check_ignored(self) -> None:
        for affixes, segments, _ in self._segments_of("ignored"):
            has_suffix = self._segments.texts.gather(segments).str.ends_with(affixes.suffix)
            inner = self._segments.inner(segments, affixes)
            self._reject(segments[~(has_suffix & ~inner.str.contains('["{}]')).to_numpy()])


def _to_floats(words: pl.Series) -> Floats:
    """Return the numbers that words of JSON stand for; NaN for other words."""
    return words.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _is_exact(numbers: Floats) -> Flags:
    """Return which are numbers that have all digits of an integer."""
    # False for NaN, and for the next larger integer, which becomes this float as well.
    return np.abs(numbers) < LARGEST_EXACT
