"""A real S3 endpoint for tests, and a proxy before it that fails on request.

rclone serves a folder as S3; the proxy forwards requests, records them and injects faults.
"""

import asyncio
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import ClientSession, TCPConnector, web
from ports import free_port, serving
from yarl import URL

_RCLONE = Path(sys.executable).with_name("rclone")

_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{0}</Code><Message>{0}</Message></Error>'
)
SLOW_DOWN = _ERROR.format("SlowDown")
_OF_ONE_CONNECTION = {"connection", "content-length", "expect", "transfer-encoding"}
PAGE = "<!DOCTYPE html><html><head><title>Please sign in</title></head><body></body></html>"


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request."""

    # Status of the response; 200 forwards the request, and then spoils the response.
    status: int = 200
    # Replaces the body.
    body: str | bytes | None = None
    # Additional headers.
    headers: dict[str, str] = field(default_factory=dict)
    # Whether the connection ends in the middle of the body.
    cut: bool = False


def error(status: int, code: str, **headers: str) -> Fault:
    """Return the fault that answers with an error of S3; underscores in headers are hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Fault(status, _ERROR.format(code), {"Content-Type": "application/xml"} | more)


Faults = Callable[[str, int], Fault | None]
"""Returns the fault for a path with its query, and the number of earlier requests for it."""


class Endpoint:
    """A proxy before an S3 endpoint.

    ``requests`` has the method and the path, with its query, of every request, and ``signers`` the
    id of the key that signed it, None for an anonymous one. ``faults`` says what goes wrong.
    """

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.requests: list[tuple[str, str]] = []
        self.signers: list[str | None] = []
        self.faults: Faults = lambda _path, _times: None
        self._upstream = upstream
        self._times: dict[str, int] = {}
        self._started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def forget(self) -> None:
        """Forget all requests and faults."""
        self.requests.clear()
        self.signers.clear()
        self._times.clear()
        self.faults = lambda _path, _times: None

    def start(self) -> None:
        """Start to listen."""
        self._thread.start()
        assert self._started.wait(10)

    def stop(self) -> None:
        """Stop to listen."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set()
        self._loop.run_forever()

    async def _listen(self) -> None:
        self._client = ClientSession(connector=TCPConnector(limit=0), auto_decompress=False)
        self._runner = web.ServerRunner(
            web.Server(self._answer, access_log=None), shutdown_timeout=1.0
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    async def _close(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path
        self.requests.append((request.method, path))
        said = request.headers.get("Authorization", path)
        signed = re.search(r"Credential=(\w+)(?:/|%2F)", said)
        self.signers.append(signed and signed[1])
        times = self._times.get(path, 0)
        self._times[path] = times + 1
        fault = self.faults(path, times)
        if fault is not None and (fault.status != 200 or fault.body is not None):
            body = fault.body or b""
            content = body.encode() if isinstance(body, str) else body
            return web.Response(status=fault.status, body=content, headers=fault.headers)
        passed = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _OF_ONE_CONNECTION
        }
        if "Expect" in request.headers:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        sent = await request.content.read()
        url = URL(self._upstream + path, encoded=True)
        async with self._client.request(
            request.method, url, headers=passed, data=sent or None
        ) as answer:
            content = await answer.read()
            headers = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() in {"content-type", "content-range", "etag", "last-modified"}
            }
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                headers["Content-Length"] = answer.headers["Content-Length"]
                return web.Response(status=answer.status, headers=headers)
            if fault is not None and fault.cut:
                response = web.StreamResponse(status=answer.status, headers=headers)
                response.content_length = len(content)
                await response.prepare(request)
                await response.write(content[: len(content) // 2])
                request.transport.close()
                return response
            return web.Response(status=answer.status, body=content, headers=headers)


@contextmanager
def serve_folder(folder: Path, *, is_still: bool = False) -> Iterator[str]:
    """Serve ``<folder>/<bucket>/<key>`` as S3 for the duration of a ``with`` block; give its URL.

    A folder that does not change (``is_still``) is not listed again for every request.
    """
    port = free_port()
    address = f"127.0.0.1:{port}"
    command = [_RCLONE, "serve", "s3", "--addr", address, "--vfs-cache-mode", "off"]
    command += ["--dir-cache-time", "1h" if is_still else "0s", "--config", "/dev/null", folder]
    with serving(port, command):
        yield f"http://{address}"


@contextmanager
def endpoint_before(folder: Path, *, is_still: bool = False) -> Iterator[Endpoint]:
    """Serve a folder as S3 behind a proxy for the duration of a ``with`` block."""
    with serve_folder(folder, is_still=is_still) as upstream:
        endpoint = Endpoint(upstream)
        endpoint.start()
        try:
            yield endpoint
        finally:
            endpoint.stop()
