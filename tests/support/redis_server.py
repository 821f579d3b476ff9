"""A real Redis for tests: found on the path, and started."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ports import free_port

_START_SECONDS = 30


class NoRedisError(Exception):
    """There is no Redis, or it does not start; the message says why."""


def find_redis() -> str:
    """Return the path of ``redis-server``, or of ``valkey-server``, which is the same."""
    if found := shutil.which("redis-server") or shutil.which("valkey-server"):
        return found
    raise NoRedisError("there is no redis-server; Debian's package is called redis-server")


class RedisServer:
    """A server on a free port, whose data in ``folder`` survive its process."""

    def __init__(self, program: str, folder: Path, *arguments: str) -> None:
        self.port = free_port()
        self._folder = folder
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", *arguments]
        self._command += ["--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        log = self._folder / "log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up and self._process.poll() is None:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection,
            ):
                connection.sendall(b"PING\r\n")
                if connection.recv(16).startswith(b"+PONG"):
                    return
            time.sleep(0.02)
        raise NoRedisError(f"redis-server does not start: {log.read_text()[-500:]}")

    def end(self, signal_number: int = signal.SIGTERM) -> None:
        """End it by a signal."""
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.wait()
            self._process = None


@contextmanager
def running_redis(program: str, *arguments: str) -> Iterator[RedisServer]:
    """Run a server for the duration of a ``with`` block."""
    with tempfile.TemporaryDirectory(prefix="aind-etl-redis-") as folder:
        server = RedisServer(program, Path(folder), *arguments)
        server.start()
        try:
            yield server
        finally:
            server.end(signal.SIGKILL)
