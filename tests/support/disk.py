"""Disks on which the process is killed, that are full, or that are cleared, at any operation."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


class Killed(BaseException):
    """The process is gone: nothing catches this."""


class Disk:
    """A disk on which, from one operation on, nothing happens any more.

    Every call by which the lake changes its folder is an operation. The one it is killed at has no
    effect, and neither do those that clean-up code still tries: a kill before one operation is a
    kill after the one before it. Half of the files that were about to be renamed are cut off as
    well, as after a kill while they are written.
    """

    def __init__(self, patch: pytest.MonkeyPatch, killed_at: int = 0) -> None:
        self.operations = 0
        self._killed_at = killed_at
        _call_before(patch, ("mkdir", "replace", "unlink", "rmdir"), self._count)

    @property
    def is_dead(self) -> bool:
        """Whether nothing happens any more."""
        return 0 < self._killed_at <= self.operations

    def _count(self, name: str, path: Any) -> None:
        self.operations += 1
        if self.is_dead:
            if name == "replace" and self._killed_at % 2:
                os.truncate(path, Path(path).stat().st_size // 2)
            raise Killed


class FullDisk:
    """A disk without space for the file or folder number ``full_at``, and for all later ones."""

    def __init__(self, patch: pytest.MonkeyPatch, full_at: int) -> None:
        self._made = 0
        self._full_at = full_at
        _call_before(patch, ("mkdir", "fsync"), self._count)

    @property
    def is_full(self) -> bool:
        """Whether something did not find space."""
        return self._made >= self._full_at

    def _count(self, _name: str, target: Any) -> None:
        self._made += 1
        if self.is_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))


class ClearedDisk:
    """A disk from which a folder is removed with its contents before operation ``cleared_at``."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, cleared_at: int) -> None:
        self._operations = 0
        self._folder = folder
        self._cleared_at = cleared_at
        _call_before(patch, ("mkdir", "replace"), self._count)

    @property
    def is_cleared(self) -> bool:
        """Whether the folder was removed."""
        return self._operations >= self._cleared_at

    def _count(self, _name: str, _path: Any) -> None:
        self._operations += 1
        if self._operations == self._cleared_at:
            shutil.rmtree(self._folder)


def _call_before(
    patch: pytest.MonkeyPatch, names: tuple[str, ...], before: Callable[[str, Any], None]
) -> None:
    """Call a function with name and first argument before some functions of ``os``."""

    def patched(operate: Callable[..., None]) -> Callable[..., None]:
        def call(target: Any, *arguments: Any, **options: Any) -> None:
            if operate.__name__ == "mkdir" and Path(target).is_dir():
                return  # Nothing to do.
            before(operate.__name__, target)
            operate(target, *arguments, **options)

        return call

    for name in names:
        patch.setattr(os, name, patched(getattr(os, name)))
