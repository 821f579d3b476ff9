"""A disk that dies: what a kill at any operation leaves behind, without a process to kill."""

import os
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
