"""Iterators that run in threads, with their results taken in the order in which they arrive."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import chain
from typing import TypeVar

_Result = TypeVar("_Result")


def in_parallel(
    iterators: Sequence[Iterator[_Result]], workers: int
) -> Generator[_Result, None, None]:
    """Yield the results of several iterators as they arrive; none of them is None.

    At most ``workers`` iterators are under way, their steps in any thread. A slow consumer slows
    them down: each is at most two results ahead of it. The first error of an iterator is raised,
    and the others are abandoned after their next result. A single iterator runs without threads.
    """
    if min(workers, len(iterators)) <= 1:
        yield from chain.from_iterable(iterators)
        return
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
