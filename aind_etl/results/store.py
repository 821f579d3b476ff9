"""The store of the result folders: listing and reading, many requests at a time.

One event loop in a thread makes the requests; the caller receives the answers in the order in which
they arrive. Answers that are not yet taken hold back new requests, so that memory is bounded.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Self, TypeVar, cast

import polars as pl
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.kinds import kind_of

if TYPE_CHECKING:
    from aind_etl.settings import Settings
from aind_etl.results.faults import (
    ANSWERED_ERRORS,
    FINAL_ERRORS,
    MOST_FILES,
    TOO_MANY_FILES,
    error_text,
    is_transient,
    problem_of,
    requested_pause,
    response_of,
)
from aind_etl.results.folders import (
    ALL_NAMES,
    LARGEST_FILE_BYTES,
    SCHEME,
    Backend,
    Bounds,
    FileContent,
    FileRequest,
    Files,
    FolderListing,
    Problem,
    StoredFile,
    TooLargeError,
    files_frame,
)
from aind_etl.results.local import LocalBackend
from aind_etl.results.other import FsspecBackend
from aind_etl.results.s3 import CONNECT_SECONDS, S3Backend
from aind_etl.text import without_credentials

_ATTEMPTS = 6
_LONGEST_WAIT_SECONDS = 30.0
# A store of which not one answer comes for so long is asked no more.
_LONGEST_SILENCE_SECONDS = 20.0
# Bytes of answers that may be under way or wait to be taken.
BUDGET_BYTES = 192 << 20

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")


WHAT_TO_CHECK = (
    "Check the network, AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_RESULTS_ROOT, or leave the result "
    "folders out with --no-results. What was read so far is kept; result files, trials, figures "
    "and the session table are as they were, and the next run goes on from there."
)


class ResultStore:
    """The result folders, by their ``s3://`` addresses; to be used in a ``with`` block.

    Parameters
    ----------
    backend
        Where they lie.
    concurrency
        Largest number of requests under way at a time.
    first_wait_seconds
        How long to wait, at most, before a request that failed is made again. The longest wait
        doubles with every further failure; how much of it is waited is left to chance, so that
        many clients do not come back together.
    longest_silence_seconds
        How long to go on asking a store that gives no answer at all, not even a refusal.
    """

    def __init__(
        self,
        backend: Backend,
        concurrency: int = 64,
        first_wait_seconds: float = 0.25,
        longest_silence_seconds: float = _LONGEST_SILENCE_SECONDS,
    ) -> None:
        self._backend = backend
        self._concurrency = concurrency
        self._first_wait = first_wait_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="result-store", daemon=True
        )
        self._failures_in_a_row = 0
        self._longest_silence = longest_silence_seconds
        self._silent_since: float | None = None
        self._unanswered = 0
        self._has_answered = False

    @property
    def name(self) -> str:
        """The store for people: its address without credentials."""
        return self._backend.name

    def list_folders(self, locations: Sequence[str]) -> Iterator[FolderListing]:
        """Yield the listing of each folder, in the order in which they come.

        Raises
        ------
        SourceError
            The store does not answer at all.
        """
        return self._answers(locations, self._list_folder, lambda _location: 0)

    def find_file(self, location: str, name: str) -> FolderListing:
        """Return the listing of one file of a folder, without listing the others.

        Raises
        ------
        SourceError
            The store does not answer at all.
        """
        # What sorts after all but the last of its letters, and before any name it begins.
        bounds = (name[:-1], f"{name}\0")

        async def find(location: str) -> FolderListing:
            listing = await self._list_folder(location, bounds)
            return replace(listing, files=tuple(one for one in listing.files if one.name == name))

        (listing,) = self._answers([location], find, lambda _location: 0)
        return listing

    def read_files(self, requests: Sequence[FileRequest]) -> Iterator[FileContent]:
        """Yield the content of each file, in the order in which they come.

        Raises
        ------
        SourceError
            The store does not answer at all.
        """
        return self._answers(requests, self._read_file, lambda request: request.size_bytes)

    def list_everything(self, home: str, most_pages: int) -> pl.DataFrame | None:
        """Return the files of every folder right below an address.

        Pages of a thousand files are listed, several ranges of names at a time.

        Parameters
        ----------
        home
            The address above the folders.
        most_pages
            Give up beyond so many pages.

        Returns
        -------
        polars.DataFrame or None
            As :func:`files_frame`; None where there are more pages, or where they cannot be
            listed.

        Raises
        ------
        SourceError
            The store does not answer at all.
        """
        pages = [files_frame(home, [])]

        async def list_range(bounds: Bounds) -> bool:
            try:
                async for page in self._pages(home, bounds):
                    if len(pages) > most_pages:
                        return False
                    pages.append(_by_folder(files_frame(home, page)))
            except FileNotFoundError:
                pass  # There is not even a bucket: no files.
            except Exception as error:  # noqa: BLE001 - whatever a client raises
                self._note_failure(problem_of(error), home)
                return False
            return True

        whole = list(self._answers(self._backend.ranges, list_range, lambda _range: 0))
        return pl.concat(pages) if all(whole) else None

    def __enter__(self) -> Self:
        """Return the store, ready to be asked."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._backend.open(), self._loop).result()
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up what is under way, and close every connection."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        # A consumer that is interrupted has no chance to cancel its requests.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._backend.close()

    # --- one request ----------------------------------------------------------------------

    async def _list_folder(self, location: str, bounds: Bounds = ALL_NAMES) -> FolderListing:
        try:
            files: list[StoredFile] = []
            async for page in self._pages(location, bounds):
                files += page
                if len(files) > MOST_FILES:
                    return FolderListing(location, problem=TOO_MANY_FILES)
        except FileNotFoundError:
            # There is not even a bucket.
            files = []
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            problem = problem_of(error)
            self._note_failure(problem, location)
            return FolderListing(location, problem=problem)
        return FolderListing(location, tuple(files))

    async def _read_file(self, request: FileRequest) -> FileContent:
        if request.size_bytes > LARGEST_FILE_BYTES:
            return FileContent(request, problem=problem_of(TooLargeError(request.size_bytes)))
        try:
            content, etag = await self._with_retries(
                lambda: self._backend.read(request.location, request.name)
            )
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            problem = problem_of(error)
            self._note_failure(problem, request.location)
            return FileContent(request, problem=problem)
        if not content:
            message = "The file is empty. It is tried again when the store has another content."
            return FileContent(request, etag=etag, problem=Problem("empty", message))
        return FileContent(request, content, etag)

    async def _pages(self, location: str, bounds: Bounds = ALL_NAMES) -> AsyncIterator[Files]:
        """Yield a folder's files page by page."""
        token = ""
        while True:
            asked = token
            page, token = await self._with_retries(
                lambda: self._backend.page(location, bounds, asked)  # noqa: B023 - asked at once
            )
            yield page
            if not token:
                return

    async def _with_retries(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask until there is an answer, or no hope for one."""
        attempts = AsyncRetrying(
            stop=stop_after_attempt(_ATTEMPTS),
            retry=retry_if_exception(is_transient),
            wait=self._pause,
            reraise=True,
        )
        async for attempt in attempts:
            with attempt:
                try:
                    answer = await ask()
                except Exception as error:
                    self._note_silence(error)
                    raise
        self._failures_in_a_row = 0
        self._note_answer()
        return answer

    def _pause(self, state: RetryCallState) -> float:
        """Return the seconds to wait before the next attempt."""
        error = state.outcome and state.outcome.exception()
        asked = requested_pause(error) if isinstance(error, Exception) else 0.0
        chance = wait_random_exponential(2 * self._first_wait, _LONGEST_WAIT_SECONDS)(state)
        return min(asked, _LONGEST_WAIT_SECONDS) + chance

    def _note_answer(self) -> None:
        self._has_answered = True
        self._silent_since = None
        self._unanswered = 0

    def _note_silence(self, error: Exception) -> None:
        """Give up on a store that cannot be reached, rather than ask it for each folder.

        Raises
        ------
        SourceError
            No answer came for too long.
        """
        if response_of(error) or isinstance(error, ANSWERED_ERRORS):
            self._note_answer()
        if isinstance(error, FINAL_ERRORS) or response_of(error):
            return
        now = monotonic()
        if self._silent_since is None:
            self._silent_since = now
        self._unanswered += 1
        # One file that never comes is no reason to do without the others.
        is_the_store = not self._has_answered or self._unanswered > 2 * _ATTEMPTS
        if is_the_store and now - self._silent_since >= self._longest_silence:
            raise SourceError(
                f"The result store {self.name} cannot be reached ({error_text(error)}); it was "
                f"asked for {self._longest_silence:g} s. {WHAT_TO_CHECK}"
            )

    def _note_failure(self, problem: Problem, location: str) -> None:
        """Give up where nothing is answered any more.

        Raises
        ------
        SourceError
            So many requests failed in a row that the next would fail too.
        """
        if problem.reason != "unreachable":
            return
        self._failures_in_a_row += 1
        if self._failures_in_a_row > 2 * self._concurrency:
            raise SourceError(
                f"The result store {self.name} does not answer ({problem.message}). Last asked for "
                f"was {location}. {WHAT_TO_CHECK}"
            )

    # --- many requests --------------------------------------------------------------------

    def _answers(
        self,
        jobs: Sequence[_Job],
        work: Callable[[_Job], Awaitable[_Answer]],
        size_of: Callable[[_Job], int],
    ) -> Iterator[_Answer]:
        """Yield the answers to jobs, made side by side within the limits."""
        answers: queue.SimpleQueue[tuple[_Job, _Answer | BaseException]] = queue.SimpleQueue()
        limits = _Limits(self._concurrency)

        async def do(job: _Job, all_jobs: "asyncio.Task[None]") -> None:
            try:
                answers.put((job, await work(job)))
            except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
                answers.put((job, error))
                all_jobs.cancel()

        async def feed() -> None:
            all_jobs = cast("asyncio.Task[None]", asyncio.current_task())
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    await limits.take(size_of(job))
                    task = group.create_task(do(job, all_jobs))
                    task.add_done_callback(lambda _task: limits.end())

        feeding = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            for _ in range(len(jobs)):
                job, answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
                self._loop.call_soon_threadsafe(limits.give_back, size_of(job))
        finally:
            feeding.cancel()
            with suppress(Exception, asyncio.CancelledError):
                feeding.result(timeout=CONNECT_SECONDS)


class _Limits:
    """How many requests may be under way, and how many bytes may wait to be taken."""

    def __init__(self, concurrency: int) -> None:
        self._places = asyncio.Semaphore(concurrency)
        self._bytes = 0
        self._waiting = 0
        self._most_waiting = 4 * concurrency
        self._room = asyncio.Event()

    async def take(self, size: int) -> None:
        while self._waiting and (
            self._bytes + size > BUDGET_BYTES or self._waiting >= self._most_waiting
        ):
            self._room.clear()
            await self._room.wait()
        self._bytes += size
        self._waiting += 1
        await self._places.acquire()

    def end(self) -> None:
        self._places.release()

    def give_back(self, size: int) -> None:
        self._bytes -= size
        self._waiting -= 1
        self._room.set()


def open_result_store(settings: "Settings") -> ResultStore:
    """Return the store the settings name, to be used in a ``with`` block.

    The sample's own result folders, made when they are first asked for, where the source is the
    sample and no other store is named.

    Raises
    ------
    ConfigurationError
        The settings name no store.
    """
    root = settings.results_root
    if root is None and kind_of(settings.source).is_simulated:
        # Imported here: other sources need none of the simulation's libraries.
        from aind_etl.sources.sample import write_results  # noqa: PLC0415

        root = str(write_results(settings.source, settings.folder))
    if root is None or root.startswith(SCHEME):
        backend: Backend = S3Backend(
            anonymous=settings.s3_anon,
            endpoint_url=settings.s3_endpoint_url,
            concurrency=settings.s3_concurrency,
            prefix=(root or "").rstrip("/") if root != SCHEME else "",
        )
    elif "://" in root:
        raise ConfigurationError(
            f"AIND_ETL_RESULTS_ROOT is {root!r}; a folder or an s3:// address is expected."
        )
    else:
        backend = LocalBackend(Path(root).expanduser())
    return ResultStore(backend, settings.s3_concurrency)


def open_store_of(settings: "Settings", location: str) -> ResultStore:
    """Return the store that holds an address, to be used in a ``with`` block.

    That of the result folders for an ``s3://`` address; any other is opened by fsspec.

    Raises
    ------
    ConfigurationError
        The settings name no store.
    """
    if location.startswith(SCHEME):
        return open_result_store(settings)
    return ResultStore(FsspecBackend(without_credentials(location)), settings.s3_concurrency)


def _by_folder(files: pl.DataFrame) -> pl.DataFrame:
    """Return the files of folders right below a location as files of these folders."""
    folder, name = r"^([^/]+)/", r"^[^/]+/(.+)$"
    return files.with_columns(
        location=pl.concat_str("location", pl.col("file_name").str.extract(folder), separator="/"),
        file_name=pl.col("file_name").str.extract(name),
    ).drop_nulls(["location", "file_name"])
