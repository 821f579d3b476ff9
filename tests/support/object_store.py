"""An S3 endpoint with conditional requests, for lakes on an object store."""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
import s3fs
from ports import free_port, serving

BUCKET = "lakes"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "of-no-value",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}

Send: TypeAlias = Callable[[], Awaitable[Any]]
"""Sends a request to the store, and returns its answer."""


@contextmanager
def object_store() -> Iterator[str]:
    """Run an endpoint, and yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with serving(port, command):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def asked_at(address: str, cache: Path) -> Iterator[None]:
    """Name an endpoint and a cache folder in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        s3fs.S3FileSystem.clear_instance_cache()
        with suppress(FileExistsError):
            s3fs.S3FileSystem().mkdir(BUCKET)
        yield
    # The next test has another environment.
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def requests_go_through(gate: Callable[[str, Send], Awaitable[Any]]) -> Iterator[None]:
    """Pass every request of this process to a store through a function.

    ``gate`` gets the request's name, such as ``put_object``, and the function that sends it; its
    return value or exception is the answer.
    """
    ask = s3fs.core._error_wrapper

    async def request(func: Any, **options: Any) -> Any:
        return await gate(func.__name__, lambda: ask(func, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.core, "_error_wrapper", request)
        yield


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the requests to the store, by their names."""
    requests: Counter[str] = Counter()

    async def count(name: str, send: Send) -> Any:
        requests[name] += 1
        return await send()

    with requests_go_through(count):
        yield requests


@contextmanager
def out_of_reach() -> Iterator[None]:
    """Let no request to the store be answered."""

    async def fail(name: str, send: Send) -> Any:
        raise OSError("Could not connect to the endpoint")

    with requests_go_through(fail):
        yield


class KilledError(Exception):
    """The process is gone: nothing but a test catches this."""


class MortalRequests:
    """Requests of a process that is killed at one that writes or removes.

    That request and all later ones are not sent, even by clean-up code. A kill before a request is
    a kill after the one before it, whose answer is not read. Requests are counted from 1; with 0,
    none is killed.
    """

    CHANGING = (
        *("put_object", "delete_object", "delete_objects", "copy_object"),
        *("create_multipart_upload", "upload_part"),
        *("complete_multipart_upload", "abort_multipart_upload"),
    )

    def __init__(self, killed_at: int = 0) -> None:
        self.operations = 0
        self._killed_at = killed_at

    @property
    def is_dead(self) -> bool:
        """Whether nothing is sent any more."""
        return 0 < self._killed_at <= self.operations

    def counted(self) -> AbstractContextManager[None]:
        """Count what is sent in a ``with`` block."""
        return requests_go_through(self._send)

    async def _send(self, name: str, send: Send) -> Any:
        if name in self.CHANGING:
            self.operations += 1
        if self.is_dead:
            raise KilledError
        return await send()


def new_prefix() -> str:
    """Return the address of an empty prefix."""
    return f"s3://{BUCKET}/{uuid4().hex}"


def objects_of(url: str) -> dict[str, str]:
    """Return the etag of every object of a lake but its locks; equal contents have equal etags."""
    found = s3fs.S3FileSystem(use_listings_cache=False).find(url, detail=True)
    base = f"{url.removeprefix('s3://')}/"
    etags = {path.removeprefix(base): facts["ETag"] for path, facts in found.items()}
    return {name: etag for name, etag in etags.items() if not name.startswith("_locks/")}


def upload(folder: Path, url: str) -> None:
    """Copy a lake from a disk to below a prefix."""
    files = {
        f"{url}/{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "_locks"
    }
    if files:
        s3fs.S3FileSystem(use_listings_cache=False).pipe(files)


def remove(url: str) -> None:
    """Remove everything below a prefix."""
    store = s3fs.S3FileSystem(use_listings_cache=False)
    store.rm(store.find(url))
