"""Sources of documents: the protocol they share, and the canonical form of a document.

:func:`open_source` opens the source of an address. Sources: :mod:`.dump`, :mod:`.sample`,
:mod:`.mongodb` and :mod:`.gateway`.
"""

from aind_etl.sources.canonical import Document, RawDocument
from aind_etl.sources.kinds import SourceOptions, kind_of
from aind_etl.sources.protocol import Source, read_documents
from aind_etl.sources.urls import open_configured_source, open_source

__all__ = [
    "Document",
    "RawDocument",
    "Source",
    "SourceOptions",
    "kind_of",
    "open_configured_source",
    "open_source",
    "read_documents",
]
