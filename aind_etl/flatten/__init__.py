"""Flattening: documents of either format to rows of the contract's tables.

:mod:`.document_reader` parses a document as the contract says, :mod:`.derived` computes derived
values, and :mod:`.tables` builds the rows. :mod:`.shapes` and :mod:`.batch_reader` do the same for
many documents of one shape at a time. :mod:`.refresh` keeps the tables in step with the change log.
Values that do not fit are rejected with a reason, and unknown values become attributes.
"""

from aind_etl.flatten.tables import Flattened, flatten_documents
from aind_etl.flatten.version import flattener_version

__all__ = ["Flattened", "flatten_documents", "flattener_version"]
