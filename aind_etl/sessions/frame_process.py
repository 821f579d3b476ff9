"""Reading the pickled frame in a process of its own, with limits on memory and time."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pyarrow as pa

from aind_etl.errors import DataError
from aind_etl.sessions import pickled_frame


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """What the process that reads a pickle may use.

    Attributes
    ----------
    memory_bytes
        Its address space.
    cpu_seconds
        Time of the processor.
    wall_seconds
        Time on the clock.
    """

    memory_bytes: int = 3 << 29
    cpu_seconds: int = 60
    wall_seconds: float = 120.0


# --- the reading process --------------------------------------------------------------------


def read_pickled_frame(content: bytes, limits: ReadingLimits) -> pa.Table:
    """Return the columns of a pickled frame, read in a process of its own.

    Returns
    -------
    pyarrow.Table
        As :func:`aind_etl.sessions.pickled_frame.read_frame` describes it.

    Raises
    ------
    DataError
        The pickle is refused, or needs more memory or time than it may have.
    """
    program = str(pickled_frame.__file__)
    limited = [str(limits.memory_bytes), str(limits.cpu_seconds)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and file
            [sys.executable, "-I", program, *limited],
            input=content,
            capture_output=True,
            timeout=limits.wall_seconds,
            # An interrupt from the terminal is for the reader of its answer.
            start_new_session=True,
            # No credential is in reach of what is read there.
            env=_ENVIRONMENT | {name: os.environ[name] for name in KEPT if name in os.environ},
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise DataError(
            f"It was not read after {limits.wall_seconds:g} s. {REFUSED_FOR_GOOD}"
        ) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode == pickled_frame.REFUSED and said:
            raise DataError(f"{said[-1]} {REFUSED_FOR_GOOD}")
        raise DataError(
            f"Reading it took more than {limits.cpu_seconds} s of the processor or "
            f"{limits.memory_bytes >> 20:,} MB of memory (the process ended with "
            f"{done.returncode}). {REFUSED_FOR_GOOD}"
        )
    with pa.ipc.open_stream(done.stdout) as stream:
        return stream.read_all()


REFUSED_FOR_GOOD = "Nothing of it was run; have it written again by pandas."
KEPT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# One thread and one heap: each more takes of the address space that is limited.
_ENVIRONMENT = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
