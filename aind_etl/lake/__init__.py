"""The lake: hive-partitioned parquet that anything can read, and the state of each collection.

:class:`Lake` opens a folder or a prefix of an object store. :mod:`.change_log` keeps the versions
of documents, :mod:`.tables` the tables derived from them, :mod:`.state` how far each collection was
processed, and :mod:`.resharding` divides a large collection. Files are written through
:mod:`.storage`. ``docs/architecture.md`` shows the layout of the files.
"""

from aind_etl.lake.lake import Lake

__all__ = ["Lake"]
