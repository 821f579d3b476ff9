"""Locks of one thread, for every kind of storage."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from aind_etl.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

    from upath import UPath

    Location = Path | UPath
    """Where a file lies: on a disk, or at a URL."""


@contextmanager
def refuse_reentry(name: str, purpose: str) -> Iterator[None]:
    """Refuse a lock that the same thread holds, at once: it would wait for itself.

    Raises
    ------
    DataError
        It holds the lock.
    """
    held: set[str] = _HELD_BY_THREAD.__dict__.setdefault("names", set())
    if name in held:
        raise DataError(
            f"Another run is writing {purpose} (process {os.getpid()} on {os.uname().nodename}: "
            "this process itself, which would wait for itself). Report this as a defect."
        )
    held.add(name)
    try:
        yield
    finally:
        held.discard(name)


_HELD_BY_THREAD = threading.local()
