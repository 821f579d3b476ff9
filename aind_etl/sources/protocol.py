"""What every source can do."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Protocol, Self

from aind_etl.sources.canonical import Document


class Source(Protocol):
    """A place that holds documents in named collections.

    Every method may raise :class:`~aind_etl.errors.SourceError`, and nothing else, where the
    source cannot be reached or read to its end. An iterator that ends without an error has
    given everything: whoever compares relies on that to tell what is gone.
    """

    @property
    def name(self) -> str:
        """The source for people: its address without credentials."""
        ...

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        ...

    def list_ids(self, collection: str) -> Iterator[str]:
        """Yield the record id of every document of a collection."""
        ...

    def read_documents(self, collection: str) -> Iterator[Document]:
        """Yield every document of a collection, never holding more than a few of them."""
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
