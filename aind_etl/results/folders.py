"""Result folders as they are listed and read, and the interface of the places that hold them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import polars as pl

LARGEST_FILE_BYTES = 64 << 20
"""Larger files are not read; a result file has about half a megabyte."""

SCHEME = "s3://"


class StoredFile(NamedTuple):
    """A file of a folder: its path there, and an etag that changes when the content does."""

    name: str
    size_bytes: int
    etag: str
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a folder cannot be listed or a file cannot be read.

    The reason is ``gone``, ``refused``, ``too_large``, ``too_many_files``, ``empty`` or
    ``unreachable``; the message has the store's error, and what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class FolderListing:
    """The files of a folder, none if it does not exist; or why it cannot be listed."""

    location: str
    files: tuple[StoredFile, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class FileRequest:
    """A file to read: its folder's address, its path in the folder, and its size as listed."""

    location: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileContent:
    """The content of a file and its etag; or why it cannot be read."""

    request: FileRequest
    content: bytes = b""
    etag: str = ""
    problem: Problem | None = None


Files = list[StoredFile]
Bounds = tuple[str, str | None]
"""A range of file names: after the first text and before the second, both exclusive."""

ALL_NAMES: Bounds = ("", None)


class Backend(ABC):
    """A place that holds folders."""

    name: str
    """The place for people, without credentials."""
    ranges: Sequence[Bounds] = (ALL_NAMES,)
    """The ranges of names in which a full listing runs concurrently."""

    async def open(self) -> None:  # noqa: B027 - most need nothing
        """Connect; raise a :class:`ConfigurationError` if the settings are wrong."""

    async def close(self) -> None:  # noqa: B027
        """Close every connection."""

    @abstractmethod
    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files, and the token of the next page, or "".

        The files are those within bounds, and maybe others.
        """

    @abstractmethod
    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""


class TooLargeError(Exception):
    """A file is larger than :data:`LARGEST_FILE_BYTES`."""


def check_size(size_bytes: int | None) -> None:
    """Raise a :class:`TooLargeError` for the size of a file that is not read."""
    if (size_bytes or 0) > LARGEST_FILE_BYTES:
        raise TooLargeError(size_bytes)


def files_frame(location: str, files: Sequence[StoredFile]) -> pl.DataFrame:
    """Return the files of a folder as rows."""
    schema = {
        "location": pl.String(),
        "file_name": pl.String(),
        "size_bytes": pl.Int64(),
        "etag": pl.String(),
        "last_modified": pl.Datetime("us", "UTC"),
    }
    rows = [(location, *file) for file in files]
    return pl.DataFrame(rows, schema, orient="row")


def path_of(location: str) -> str:
    """Return the part of an address after ``s3://``.

    Any other address, and one with ``..``, raises a :class:`ValueError`.
    """
    path = location.removeprefix(SCHEME).strip("/")
    if not location.startswith(SCHEME) or not path or ".." in path.split("/"):
        raise ValueError(f"{location!r} is not a result folder; expected s3://bucket/key")
    return path
