"""From a location to its warehouse: a local file, or an object of a store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.local_file import LocalWarehouse
from aind_etl.warehouse.object_file import ObjectWarehouse, cache_folder, endpoint, open_store

WarehouseFile: TypeAlias = LocalWarehouse | ObjectWarehouse
"""The file or object of a warehouse, which may not exist yet."""
_BEGINNING_BYTES = 4096


def locate_warehouse(location: WarehouseLocation) -> WarehouseFile:
    """Return the warehouse at a location, or raise a ConfigurationError for a URL of no object."""
    if isinstance(location, Path):
        return LocalWarehouse(location)
    # All readers of this process share the local copy of an object.
    key = (location, endpoint(), cache_folder())
    return _OBJECTS.get(key) or _OBJECTS.setdefault(key, ObjectWarehouse(location))


def beside(location: WarehouseLocation, name: str) -> WarehouseLocation:
    """Return the location of a file in the folder of a warehouse."""
    if isinstance(location, Path):
        return location.parent / name
    return f"{location.rpartition('/')[0]}/{name}"


@contextmanager
def file_beside(location: WarehouseLocation, name: str) -> Iterator[tuple[WarehouseLocation, Path]]:
    """Give the location of a file beside a warehouse, and the local path to write it to.

    The file is uploaded after the ``with`` block; a DataError is raised if the store does not
    answer.
    """
    final = beside(location, name)
    if isinstance(final, Path):
        yield final, final
        return
    with TemporaryDirectory(prefix="aind-etl-") as folder:
        written = Path(folder) / name
        yield final, written
        content = written.read_bytes()
        open_store(final).write(name, lambda file: file.write(content))


def beginning_beside(location: WarehouseLocation, name: str) -> bytes:
    """Return the first bytes of a file beside a warehouse; empty if there is none."""
    location = beside(location, name)
    if not isinstance(location, Path):
        return (open_store(location).read(name) or b"")[:_BEGINNING_BYTES]
    if not location.is_file():
        return b""
    with location.open("rb") as file:
        return file.read(_BEGINNING_BYTES)


_OBJECTS: dict[tuple[str, str, Path], ObjectWarehouse] = {}
if hasattr(os, "register_at_fork"):
    # Locks survive a fork, but not the threads that would release them.
    os.register_at_fork(after_in_child=_OBJECTS.clear)
