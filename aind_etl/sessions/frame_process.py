"""Reading the pickled frame in a process of its own, with limits on memory and time."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa

from aind_etl.errors import DataError
from aind_etl.sessions.pickled_frame.process import REFUSED

# Only the package `pickled_frame` is loaded, by itself.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from pickled_frame.process import main; "
    "sys.exit(main(sys.argv[2:]))"
)
_INHERITED_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# One thread and one heap: each more takes part of the limited address space.
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_NOTHING_RUN = "Nothing in it was run; write it again with pandas."


def read_pickled_frame(
    content: bytes, *, memory_bytes: int = 3 << 29, cpu_seconds: int = 60, wall_seconds: float = 120
) -> pa.Table:
    """Return the columns of a pickled frame, as :func:`.pickled_frame.read_frame`.

    The process that reads it has limits on its address space, and on its time on CPU and clock. A
    pickle that is refused, or needs more, is a :class:`DataError`.
    """
    folder = str(Path(__file__).parent)
    limits = [str(memory_bytes), str(cpu_seconds)]
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and program
            [sys.executable, "-I", "-c", _PROGRAM, folder, *limits],
            input=content,
            capture_output=True,
            timeout=wall_seconds,
            # An interrupt from the terminal is for this process only.
            start_new_session=True,
            # The process has no credentials.
            env=_ENVIRONMENT | inherited,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"It was not read after {wall_seconds:g} s. {_NOTHING_RUN}") from None
    if done.returncode:
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode == REFUSED and errors:
            raise DataError(f"{errors[-1]} {_NOTHING_RUN}")
        raise DataError(
            f"Reading it took more than {cpu_seconds} s of the processor or "
            f"{memory_bytes >> 20:,} MB of memory (the process ended with {done.returncode}). "
            f"{_NOTHING_RUN}"
        )
    with pa.ipc.open_stream(done.stdout) as stream:
        return stream.read_all()
