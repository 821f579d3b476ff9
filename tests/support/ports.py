"""Servers that tests start on ports of this host."""

import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

_SECONDS = 60


def free_port() -> int:
    """Return a port of this host on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_open(port: int) -> bool:
    """Return whether a process of this host listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def serving(
    port: int,
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    error: type[Exception] = RuntimeError,
) -> Iterator[None]:
    """Run a server, which listens on a port within the ``with`` block.

    If it does not start, ``error`` is raised with the last line that it printed.
    """
    with NamedTemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            give_up = time.monotonic() + _SECONDS
            while not is_open(port):
                if process.poll() is not None or time.monotonic() > give_up:
                    printed = Path(log.name).read_text(errors="replace").strip()
                    raise error(f"a server does not start: {printed[-500:]}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
