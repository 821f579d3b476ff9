"""Sources of documents: the protocol they share, and the canonical form of a document.

:func:`open_source` opens the source of an address; :mod:`.kinds` lists the kinds there are, in
:mod:`.dump`, :mod:`.sample`, :mod:`.mongodb` and :mod:`.gateway`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aind_etl.sources.canonical import Document, RawDocument
    from aind_etl.sources.kinds import SourceOptions, kind_of
    from aind_etl.sources.protocol import Source, read_documents
    from aind_etl.sources.urls import open_configured_source, open_source

_MODULES = {
    "Document": "canonical",
    "RawDocument": "canonical",
    "Source": "protocol",
    "SourceOptions": "kinds",
    "kind_of": "kinds",
    "open_configured_source": "urls",
    "open_source": "urls",
    "read_documents": "protocol",
}

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


def __getattr__(name: str) -> Any:  # noqa: ANN401 - as the names have
    # Loaded on first use: the command's help lists the kinds, and needs nothing else.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
