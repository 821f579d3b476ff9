"""The DuckDB warehouse: built from the lake, checked, and published in one step.

:func:`.publishing.publish_warehouse` builds the file (:mod:`.build`, :mod:`.contents`), runs the
checks of ``sql/`` (:mod:`.sql_files`, :mod:`.checks`) and publishes it. :mod:`.location` finds a
warehouse on a disk or in an object store, :func:`.connection.connect` opens it for reading, and
:mod:`.snapshots` keeps copies.
"""
