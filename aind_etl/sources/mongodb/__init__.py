"""A MongoDB database, or a compatible server such as Amazon DocumentDB.

:class:`MongoSource` reads it; :mod:`.address` understands its URL and credentials, :mod:`.faults`
asks again after errors that pass.
"""

from aind_etl.sources.mongodb.source import MongoSource

__all__ = ["MongoSource"]
