"""The lake's storage on a local disk."""

import fcntl
import filecmp
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from uuid import uuid4

import filelock

from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake.storage.locks import refuse_reentry
from aind_etl.lake.storage.protocol import StoredFile

_STAGING = "_staging"
_LOCKS = "_locks"
_LOCKED, _UNLOCKED = ".tmp", ".new"
_ABANDONED_SECONDS = 3600


class LocalStorage:
    """The lake's files in a folder of a local disk, created when the first file is written."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        if self.root.exists() and not self.root.is_dir():
            raise ConfigurationError(f"The lake {str(root)!r} is a file; name a folder.")

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.root / name

    def files(self, folder: str, suffix: str) -> dict[str, StoredFile]:
        """Return the files anywhere below ``folder`` that end with ``suffix``, by name, sorted."""
        found = {}
        for path in self.path(folder).rglob(f"*{suffix}"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                if stat.S_ISREG(facts.st_mode):
                    mark = f"{facts.st_size} {facts.st_mtime_ns}"
                    found[path.relative_to(self.root).as_posix()] = StoredFile(facts.st_size, mark)
        return dict(sorted(found.items()))

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.path(name).exists()

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if it does not exist."""
        try:
            return self.path(name).read_bytes()
        except FileNotFoundError:
            return None

    def write(
        self, name: str, write_content: Callable[[BinaryIO], object], *, replace: bool = True
    ) -> bool:
        """Write a file that appears whole or not at all, beside its place and by a rename.

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
        target = self.path(name)
        with self._staged() as (staged, file):
            write_content(file)
            file.flush()
            os.fsync(file.fileno())
            if target.exists():
                if filecmp.cmp(staged, target, shallow=False):
                    return False
                if not replace:
                    raise DataError(
                        f"{target} was written by another run at the same time. Nothing was "
                        "overwritten; run again when the other has ended."
                    )
            _move(staged, target)
        sync_to_disk(target.parent)
        return True

    @contextmanager
    def _staged(self) -> Iterator[tuple[Path, BinaryIO]]:
        """Open a new file, locked while it is open, that is removed unless it was moved."""
        folder = self.root / _STAGING
        folder.mkdir(parents=True, exist_ok=True)
        # Until it is locked, it has a name that clear_staging does not take for abandoned.
        new = folder / f"{uuid4().hex}{_UNLOCKED}"
        staged = new.with_suffix(_LOCKED)
        with new.open("xb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            new.rename(staged)
            try:
                yield staged, file
            finally:
                staged.unlink(missing_ok=True)

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` returns for its content."""
        content = change(self.read(name))
        self.write(name, lambda file: file.write(content))

    def remove(self, name: str) -> bool:
        """Remove a file and the folders that it leaves empty; return whether it existed."""
        target = self.path(name)
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

    def file_system(self) -> None:
        """Return None: DuckDB reads local files by itself."""

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Create an empty folder for the duration of a ``with`` block."""
        folder = self.root / _STAGING / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def clear_staging(self, *scratch: str) -> None:
        """Remove partial files of killed runs, and these scratch folders, which are unused.

        A partial file is removed only if no process holds its lock, on any host or in any
        container.
        """
        staging = self.root / _STAGING
        for name in scratch:
            shutil.rmtree(staging / name, ignore_errors=True)
        for staged in staging.glob(f"*{_LOCKED}"):
            if not _is_locked(staged):
                staged.unlink(missing_ok=True)
        for new in staging.glob(f"*{_UNLOCKED}"):
            with suppress(FileNotFoundError):
                if time.time() - new.stat().st_mtime > _ABANDONED_SECONDS:
                    new.unlink()

    @contextmanager
    def lock(self, name: str, purpose: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold a lock that the operating system releases however the process ends.

        If another process holds it, the error says what its ``purpose`` is.
        """
        folder = self.root / _LOCKS
        folder.mkdir(parents=True, exist_ok=True)
        holder = folder / f"{name}.holder"
        lock = filelock.FileLock(folder / f"{name}.lock")
        with ExitStack() as held:
            held.enter_context(refuse_reentry(str(folder / name), purpose))
            try:
                lock.acquire(timeout=wait_seconds)
            except filelock.Timeout:
                process = ""
                with suppress(OSError):
                    process = holder.read_text()
                raise DataError(
                    f"Another run is writing {purpose} ({process or 'unknown process'}). Wait for "
                    "it to end, or stop it, and run again."
                ) from None
            held.callback(lock.release)
            held.callback(holder.unlink, missing_ok=True)
            holder.write_text(f"process {os.getpid()} on {os.uname().nodename}")
            yield


def write_whole(path: Path, content: bytes) -> None:
    """Write a file outside of a lake, so that it appears whole or not at all."""
    with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        unfinished = Path(scratch, path.name)
        unfinished.write_bytes(content)
        unfinished.replace(path)


def sync_to_disk(path: Path) -> None:
    """Make a file, or the names in a folder, survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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


def _is_locked(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
