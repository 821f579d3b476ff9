"""Files at any address that fsspec knows, such as a folder on a disk or ``https://…``.

The result folders have ``s3://`` addresses and other stores; this one is for the tables beside
them, which a user may have put elsewhere.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fsspec.core import url_to_fs

from aind_etl.results.folders import (
    ALL_NAMES,
    LARGEST_FILE_BYTES,
    Bounds,
    Files,
    StoredFile,
    TooLargeError,
    is_inside,
)


class FsspecBackend:
    """The files right below an address.

    Parameters
    ----------
    name
        The address for people.
    """

    ranges: Sequence[Bounds] = (ALL_NAMES,)

    def __init__(self, name: str) -> None:
        self.name = name

    async def open(self) -> None:
        """Do nothing: each address is opened when it is asked for."""

    async def close(self) -> None:
        """Close every connection."""

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files, and the token of the next page."""
        del token  # A folder is one page.
        files = await asyncio.to_thread(_list, location)
        return [file for file in files if is_inside(file, bounds)], ""

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        return await asyncio.to_thread(_read, f"{location}/{name}")


def _list(location: str) -> list[StoredFile]:
    files, path = url_to_fs(location)
    return [
        StoredFile(
            one["name"].rsplit("/", 1)[-1],
            one["size"] or 0,
            _etag(one),
            # Other stores than a disk have times under names of their own, which nobody needs.
            datetime.fromtimestamp(one.get("mtime", 0), UTC),
        )
        for one in files.ls(path, detail=True)
        if one["type"] == "file"
    ]


def _read(address: str) -> tuple[bytes, str]:
    files, path = url_to_fs(address)
    facts = files.info(path)
    if (facts["size"] or 0) > LARGEST_FILE_BYTES:
        raise TooLargeError(facts["size"])
    return files.cat_file(path), _etag(facts)


def _etag(facts: dict[str, Any]) -> str:
    """Return what changes with a file's content: its etag or, on a disk, when it was written."""
    modified = facts.get("ETag") or facts.get("etag") or facts.get("mtime") or ""
    return f"{facts['size']}-{modified}"
