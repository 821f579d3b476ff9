"""What every source can do."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Protocol, Self

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.sources.canonical import Document, RawDocument, canonical_document


class Source(Protocol):
    """A place that holds documents in named collections.

    Every method may raise :class:`~aind_etl.errors.SourceError`, and nothing else, where the
    source cannot be reached or read to its end. An iterator that ends without an error has
    returned everything: deletions are derived from that. Several threads may
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

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int | None:
        """Return how many documents there are in a split; None where only reading would tell."""
        ...

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a collection, or of one split of it."""
        ...

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield every document of a collection, or of one split, holding a few of them at most.

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


def read_documents(source: Source, collection: str, split: Split = ALL_IDS) -> Iterator[Document]:
    """Yield every document of a collection, or of one split, in canonical form.

    Raises
    ------
    SourceError
        They cannot be read to their end.
    """
    return map(canonical_document, source.read_raw(collection, split))
