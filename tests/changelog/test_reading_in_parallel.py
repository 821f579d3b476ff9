"""Iterators in threads: all results arrive, slow consumers are waited for, an error ends all."""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from multiprocessing import get_context

import pytest

from aind_etl.changelog.parallel import in_parallel
from aind_etl.errors import SourceError

MOST_SECONDS = 60


def all_results_arrive_and_no_more_than_allowed_run_at_a_time() -> None:
    under_way = most = 0
    lock = threading.Lock()

    def work(number: int) -> Generator[int, None, None]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        yield from range(number * 10, number * 10 + 10)
        with lock:
            under_way -= 1

    assert sorted(in_parallel([*map(work, range(8))], 3)) == list(range(80))
    assert 1 <= most <= 3


def work_waits_for_the_consumer_of_the_results() -> None:
    given_out: list[int] = []

    def work() -> Generator[int, None, None]:
        for number in range(1000):
            given_out.append(number)
            yield number

    results = in_parallel([work(), work()], 2)
    next(results)
    time.sleep(0.3)
    # Those that wait in the queue, and one in each thread.
    assert len(given_out) <= 1 + 2 + 2
    results.close()
    assert len(given_out) < 20


def an_error_of_one_stops_all() -> None:
    def fail() -> Generator[int, None, None]:
        yield 1
        raise SourceError("the line is cut")

    def go_on() -> Generator[int, None, None]:
        while True:
            yield 2

    with pytest.raises(SourceError, match="the line is cut"):
        for _ in in_parallel([fail(), go_on(), go_on()], 2):
            pass
    assert not [one for one in threading.enumerate() if one.name.startswith("split")]


def iterators_are_closed_when_the_consumer_fails() -> None:
    closed: list[int] = []

    def work(number: int) -> Generator[int, None, None]:
        try:
            while True:
                yield number
        finally:
            closed.append(number)

    def consume(workers: int) -> None:
        iterators = [*map(work, range(3))]
        seen: set[int] = set()
        with closing(in_parallel(iterators, workers)) as results:
            for number in results:
                seen.add(number)
                if len(seen) == workers:
                    raise SourceError("the disk is full")

    for workers in (1, 2):
        closed.clear()
        # The error keeps the frames that it has passed, and with them the iterators.
        with pytest.raises(SourceError) as raised:
            consume(workers)
        assert raised.traceback
        assert sorted(closed) == list(range(workers))


@pytest.mark.parametrize(
    "check",
    [
        all_results_arrive_and_no_more_than_allowed_run_at_a_time,
        work_waits_for_the_consumer_of_the_results,
        an_error_of_one_stops_all,
        iterators_are_closed_when_the_consumer_fails,
    ],
)
def test_of_iterators_in_threads(check: Callable[[], None]) -> None:
    # In its own process, which can be killed: a thread that waits forever cannot.
    process = get_context("spawn").Process(target=check)
    process.start()
    process.join(MOST_SECONDS)
    has_ended = process.exitcode is not None
    process.kill()
    process.join()
    assert has_ended, f"not over after {MOST_SECONDS} seconds"
    assert process.exitcode == 0
