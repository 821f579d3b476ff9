"""Checking a source for changes: what it costs if the source does not answer."""

import threading
from datetime import timedelta
from time import monotonic

from aind_etl.changelog.staleness import _THREADS, _in_threads
from aind_etl.errors import SourceError


def test_a_source_that_never_answers_blocks_only_a_few_threads_and_is_asked_no_more():
    asked = []
    released = threading.Event()

    def ask() -> None:
        asked.append(1)
        released.wait()

    within = timedelta(seconds=0.1)
    before = set(threading.enumerate())
    try:
        results = _in_threads([ask] * 100, monotonic() + 0.1, within)
        blocked = set(threading.enumerate()) - before
        assert len(blocked) <= _THREADS
        assert all(isinstance(result.exception(timeout=0), SourceError) for result in results)
    finally:
        released.set()
    for thread in blocked:
        thread.join(60)
    # A reply that is too late changes nothing.
    assert len(asked) == len(blocked)
    assert all(isinstance(result.exception(timeout=0), SourceError) for result in results)
