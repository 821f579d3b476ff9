"""What every source can do, and how a collection is divided into shards."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Protocol, Self

from aind_etl.sources.canonical import (
    OTHER_ID_PREFIX,
    Document,
    RawDocument,
    in_canonical_form,
)

_BOUND_DIGITS = 4


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

    @property
    def holds_others(self) -> bool:
        """Whether the ids that are no strings belong here: all of them belong to one shard."""
        return self.holds(OTHER_ID_PREFIX)

    def holds(self, record_id: str) -> bool:
        """Return whether a record id lies in the range."""
        return self.lower <= record_id and (self.upper is None or record_id < self.upper)

    def __str__(self) -> str:
        """Return the range for people."""
        return f"{self.lower or 'the first'} to {self.upper or 'the last'}"


EVERYTHING = Shard()
"""The one shard of a collection that is not divided."""

MOST_SHARDS = 16**_BOUND_DIGITS
"""The most shards there can be."""


def shards(number: int) -> list[Shard]:
    """Return so many shards, which divide hexadecimal ids evenly.

    Both kinds of ``_id`` there are hexadecimal digits of a hash or of a random number.

    Parameters
    ----------
    number
        How many, from 1 to :data:`MOST_SHARDS`.
    """
    between = [f"{n * MOST_SHARDS // number:0{_BOUND_DIGITS}x}" for n in range(1, number)]
    return [
        Shard(lower, upper) for lower, upper in zip(["", *between], [*between, None], strict=True)
    ]


class Source(Protocol):
    """A place that holds documents in named collections.

    Every method may raise :class:`~aind_etl.errors.SourceError`, and nothing else, where the
    source cannot be reached or read to its end. An iterator that ends without an error has
    given everything: whoever compares relies on that to tell what is gone. Several threads may
    ask at a time.
    """

    @property
    def name(self) -> str:
        """The source for people: its address without credentials."""
        ...

    @property
    def connections(self) -> int:
        """How many questions it may be asked at a time."""
        ...

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        ...

    def count_documents(self, collection: str) -> int | None:
        """Return about how many documents there are; None where only reading would tell."""
        ...

    def list_ids(self, collection: str, shard: Shard = EVERYTHING) -> Iterator[str]:
        """Yield the record id of every document of a collection, or of one shard of it."""
        ...

    def read_raw(
        self, collection: str, shard: Shard = EVERYTHING
    ) -> Iterator[RawDocument | Document]:
        """Yield every document of a collection, or of one shard, holding a few of them at most.

        They are given as they were written, unless the source had to look into them.
        """
        ...

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        ...

    def fingerprint(self, collection: str) -> str:
        """Return a text, cheap to get, that differs when the collection's content does.

        A hint that something changed; equal fingerprints prove nothing.
        """
        ...

    def __enter__(self) -> Self:
        """Return the source."""
        ...

    def __exit__(self, *exception: object) -> None:
        """Release what the source holds: connections, temporary files."""
        ...


def read_documents(
    source: Source, collection: str, shard: Shard = EVERYTHING
) -> Iterator[Document]:
    """Yield every document of a collection, or of one shard, in canonical form.

    Raises
    ------
    SourceError
        They cannot be read to their end.
    """
    return map(in_canonical_form, source.read_raw(collection, shard))
