"""The values of a batch."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import polars as pl

from aind_etl.flatten.batch.segments import Flags, Floats, Segments
from aind_etl.flatten.batch.shapes import NONE, TRUE, Affixes, Positions, Shape
from aind_etl.flatten.columns import list_series
from aind_etl.flatten.conversion import LARGEST_EXACT


class Values:
    """The values of documents, by the positions of their segments in the batch.

    ``is_valid`` says for each document whether it has numbers where its shape has.
    """

    def __init__(self, segments: Segments, matched: list[tuple[Shape, Positions]]) -> None:
        self._segments = segments
        self._matched = matched
        self.is_valid: Flags = np.ones(len(segments.first) - 1, np.bool_)
        # Every other segment is a string.
        self._lengths: Positions = np.zeros(len(segments.texts) // 2, np.int64)
        self._begins = np.zeros_like(self._lengths)
        # What has no number begins at the first one.
        self._numbers: Floats = np.array([np.nan])
        self._read_numbers()
        self._check_ignored()

    def series(
        self, segments: Positions, data_type: pl.DataType, elements: Positions | int = 0
    ) -> pl.Series:
        """Return a value of each segment, or its list of numbers; NULL for :data:`NONE`."""
        is_missing = pl.Series(segments == NONE)
        if data_type == pl.String:
            positions = pl.Series(segments).set(is_missing, None)
            return self._segments.texts.gather(positions).str.strip_prefix('"')
        if data_type == pl.Boolean:
            return pl.Series(segments == TRUE).set(is_missing, None)
        begins = self._begins[segments >> 1]
        if data_type != pl.List:
            numbers = np.where(segments < 0, np.nan, self._numbers[begins + elements])
            return pl.Series(numbers, nan_to_null=True)
        lengths = np.where(segments < 0, 0, self._lengths[segments >> 1])
        begins -= np.cumsum(lengths) - lengths
        numbers = self._numbers[np.repeat(begins, lengths) + np.arange(lengths.sum())]
        return list_series("", lengths, pl.Series(numbers, nan_to_null=True), is_missing)

    def _segments_of(self, kind: str) -> Iterator[tuple[Affixes, Positions, Positions]]:
        """Yield affixes, segments and numbers of values of a field of the shapes."""
        found: defaultdict[Affixes, list[Positions]] = defaultdict(list)
        for shape, documents in self._matched:
            first = self._segments.first[documents][:, None]
            for affixes, (segments, lengths) in getattr(shape, kind).items():
                in_batch = (first + segments).ravel()
                found[affixes].append(np.stack([in_batch, np.tile(lengths, len(documents))]))
        for affixes, parts in found.items():
            segments, lengths = np.hstack(parts)
            yield affixes, segments, lengths

    def _reject(self, segments: Positions) -> None:
        documents = np.searchsorted(self._segments.first, segments, side="right") - 1
        self.is_valid[documents] = False

    def _read_numbers(self) -> None:
        parts = [self._numbers]
        begin = 1
        for affixes, segments, expected in self._segments_of("numbers"):
            words = self._segments.inner(segments, affixes)
            lengths = np.ones(len(segments), np.int64)
            if (expected != 1).any():
                lists = words.str.split(",")
                lengths = lists.list.len().to_numpy().astype(np.int64)
                words = lists.explode()
            # NaN for words that are not numbers.
            numbers = words.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
            self._begins[segments >> 1] = begin + np.cumsum(lengths) - lengths
            self._lengths[segments >> 1] = lengths
            owners = np.repeat(np.arange(len(segments)), lengths)
            is_word = np.isnan(numbers) & (words != "null").to_numpy()
            # A given number of values has no nulls, and all digits of an integer. The next larger
            # integer becomes the largest exact float as well.
            is_fixed = expected != -1
            is_inexact = ~(np.abs(numbers) < LARGEST_EXACT) & is_fixed[owners]
            self._reject(segments[owners[is_word | is_inexact]])
            self._reject(segments[is_fixed & (lengths != expected)])
            parts.append(numbers)
            begin += len(numbers)
        self._numbers = np.concatenate(parts)

    def _check_ignored(self) -> None:
        for affixes, segments, _ in self._segments_of("ignored"):
            has_suffix = self._segments.texts.gather(segments).str.ends_with(affixes.suffix)
            inner = self._segments.inner(segments, affixes)
            self._reject(segments[~(has_suffix & ~inner.str.contains('["{}]')).to_numpy()])
