"""The location of a warehouse: a file on a disk, or one object of a store."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.local_file import LocalWarehouse, WarehouseFile
from aind_etl.warehouse.object_file import ObjectWarehouse, cache_folder, endpoint

_BEGINNING_BYTES = 4096


def locate_warehouse(place: WarehouseLocation) -> WarehouseFile:
    """Return the warehouse at a location.

    Raises
    ------
    ConfigurationError
        The URL names no object.
    """
    if isinstance(place, Path):
        return LocalWarehouse(place)
    # What is known of a copy is known to every reader of this process.
    key = (place, endpoint(), cache_folder())
    return _OBJECTS.get(key) or _OBJECTS.setdefault(key, ObjectWarehouse(place))


@contextmanager
def file_beside(place: WarehouseLocation, name: str) -> Iterator[tuple[WarehouseLocation, Path]]:
    """Give, for the duration of a ``with`` block, where a file beside a warehouse is to be written.

    Yields
    ------
    tuple of (WarehouseLocation, Path)
        Its final location, and the path to write it to.

    Raises
    ------
    DataError
        The store of the warehouse cannot be asked.
    """
    if isinstance(place, Path):
        path = place.with_name(name)
        yield path, path
        return
    from aind_etl.lake.storage.object_store import ObjectStorage  # noqa: PLC0415 - slow to import

    root = place.rpartition("/")[0]
    with TemporaryDirectory(prefix="aind-etl-") as folder:
        written = Path(folder) / name
        yield f"{root}/{name}", written
        store = ObjectStorage(root, name=f"The store of the warehouse {place}")
        store.write(name, partial(_write, written.read_bytes()))


def beginning_beside(place: WarehouseLocation, name: str) -> bytes:
    """Return how a file beside a warehouse begins; empty where there is none.

    Raises
    ------
    DataError
        The store of the warehouse cannot be asked.
    """
    if isinstance(place, Path):
        path = place.with_name(name)
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(_BEGINNING_BYTES)
    from aind_etl.lake.storage.object_store import ObjectStorage  # noqa: PLC0415 - slow to import

    root = place.rpartition("/")[0]
    store = ObjectStorage(root, name=f"The store of the warehouse {place}")
    return (store.read(name) or b"")[:_BEGINNING_BYTES]


_OBJECTS: dict[tuple[str, str, Path], ObjectWarehouse] = {}
if hasattr(os, "register_at_fork"):
    # A process takes locks with it when it forks, and not the threads that would release them.
    os.register_at_fork(after_in_child=_OBJECTS.clear)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)
