"""Result folders as they are listed and read, and the interface of the places that hold them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import polars as pl

LARGEST_FILE_BYTES = 64 << 20
"""A larger file is not read: a result file has about half a megabyte."""

SCHEME = "s3://"


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a result folder.

    Attributes
    ----------
    name
        Its path in the folder.
    size_bytes
        Its size.
    etag
        The store's mark of its content.
    last_modified
        When it was written.
    """

    name: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a folder could not be listed or a file not be read.

    Attributes
    ----------
    reason
        ``gone``, ``refused``, ``too_large``, ``too_many_files``, ``empty`` or ``unreachable``.
    message
        What the store said, and what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a folder, none where nothing is there; or why it could not be listed."""

    location: str
    files: tuple[StoredFile, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file to read.

    Attributes
    ----------
    location
        Address of its folder.
    name
        Its path in the folder.
    size_bytes
        Its size as it was listed.
    """

    location: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file with its mark; or why it could not be read."""

    request: FileRequest
    content: bytes = b""
    etag: str = ""
    problem: Problem | None = None


Files = list[StoredFile]
Bounds = tuple[str, str | None]
"""Names of files later than the first and earlier than the second text, where there is one."""

ALL_NAMES: Bounds = ("", None)

FILES_SCHEMA: dict[str, pl.DataType] = {
    "location": pl.String(),
    "file_name": pl.String(),
    "size_bytes": pl.Int64(),
    "etag": pl.String(),
    "last_modified": pl.Datetime("us", "UTC"),
}
"""Columns of files that were listed."""


class Backend(Protocol):
    """A place that holds folders by their ``s3://`` addresses.

    ``ranges`` are those in which everything is listed, side by side.
    """

    name: str
    ranges: Sequence[Bounds]

    async def open(self) -> None:
        """Open the place."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files within bounds, and the token of the next page."""
        ...

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        ...


class TooLargeError(Exception):
    """A file is larger than :data:`LARGEST_FILE_BYTES`."""


def files_frame(location: str, files: Sequence[StoredFile]) -> pl.DataFrame:
    """Return files of a folder as rows, with the columns of :data:`FILES_SCHEMA`."""
    return pl.DataFrame(
        {
            "location": [location] * len(files),
            "file_name": [file.name for file in files],
            "size_bytes": [file.size_bytes for file in files],
            "etag": [file.etag for file in files],
            "last_modified": [file.last_modified for file in files],
        },
        schema=FILES_SCHEMA,
    )


def path_of(location: str) -> str:
    """Return what follows ``s3://``.

    Raises
    ------
    ValueError
        It is no address of an object store, or one that leads elsewhere.
    """
    place = location.removeprefix(SCHEME).strip("/")
    if not location.startswith(SCHEME) or not place or ".." in place.split("/"):
        raise ValueError(f"{location!r} is no address of a result folder: s3://bucket/key")
    return place


def is_inside(file: StoredFile, bounds: Bounds) -> bool:
    """Return whether the name of a file lies within bounds."""
    after, before = bounds
    return file.name > after and (before is None or file.name < before)
