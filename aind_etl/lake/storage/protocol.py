"""The file operations that the lake is built on."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Protocol

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem
    from upath import UPath

    Location = Path | UPath
    """Where a file is: a path on a disk, or a URL."""


class Storage(Protocol):
    """List, read, write and remove whole files, and hold locks.

    Files are named by relative paths with ``/``. Every operation raises
    :class:`~aind_etl.errors.DataError` if an object store refuses it or does not answer.
    """

    @property
    def root(self) -> "Location":
        """The folder or prefix of all files."""

    def path(self, name: str) -> "Location":
        """Return the path or URL of a file, for libraries that read it themselves."""

    def files(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files anywhere below ``folder`` that end with ``suffix``."""

    def sizes(self, folder: str, suffix: str) -> dict[str, int]:
        """Return the size in bytes of each of :meth:`files`, by name."""

    def marks(self, folder: str, suffix: str) -> dict[str, str]:
        """Return a text for each of :meth:`files`, by name, that changes with the content."""

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if it does not exist."""

    def write(
        self, name: str, write_content: Callable[[BinaryIO], object], *, replace: bool = True
    ) -> bool:
        """Write a file that appears whole or not at all.

        Parameters
        ----------
        name
            The file's name.
        write_content
            Writes the content to the open file that it is given.
        replace
            Whether an existing file may be replaced.

        Returns
        -------
        bool
            False if the file already has this content and was left as it is.

        Raises
        ------
        DataError
            The file exists and may not be replaced, or another process wrote it meanwhile.
        """

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` returns for its content."""

    def remove(self, name: str) -> bool:
        """Remove a file if it exists; return whether it did."""

    def file_system(self) -> "AbstractFileSystem | None":
        """Return the file system that DuckDB reads the files through; None for a local disk."""

    def scratch(self, name: str) -> AbstractContextManager[Path]:
        """Create an empty folder on a local disk for the duration of a ``with`` block."""

    def clear_staging(self, *scratch: str) -> None:
        """Remove partial files of killed runs, and these scratch folders, which are unused."""

    def lock(
        self, name: str, purpose: str, *, wait_seconds: float = 0
    ) -> AbstractContextManager[None]:
        """Hold a lock that does not outlast its process; the error says what its purpose is.

        Raises
        ------
        DataError
            Another process holds the lock.
        """
