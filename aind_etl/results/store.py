"""The store of the result folders: listing and reading with many concurrent requests.

One event loop in a thread makes the requests; the caller receives the answers in the order in which
they arrive. Answers that the caller has not taken yet hold back new requests, which bounds memory.
"""

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import polars as pl

from aind_etl.errors import ConfigurationError
from aind_etl.results.faults import Retries
from aind_etl.results.folders import (
    ALL_NAMES,
    SCHEME,
    Backend,
    Bounds,
    FileContent,
    FileRequest,
    Files,
    FolderListing,
    Problem,
    check_size,
    files_frame,
)
from aind_etl.results.local import FsspecBackend, LocalBackend
from aind_etl.results.s3 import CONNECT_SECONDS, S3Backend
from aind_etl.settings import Settings
from aind_etl.sources.kinds import kind_of
from aind_etl.text import without_credentials

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")

# Bytes of answers that may be under way or not taken yet.
_BUDGET_BYTES = 192 << 20

MOST_FILES = 10_000
"""A folder with more files is not that of one record; both pipelines write four."""
_TOO_MANY_FILES = Problem(
    "too_many_files",
    f"This address holds more than {MOST_FILES:,} files; expected the folder of one record. "
    "It is probably that of a whole bucket: check the document's location.",
)


class ResultStore:
    """The result folders by their ``s3://`` addresses, for use in a ``with`` block.

    Listing and reading raise a :class:`SourceError` if the store does not answer at all. Single
    folders and files that cannot be read are returned with a :class:`Problem`. At most
    ``concurrency`` requests run at a time.
    """

    def __init__(self, backend: Backend, concurrency: int) -> None:
        self.name = backend.name
        """The store for people: its address without credentials."""
        self._backend = backend
        self._concurrency = concurrency
        self._retries = Retries(backend.name, concurrency)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="result-store", daemon=True
        )

    def list_folders(self, locations: Sequence[str]) -> Iterator[FolderListing]:
        """Yield the listing of each folder as it arrives."""
        return self._answers(locations, self._list_folder)

    def find_etag(self, location: str, name: str) -> str:
        """Return the etag of one file, without listing the others; empty if it is not listed."""
        # Names that begin with all but the last letter, up to the name itself.
        bounds = (name[:-1], f"{name}\0")
        (listing,) = self._answers([location], lambda one: self._list_folder(one, bounds))
        return next((file.etag for file in listing.files if file.name == name), "")

    def read_files(self, requests: Sequence[FileRequest]) -> Iterator[FileContent]:
        """Yield the content of each file as it arrives."""
        return self._answers(requests, self._read_file, lambda request: request.size_bytes)

    def list_everything(self, home: str, most_pages: int) -> pl.DataFrame | None:
        """Return the files of every folder directly below an address, as :func:`files_frame`.

        None if there are more than ``most_pages`` pages of a thousand files, or if they cannot be
        listed. Several ranges of names are listed concurrently.
        """
        pages = [files_frame(home, [])]

        def add(page: Files) -> bool:
            pages.append(_by_folder(files_frame(home, page)))
            return len(pages) <= most_pages + 1

        async def list_range(bounds: Bounds) -> Problem | None:
            with suppress(FileNotFoundError):  # The bucket does not exist: no files.
                return await self._list(home, bounds, add)
            return None

        problems = list(self._answers(self._backend.ranges, list_range))
        return None if any(problems) else pl.concat(pages)

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

        def add(page: Files) -> bool:
            files.extend(page)
            return len(files) <= MOST_FILES

        try:
            problem = await self._list(location, bounds, add)
        except FileNotFoundError:
            return FolderListing(location)  # The bucket does not exist.
        return FolderListing(location, () if problem else tuple(files), problem)

    async def _list(
        self, location: str, bounds: Bounds, add: Callable[[Files], bool]
    ) -> Problem | None:
        """List a folder's files within bounds page by page, and return why it was not completed.

        ``add`` takes a page, and returns whether there may be more. If the bucket does not exist,
        a :class:`FileNotFoundError` is raised.
        """
        after, before = bounds
        token = ""
        try:
            while True:
                page, token = await self._retries.call(self._backend.page, location, bounds, token)
                # Some stores ignore where to start, and a folder on a disk is listed whole.
                within = (one for one in page if after < one.name)
                if not add([one for one in within if before is None or one.name < before]):
                    return _TOO_MANY_FILES
                if not token:
                    return None
        except FileNotFoundError:
            raise
        except Exception as error:  # noqa: BLE001 - clients raise anything
            return self._retries.problem_of(error, location)

    async def _read_file(self, request: FileRequest) -> FileContent:
        try:
            check_size(request.size_bytes)
            content, etag = await self._retries.call(
                self._backend.read, request.location, request.name
            )
        except Exception as error:  # noqa: BLE001 - clients raise anything
            return FileContent(request, problem=self._retries.problem_of(error, request.location))
        if not content:
            message = "The file is empty. It is read again when its content changes."
            return FileContent(request, etag=etag, problem=Problem("empty", message))
        return FileContent(request, content, etag)

    # --- many requests --------------------------------------------------------------------

    def _answers(
        self,
        jobs: Sequence[_Job],
        work: Callable[[_Job], Awaitable[_Answer]],
        size_of: Callable[[Any], int] = lambda _job: 0,
    ) -> Iterator[_Answer]:
        """Yield the answers to jobs, which run concurrently within the limits."""
        answers: queue.SimpleQueue[tuple[_Job, _Answer] | Exception] = queue.SimpleQueue()
        running = asyncio.Semaphore(self._concurrency)
        untaken = _Untaken(4 * self._concurrency)

        async def do(job: _Job) -> None:
            await running.acquire()
            answers.put((job, await work(job)))
            # Not after an error, which ends all requests.
            running.release()

        async def feed() -> None:
            try:
                async with asyncio.TaskGroup() as group:
                    for job in jobs:
                        await untaken.add(size_of(job))
                        group.create_task(do(job))
            except* Exception as errors:  # noqa: BLE001 - the caller raises the first
                answers.put(errors.exceptions[0])

        feeding = asyncio.run_coroutine_threadsafe(feed(), self._loop)
        try:
            for _ in jobs:
                done = answers.get()
                if isinstance(done, Exception):
                    raise done
                job, answer = done
                yield answer
                self._loop.call_soon_threadsafe(untaken.remove, size_of(job))
        finally:
            feeding.cancel()
            with suppress(Exception, asyncio.CancelledError):
                feeding.result(timeout=CONNECT_SECONDS)


