"""The store of the result folders: listing and reading with many concurrent requests.

One event loop in a thread makes the requests; the caller receives the answers in the order in which
they arrive. Answers that the caller has not taken yet hold back new requests, which bounds memory.
"""

import asyncio
import queue
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import polars as pl

from aind_etl.errors import ConfigurationError
from aind_etl.results.faults import Retries, problem_of
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
    TooLargeError,
    files_frame,
)
from aind_etl.results.local import FsspecBackend, LocalBackend
from aind_etl.results.s3 import CONNECT_SECONDS, S3Backend
from aind_etl.sources.kinds import kind_of
from aind_etl.text import without_credentials

if TYPE_CHECKING:
    from aind_etl.settings import Settings

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")

# Bytes of answers that may be under way or not taken yet.
_BUDGET_BYTES = 192 << 20

MOST_FILES = 10_000
"""A folder with more files is not that of one record; both pipelines write four."""


class ResultStore:
    """The result folders by their ``s3://`` addresses, for use in a ``with`` block.

    Listing and reading raise a :class:`SourceError` if the store does not answer at all. Single
    folders and files that cannot be read are returned with a :class:`Problem`.

    Parameters
    ----------
    backend
        The place that holds the folders.
    concurrency
        Largest number of concurrent requests.
    """

    def __init__(self, backend: Backend, concurrency: int) -> None:
        self._backend = backend
        self._concurrency = concurrency
        self._retries = Retries(backend.name, concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="result-store", daemon=True
        )

    @property
    def name(self) -> str:
        """The store for people: its address without credentials."""
        return self._backend.name

    def list_folders(self, locations: Sequence[str]) -> Iterator[FolderListing]:
        """Yield the listing of each folder as it arrives."""
        return self._answers(locations, self._list_folder)

    def find_file(self, location: str, name: str) -> FolderListing:
        """Return the listing of one file of a folder, without listing the others."""
        # Names that begin with all but the last letter, up to the name itself.
        bounds = (name[:-1], f"{name}\0")

        async def find(location: str) -> FolderListing:
            listing = await self._list_folder(location, bounds)
            return replace(listing, files=tuple(one for one in listing.files if one.name == name))

        (listing,) = self._answers([location], find)
        return listing

    def read_files(self, requests: Sequence[FileRequest]) -> Iterator[FileContent]:
        """Yield the content of each file as it arrives."""
        return self._answers(requests, self._read_file, lambda request: request.size_bytes)

    def list_everything(self, home: str, most_pages: int) -> pl.DataFrame | None:
        """Return the files of every folder directly below an address.

        Several ranges of names are listed concurrently, in pages of a thousand files.

        Returns
        -------
        polars.DataFrame or None
            As :func:`files_frame`; None if there are more than ``most_pages`` pages, or if they
            cannot be listed.
        """
        pages = [files_frame(home, [])]

        async def list_range(bounds: Bounds) -> bool:
            try:
                async for page in self._pages(home, bounds):
                    if len(pages) > most_pages:
                        return False
                    pages.append(_by_folder(files_frame(home, page)))
            except FileNotFoundError:
                pass  # The bucket does not exist: no files.
            except Exception as error:  # noqa: BLE001 - clients raise anything
                self._retries.problem_of(error, home)
                return False
            return True

        whole = list(self._answers(self._backend.ranges, list_range))
        return pl.concat(pages) if all(whole) else None

    def __enter__(self) -> Self:
        """Open the store."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._backend.open(), self._loop).result()
        return self

    def __exit__(self, *exception: object) -> None:
        """Cancel the requests under way, and close every connection."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        # A consumer that is interrupted cannot cancel its requests.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._backend.close()

    # --- one request ----------------------------------------------------------------------

    async def _list_folder(self, location: str, bounds: Bounds = ALL_NAMES) -> FolderListing:
        files: Files = []
        try:
            async for page in self._pages(location, bounds):
                files += page
                if len(files) > MOST_FILES:
                    return FolderListing(location, problem=_too_many_files())
        except FileNotFoundError:
            return FolderListing(location)  # The bucket does not exist.
        except Exception as error:  # noqa: BLE001 - clients raise anything
            return FolderListing(location, problem=self._retries.problem_of(error, location))
        return FolderListing(location, tuple(files))

    async def _read_file(self, request: FileRequest) -> FileContent:
        if request.size_bytes > LARGEST_FILE_BYTES:
            return FileContent(request, problem=problem_of(TooLargeError(request.size_bytes)))
        try:
            content, etag = await self._retries.call(
                lambda: self._backend.read(request.location, request.name)
            )
        except Exception as error:  # noqa: BLE001 - clients raise anything
            return FileContent(request, problem=self._retries.problem_of(error, request.location))
        if not content:
            message = "The file is empty. It is read again when its content changes."
            return FileContent(request, etag=etag, problem=Problem("empty", message))
        return FileContent(request, content, etag)

    async def _pages(self, location: str, bounds: Bounds) -> AsyncIterator[Files]:
        """Yield a folder's files page by page."""
        token = ""
        while True:
            this = token
            page, token = await self._retries.call(
                lambda: self._backend.page(location, bounds, this)  # noqa: B023 - called at once
            )
            yield page
            if not token:
                return

    # --- many requests --------------------------------------------------------------------

    def _answers(
        self,
        jobs: Sequence[_Job],
        work: Callable[[_Job], Awaitable[_Answer]],
        size_of: Callable[[Any], int] = lambda _job: 0,
    ) -> Iterator[_Answer]:
        """Yield the answers to jobs, which run concurrently within the limits."""
        answers: queue.SimpleQueue[tuple[_Job, _Answer | BaseException]] = queue.SimpleQueue()
        limits = _Limits(self._concurrency)

        async def do(job: _Job, all_jobs: "asyncio.Task[None]") -> None:
            try:
                answers.put((job, await work(job)))
            except Exception as error:  # noqa: BLE001 - the caller raises it
                answers.put((job, error))
                all_jobs.cancel()

        async def feed() -> None:
            all_jobs = cast("asyncio.Task[None]", asyncio.current_task())
            async with asyncio.TaskGroup() as group:
                for job in jobs:
                    await limits.acquire(size_of(job))
                    task = group.create_task(do(job, all_jobs))
                    task.add_done_callback(lambda _task: limits.request_ended())

        feeding = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            for _ in range(len(jobs)):
                job, answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                yield answer
                self._loop.call_soon_threadsafe(limits.answer_taken, size_of(job))
        finally:
            feeding.cancel()
            with suppress(Exception, asyncio.CancelledError):
                feeding.result(timeout=CONNECT_SECONDS)


