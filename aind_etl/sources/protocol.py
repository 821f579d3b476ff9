"""The protocol of a source."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Protocol, Self

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.sources.canonical import Document, RawDocument, canonical_document


class Source(Protocol):
    """A database or a folder that holds documents in named collections.

    Every method raises :class:`~aind_etl.errors.SourceError`, and nothing else, if the source
    cannot be reached or read. An iterator that ends without an error has yielded everything:
    deletions are derived from that. Several threads may call the methods.

    Attributes
    ----------
    name
        The address without credentials.
    connections
        The most concurrent requests.
    """

    name: str
    connections: int

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        ...

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int | None:
        """Return the number of documents in a split, or None if counting would mean reading."""
        ...

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document in a split."""
        ...

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield every document in a split, holding only a few in memory.

        Documents are parsed only if the source has to look into them.
        """
        ...

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        ...

    def fingerprint(self, collection: str) -> str:
        """Return a text, cheap to compute, that usually changes with the collection's content.

        Different fingerprints mean that something changed; equal ones prove nothing.
        """
        ...

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release connections and temporary files."""
        ...


def read_documents(source: Source, collection: str, split: Split = ALL_IDS) -> Iterator[Document]:
    """Yield every document in a split, in canonical form."""
    return map(canonical_document, source.read_raw(collection, split))
