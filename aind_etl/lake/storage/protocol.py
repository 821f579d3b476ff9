"""The file operations that the lake is built on.

All the lake does to its files goes through a :class:`Storage`: list, read, write whole, remove. A
file appears whole or not at all.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from upath import UPath

    Location = Path | UPath
    """Where a file lies: on a disk, or at a URL."""


class Storage(Protocol):
    """The few file operations the lake is built on.

    Files are named by relative paths with ``/``. Every operation may raise
    :class:`~aind_etl.errors.DataError` where the place cannot be used.
    """

    @property
    def root(self) -> "Location":
        """The folder or prefix below which everything lies."""
        ...

    def path(self, name: str) -> "Location":
        """Return where a file lies, for libraries that read it themselves."""
        ...

    def files(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files anywhere below ``folder`` that end with ``suffix``."""
        ...

    def sizes(self, folder: str, suffix: str) -> dict[str, int]:
        """Return the bytes of the files of :meth:`files`, by their names."""
        ...

    def marks(self, folder: str, suffix: str) -> dict[str, str]:
        """Return, by the file's name, a text that differs whenever its content does."""
        ...

    def exists(self, name: str) -> bool:
        """Return whether there is a file."""
        ...

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        ...

    def write(
        self, name: str, write_content: Callable[[BinaryIO], None], *, replace: bool = True
    ) -> bool:
        """Write a file so that it appears whole or not at all; return whether it had to be."""
        ...

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` makes of its content."""
        ...

    def remove(self, name: str) -> bool:
        """Remove a file if it is there; return whether it was."""
        ...

    def file_system(self) -> "AbstractFileSystem | None":
        """Return what DuckDB reads the files through; None where it needs nothing."""
        ...

    def scratch(self, name: str) -> AbstractContextManager[Path]:
        """Give an empty folder on a disk for the duration of a ``with`` block."""
        ...

    def clear_staging(self, *scratch: str) -> None:
        """Remove partial files that a killed run left, and unused scratch folders."""
        ...

    def lock(
        self, name: str, purpose: str, *, wait_seconds: float = 0
    ) -> AbstractContextManager[None]:
        """Hold a lock that does not outlast the process that holds it."""
        ...
