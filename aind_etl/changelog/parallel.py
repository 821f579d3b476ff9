"""Iterators that run in threads, with their results taken in the order in which they arrive."""

from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Full, Queue
from threading import Event
from typing import Generic, TypeVar

_Result = TypeVar("_Result")
_LOOK_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class _End:
    """The end of an iterator, perhaps by an error."""

    error: BaseException | None = None


def in_parallel(
    work: Sequence[Callable[[], Iterator[_Result]]], workers: int
) -> Generator[_Result, None, None]:
    """Yield what several iterators give, in the order in which it comes.

    A slow consumer holds the work back: at most ``workers`` results wait. Where
    there is only one thing to do, it is done without threads.

    Parameters
    ----------
    work
        Functions that return the iterators; each is called, and read, in a thread of its own.
    workers
        How many are under way at a time.

    Raises
    ------
    Exception
        The first error of an iterator; the others are left as soon as they give something.
    """
    if min(workers, len(work)) <= 1:
        for begin in work:
            yield from begin()
        return
    hand_over = _ResultQueue[_Result](workers)
    with ThreadPoolExecutor(workers, thread_name_prefix="split") as pool:
        try:
            for begin in work:
                pool.submit(hand_over.put_all, begin)
            under_way = len(work)
            while under_way:
                result = hand_over.results.get()
                if not isinstance(result, _End):
                    yield result
                elif result.error:
                    raise result.error
                else:
                    under_way -= 1
        finally:
            hand_over.is_over.set()
            pool.shutdown(wait=False, cancel_futures=True)


class _ResultQueue(Generic[_Result]):
    """Takes results from threads, and holds the threads back until they are fetched."""

    def __init__(self, most: int) -> None:
        self.results: Queue[_Result | _End] = Queue(most)
        self.is_over = Event()

    def put_all(self, begin: Callable[[], Iterator[_Result]]) -> None:
        """Give what an iterator gives, and its end."""
        try:
            for result in begin():
                self._give(result)
                if self.is_over.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer's thread
            self._give(_End(error))
        else:
            self._give(_End())

    def _give(self, result: "_Result | _End") -> None:
        while not self.is_over.is_set():
            try:
                self.results.put(result, timeout=_LOOK_SECONDS)
            except Full:
                continue
            break
