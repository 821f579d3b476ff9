"""The change log: passes over a source, and the versions of documents that they append.

:mod:`.passes` compares a collection with its source, :mod:`.staleness` finds the collections that
need a pass, :mod:`.compaction` merges small log files, and :mod:`.history` shows the versions of
one record.
"""
