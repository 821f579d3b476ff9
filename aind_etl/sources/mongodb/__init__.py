"""A MongoDB database, or a compatible server such as Amazon DocumentDB.

:class:`MongoSource` reads it, :mod:`.address` parses its URL and credentials, :mod:`.faults`
retries requests after transient errors, and :mod:`.pages` reads a page at a time.
"""

from aind_etl.sources.mongodb.source import MongoSource

__all__ = ["MongoSource"]
