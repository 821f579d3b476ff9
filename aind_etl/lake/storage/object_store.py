"""The lake's storage on an object store, such as S3.

A file appears whole or not at all because it is written by one request, or one that completes an
upload in parts, and only if it has not changed meanwhile. A lock is a lease.
"""

import hashlib
import io
import mimetypes
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem, get_filesystem_class
from upath import UPath

from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake.storage.locks import Lease, refuse_reentry
from aind_etl.lake.storage.protocol import StoredFile
from aind_etl.text import first_line

_STORE_ERRORS = (OSError, BotoCoreError, ClientError)
# Larger files are sent in parts, each of which can be retried by itself.
_PART_BYTES = 64 << 20
_WRITER = "writer"
"""The metadata key whose value is different for every write."""
_RECHECK_SECONDS = 0.5

_HELD: dict[str, list[Lease]] = {}
"""The leases that this process holds, by prefix; every write checks that they are still held."""


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What a store says about a file.

    Attributes
    ----------
    size
        Its size in bytes.
    etag
        A text that changes with the content.
    metadata
        The metadata that its writer attached.
    writer
        A text that is different for every write; empty where it is not known.
    """

    size: int
    etag: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    writer: str = ""


class ObjectStorage:
    """The files below one prefix of an object store, named by relative paths with ``/``.

    Any store that fsspec opens can be read; safe writes need conditional requests, as S3 has them.
    Every operation raises :class:`~aind_etl.errors.DataError` if the store refuses a request or
    does not answer, and every change also if this process has lost one of its locks. Endpoint and
    credentials come from the store's usual places: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, a
    profile, the machine's role. ``name`` is what the prefix holds, for messages, and ``options``
    are those of fsspec's file system.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "",
        **options: Any,  # noqa: ANN401 - each kind of store has its own
    ) -> None:
        scheme, _, place = url.partition("://")
        self._display_name = name or f"The lake {url}"
        if not place.strip("/"):
            raise ConfigurationError(
                f"The lake {url!r} names no bucket. An address is like s3://bucket/lake."
            )
        try:
            get_filesystem_class(scheme)
            # Listings are not cached: what another process wrote must be seen.
            self.root: UPath = UPath(
                f"{scheme}://{place.strip('/')}", use_listings_cache=False, **options
            )
            # The store's thread lives as long as the process and keeps the context it starts in.
            # That must not be a step of Dagster, with all it holds.
            self._store = Context().run(lambda: self.root.fs)
            # For S3, one direct request replaces up to three of fsspec's.
            self._is_s3 = hasattr(self._store, "call_s3")
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The lake {url!r} is on a store that cannot be opened here: {error}. Supported "
                "are a folder and s3://bucket/prefix; others need their fsspec package installed."
            ) from None

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
                info["size"], f"{info['size']} {_etag_of(info)}"
            )
            for path, info in sorted(found.items())
            if path.endswith(suffix)
        }

    def facts(self, name: str) -> ObjectFacts | None:
        """Return what the store says about a file, or None if it does not exist."""
        with self._reporting(f"find {name!r}"):
            try:
                if not self._is_s3:
                    info = self._store.info(self._url(name))
                    return ObjectFacts(info["size"], _etag_of(info))
                bucket, key, _ = self._store.split_path(self._url(name))
                head = self._store.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
        metadata = {key: unquote(value) for key, value in head.get("Metadata", {}).items()}
        writer = metadata.pop(_WRITER, "")
        return ObjectFacts(head["ContentLength"], head["ETag"], metadata, writer)

    def exists(self, name: str) -> bool:
        """Return whether a file exists."""
        return self.facts(name) is not None

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None if it does not exist."""
        with self._reporting(f"read {name!r}"):
            try:
                return cast("bytes", self._store.cat_file(self._url(name)))
            except FileNotFoundError:
                return None

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to a local disk; an error may leave a part of it there."""
        with self._reporting(f"read {name!r}"):
            self._store.get_file(self._url(name), str(target))

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

    def put_if(
        self,
        name: str,
        content: bytes | BinaryIO,
        facts: ObjectFacts | None,
        metadata: Mapping[str, str] | None = None,
    ) -> bool:
        """Write a file if it is still as ``facts`` describe it, regardless of locks.

        The result is whether it was.
        """
        # If the answer to a request is lost, the request is sent again and finds its own file.
        ours = uuid.uuid4().hex
        file = io.BytesIO(content) if isinstance(content, bytes) else content
        with self._reporting(f"write {name!r}"):
            try:
                if self._is_s3:
                    condition = {"IfNoneMatch": "*"} if facts is None else {"IfMatch": facts.etag}
                    self._send(name, file, condition, {**(metadata or {}), _WRITER: ours})
                elif self.facts(name) != facts:
                    return False
                else:
                    mode = "create" if facts is None else "overwrite"
                    self._store.pipe_file(self._url(name), file.read(), mode=mode)
            except OSError as error:
                # Not found: it was removed meanwhile, or this request put its parts together
                # already.
                if not isinstance(error, FileNotFoundError) and not _is_unmet(error):
                    raise
                now = self.facts(name)
                if now is None and facts is None:
                    raise
                return now is not None and now.writer == ours
        return True

    def _send(
        self, name: str, file: BinaryIO, condition: Mapping[str, str], metadata: Mapping[str, str]
    ) -> None:
        """Send a file to S3; it appears with its last byte, if the condition holds then."""
        bucket, key, _ = self._store.split_path(self._url(name))
        target: dict[str, Any] = {"Bucket": bucket, "Key": key}
        # Headers hold little more than ASCII.
        headers: dict[str, Any] = {
            "Metadata": {about: quote(text) for about, text in metadata.items()}
        }
        content_type, _ = mimetypes.guess_type(name)
        if content_type:
            headers["ContentType"] = content_type
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if size <= _PART_BYTES:
            self._store.call_s3("put_object", **target, **headers, **condition, Body=file.read())
            return
        upload = self._store.call_s3("create_multipart_upload", **target, **headers)["UploadId"]
        target["UploadId"] = upload
        try:
            parts: list[dict[str, Any]] = []
            while part := file.read(_PART_BYTES):
                number = len(parts) + 1
                sent = self._store.call_s3("upload_part", **target, PartNumber=number, Body=part)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            whole = {"Parts": parts}
            self._store.call_s3(
                "complete_multipart_upload", **target, **condition, MultipartUpload=whole
            )
        except BaseException:
            # The store would keep the parts sent so far, and charge for them.
            with suppress(*_STORE_ERRORS):
                self._store.call_s3("abort_multipart_upload", **target)
            raise

    def remove(self, name: str) -> bool:
        """Remove a file if it exists; return whether it did."""
        self._check_leases()
        is_there = self.exists(name)
        if is_there:
            self.discard(name)
        return is_there

    def discard(self, name: str) -> None:
        """Remove a file that exists, regardless of locks."""
        with self._reporting(f"remove {name!r}"):
            self._store.rm_file(self._url(name))

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

    def _url(self, name: str) -> str:
        return f"{self.root}/{name}" if name else str(self.root)

    @contextmanager
    def _reporting(self, action: str) -> Iterator[None]:
        """Turn an error of the store into a :class:`~aind_etl.errors.DataError`."""
        try:
            yield
        except FileNotFoundError as error:
            problem = f"cannot {action}: {first_line(error)}. Check that the bucket exists."
        except PermissionError:
            problem = (
                f"refuses to {action}. Check the credentials (AWS_PROFILE, AWS_ACCESS_KEY_ID) and "
                "the rights they give."
            )
        except _STORE_ERRORS as error:
            problem = (
                f"cannot {action}: {first_line(error)}. Check the endpoint (AWS_ENDPOINT_URL), the "
                "region and the network, and run again."
            )
        else:
            return
        # What the store says is not shown: it may be long, and it may name a key.
        raise DataError(f"{self._display_name} {problem}") from None


def _etag_of(info: Mapping[str, Any]) -> str:
    """Return a text that changes with a file's content, from fsspec's information about it."""
    for name in ("ETag", "etag", "mtime", "last_modified", "created"):
        if info.get(name):
            return str(info[name])
    return ""


def _is_unmet(error: OSError) -> bool:
    """Return whether a store refused a request because its condition did not hold."""
    if isinstance(error, FileExistsError):
        return True
    cause = error.__cause__
    code = cause.response.get("Error", {}).get("Code") if isinstance(cause, ClientError) else ""
    return code in {"PreconditionFailed", "ConditionalRequestConflict"}
