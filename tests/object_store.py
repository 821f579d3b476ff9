"""An S3 endpoint with conditional requests, for lakes that lie on an object store."""

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import pytest
import s3fs

BUCKET = "lakes"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "of-no-value",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
_START_SECONDS = 60

Send: TypeAlias = Callable[[], Awaitable[Any]]
"""Sends a request to the store, and returns its answer."""


@contextmanager
def object_store() -> Iterator[str]:
    """Run an endpoint, and give its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def asked_at(address: str, cache: Path) -> Iterator[None]:
    """Let the environment name an endpoint, and a folder for copies of what lies there."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("XDG_CACHE_HOME", str(cache))
        s3fs.S3FileSystem.clear_instance_cache()
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield
    # Whoever asks next has another environment.
    s3fs.S3FileSystem.clear_instance_cache()


@contextmanager
def requests_go_through(gate: Callable[[str, Send], Awaitable[Any]]) -> Iterator[None]:
    """Let every request of this process to a store go through a function.

    Parameters
    ----------
    gate
        Gets the request's name, such as ``put_object``, and what sends it; what it returns or
        raises is the answer.
    """
    ask = s3fs.core._error_wrapper

    async def asked(func: Any, **options: Any) -> Any:
        return await gate(func.__name__, lambda: ask(func, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(s3fs.core, "_error_wrapper", asked)
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


def new_prefix() -> str:
    """Return the address of a prefix below which nothing lies."""
    return f"s3://{BUCKET}/{uuid4().hex}"


def objects_of(url: str) -> dict[str, bytes]:
    """Return the content of every object of a lake, but for its locks."""
    store = s3fs.S3FileSystem(use_listings_cache=False)
    base = url.removeprefix("s3://")
    found = {name.removeprefix(f"{base}/"): name for name in store.find(base)}
    shown = [name for name in found if not name.startswith("_locks/")]
    contents = store.cat([found[name] for name in shown])
    return {name: contents[found[name]] for name in shown}


def upload(folder: Path, url: str) -> None:
    """Copy a lake from a disk to below a prefix."""
    store = s3fs.S3FileSystem(use_listings_cache=False)
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            place = path.relative_to(folder).as_posix()
            if not place.startswith("_locks/"):
                store.pipe_file(f"{url}/{place}", path.read_bytes())


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError("the S3 endpoint did not start")
