"""Access to the result folders: an object store, or a folder that stands in for it.

Here belong listing and reading, many at a time, and what is done when the store does not answer
as it should. What the files mean does not belong here. Nothing is ever written: the only requests
made are ``ListObjectsV2`` and ``GetObject``.

One event loop in a thread of its own makes the requests; whoever asks takes the answers one
after the other, in the order in which they come. Answers not yet taken hold back new requests,
so that memory is bounded however slowly they are taken.
"""

import asyncio
import os
import queue
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from itertools import count, pairwise
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast
from urllib.parse import urlsplit

import polars as pl

from aind_etl.errors import AindEtlError, ConfigurationError, SourceError
from aind_etl.text import without_credentials

if TYPE_CHECKING:
    from aiobotocore.awsrequest import AioAWSResponse

    from aind_etl.settings import Settings

LARGEST_FILE_BYTES = 64 << 20
"""A larger file is not read: a result file has about half a megabyte."""

_SCHEME = "s3://"
_ATTEMPTS = 6
_LONGEST_WAIT_SECONDS = 30.0
_CONNECT_SECONDS = 10
_READ_SECONDS = 60
# A store of which not one answer comes for so long is asked no more.
_LONGEST_SILENCE_SECONDS = 20.0
# Bytes of answers that may be under way or wait to be taken.
_BUDGET_BYTES = 192 << 20
_THROTTLED = 429
_SERVER_ERROR = 500
_NOT_FOUND = 404
_REFUSED = (401, 403)
# What a store of many regions says of a bucket in another one.
_ELSEWHERE = (301, 307, 400)

_Job = TypeVar("_Job")
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a result folder.

    Attributes
    ----------
    name
        Its path in the folder.
    size_bytes
        Its size.
    etag
        The store's mark of its content.
    last_modified
        When it was written.
    """

    name: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a folder could not be listed or a file not be read.

    Attributes
    ----------
    reason
        ``gone``, ``refused``, ``too_large``, ``too_many_files``, ``empty`` or ``unreachable``.
    message
        What the store said, and what to do.
    """

    reason: str
    message: str


MOST_FILES = 10_000
"""The most files of a folder that is taken for that of one record; either pipeline writes four."""

