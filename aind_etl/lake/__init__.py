"""The lake: hive-partitioned parquet that anything can read, and the state of each collection.

:class:`Lake` opens a folder or a prefix of an object store. :mod:`.change_log` keeps the versions
of documents, :mod:`.tables` the tables derived from them, :mod:`.state` how far each collection was
processed, and :mod:`.resharding` divides a large collection. Files are written through
:mod:`.storage`.

Layout::

    documents/collection=<name>/<batch>.parquet                        the change log
    documents/collection=<name>/<first batch>-<last batch>.parquet     the same, compacted
    <table>/collection=<name>/session_month=<YYYY-MM>/part.parquet     one live file per partition
    rejected_documents/collection=<name>/part.parquet
    sessions/part.parquet                                              a table in one file
    _state/  _staging/  _locks/                                        not for readers

The files of a sharded collection are in the same folders, with the shard's label in their names
(``3-of-8-<batch>.parquet``, ``part-3-of-8.parquet``). A layout file gives the number of shards;
only files with those labels count.
"""

from aind_etl.lake.lake import Lake

__all__ = ["Lake"]
