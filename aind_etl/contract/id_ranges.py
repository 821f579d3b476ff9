"""Ranges of record ids, and the parts that a large collection is divided into.

Here belongs which record id lies in which range. How a collection is read in shards, and what the
files of a part are called, is not for here.

Both kinds of ``_id`` there are hexadecimal digits of a hash or of a random number, so ranges of
equal width hold about equally many documents.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Self

_BOUND_DIGITS = 4
_LABEL = re.compile(r"([0-9]+)-of-([0-9]+)")

MOST_SHARDS = 16**_BOUND_DIGITS
"""The most shards, or parts, there can be."""


class Shard(NamedTuple):
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


EVERYTHING = Shard()
"""The one shard of a collection that is not divided."""


def shards(number: int) -> list[Shard]:
    """Return so many shards, which divide hexadecimal ids evenly.

    Parameters
    ----------
    number
        How many, from 1 to :data:`MOST_SHARDS`.
    """
    return [_shard(n, number) for n in range(number)]


def _shard(number: int, of: int) -> Shard:
    """Return one of so many shards, counted from 0."""
    lower, upper = (f"{n * MOST_SHARDS // of:0{_BOUND_DIGITS}x}" for n in (number, number + 1))
    return Shard(lower if number else "", upper if number + 1 < of else None)


class Part(NamedTuple):
    """One of the parts of a collection, which are worked on by themselves.

    A part is to the lake and to Dagster what a shard is to a pass: a range of record ids, but one
    that has files, a state, a lock and a partition of its own.

    Attributes
    ----------
    number, of
        Which part, from 1, and how many there are.
    """

    number: int = 1
    of: int = 1

    @property
    def label(self) -> str:
        """The part in names of files and partitions: ``3-of-8``, ``03-of-16``."""
        return f"{self.number:0{len(str(self.of))}}-of-{self.of}"

    @classmethod
    def from_label(cls, label: str) -> Self | None:
        """Return the part of a label; None where the text is none."""
        match = _LABEL.fullmatch(label)
        if match is None:
            return None
        part = cls(int(match[1]), int(match[2]))
        is_part = 1 <= part.number <= part.of <= MOST_SHARDS and part.label == label
        return part if is_part else None

    @property
    def shard(self) -> Shard:
        """The record ids of the part."""
        return _shard(self.number - 1, self.of)

    def in_shards(self, number: int) -> list[Shard]:
        """Return so many shards, or as many as there can be, that make up the part."""
        within = min(number, MOST_SHARDS // self.of)
        first = (self.number - 1) * within
        return [_shard(first + n, self.of * within) for n in range(within)]


WHOLE = Part()
"""The one part of a collection that is not divided."""


def parts(of: int) -> Iterator[Part]:
    """Yield so many parts, in the order of the ids they hold."""
    return (Part(number, of) for number in range(1, of + 1))
