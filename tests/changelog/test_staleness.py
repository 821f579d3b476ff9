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
        answers = _in_threads([ask] * 100, monotonic() + 0.1, within)
        blocked = set(threading.enumerate()) - before
        assert len(blocked) <= _THREADS
        assert all(isinstance(answer, SourceError) for answer in answers)
    finally:
        released.set()
    for thread in blocked:
        thread.join(60)
    assert len(asked) == len(blocked)
