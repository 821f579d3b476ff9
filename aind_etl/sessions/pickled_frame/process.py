"""The process that reads a pickled frame, with limits on its memory and time."""

import resource
import sys
from collections.abc import Sequence

import pyarrow as pa

from .frame import read_frame
from .unpickling import RefusedError

REFUSED = 1
"""Exit code of a pickle that is refused; the last line on standard error says why."""


def main(arguments: Sequence[str]) -> int:
    """Read a pickled frame from standard input, and write its columns to standard output.

    The arguments are the limits of its address space in bytes and of its CPU time in seconds.
    """
    memory_bytes, cpu_seconds = map(int, arguments)
    for limit, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (most, most))
    try:
        table = read_frame(sys.stdin.buffer.read())
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
            stream.write_table(table)
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return REFUSED
    except MemoryError:
        sys.stderr.write(f"It needs more than {memory_bytes >> 20:,} MB of memory.\n")
        return REFUSED
    return 0
