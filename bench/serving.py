"""The servers of the measurements, each a process of its own that ends with its caller.

These are the REST gateway, and the S3 endpoint behind a relay that delays every request. The relay
passes answers on within the kernel, so that it takes little of the processors that it shares with
the measured process.
"""

import math
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import F_SETPIPE_SZ, fcntl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient

sys.path.append(str(Path(__file__).parent.parent / "tests" / "support"))

from gateway_server import running_gateway
from result_endpoint import serve_folder

_PIECE_BYTES = 1 << 20


@contextmanager
def serving(*what: object) -> Iterator[str]:
    """Run a server, and give its URL.

    ``what`` is ``"gateway"`` and the address of a database, or ``"s3"``, a folder and the seconds
    by which requests are delayed.
    """
    command = [sys.executable, __file__, *map(str, what)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = process.stdout.readline().decode().strip()
            if not url:
                raise SystemExit(f"{' '.join(command)} does not start.")
            yield url
        finally:
            process.stdin.close()


@contextmanager
def relay(upstream: str, seconds: float) -> Iterator[str]:
    """Pass connections on to a server, with every request delayed; give the URL to use."""
    host = urlsplit(upstream)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection((host.hostname, host.port))
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for work, *ends in ((_delay, client, server), (_pass, server, client)):
                    arguments = (*ends, seconds)
                    threading.Thread(target=work, args=arguments, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _delay(client: socket.socket, server: socket.socket, seconds: float) -> None:
    """Pass each request on some seconds after it arrived."""
    with suppress(OSError):
        while request := client.recv(_PIECE_BYTES):
            time.sleep(seconds)
            server.sendall(request)
        server.shutdown(socket.SHUT_WR)


def _pass(server: socket.socket, client: socket.socket, _seconds: float) -> None:
    """Pass answers on, from socket to socket within the kernel."""
    with server, client, suppress(OSError):
        out, into = os.pipe()
        try:
            fcntl(into, F_SETPIPE_SZ, _PIECE_BYTES)
            while moved := os.splice(server.fileno(), into, _PIECE_BYTES):
                while moved:
                    moved -= os.splice(out, client.fileno(), moved)
        finally:
            os.close(out)
            os.close(into)
            # Wakes the thread that waits for another request.
            client.shutdown(socket.SHUT_RDWR)


@contextmanager
def _server(kind: str, *what: str) -> Iterator[str]:
    if kind == "gateway":
        with (
            MongoClient[dict[str, Any]](what[0]) as client,
            running_gateway(client.get_default_database()) as gateway,
        ):
            gateway.most_requests = math.inf
            yield gateway.url
    else:
        with (
            serve_folder(Path(what[0]), is_still=True) as upstream,
            relay(upstream, float(what[1])) as url,
        ):
            yield url


if __name__ == "__main__":
    with _server(*sys.argv[1:]) as served:
        print(served, flush=True)
        # Ends when the caller closes the pipe or dies.
        sys.stdin.buffer.read()
