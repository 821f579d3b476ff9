"""Result folders on a disk, below a folder that replaces ``s3://``."""

import asyncio
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from aind_etl.errors import ConfigurationError
from aind_etl.results.folders import (
    ALL_NAMES,
    LARGEST_FILE_BYTES,
    Bounds,
    Files,
    StoredFile,
    TooLargeError,
    is_inside,
    path_of,
)


class LocalBackend:
    """Folders on a disk, below one that replaces ``s3://``."""

    ranges: Sequence[Bounds] = (ALL_NAMES,)

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self.name = str(root)

    async def open(self) -> None:
        """Open the store; raise a :class:`ConfigurationError` where that is impossible."""
        if not self._root.is_dir():
            raise ConfigurationError(
                f"The folder {self.name!r} that replaces s3:// does not exist. Set "
                "AIND_ETL_RESULTS_ROOT to a folder with <bucket>/<key>/, or to an s3:// address."
            )

    async def close(self) -> None:
        """Close every connection."""

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files, and the token of the next page."""
        del token  # A folder is one page.
        files = await asyncio.to_thread(_files_below, self._root / path_of(location))
        return [file for file in files if is_inside(file, bounds)], ""

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        return await asyncio.to_thread(_read_local, self._root / path_of(location) / name)


def _files_below(folder: Path) -> list[StoredFile]:
    found = []
    for path in folder.rglob("*"):
        # A link may lead anywhere.
        if path.is_file() and not path.is_symlink():
            facts = path.stat()
            found.append(
                StoredFile(
                    # Bytes that are no UTF-8 are shown as they are escaped.
                    os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace"),
                    facts.st_size,
                    f"{facts.st_size:x}-{facts.st_mtime_ns:x}",
                    datetime.fromtimestamp(facts.st_mtime, UTC),
                )
            )
    return sorted(found, key=lambda file: file.name)


def _read_local(path: Path) -> tuple[bytes, str]:
    facts = path.stat()
    if facts.st_size > LARGEST_FILE_BYTES:
        raise TooLargeError(facts.st_size)
    return path.read_bytes(), f"{facts.st_size:x}-{facts.st_mtime_ns:x}"