class _Untaken:
    """Limits the number and bytes of answers that are under way or not taken yet."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._answers = 0
        self._bytes = 0
        self._removed = asyncio.Event()

    async def add(self, size: int) -> None:
        # A single answer may be larger than the budget.
        while self._answers and (self._answers >= self._most or self._bytes + size > _BUDGET_BYTES):
            self._removed.clear()
            await self._removed.wait()
        self._answers += 1
        self._bytes += size

    def remove(self, size: int) -> None:
        self._answers -= 1
        self._bytes -= size
        self._removed.set()


def open_result_store(settings: Settings, location: str = SCHEME) -> ResultStore:
    """Return the store that holds an address, for use in a ``with`` block.

    ``s3://`` addresses are in the store of the result folders that the settings name; fsspec opens
    all others. If the source is the sample and no store is named, it is that of the sample's result
    folders, which are written on first use.

    Raises
    ------
    ConfigurationError
        AIND_ETL_RESULTS_ROOT is neither a folder nor an ``s3://`` address.
    """
    if not location.startswith(SCHEME):
        return ResultStore(FsspecBackend(without_credentials(location)), settings.s3_concurrency)
    root = settings.results_root
    if root is None and kind_of(settings.source).is_simulated:
        # Imported here: other sources do not need the simulation's libraries.
        from aind_etl.sources.sample import write_results  # noqa: PLC0415

        root = str(write_results(settings.source, settings.folder))
    if root is None or root.startswith(SCHEME):
        prefix = (root or "").rstrip("/") if root != SCHEME else ""
        backend: Backend = S3Backend(settings, prefix)
    elif "://" in root:
        raise ConfigurationError(
            f"AIND_ETL_RESULTS_ROOT is {root!r}; expected a folder or an s3:// address."
        )
    else:
        backend = LocalBackend(Path(root).expanduser())
    return ResultStore(backend, settings.s3_concurrency)


def _by_folder(files: pl.DataFrame) -> pl.DataFrame:
    """Return files below an address as files of the folders directly below it."""
    parts = pl.col("file_name").str.extract_groups(r"^(?<folder>[^/]+)/(?<name>.+)$").struct
    return files.with_columns(
        location=pl.concat_str("location", parts.field("folder"), separator="/"),
        file_name=parts.field("name"),
    ).drop_nulls("file_name")
