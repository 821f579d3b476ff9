"""The few file operations the lake is built on.

All that the lake ever does to its files goes through :class:`LocalStorage`: list, read, write
whole, remove. A file appears whole or not at all. What the files mean does not belong here.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import filelock

from aind_etl.errors import ConfigurationError, DataError

_STAGING = "_staging"
_LOCKS = "_locks"


class LocalStorage:
    """Files below one folder of a local disk, named by relative paths with ``/``.

    Parameters
    ----------
    root
        The folder. It is made when the first file is written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if self.root.exists() and not self.root.is_dir():
            raise ConfigurationError(f"The lake {str(root)!r} is a file; name a folder.")

    def path(self, name: str) -> Path:
        """Return where a file lies, for libraries that read it themselves."""
        return self.root / name

    def files(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files anywhere below ``folder`` that end with ``suffix``."""
        base = self.root / folder
        return sorted(
            PurePosixPath(path.relative_to(self.root)).as_posix()
            for path in base.rglob(f"*{suffix}")
            if path.is_file()
        )

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, write_content: Callable[[BinaryIO], None]) -> bool:
        """Write a file so that it appears whole or not at all.

        Parameters
        ----------
        name
            The file's name.
        write_content
            Writes the content to the open file it is given.

        Returns
        -------
        bool
            False where the file stood there already with the same content, and was left alone.
        """
        target = self.root / name
        staged = self.root / _STAGING / f"{os.getpid()}-{name.replace('/', '-')[-100:]}.tmp"
        staged.parent.mkdir(parents=True, exist_ok=True)
        with staged.open("wb") as file:
            write_content(file)
            file.flush()
            os.fsync(file.fileno())
        if _same_content(staged, target):
            staged.unlink()
            return False
        target.parent.mkdir(parents=True, exist_ok=True)
        staged.replace(target)
        _sync_folder(target.parent)
        return True

    def remove(self, name: str) -> bool:
        """Remove a file if it is there, and the folders that it leaves empty.

        Returns
        -------
        bool
            Whether it was there.
        """
        target = self.root / name
        if not target.exists():
            return False
        target.unlink()
        for folder in target.parents:
            if folder == self.root:
                break
            try:
                folder.rmdir()
            except OSError:
                break  # It is not empty, or another collection's run was first.
        return True

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give an empty folder for the time of a ``with`` block."""
        folder = self.root / _STAGING / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_staging(self) -> None:
        """Remove what a run that was killed left half-written.

        Only files of processes that are gone are removed, and only plain staged files: scratch
        folders are emptied by whoever takes them next.
        """
        for staged in (self.root / _STAGING).glob("*.tmp"):
            owner = staged.name.partition("-")[0]
            if owner.isdigit() and not _is_alive(int(owner)):
                staged.unlink(missing_ok=True)

    @contextmanager
    def lock(self, name: str, purpose: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold a lock that the operating system releases however the process ends.

        Parameters
        ----------
        name
            The lock's name.
        purpose
            What is locked, for the message to whoever finds it taken.
        wait_seconds
            How long to wait for whoever holds it.

        Raises
        ------
        DataError
            Another process holds the lock.
        """
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder / f"{name}.holder"
        lock = filelock.FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=wait_seconds)
        except filelock.Timeout:
            raise DataError(
                f"Another run is writing {purpose} ({_read_text(holder) or 'unknown process'}). "
                "Wait for it to end, or stop it, and run again."
            ) from None
        try:
            holder.write_text(f"process {os.getpid()} on {os.uname().nodename}")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def _same_content(one: Path, other: Path) -> bool:
    if not other.exists() or one.stat().st_size != other.stat().st_size:
        return False
    return one.read_bytes() == other.read_bytes()


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut, where the system lets folders be synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
