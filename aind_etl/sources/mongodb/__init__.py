"""A MongoDB database, or a compatible server such as Amazon DocumentDB.

:class:`MongoSource` reads it; :mod:`.address` understands its URL and credentials, :mod:`.faults`
asks again after errors that pass.
"""

from aind_etl.sources.mongodb.source import MongoSource, mongo_source_from_environment

__all__ = ["MongoSource", "mongo_source_from_environment"]