class _Limits:
    """Limits the concurrent requests, and the answers and bytes that are not taken yet."""

    def __init__(self, concurrency: int) -> None:
        self._requests = asyncio.Semaphore(concurrency)
        self._bytes = 0
        self._pending = 0
        self._most_pending = 4 * concurrency
        self._taken = asyncio.Event()

    async def acquire(self, size: int) -> None:
        # A single answer may be larger than the budget.
        while self._pending and (
            self._bytes + size > _BUDGET_BYTES or self._pending >= self._most_pending
        ):
            self._taken.clear()
            await self._taken.wait()
        self._bytes += size
        self._pending += 1
        await self._requests.acquire()

    def request_ended(self) -> None:
        self._requests.release()

    def answer_taken(self, size: int) -> None:
        self._bytes -= size
        self._pending -= 1
        self._taken.set()


def open_result_store(settings: "Settings") -> ResultStore:
    """Return the result store that the settings name, for use in a ``with`` block.

    If the source is the sample and no store is named, these are the sample's result folders, which
    are written on first use.

    Raises
    ------
    ConfigurationError
        AIND_ETL_RESULTS_ROOT is neither a folder nor an ``s3://`` address.
    """
    root = settings.results_root
    if root is None and kind_of(settings.source).is_simulated:
        # Imported here: other sources do not need the simulation's libraries.
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
            f"AIND_ETL_RESULTS_ROOT is {root!r}; expected a folder or an s3:// address."
        )
    else:
        backend = LocalBackend(Path(root).expanduser())
    return ResultStore(backend, settings.s3_concurrency)


def open_store_of(settings: "Settings", location: str) -> ResultStore:
    """Return the store that holds an address, for use in a ``with`` block.

    ``s3://`` addresses are in the result store; fsspec opens all others.

    Raises
    ------
    ConfigurationError
        AIND_ETL_RESULTS_ROOT is neither a folder nor an ``s3://`` address.
    """
    if location.startswith(SCHEME):
        return open_result_store(settings)
    return ResultStore(FsspecBackend(without_credentials(location)), settings.s3_concurrency)


def _too_many_files() -> Problem:
    return Problem(
        "too_many_files",
        f"This address holds more than {MOST_FILES:,} files; expected the folder of one record. "
        "It is probably that of a whole bucket: check the document's location.",
    )


def _by_folder(files: pl.DataFrame) -> pl.DataFrame:
    """Return files below an address as files of the folders directly below it."""
    folder, name = r"^([^/]+)/", r"^[^/]+/(.+)$"
    return files.with_columns(
        location=pl.concat_str("location", pl.col("file_name").str.extract(folder), separator="/"),
        file_name=pl.col("file_name").str.extract(name),
    ).drop_nulls(["location", "file_name"])
