"""Places of lakes in tests, on a disk or an object store, and runs that are killed there."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest
from disk import Disk, Killed
from object_store import KilledError, MortalRequests, new_prefix, objects_of, remove, upload
from worlds import files_of

from aind_etl.lake import Lake


class Mortal(Protocol):
    """The operations of a run until it is killed."""

    @property
    def is_dead(self) -> bool:
        """Whether it was."""
        ...


class Places(Protocol):
    """Places for lakes, all of one kind."""

    def new(self) -> Lake:
        """Return a lake with nothing in it."""
        ...

    def copy(self, folder: Path) -> Lake:
        """Return a new lake with the files of one that lies on a disk."""
        ...

    def files(self, lake: Lake) -> Mapping[str, object]:
        """Return a content or etag of every file of a lake, equal for equal contents."""
        ...

    def remove(self, lake: Lake) -> None:
        """Remove a lake."""
        ...

    def killed_at(self, operation: int) -> AbstractContextManager[Mortal]:
        """Kill what runs in a ``with`` block at some operation that changes a place."""
        ...


class OnDisk:
    """Lakes below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self) -> Lake:
        """Return a lake with nothing in it."""
        return Lake(self._folder / uuid4().hex)

    def copy(self, folder: Path) -> Lake:
        """Return a new lake with the files of another."""
        return Lake(shutil.copytree(folder, self._folder / uuid4().hex))

    def files(self, lake: Lake) -> Mapping[str, object]:
        """Return the content of every file."""
        return files_of(Path(str(lake)))

    def remove(self, lake: Lake) -> None:
        """Remove a lake."""
        shutil.rmtree(str(lake))

    @contextmanager
    def killed_at(self, operation: int) -> Iterator[Mortal]:
        """Kill what runs at some operation on the disk."""
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            yield Disk(patch, operation)


class OnStore:
    """Lakes below prefixes of the object store that the environment names."""

    def new(self) -> Lake:
        """Return a lake with nothing in it."""
        return Lake(new_prefix())

    def copy(self, folder: Path) -> Lake:
        """Return a new lake with the files of one that lies on a disk."""
        lake = self.new()
        upload(folder, str(lake))
        return lake

    def files(self, lake: Lake) -> Mapping[str, object]:
        """Return the etag of every object."""
        return objects_of(str(lake))

    def remove(self, lake: Lake) -> None:
        """Remove a lake."""
        remove(str(lake))

    @contextmanager
    def killed_at(self, operation: int) -> Iterator[Mortal]:
        """Kill what runs at some request that writes or removes."""
        requests = MortalRequests(operation)
        with requests.counted(), suppress(KilledError):
            yield requests
