"""Flattening: documents of either format to rows of the contract's tables.

:mod:`.document_reader` parses a document along the contract's paths, and :mod:`.batch` many
documents of the same shape at a time. :mod:`.derived` computes derived values, and :mod:`.tables`
builds the rows. :mod:`.refresh` keeps the tables in step with the change log.
"""

from aind_etl.flatten.tables import Flattened, flatten_documents
from aind_etl.flatten.version import flattener_version

__all__ = ["Flattened", "flatten_documents", "flattener_version"]
