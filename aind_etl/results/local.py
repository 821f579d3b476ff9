"""Folders that are listed in one page: on a disk, or at any address that fsspec knows."""

import asyncio
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from aind_etl.errors import ConfigurationError
from aind_etl.results.folders import Backend, Bounds, Files, StoredFile, check_size, path_of


class FsspecBackend(Backend):
    """Result folders on a disk, or the files directly below other addresses that fsspec knows.

    Parameters
    ----------
    name
        The place for people.
    root
        The folder that replaces ``s3://``; None if addresses are fsspec's.
    """

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = name
        self._root = root and root.absolute()

    async def open(self) -> None:
        """Raise a :class:`ConfigurationError` if the folder does not exist."""
        if self._root and not self._root.is_dir():
            raise ConfigurationError(
                f"The folder {self.name!r} that replaces s3:// does not exist. Set "
                "AIND_ETL_RESULTS_ROOT to a folder with <bucket>/<key>/, or to an s3:// address."
            )

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:  # noqa: ARG002 - there is no next page
        """Return all files of a folder."""
        return await asyncio.to_thread(self._list, location), ""

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        return await asyncio.to_thread(self._read, location, name)

    def _list(self, location: str) -> Files:
        filesystem, folder = self._resolve(location)
        if self._root:
            found = filesystem.find(folder, detail=True).values()
        else:
            found = filesystem.ls(folder, detail=True)
        return sorted(
            StoredFile(
                # Bytes that are not UTF-8 are shown escaped.
                os.fsencode(facts["name"].removeprefix(f"{folder}/")).decode(
                    errors="backslashreplace"
                ),
                facts["size"] or 0,
                self._etag(facts),
                # Only disks call it mtime; nobody needs the time of other stores.
                datetime.fromtimestamp(facts.get("mtime", 0), UTC),
            )
            for facts in found
            # A link, which is no file here, may lead out of the folder.
            if facts["type"] == "file" and facts["name"] != folder
        )

    def _read(self, location: str, name: str) -> tuple[bytes, str]:
        filesystem, path = self._resolve(location, name)
        facts = filesystem.info(path)
        check_size(facts["size"])
        etag = self._etag(facts)
        return filesystem.cat_file(path), etag

    def _resolve(self, location: str, name: str = "") -> tuple[Any, str]:
        if self._root:
            return LocalFileSystem(), str(self._root / path_of(location) / name)
        filesystem, path = url_to_fs(f"{location}/{name}".rstrip("/"))
        return filesystem, path

    def _etag(self, facts: dict[str, Any]) -> str:
        """Return the size, and the time of modification or the store's etag."""
        if self._root:
            return f"{facts['size']:x}-{Path(facts['name']).stat().st_mtime_ns:x}"
        modified = facts.get("ETag") or facts.get("etag") or facts.get("mtime") or ""
        return f"{facts['size']}-{modified}"
