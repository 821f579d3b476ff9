"""A batch of documents, cut into segments."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa

from aind_etl.flatten.batch.shapes import Affixes, Positions, Shape

Floats: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Flags: TypeAlias = np.ndarray[Any, np.dtype[np.bool_]]
# Bytes, in which every first byte of a number is the same.
_KINDS = np.arange(256, dtype=np.uint64)
_KINDS[list(b"-123456789")] = ord("0")


class Segments:
    """The segments of canonical JSON of objects that are not empty and have no backslashes.

    ``first`` are the positions of the first segment of each document, and of the one after the
    last. ``texts`` are the segments, each with its quotation mark; those at even positions are
    strings.
    """

    def __init__(self, documents: pl.Series) -> None:
        self.documents = documents
        # The last segment of each document also contains the opening brace of the next one.
        whole = pl.concat([documents, pl.Series(['{"'], dtype=pl.String)]).rechunk()
        _, offsets, data = whole.to_arrow(compat_level=pl.CompatLevel.oldest()).buffers()
        ends = np.frombuffer(offsets, np.int64)[: whole.len() + 1]
        self._bytes = np.frombuffer(data, np.uint8)[: ends[-1]]
        self._marks = np.flatnonzero(self._bytes == ord('"'))
        self.first: Positions = np.searchsorted(self._marks, ends[:-1])
        self.texts = pl.Series(
            pa.LargeStringArray.from_buffers(len(self._marks) - 1, pa.py_buffer(self._marks), data)
        )
        self._hashes = self.texts.hash().to_numpy()

    def by_structure(self) -> Iterator[tuple[tuple[int, int], Positions]]:
        """Group the documents with the same keys, whose values begin alike, by a hash of these."""
        if not self.documents.len():
            return
        first = self.first[:-1]
        counts = np.diff(self.first)
        # What follows a string: for a key, a colon, the value, and the first entry of a list.
        colon, value, entry = (
            self._bytes[np.minimum(self._marks[1::2] + n, len(self._bytes) - 1)] for n in (1, 2, 3)
        )
        kinds = _KINDS[value] + 256 * _KINDS[entry] * (value == ord("["))
        # The odd number spreads the kinds over all bits.
        hashes = (self._hashes[::2] + kinds * 0x9E3779B97F4A7C15) * (colon == ord(":"))
        places = np.arange(len(hashes)) - np.repeat(first // 2, counts // 2)
        sums = np.add.reduceat(hashes * (2 * places + 1).astype(np.uint64), first // 2)
        sums ^= counts.astype(np.uint64)
        order = np.argsort(sums, kind="stable")
        borders = np.flatnonzero(np.diff(sums[order])) + 1
        for documents in np.split(order, borders):
            yield (int(counts[documents[0]]), int(sums[documents[0]])), documents

    def matches(self, shape: Shape, documents: Positions) -> Flags:
        """Return which documents have the constant segments of a shape, by hashes of 64 bits."""
        hashes = self._hashes[self.first[documents][:, None] + shape.constants]
        matches: Flags = (hashes == shape.constant_hashes).all(axis=1)
        return matches

    def inner(self, segments: Positions, affixes: Affixes) -> pl.Series:
        """Return segments without their affixes; if these differ, some punctuation is left."""
        texts = self.texts.gather(segments)
        return texts.str.strip_prefix(affixes.prefix).str.strip_suffix(affixes.suffix)
