"""The change log: passes over a source, and the versions of documents that they append.

:func:`.passes.extract_collection` compares a collection with its source,
:func:`.staleness.find_stale_collections` finds the collections that need a pass,
:func:`.compaction.compact_change_log` merges small log files, and
:func:`.history.record_history` returns the versions of one record.
"""
