"""Iterators that run in threads, with their results taken in the order in which they arrive."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import TypeVar

_Result = TypeVar("_Result")


def in_parallel(
    iterators: Sequence[Iterator[_Result]], workers: int
) -> Generator[_Result, None, None]:
    """Yield the results of several iterators as they arrive; none of them is None.

    At most ``workers`` iterators are under way, each in any thread. A slow consumer slows them
    down: each is at most two results ahead of it. The first error of an iterator is raised, and the
    others are abandoned after their next result. A single iterator or worker runs without threads.
    """
    if min(workers, len(iterators)) <= 1:
        yield from chain.from_iterable(iterators)
        return
    waiting = iter(iterators)
    running: dict[Future[_Result | None], Iterator[_Result]] = {}
    with ThreadPoolExecutor(workers, thread_name_prefix="split") as pool:
        for iterator in islice(waiting, workers):
            running[pool.submit(next, iterator, None)] = iterator
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                iterator = running.pop(future)
                result = future.result()
                following = next(waiting, None) if result is None else iterator
                if following is not None:
                    running[pool.submit(next, following, None)] = following
                if result is not None:
                    yield result
