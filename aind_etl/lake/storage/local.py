"""The lake's storage on a local disk."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO
from uuid import uuid4

import filelock

from aind_etl.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from upath import UPath

    Location = Path | UPath
    """Where a file lies: on a disk, or at a URL."""
from aind_etl.lake.storage.locks import refuse_reentry

_STAGING = "_staging"
_LOCKS = "_locks"
_LOCKED, _UNLOCKED = ".tmp", ".new"
_ABANDONED_SECONDS = 3600


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

    def exists(self, name: str) -> bool:
        """Return whether there is a file."""
        return (self.root / name).exists()

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def sizes(self, folder: str, suffix: str) -> dict[str, int]:
        """Return the bytes of the files of :meth:`files`, by their names."""
        names = self.files(folder, suffix)
        return {name: (self.root / name).stat().st_size for name in names}

    def marks(self, folder: str, suffix: str) -> dict[str, str]:
        """Return, by the file's name, a text that differs whenever its content does.

        The files are those of :meth:`files`.
        """
        facts = {name: (self.root / name).stat() for name in self.files(folder, suffix)}
        return {name: f"{fact.st_size} {fact.st_mtime_ns}" for name, fact in facts.items()}

    def write(
        self, name: str, write_content: Callable[[BinaryIO], None], *, replace: bool = True
    ) -> bool:
        """Write a file so that it appears whole or not at all.

        Parameters
        ----------
        name
            The file's name.
        write_content
            Writes the content to the open file it is given.
        replace
            Whether a file of that name may be there already.

        Returns
        -------
        bool
            False where the file already had this content and was left in place.

        Raises
        ------
        DataError
            The file is there and may not be replaced.
        """
        target = self.root / name
        with self._staged() as (staged, file):
            write_content(file)
            file.flush()
            os.fsync(file.fileno())
            if _same_content(staged, target):
                return False
            if not replace and target.exists():
                raise DataError(
                    f"{target} was written by another run at the same time. Nothing was "
                    "overwritten; run again when the other has ended."
                )
            self._move(staged, target)
        _sync_folder(target.parent)
        return True

    @contextmanager
    def _staged(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Open a new file that is removed unless it was moved, and locked while it is open."""
        folder = self.root / _STAGING
        folder.mkdir(parents=True, exist_ok=True)
        # Until it is locked, its name does not look like that of an abandoned folder.
        new = folder / f"{uuid4().hex}{_UNLOCKED}"
        staged = new.with_suffix(_LOCKED)
        with new.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(staged)
            try:
                yield staged, file
            finally:
                staged.unlink(missing_ok=True)

    @staticmethod
    def _move(staged: Path, target: Path) -> None:
        while True:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                staged.replace(target)
            except FileNotFoundError:
                if not staged.exists():
                    raise
                # Another process removed the last file of the folder, and then the folder.
                continue
            break

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` makes of its content."""
        content = change(self.read(name))

        def write_content(file: BinaryIO) -> None:
            file.write(content)

        self.write(name, write_content)

    def remove(self, name: str) -> bool:
        """Remove a file if it is there, and the folders that it leaves empty.

        Returns
        -------
        bool
            Whether it was there.
        """
        target = self.root / name
        if not self.exists(name):
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

    def file_system(self) -> None:
        """Return nothing: DuckDB reads a disk by itself."""

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give an empty folder for the duration of a ``with`` block."""
        folder = self.root / _STAGING / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_staging(self, *scratch: str) -> None:
        """Remove what a run that was killed left half-written.

        Only files that no process holds are removed, on whichever host or in whichever container
        it runs.

        Parameters
        ----------
        *scratch
            Names of scratch folders that the caller knows to be unused.
        """
        for name in scratch:
            shutil.rmtree(self.root / _STAGING / name, ignore_errors=True)
        for staged in (self.root / _STAGING).glob(f"*{_LOCKED}"):
            if not _is_locked(staged):
                staged.unlink(missing_ok=True)
        for new in (self.root / _STAGING).glob(f"*{_UNLOCKED}"):
            with suppress(FileNotFoundError):
                if time.time() - new.stat().st_mtime > _ABANDONED_SECONDS:
                    new.unlink()

    @contextmanager
    def lock(self, name: str, purpose: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold a lock that the operating system releases however the process ends.

        Parameters
        ----------
        name
            The lock's name.
        purpose
            What is locked, for the error message where the lock is taken.
        wait_seconds
            How long to wait for the lock.

        Raises
        ------
        DataError
            Another process holds the lock.
        """
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder / f"{name}.holder"
        lock = filelock.FileLock(folder / f"{name}.lock")
        with (
            refuse_reentry(str(folder / name), purpose),
            self._acquired(lock, holder, purpose, wait_seconds),
        ):
            yield

    @staticmethod
    @contextmanager
    def _acquired(
        lock: filelock.BaseFileLock, holder: Path, purpose: str, wait_seconds: float
    ) -> Iterator[None]:
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
            try:
                holder.unlink(missing_ok=True)
            finally:
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


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
