"""Places of lakes in tests, on a disk or an object store, and runs that are killed there."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeAlias
from uuid import uuid4

import pytest
from disk import Disk, Killed
from object_store import KilledError, MortalRequests, new_prefix, objects_of, remove, upload
from worlds import files_of

from aind_etl.lake import Lake


class OnDisk:
    """Lakes below a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def new(self) -> Lake:
        """Return an empty lake."""
        return Lake(self._folder / uuid4().hex)

    def copy(self, folder: Path) -> Lake:
        """Return a new lake with the files of one on a disk."""
        return Lake(shutil.copytree(folder, self._folder / uuid4().hex))

    def files(self, lake: Lake) -> Mapping[str, object]:
        """Return the content of every file of a lake."""
        return files_of(Path(str(lake)))

    def remove(self, lake: Lake) -> None:
        """Remove a lake."""
        shutil.rmtree(str(lake))

    @contextmanager
    def killed_at(self, operation: int) -> Iterator[Disk]:
        """Kill the run in a ``with`` block at one of its operations on the disk."""
        with pytest.MonkeyPatch.context() as patch, suppress(Killed):
            yield Disk(patch, operation)


class OnStore:
    """Lakes below prefixes of the object store that the environment names."""

    def new(self) -> Lake:
        """Return an empty lake."""
        return Lake(new_prefix())

    def copy(self, folder: Path) -> Lake:
        """Return a new lake with the files of one on a disk."""
        lake = self.new()
        upload(folder, str(lake))
        return lake

    def files(self, lake: Lake) -> Mapping[str, object]:
        """Return the etag of every object of a lake; equal contents have equal etags."""
        return objects_of(str(lake))

    def remove(self, lake: Lake) -> None:
        """Remove a lake."""
        remove(str(lake))

    @contextmanager
    def killed_at(self, operation: int) -> Iterator[MortalRequests]:
        """Kill the run in a ``with`` block at one of its requests that write or remove."""
        requests = MortalRequests(operation)
        with requests.counted(), suppress(KilledError):
            yield requests


Places: TypeAlias = OnDisk | OnStore
"""Places for lakes, all of one kind."""


def content(text: bytes) -> Callable[[BinaryIO], object]:
    """Return a function that writes a text, as a storage expects it."""
    return lambda file: file.write(text)
