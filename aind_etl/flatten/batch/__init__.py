"""Parsing many documents at a time, by columns.

Most documents of a collection differ only in their values. :mod:`.learner` learns such a *shape*
(:mod:`.shapes`) from one document by means of the document reader, which remains the authority.
:mod:`.segments` cuts a batch of documents, :mod:`.values` converts the values, :mod:`.rows` builds
the rows, and :mod:`.reader` puts these steps together. A document that differs from every shape in
any way is left to the document reader.
"""

from aind_etl.flatten.batch.reader import BatchReader

__all__ = ["BatchReader"]
