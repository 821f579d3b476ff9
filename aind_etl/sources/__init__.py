"""Where documents come from.

Here belong the protocol every source follows, the sources themselves, and the canonical form
they bring documents into. What to do with a document does not belong here.
"""

from aind_etl.sources.canonical import Document, RawDocument
from aind_etl.sources.protocol import Source, read_documents
from aind_etl.sources.urls import open_source

__all__ = [
    "Document",
    "RawDocument",
    "Source",
    "open_source",
    "read_documents",
]
