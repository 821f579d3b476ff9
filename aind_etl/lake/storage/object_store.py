"""The lake's storage on an object store, such as S3.

A file appears whole or not at all because it is written by one request, or one that completes an
upload in parts. A lock is a lease.
"""

import hashlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from fsspec import AbstractFileSystem
from upath import UPath

from aind_etl.errors import DataError
from aind_etl.lake.storage.bucket import Bucket, ObjectFacts, etag_of
from aind_etl.lake.storage.locks import Lease, refuse_reentry
from aind_etl.lake.storage.protocol import StoredFile

_RECHECK_SECONDS = 0.5

_HELD: dict[str, list[Lease]] = {}
"""The leases that this process holds, by prefix; every write checks that they are still held."""


class ObjectStorage(Bucket):
    """The lake's files below one prefix of an object store.

    Every operation raises :class:`~aind_etl.errors.DataError` if the store refuses a request or
    does not answer, and every change also if this process has lost one of its locks.
    """

    def path(self, name: str) -> UPath:
        """Return the URL of a file."""
        return self.root / name

    def files(self, folder: str, suffix: str) -> dict[str, StoredFile]:
        """Return the files anywhere below ``folder`` that end with ``suffix``, by name, sorted."""
        with self._reporting(f"list {folder!r}"):
            try:
                if self._is_s3 and folder:
                    found = self._store.find(str(self.root), prefix=f"{folder}/", detail=True)
                else:
                    found = self._store.find(self._url(folder), detail=True)
            except FileNotFoundError:
                return {}
        prefix = str(self.root).partition("://")[2]
        return {
            path.removeprefix(prefix).lstrip("/"): StoredFile(
                info["size"], f"{info['size']} {etag_of(info)}"
            )
            for path, info in sorted(found.items())
            if path.endswith(suffix)
        }

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.facts(name) is not None

    def write(
        self, name: str, write_content: Callable[[BinaryIO], object], *, replace: bool = True
    ) -> bool:
        """Write a file in one request; return False if it already has this content."""
        buffer = io.BytesIO()
        write_content(buffer)
        content = buffer.getvalue()
        facts = self.facts(name) if replace else None
        if facts is not None and self._has_content(name, facts, content):
            return False
        self._put_unless_changed(name, content, facts)
        return True

    def _has_content(self, name: str, facts: ObjectFacts, content: bytes) -> bool:
        if facts.size != len(content):
            return False
        # For a file written in one plain request, the etag of most stores is the MD5.
        if facts.etag.strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return True
        return self.read(name) == content

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` returns for its content, if that still holds."""
        facts = self.facts(name)
        content = change(None if facts is None else self.read(name))
        self._put_unless_changed(name, content, facts)

    def _put_unless_changed(self, name: str, content: bytes, facts: ObjectFacts | None) -> None:
        self._check_leases()
        # A request that arrives late must not undo what another process has written meanwhile.
        if not self.put_if(name, content, facts):
            raise DataError(
                f"{self._url(name)} was written by another run at the same time. Nothing was "
                "overwritten; run again when the other has ended."
            )

    def put_file(
        self, name: str, source: Path, metadata: Mapping[str, str], *, replacing: ObjectFacts | None
    ) -> bool:
        """Write a local file of any size with the metadata that :meth:`facts` will return.

        ``replacing`` is the present object, from :meth:`facts`; None where there is none. If the
        object has changed meanwhile, nothing is written and the result is False.
        """
        self._check_leases()
        with source.open("rb") as file:
            return self.put_if(name, file, replacing, metadata)

    def remove(self, name: str) -> bool:
        """Remove a file if it exists; return whether it did."""
        self._check_leases()
        is_there = self.exists(name)
        if is_there:
            self.discard(name)
        return is_there

    def file_system(self) -> AbstractFileSystem:
        """Return the store with its files listed once, so that DuckDB need not look them up."""
        with self._reporting("list its files"):
            store = type(self._store)(
                **self._store.storage_options | {"use_listings_cache": True},
                skip_instance_cache=True,
            )
            store.find(str(self.root))
        return store

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Create an empty folder on a local disk for the duration of a ``with`` block."""
        with TemporaryDirectory(prefix=f"aind-etl-{name.replace('/', '-')[-60:]}-") as folder:
            yield Path(folder)

    def clear_staging(self, *scratch: str) -> None:
        """Do nothing: an interrupted write leaves nothing on the store."""

    @contextmanager
    def lock(self, name: str, purpose: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold a lease on the store, which is renewed while it is held."""
        lease = Lease(self, f"_locks/{name}.lease")
        with refuse_reentry(f"{self.root}/{name}", purpose):
            ends = time.monotonic() + wait_seconds
            while not lease.acquire():
                if time.monotonic() >= ends:
                    raise DataError(
                        f"Another run is writing {purpose} ({lease.holder}). Wait for it to end, "
                        "or stop it, and run again. A run that was killed keeps its lock for about "
                        "a minute."
                    )
                time.sleep(_RECHECK_SECONDS)
            held = _HELD.setdefault(str(self.root), [])
            held.append(lease)
            try:
                with lease.renewed():
                    yield
            finally:
                held.remove(lease)
                lease.release()

    def _check_leases(self) -> None:
        for lease in _HELD.get(str(self.root), []):
            if not lease.is_held:
                raise DataError(
                    f"The lock {self._url(lease.name)} could not be renewed in time, and another "
                    "run may hold it by now. Nothing more was written; run again."
                )
