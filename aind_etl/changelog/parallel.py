"""Iterators that run in threads, with their results taken in the order in which they arrive."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event, Semaphore
from typing import TypeVar

_Result = TypeVar("_Result")


def in_parallel(
    work: Sequence[Callable[[], Iterator[_Result]]], workers: int
) -> Generator[_Result, None, None]:
    """Yield the results of several iterators as they arrive.

    A slow consumer slows the threads down: at most ``workers`` results wait. A single iterator, or
    a single worker, runs without threads.

    Parameters
    ----------
    work
        Functions that return the iterators; each runs in a thread.
    workers
        The number of threads.

    Raises
    ------
    Exception
        The first error of an iterator; the others are abandoned after their next result.
    """
    if min(workers, len(work)) <= 1:
        for begin in work:
            yield from begin()
        return
    yield from _in_threads(work, workers)


def _in_threads(
    work: Sequence[Callable[[], Iterator[_Result]]], workers: int
) -> Generator[_Result, None, None]:
    # An entry is a result, the error that ended an iterator, or neither at its end.
    queue: SimpleQueue[tuple[list[_Result], BaseException | None]] = SimpleQueue()
    slots = Semaphore(workers)
    is_over = Event()

    def run(begin: Callable[[], Iterator[_Result]]) -> None:
        try:
            for result in begin():
                slots.acquire()
                if is_over.is_set():
                    return
                queue.put(([result], None))
            queue.put(([], None))
        except BaseException as error:  # noqa: BLE001 - raised in the consumer's thread
            queue.put(([], error))

    with ThreadPoolExecutor(workers, thread_name_prefix="split") as pool:
        try:
            for begin in work:
                pool.submit(run, begin)
            running = len(work)
            while running:
                results, error = queue.get()
                if error:
                    raise error
                if results:
                    slots.release()
                    yield from results
                else:
                    running -= 1
        finally:
            is_over.set()
            # Threads that wait for a slot notice that it is over.
            slots.release(len(work))
            pool.shutdown(wait=False, cancel_futures=True)
