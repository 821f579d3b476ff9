"""Disks that die, are full or are cleared: what that leaves behind, at any operation of a run."""

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

    Every call by which the lake changes its folder is an operation. The one it is killed at has
    no effect, and clean-up code that would still run finds every later one impossible: so a kill
    before one operation is a kill after the one before it. Half the files that were about to be
    put in their places are cut off as well, as a kill while they are written leaves them.
    """

    def __init__(self, patch: pytest.MonkeyPatch, killed_at: int = 0) -> None:
        self.operations = 0
        self._killed_at = killed_at
        for name in ("mkdir", "replace", "unlink", "rmdir"):
            patch.setattr(os, name, self._counting(getattr(os, name)))

    @property
    def is_dead(self) -> bool:
        """Whether nothing happens any more."""
        return 0 < self._killed_at <= self.operations

    def _counting(self, operate: Callable[..., None]) -> Callable[..., None]:
        def counted(path: Any, *arguments: Any, **options: Any) -> None:
            if operate.__name__ == "mkdir" and Path(path).is_dir():
                return  # Nothing to do.
            self.operations += 1
            if self.is_dead:
                if operate.__name__ == "replace" and self._killed_at % 2:
                    os.truncate(path, Path(path).stat().st_size // 2)
                raise Killed
            operate(path, *arguments, **options)

        return counted


class FullDisk:
    """A disk on which, from one file or folder on, there is no room for any other.

    Parameters
    ----------
    full_at
        Which file or folder, counted from 1, is the first that finds no room.
    """

    def __init__(self, patch: pytest.MonkeyPatch, full_at: int) -> None:
        self._made = 0
        self._full_at = full_at
        for name in ("mkdir", "fsync"):
            patch.setattr(os, name, self._counting(getattr(os, name)))

    @property
    def is_full(self) -> bool:
        """Whether there was no room for something."""
        return self._made >= self._full_at

    def _counting(self, make: Callable[..., None]) -> Callable[..., None]:
        def counted(target: Any, *arguments: Any, **options: Any) -> None:
            if make.__name__ == "mkdir" and Path(target).is_dir():
                return
            self._made += 1
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
            make(target, *arguments, **options)

        return counted


class ClearedDisk:
    """A disk from which somebody removes a folder with all that is in it, once.

    Parameters
    ----------
    folder
        What is removed.
    cleared_at
        The operation, counted from 1 as for :class:`Disk`, before which it is removed.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, cleared_at: int) -> None:
        self._operations = 0
        self._folder = folder
        self._cleared_at = cleared_at
        for name in ("mkdir", "replace"):
            patch.setattr(os, name, self._counting(getattr(os, name)))

    @property
    def is_cleared(self) -> bool:
        """Whether the folder was removed."""
        return self._operations >= self._cleared_at

    def _counting(self, operate: Callable[..., None]) -> Callable[..., None]:
        def counted(path: Any, *arguments: Any, **options: Any) -> None:
            self._operations += 1
            if self._operations == self._cleared_at:
                shutil.rmtree(self._folder)
            operate(path, *arguments, **options)

        return counted