_TOO_MANY_FILES = Problem(
    "too_many_files",
    f"More than {MOST_FILES:,} files lie at this address, which is most likely that of a whole "
    "bucket. Expected is the folder of one record: look at the document's location.",
)


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a folder, none where nothing is there; or why it could not be listed."""

    location: str
    files: tuple[StoredFile, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file to read.

    Attributes
    ----------
    location
        Address of its folder.
    name
        Its path in the folder.
    size_bytes
        Its size as it was listed.
    """

    location: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file with its mark; or why it could not be read."""

    request: FileRequest
    content: bytes = b""
    etag: str = ""
    problem: Problem | None = None


Files = list[StoredFile]
Bounds = tuple[str, str | None]
"""Names of files later than the first and earlier than the second text, where there is one."""

_EVERYTHING: Bounds = ("", None)
_RANGES: list[Bounds] = list(pairwise(("", *"123456789abcdef", None)))  # type: ignore[arg-type]
"""Names of result folders are hexadecimal digits as a rule: about equal parts of all."""

FILES_SCHEMA: dict[str, pl.DataType] = {
    "location": pl.String(),
    "file_name": pl.String(),
    "size_bytes": pl.Int64(),
    "etag": pl.String(),
    "last_modified": pl.Datetime("us", "UTC"),
}
"""Columns of files that were listed."""


class _Backend(Protocol):
    """A place that holds folders by their ``s3://`` addresses.

    ``ranges`` are those in which everything is listed, side by side.
    """

    name: str
    ranges: Sequence[Bounds]

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]: ...

    async def read(self, location: str, name: str) -> tuple[bytes, str]: ...


_WHAT_TO_CHECK = (
    "Check the network, AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_RESULTS_ROOT, or leave the result "
    "folders out with --no-results. What was read so far is kept; result files, trials, figures "
    "and the session table are as they were, and the next run goes on from there."
)


class TooLargeError(Exception):
    """A file is larger than :data:`LARGEST_FILE_BYTES`."""


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
        backend: _Backend,
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
                self._note_failure(_problem_of(error), home)
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
        # Whoever is interrupted while it takes answers has no chance to say that it wants no more.
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._backend.close()

    # --- one request ----------------------------------------------------------------------

    async def _list_folder(self, location: str, bounds: Bounds = _EVERYTHING) -> FolderListing:
        try:
            files: list[StoredFile] = []
            async for page in self._pages(location, bounds):
                files += page
                if len(files) > MOST_FILES:
                    return FolderListing(location, problem=_TOO_MANY_FILES)
        except FileNotFoundError:
            # There is not even a bucket.
            files = []
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            problem = _problem_of(error)
            self._note_failure(problem, location)
            return FolderListing(location, problem=problem)
        return FolderListing(location, tuple(files))

    async def _read_file(self, request: FileRequest) -> FileContent:
        if request.size_bytes > LARGEST_FILE_BYTES:
            return FileContent(request, problem=_problem_of(TooLargeError(request.size_bytes)))
        try:
            content, etag = await self._again_and_again(
                lambda: self._backend.read(request.location, request.name)
            )
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            problem = _problem_of(error)
            self._note_failure(problem, request.location)
            return FileContent(request, problem=problem)
        if not content:
            message = "The file is empty. It is tried again when the store has another content."
            return FileContent(request, etag=etag, problem=Problem("empty", message))
        return FileContent(request, content, etag)

    async def _pages(self, location: str, bounds: Bounds = _EVERYTHING) -> AsyncIterator[Files]:
        """Yield a folder's files page by page."""
        token = ""
        while True:
            asked = token
            page, token = await self._again_and_again(
                lambda: self._backend.page(location, bounds, asked)  # noqa: B023 - asked at once
            )
            yield page
            if not token:
                return

    async def _again_and_again(self, ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Ask until there is an answer, or no hope for one."""
        for failed in count(1):
            try:
                answer = await ask()
            except Exception as error:
                self._note_silence(error)
                if failed == _ATTEMPTS or not _will_pass(error):
                    raise
                longest = min(self._first_wait * 2**failed, _LONGEST_WAIT_SECONDS)
                chance = random.uniform(0, longest)  # noqa: S311 - it spreads the load, and guards nothing
                await asyncio.sleep(min(_asked_to_wait(error), _LONGEST_WAIT_SECONDS) + chance)
            else:
                self._failures_in_a_row = 0
                self._note_answer()
                return answer
        raise AssertionError

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
        if _answer_of(error) or isinstance(error, _ANSWERS):
            self._note_answer()
        if isinstance(error, _FINAL) or _answer_of(error):
            return
        now = monotonic()
        if self._silent_since is None:
            self._silent_since = now
        self._unanswered += 1
        # One file that never comes is no reason to do without the others.
        is_the_store = not self._has_answered or self._unanswered > 2 * _ATTEMPTS
        if is_the_store and now - self._silent_since >= self._longest_silence:
            raise SourceError(
                f"The result store {self.name} cannot be reached ({_said(error)}); it was asked "
                f"for {self._longest_silence:g} s. {_WHAT_TO_CHECK}"
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
                f"was {location}. {_WHAT_TO_CHECK}"
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
                feeding.result(timeout=_CONNECT_SECONDS)


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
            self._bytes + size > _BUDGET_BYTES or self._waiting >= self._most_waiting
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


class _ObjectStore:
    """Folders in an object store, through s3fs."""

    ranges: Sequence[Bounds] = _RANGES

    def __init__(
        self,
        *,
        anonymous: bool,
        endpoint_url: str | None,
        concurrency: int,
        prefix: str = "",
        page_files: int = 1000,
    ) -> None:
        self._anonymous = anonymous
        self._endpoint_url = endpoint_url
        self._concurrency = concurrency
        self._prefix = prefix
        self._page_files = page_files
        host = urlsplit(endpoint_url).hostname if endpoint_url else "AWS S3"
        self.name = f"{prefix or 's3://'} at {host}"
        self._s3: Any = None
        self._session: Any = None

    async def open(self) -> None:
        # Imported here: the client takes a second to import, and a folder needs none.
        from aiobotocore.session import AioSession  # noqa: PLC0415
        from s3fs import S3FileSystem  # noqa: PLC0415

        endpoint = self._endpoint_url
        session = AioSession()
        # Whatever form a time may have is looked for at length otherwise, in every answer.
        parsers = session.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_read_time)
        self._s3 = S3FileSystem(
            anon=self._anonymous,
            asynchronous=True,
            skip_instance_cache=True,
            session=session,
            endpoint_url=endpoint,
            config_kwargs={
                # Put together anew for every request where none is given.
                "user_agent": f"aind-etl/{version('aind-etl')}",
                "max_pool_connections": self._concurrency,
                "connect_timeout": _CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "tcp_keepalive": True,
                # Asking again is done here, for every way in which an answer can fail.
                "retries": {"total_max_attempts": 1},
                "s3": {"addressing_style": "path" if endpoint else "virtual"},
                # An address is signed in an older way by itself, which not all regions take.
                **({} if self._anonymous else {"signature_version": "s3v4"}),
            },
        )
        self._s3.retries = 1
        try:
            self._session = await self._s3.set_session()
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            raise ConfigurationError(
                f"The result store {self.name} cannot be opened ({error}). Check "
                "AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_S3_ANON."
            ) from None

    async def close(self) -> None:
        await self._session.close()

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        bucket, key = self._place(location)
        prefix = f"{key}/" if key else ""
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": self._page_files}
        if token:
            asked["ContinuationToken"] = token
        elif bounds[0]:
            asked["StartAfter"] = prefix + bounds[0]
        answer = await self._s3._call_s3("list_objects_v2", **asked)  # noqa: SLF001 - fsspec's way of saying asynchronous
        found = [
            StoredFile(
                entry["Key"][len(prefix) :],
                entry["Size"],
                entry.get("ETag", "").strip('"'),
                entry["LastModified"].astimezone(UTC),
            )
            for entry in answer.get("Contents", ())
            if not entry["Key"].endswith("/")
        ]
        # Some stores do not know where to start: what comes too early is left out here.
        inside = [file for file in found if _is_inside(file, bounds)]
        is_passed = bounds[1] is not None and bool(found) and found[-1].name >= bounds[1]
        return inside, "" if is_passed else answer.get("NextContinuationToken", "")

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        bucket, key = self._place(location)
        asked = {"Bucket": bucket, "Key": f"{key}/{name}"}
        answer = await self._get(asked)
        if answer.status_code in _ELSEWHERE:
            await answer.content
            # Asked in its own way, the client learns where the bucket lies, and knows it then.
            found = await self._s3._call_s3("get_object", **asked)  # noqa: SLF001
            found["Body"].close()
            answer = await self._get(asked)
        if answer.status_code != HTTPStatus.OK:
            raise await _refusal(answer)
        length = int(answer.headers.get("content-length", -1))
        if not 0 <= length <= LARGEST_FILE_BYTES:
            answer.raw.close()
            raise TooLargeError(None if length < 0 else length)
        content = await answer.content
        if len(content) != length:
            raise ConnectionError(f"{len(content):,} bytes came of {length:,}")
        return content, answer.headers.get("etag", "").strip('"')

    async def _get(self, asked: dict[str, str]) -> "AioAWSResponse":
        """Return the answer to a ``GetObject``, its content not yet taken.

        The client addresses, signs and sends. Its own way to take an answer apart looks for some
        forty headers, and takes longer than all the rest.
        """
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415 - as in `open`

        client = self._s3.s3
        url = await client.generate_presigned_url("get_object", asked)
        request = AWSRequest("GET", url, stream_output=True).prepare()
        try:
            return await client._endpoint.http_session.send(request)  # noqa: SLF001 - it sends nothing else
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            # It names the address, which is signed.
            raise ConnectionError(str(error).replace(url, url.partition("?")[0])) from None

    def _place(self, location: str) -> tuple[str, str]:
        place = _below(location)
        if self._prefix:
            place = f"{self._prefix.removeprefix(_SCHEME)}/{place}"
        bucket, _, key = place.partition("/")
        return bucket, key


class _LocalFolder:
    """Folders on a disk, below one that stands in for ``s3://``."""

    ranges: Sequence[Bounds] = (_EVERYTHING,)

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.name = str(root)

    async def open(self) -> None:
        if not self._root.is_dir():
            raise ConfigurationError(
                f"The folder {self.name!r} that stands in for s3:// does not exist. Set "
                "AIND_ETL_RESULTS_ROOT to a folder with <bucket>/<key>/, or to an s3:// address."
            )

    async def close(self) -> None:
        pass

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        del token  # A folder is one page.
        files = await asyncio.to_thread(_files_below, self._root / _below(location))
        return [file for file in files if _is_inside(file, bounds)], ""

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        return await asyncio.to_thread(_read_local, self._root / _below(location) / name)


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
    if root is None and settings.source.startswith("sample:"):
        root = str(_sample_results(settings))
    if root is None or root.startswith(_SCHEME):
        backend: _Backend = _ObjectStore(
            anonymous=settings.s3_anon,
            endpoint_url=settings.s3_endpoint_url,
            concurrency=settings.s3_concurrency,
            prefix=(root or "").rstrip("/") if root != _SCHEME else "",
        )
    elif "://" in root:
        raise ConfigurationError(
            f"AIND_ETL_RESULTS_ROOT is {root!r}; a folder or an s3:// address is expected."
        )
    else:
        backend = _LocalFolder(Path(root).expanduser())
    return ResultStore(backend, settings.s3_concurrency)


def files_frame(location: str, files: Sequence[StoredFile]) -> pl.DataFrame:
    """Return files of a folder as rows, with the columns of :data:`FILES_SCHEMA`."""
    return pl.DataFrame(
        {
            "location": [location] * len(files),
            "file_name": [file.name for file in files],
            "size_bytes": [file.size_bytes for file in files],
            "etag": [file.etag for file in files],
            "last_modified": [file.last_modified for file in files],
        },
        schema=FILES_SCHEMA,
    )


def _by_folder(files: pl.DataFrame) -> pl.DataFrame:
    """Return the files of folders right below a location as files of these folders."""
    folder, name = r"^([^/]+)/", r"^[^/]+/(.+)$"
    return files.with_columns(
        location=pl.concat_str("location", pl.col("file_name").str.extract(folder), separator="/"),
        file_name=pl.col("file_name").str.extract(name),
    ).drop_nulls(["location", "file_name"])


def _sample_results(settings: "Settings") -> Path:
    """Return the folder of the sample's result folders, made if need be."""
    # Imported here: other sources need none of the simulation's libraries.
    from aind_etl.sources.sample import SampleSource  # noqa: PLC0415
    from aind_etl.sources.urls import open_source  # noqa: PLC0415

    source = open_source(settings.source)
    if not isinstance(source, SampleSource):
        raise TypeError(settings.source)
    return source.write_results(settings.folder / "_sample_results")


def _below(location: str) -> str:
    """Return what follows ``s3://``.

    Raises
    ------
    ValueError
        It is no address of an object store, or one that leads elsewhere.
    """
    place = location.removeprefix(_SCHEME).strip("/")
    if not location.startswith(_SCHEME) or not place or ".." in place.split("/"):
        raise ValueError(f"{location!r} is no address of a result folder: s3://bucket/key")
    return place


def _is_inside(file: StoredFile, bounds: Bounds) -> bool:
    after, before = bounds
    return file.name > after and (before is None or file.name < before)


def _files_below(folder: Path) -> list[StoredFile]:
    found = []
    for path in folder.rglob("*"):
        # A link may lead anywhere.
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            found.append(
                StoredFile(
                    # Bytes that are no UTF-8 are shown as they are escaped.
                    os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace"),
                    facts.st_size,
                    f"{facts.st_size:x}-{facts.st_mtime_ns:x}",
                    datetime.fromtimestamp(facts.st_mtime, UTC),
                )
            )
    return sorted(found, key=lambda file: file.name)


def _read_time(text: str) -> datetime:
    """Return a time as stores tell it: in a listing, or in the header of an answer."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return parsedate_to_datetime(text)


def _read_local(path: Path) -> tuple[bytes, str]:
    facts = path.stat()
    if facts.st_size > LARGEST_FILE_BYTES:
        raise TooLargeError(facts.st_size)
    return path.read_bytes(), f"{facts.st_size:x}-{facts.st_mtime_ns:x}"


# --- what went wrong ------------------------------------------------------------------------


async def _refusal(answer: "AioAWSResponse") -> Exception:
    """Return what an answer that is no file says, as the client would have raised it."""
    from botocore.exceptions import ClientError  # noqa: PLC0415 - as in `open`
    from botocore.parsers import create_parser  # noqa: PLC0415
    from s3fs.errors import translate_boto_error  # noqa: PLC0415

    told = {
        "status_code": answer.status_code,
        "headers": answer.headers,
        "body": await answer.content,
    }
    said = create_parser("rest-xml").parse(told, None)
    return cast("Exception", translate_boto_error(ClientError(said, "GetObject")))


def _answer_of(error: BaseException) -> dict[str, Any]:
    """Return what the store said with an error; nothing where there was no answer."""
    for one in (error, error.__cause__):
        answer = getattr(one, "response", None)
        if isinstance(answer, dict):
            return dict(answer.get("ResponseMetadata", {}))
    return {}


_FINAL = (AindEtlError, TooLargeError, FileNotFoundError, PermissionError, ValueError)
"""What asking again does not mend."""


_ANSWERS = (FileNotFoundError, PermissionError, TooLargeError)
"""What only a store that can be reached has to say."""


def _will_pass(error: Exception) -> bool:
    """Return whether asking again may help."""
    if isinstance(error, _FINAL):
        return False
    status = _answer_of(error).get("HTTPStatusCode")
    return status is None or status == _THROTTLED or not 300 <= status < _SERVER_ERROR  # noqa: PLR2004 - the classes of HTTP


def _asked_to_wait(error: Exception) -> float:
    """Return the seconds a store asks to be left alone for; 0 where it does not say."""
    headers = _answer_of(error).get("HTTPHeaders", {})
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _said(error: Exception) -> str:
    """Return what an error says, on one line."""
    return without_credentials(" ".join(str(error).split()))[:300] or type(error).__name__


def _problem_of(error: Exception) -> Problem:
    """Return why something could not be had, for people.

    Raises
    ------
    AindEtlError
        It is one already.
    """
    if isinstance(error, AindEtlError):
        raise error
    status = _answer_of(error).get("HTTPStatusCode")
    said = _said(error)
    if isinstance(error, TooLargeError):
        return Problem(
            "too_large",
            f"The file has {error.args[0] or 'an unknown number of'} bytes; up to "
            f"{LARGEST_FILE_BYTES:,} are read. A result file has about half a megabyte: look at "
            "it, and remove it if it is none.",
        )
    if isinstance(error, FileNotFoundError) or status == _NOT_FOUND:
        return Problem("gone", f"The file is no longer there ({said}). It is asked for again.")
    if isinstance(error, PermissionError) or status in _REFUSED:
        return Problem(
            "refused",
            f"The store refuses access ({said}). If the bucket is not public, set "
            "AIND_ETL_S3_ANON=false and give credentials; it is asked for again.",
        )
    if isinstance(error, ValueError):
        return Problem("refused", f"{said} was expected. Nothing can be read of this record.")
    return Problem(
        "unreachable", f"The store could not be reached ({said}). It is asked for again."
    )
