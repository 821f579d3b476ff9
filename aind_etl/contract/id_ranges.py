"""Ranges of record ids: splits that are read in parallel, and shards that are stored.

Ids are hexadecimal digits of a hash or of a random number, so ranges of equal width hold about
equally many documents.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Self

_BOUND_DIGITS = 4
_LABEL = re.compile(r"([0-9]+)-of-([0-9]+)")

MOST_RANGES = 16**_BOUND_DIGITS
"""The most splits, or shards, there can be."""


class Split(NamedTuple):
    """A range of record ids, compared as text, byte by byte.

    Shards follow from nothing but their number, so one can be read on its own, in any order and
    on any machine, and every record id there can be lies in exactly one of them.

    Attributes
    ----------
    lower
        The first record id of the range.
    upper
        The first one behind the range; None where nothing is behind it.
    """

    lower: str = ""
    upper: str | None = None

    def holds(self, record_id: str) -> bool:
        """Return whether a record id lies in the range."""
        return self.lower <= record_id and (self.upper is None or record_id < self.upper)

    def __str__(self) -> str:
        """Return the range for people."""
        return f"{self.lower or 'the first'} to {self.upper or 'the last'}"


ALL_IDS = Split()
"""The one split of a collection that is not divided."""


def splits(number: int) -> list[Split]:
    """Return so many splits, which divide hexadecimal ids evenly.

    Parameters
    ----------
    number
        How many, from 1 to :data:`MOST_RANGES`.
    """
    return [_split_range(n, number) for n in range(number)]


def _split_range(number: int, of: int) -> Split:
    """Return one of so many splits, counted from 0."""
    lower, upper = (f"{n * MOST_RANGES // of:0{_BOUND_DIGITS}x}" for n in (number, number + 1))
    return Split(lower if number else "", upper if number + 1 < of else None)


class Shard(NamedTuple):
    """One of the shards of a collection, which are worked on by themselves.

    A shard is to the lake and to Dagster what a split is to a pass: a range of record ids, but one
    that has files, a state, a lock and a partition of its own.

    Attributes
    ----------
    number, of
        Which shard, from 1, and how many there are.
    """

    number: int = 1
    of: int = 1

    @property
    def label(self) -> str:
        """The shard in names of files and partitions: ``3-of-8``, ``03-of-16``."""
        return f"{self.number:0{len(str(self.of))}}-of-{self.of}"

    @classmethod
    def from_label(cls, label: str) -> Self | None:
        """Return the shard of a label; None where the text is none."""
        match = _LABEL.fullmatch(label)
        if match is None:
            return None
        shard = cls(int(match[1]), int(match[2]))
        is_shard = 1 <= shard.number <= shard.of <= MOST_RANGES and shard.label == label
        return shard if is_shard else None

    @property
    def ids(self) -> Split:
        """The record ids of the shard."""
        return _split_range(self.number - 1, self.of)

    def splits(self, number: int) -> list[Split]:
        """Return so many splits, or as many as there can be, that make up the shard."""
        within = min(number, MOST_RANGES // self.of)
        first = (self.number - 1) * within
        return [_split_range(first + n, self.of * within) for n in range(within)]


UNSHARDED = Shard()
"""The one shard of a collection that is not divided."""


def shards(of: int) -> Iterator[Shard]:
    """Yield so many shards, in the order of the ids they hold."""
    return (Shard(number, of) for number in range(1, of + 1))
