"""Iterators that run in threads, with their results taken in the order in which they arrive."""

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from itertools import chain
from typing import TypeVar

_Result = TypeVar("_Result")


def in_parallel(
    iterators: Sequence[Generator[_Result, None, None]], workers: int
) -> Generator[_Result, None, None]:
    """Yield the results of several iterators as they arrive; none of them is None.

    At most ``workers`` iterators are under way, their steps in any thread. A slow consumer slows
    them down: each is at most two results ahead of it. The first error of an iterator is raised,
    and the others are closed after their next result. A single iterator runs without threads.
    """
    try:
        if min(workers, len(iterators)) <= 1:
            yield from chain.from_iterable(iterators)
        else:
            yield from _in_threads(iterators, workers)
    finally:
        for iterator in iterators:
            # One whose step was not waited for, after a second interrupt, cannot be closed.
            with suppress(ValueError):
                iterator.close()


def _in_threads(
    iterators: Sequence[Generator[_Result, None, None]], workers: int
) -> Generator[_Result, None, None]:
    # Each worker continues with the next iterator that no other one has begun.
    waiting = iter(iterators)
    shares = [chain.from_iterable(waiting) for _ in range(workers)]
    with ThreadPoolExecutor(workers, thread_name_prefix="split") as pool:
        running = {pool.submit(next, share, None): share for share in shares}
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                share = running.pop(future)
                result = future.result()
                if result is not None:
                    running[pool.submit(next, share, None)] = share
                    yield result
