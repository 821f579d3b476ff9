"""Checking a source for changes: what it costs if the source does not answer."""

import threading
from datetime import timedelta
from time import monotonic

from aind_etl.changelog.staleness import _THREADS, _in_threads
from aind_etl.errors import SourceError


def test_a_source_that_never_answers_blocks_only_a_few_threads():
    released = threading.Event()
    within = timedelta(seconds=0.1)
    before = threading.active_count()
    try:
        results = _in_threads([released.wait] * 100, monotonic() + 0.1, within)
        assert threading.active_count() - before <= _THREADS
        assert all(isinstance(result.exception(timeout=0), SourceError) for result in results)
    finally:
        released.set()
