"""A warehouse that is a file on a disk, and what both kinds of places share."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    # Slow to import, and not needed to read a file on a disk.
    from aind_etl.lake.storage.bucket import ObjectFacts
from aind_etl.settings import WarehouseLocation


class WarehouseFile(Protocol):
    """A place for a warehouse, whether or not there is one."""

    def exists(self) -> bool:
        """Return whether there is one."""
        ...

    def file(self) -> Path:
        """Return the file that a reader opens.

        Raises
        ------
        ConfigurationError
            There is no warehouse, or it cannot be read.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the warehouse without opening it; empty where there are none."""
        ...

    def current(self) -> "ObjectFacts | None":
        """Return the object that :meth:`publish` replaces: the present one."""
        ...

    def scratch_file(self) -> AbstractContextManager[Path]:
        """Give, for the duration of a ``with`` block, the path of a file to build."""
        ...

    def publish(
        self, building: Path, facts: Mapping[str, str], *, replacing: "ObjectFacts | None"
    ) -> int:
        """Put a finished file in its place, where it appears whole or not at all.

        Parameters
        ----------
        building
            The file; it is gone afterwards.
        facts
            Its metadata.
        replacing
            The object when the build began, from :meth:`current`.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        DataError
            The object was replaced meanwhile; it is left in place.
        """
        ...


class LocalWarehouse:
    """A warehouse that is a file on a disk.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether there is one."""
        return self._path.is_file()

    def file(self) -> Path:
        """Return the file that a reader opens: itself."""
        if not self.exists():
            raise no_warehouse(self._path)
        return self._path

    def metadata(self) -> dict[str, str]:
        """Return nothing: a file on a disk is quickly opened."""
        return {}

    def current(self) -> None:
        """Return nothing: the lock of the lake keeps others away."""

    @contextmanager
    def scratch_file(self) -> Iterator[Path]:
        """Give the path of a file to build, in a folder of its own beside the warehouse."""
        with building_folder(self._path.parent, self._path.name) as folder:
            yield folder / self._path.name

    def publish(
        self,
        building: Path,
        facts: Mapping[str, str],  # noqa: ARG002 - the file itself holds them
        *,
        replacing: "ObjectFacts | None",  # noqa: ARG002 - the lock of the lake keeps others away
    ) -> int:
        """Put a finished file in its place, for good."""
        sync(building)
        building.replace(self._path)
        sync(self._path.parent)
        return self._path.stat().st_size


def no_warehouse(place: WarehouseLocation) -> ConfigurationError:
    """Return the error for a place at which there is no warehouse."""
    return ConfigurationError(
        f"There is no warehouse at {str(place)!r}. Build it with 'aind-etl run', or name another "
        "with --warehouse or AIND_ETL_WAREHOUSE."
    )


@contextmanager
def building_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give, for the duration of a ``with`` block, a folder to build a file in."""
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name}-building-"
    # The lock is held: a folder like this was left by a build that was killed.
    for left in parent.glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    folder = parent / f"{prefix}{os.getpid()}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    from aind_etl.lake.storage.local import sync_to_disk  # noqa: PLC0415 - slow to import

    sync_to_disk(path)
