"""A warehouse that is a file on a local disk, and the protocol of both kinds of warehouse."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    # Slow to import, and not needed to read a file on a disk.
    from aind_etl.lake.storage.object_store import ObjectFacts
from aind_etl.settings import WarehouseLocation


class WarehouseFile(Protocol):
    """The file or object of a warehouse, which may not exist yet."""

    def exists(self) -> bool:
        """Return whether the warehouse exists."""
        ...

    def file(self) -> Path:
        """Return the local file that a reader opens.

        Raises
        ------
        ConfigurationError
            There is no warehouse, or it cannot be read.
        """
        ...

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the warehouse without opening it; empty if it has none."""
        ...

    def current(self) -> "ObjectFacts | None":
        """Return the current object, which :meth:`publish` is to replace."""
        ...

    def scratch_file(self) -> AbstractContextManager[Path]:
        """Return a context that gives the path of a file to build."""
        ...

    def publish(
        self, building: Path, facts: Mapping[str, str], *, replacing: "ObjectFacts | None"
    ) -> int:
        """Publish a finished file atomically.

        Parameters
        ----------
        building
            The file; it no longer exists afterwards.
        facts
            Its metadata.
        replacing
            The object when the build began, from :meth:`current`.

        Returns
        -------
        int
            Size of the file in bytes.

        Raises
        ------
        DataError
            The object was replaced in the meantime; it is left in place.
        """
        ...


class LocalWarehouse:
    """A warehouse that is a file on a local disk.

    Parameters
    ----------
    path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def exists(self) -> bool:
        """Return whether the file exists."""
        return self._path.is_file()

    def file(self) -> Path:
        """Return the file itself."""
        if not self.exists():
            raise no_warehouse(self._path)
        return self._path

    def metadata(self) -> dict[str, str]:
        """Return nothing: a local file is quick to open."""
        return {}

    def current(self) -> None:
        """Return nothing: the lake's lock excludes other publishers."""

    @contextmanager
    def scratch_file(self) -> Iterator[Path]:
        """Give the path of a file to build, in a scratch folder beside the warehouse."""
        with building_folder(self._path.parent, self._path.name) as folder:
            yield folder / self._path.name

    def publish(
        self,
        building: Path,
        facts: Mapping[str, str],  # noqa: ARG002 - the file itself holds them
        *,
        replacing: "ObjectFacts | None",  # noqa: ARG002 - the lake's lock excludes others
    ) -> int:
        """Publish a finished file by a rename that survives a power cut."""
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
def building_folder(parent: Path, name: str) -> Iterator[Path]:
    """Give a scratch folder for a ``with`` block."""
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name}-building-"
    # The lock is held, so any such folder was left by a killed build.
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
