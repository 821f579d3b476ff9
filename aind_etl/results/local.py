"""Folders that are listed in one page: on a disk, or at any address that fsspec knows."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

from aind_etl.errors import ConfigurationError
from aind_etl.results.folders import Backend, Bounds, Files, StoredFile, check_size, path_of


class FsspecBackend(Backend):
    """The files directly below addresses that fsspec knows, for tables outside the result store."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:  # noqa: ARG002 - there is no next page
        """Return all files of a folder."""
        return await asyncio.to_thread(self._list, location), ""

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        return await asyncio.to_thread(self._read, location, name)

    def _list(self, location: str) -> Files:
        filesystem, path = url_to_fs(location)
        return [
            StoredFile(
                facts["name"].rsplit("/", 1)[-1],
                facts["size"] or 0,
                _etag(facts),
                # Only disks call it mtime; nobody needs the time of other stores.
                datetime.fromtimestamp(facts.get("mtime", 0), UTC),
            )
            for facts in filesystem.ls(path, detail=True)
            if facts["type"] == "file"
        ]

    def _read(self, location: str, name: str) -> tuple[bytes, str]:
        filesystem, path = url_to_fs(f"{location}/{name}")
        facts = filesystem.info(path)
        check_size(facts["size"])
        return filesystem.cat_file(path), _etag(facts)


class LocalBackend(FsspecBackend):
    """Result folders on a disk, below a folder that replaces ``s3://``."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self._root = root.absolute()

    async def open(self) -> None:
        """Raise a :class:`ConfigurationError` if the folder does not exist."""
        if not self._root.is_dir():
            raise ConfigurationError(
                f"The folder {self.name!r} that replaces s3:// does not exist. Set "
                "AIND_ETL_RESULTS_ROOT to a folder with <bucket>/<key>/, or to an s3:// address."
            )

    def _list(self, location: str) -> Files:
        folder = self._root / path_of(location)
        found = []
        for parent, _, names in os.walk(folder, onerror=_check_error):
            for path in map(Path(parent).joinpath, names):
                # A link may lead out of the folder.
                if path.is_file() and not path.is_symlink():
                    facts = path.stat()
                    # Bytes that are not UTF-8 are shown escaped.
                    name = os.fsencode(path.relative_to(folder)).decode(errors="backslashreplace")
                    modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                    found.append(StoredFile(name, facts.st_size, _etag_on_disk(facts), modified))
        return sorted(found)

    def _read(self, location: str, name: str) -> tuple[bytes, str]:
        path = self._root / path_of(location) / name
        facts = path.stat()
        check_size(facts.st_size)
        return path.read_bytes(), _etag_on_disk(facts)


def _etag(facts: dict[str, Any]) -> str:
    """Return the store's etag or, on a disk, the time of modification; with the size."""
    modified = facts.get("ETag") or facts.get("etag") or facts.get("mtime") or ""
    return f"{facts['size']}-{modified}"


def _check_error(error: OSError) -> None:
    """Raise the error of a disk that fails: its folders must not be taken for empty ones."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def _etag_on_disk(facts: os.stat_result) -> str:
    return f"{facts.st_size:x}-{facts.st_mtime_ns:x}"
