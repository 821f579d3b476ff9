"""A warehouse that is a file on a local disk, and what it shares with one in a store.

:class:`.ObjectWarehouse` has methods of the same names.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation


class LocalWarehouse:
    """The file of a warehouse, which may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self._path.is_file()

    def file(self) -> Path:
        """Return the file itself, or raise a ConfigurationError if there is none."""
        if not self.exists():
            raise no_warehouse(self._path)
        return self._path

    def metadata(self) -> dict[str, str]:
        """Return nothing: a local file is quick to open."""
        return {}

    def current(self) -> None:
        """Return nothing: the lake's lock excludes other publishers."""

    def scratch_file(self) -> AbstractContextManager[Path]:
        """Give the path of a file to build, in a folder beside the warehouse."""
        return scratch_file(self._path)

    def publish(
        self,
        building: Path,
        facts: Mapping[str, str],  # noqa: ARG002 - the file itself holds them
        *,
        replacing: object,  # noqa: ARG002 - the lake's lock excludes others
    ) -> int:
        """Publish a finished file by a rename that survives a power cut, and return its size."""
        sync(building)
        building.replace(self._path)
        sync(self._path.parent)
        return self._path.stat().st_size


def no_warehouse(location: WarehouseLocation) -> ConfigurationError:
    """Return the error for a location without a warehouse."""
    return ConfigurationError(
        f"There is no warehouse at {str(location)!r}. Build it with 'aind-etl run', or name "
        "another with --warehouse or AIND_ETL_WAREHOUSE."
    )


@contextmanager
def scratch_file(path: Path) -> Iterator[Path]:
    """Give the path of a file to build, in a folder beside ``path`` that is removed afterwards."""
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}-building-"
    # The lock is held, so any such folder was left by a killed build.
    for left in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = path.with_name(f"{prefix}{os.getpid()}")
    folder.mkdir()
    try:
        yield folder / path.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    from aind_etl.lake.storage.local import sync_to_disk  # noqa: PLC0415 - slow to import

    sync_to_disk(path)
