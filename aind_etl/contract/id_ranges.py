"""Ranges of record ids: splits that are read in parallel, and shards that are stored separately.

Ids are hexadecimal digits of a hash or of a random number, so ranges of equal width hold about
equally many documents.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple, Self

_BOUND_DIGITS = 4

MOST_RANGES = 16**_BOUND_DIGITS
"""The largest number of splits or shards."""


class Split(NamedTuple):
    """A range of record ids, which are compared as text, byte by byte.

    The splits of a collection follow from their number alone, so each can be read on its own, in
    any order and on any machine, and every possible record id is in exactly one of them.

    ``upper`` is the first record id after the range; None if there is none.
    """

    lower: str = ""
    upper: str | None = None

    def holds(self, record_id: str) -> bool:
        """Return whether a record id is in the range."""
        return self.lower <= record_id and (self.upper is None or record_id < self.upper)

    def __str__(self) -> str:
        """Describe the range in messages."""
        return f"{self.lower or 'the first'} to {self.upper or 'the last'}"


ALL_IDS = Split()
"""The only split of a collection that is not divided."""


def _split(number: int, of: int) -> Split:
    """Return one of ``of`` splits, counted from 0."""
    lower, upper = (f"{n * MOST_RANGES // of:0{_BOUND_DIGITS}x}" for n in (number, number + 1))
    return Split(lower if number else "", upper if number + 1 < of else None)


class Shard(NamedTuple):
    """A range of record ids with its own files, state, lock and Dagster partition.

    ``number`` says which of the shards, from 1, and ``of`` how many there are.
    """

    number: int = 1
    of: int = 1

    @property
    def label(self) -> str:
        """The shard in names of files and partitions: ``3-of-8``, ``03-of-16``."""
        return f"{self.number:0{len(str(self.of))}}-of-{self.of}"

    @classmethod
    def from_label(cls, label: str) -> Self | None:
        """Return the shard with a label; None if there is no such shard."""
        match = re.fullmatch(r"([0-9]+)-of-([0-9]+)", label)
        if match is None:
            return None
        shard = cls(int(match[1]), int(match[2]))
        is_shard = 1 <= shard.number <= shard.of <= MOST_RANGES and shard.label == label
        return shard if is_shard else None

    @property
    def ids(self) -> Split:
        """The record ids of the shard."""
        return _split(self.number - 1, self.of)

    def splits(self, number: int) -> list[Split]:
        """Return ``number`` splits of the shard, or fewer if it cannot be divided so often."""
        count = min(number, MOST_RANGES // self.of)
        first = (self.number - 1) * count
        return [_split(first + n, self.of * count) for n in range(count)]


UNSHARDED = Shard()
"""The only shard of a collection that is not divided."""


def shards(of: int) -> Iterator[Shard]:
    """Yield ``of`` shards in the order of their record ids."""
    return (Shard(number, of) for number in range(1, of + 1))
