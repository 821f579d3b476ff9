"""The lake's storage on an object store, such as S3.

It has the guarantees of :class:`aind_etl.lake.storage.local.LocalStorage`: a file appears complete
or not at all, because it is one request, and one process at a time holds a lock. Any store that
fsspec opens can be read; locks and exclusive writes need conditional requests, as S3 has them.
"""

import errno
import hashlib
import io
import mimetypes
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import Context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, cast
from urllib.parse import quote, unquote

from botocore.exceptions import BotoCoreError, ClientError
from fsspec import AbstractFileSystem, get_filesystem_class
from upath import UPath

from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake.storage.facts import ObjectFacts
from aind_etl.lake.storage.leases import Lease
from aind_etl.lake.storage.locks import refuse_reentry
from aind_etl.text import first_line

_LOCKS = "_locks"
_RECHECK_SECONDS = 0.5
_STORE_ERRORS = (OSError, BotoCoreError, ClientError)
# What is larger is sent in parts, each of which may be sent again by itself.
_PART_BYTES = 64 << 20
_WRITER = "writer"
"""The metadata that tells one writing of a file from every other."""


class ObjectStorage:
    """Files below one prefix of an object store, named by relative paths with ``/``.

    Parameters
    ----------
    url
        The prefix, such as ``s3://bucket/lake``. Endpoint and credentials come from the store's
        usual places: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``, a profile, the machine's role.
    name
        What lies there, for messages.
    **options
        How the store is asked, as fsspec takes it.

    Raises
    ------
    ConfigurationError
        The prefix names no bucket, or is of a kind that fsspec cannot open here.
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
                f"The lake {url!r} names no bucket. Expected is something like s3://bucket/lake."
            )
        try:
            get_filesystem_class(scheme)
            # What another process wrote must be seen: listings are never remembered.
            self.root: UPath = UPath(
                f"{scheme}://{place.strip('/')}", use_listings_cache=False, **options
            )
            # Its thread lives as long as the process, and so does the context that it begins in: a
            # step of Dagster, with all it holds, must not.
            self._store = Context().run(lambda: self.root.fs)
            # fsspec asks S3 up to three times where one request tells.
            self._is_s3 = hasattr(self._store, "call_s3")
        except (ImportError, ValueError) as error:
            raise ConfigurationError(
                f"The lake {url!r} lies on a store that cannot be opened here: {error}. Known are "
                "a folder and s3://bucket/prefix; others need their fsspec package installed."
            ) from None

    def path(self, name: str) -> UPath:
        """Return where a file lies, for libraries that read it themselves."""
        return self.root / name

    def _url(self, name: str) -> str:
        return f"{self.root}/{name}" if name else str(self.root)

    def files(self, folder: str, suffix: str) -> list[str]:
        """Return the names of the files anywhere below ``folder`` that end with ``suffix``.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        return sorted(self.marks(folder, suffix))

    def sizes(self, folder: str, suffix: str) -> dict[str, int]:
        """Return the bytes of the files of :meth:`files`, by their names.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        return {name: facts["size"] for name, facts in self._found(folder, suffix).items()}

    def marks(self, folder: str, suffix: str) -> dict[str, str]:
        """Return, by the file's name, a text that differs whenever its content does.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        return {
            name: f"{facts['size']} {_etag(facts)}"
            for name, facts in self._found(folder, suffix).items()
        }

    def _found(self, folder: str, suffix: str) -> dict[str, dict[str, Any]]:
        """Return what the store's listing tells of the files of :meth:`files`, by their names."""
        with self._asking(f"list {folder!r}"):
            try:
                if self._is_s3 and folder:
                    found = self._store.find(str(self.root), prefix=f"{folder}/", detail=True)
                else:
                    found = self._store.find(self._url(folder), detail=True)
            except FileNotFoundError:
                return {}
        return {self._name(path): facts for path, facts in found.items() if path.endswith(suffix)}

    def exists(self, name: str) -> bool:
        """Return whether there is a file.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        return self.facts(name) is not None

    def facts(self, name: str) -> ObjectFacts | None:
        """Return what the store tells of a file, or None where there is no such file.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        with self._asking(f"find {name!r}"):
            try:
                if not self._is_s3:
                    told = self._store.info(self._url(name))
                    return ObjectFacts(told["size"], _etag(told))
                bucket, key, _ = self._store.split_path(self._url(name))
                head = self._store.call_s3("head_object", Bucket=bucket, Key=key)
            except FileNotFoundError:
                return None
        metadata = {key: unquote(value) for key, value in head.get("Metadata", {}).items()}
        writer = metadata.pop(_WRITER, "")
        return ObjectFacts(head["ContentLength"], head["ETag"], metadata, writer)

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        with self._asking(f"read {name!r}"):
            try:
                return cast("bytes", self._store.cat_file(self._url(name)))
            except FileNotFoundError:
                return None

    def write(
        self, name: str, write_content: Callable[[BinaryIO], None], *, replace: bool = True
    ) -> bool:
        """Write a file in one request, so that it appears whole or not at all.

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
            The file is there and may not be replaced, another wrote it at the same time, a lock was
            lost, or the store cannot be asked.
        """
        buffer = io.BytesIO()
        write_content(buffer)
        content = buffer.getvalue()
        facts = self.facts(name) if replace else None
        if facts is not None and self._is_same(name, facts, content):
            return False
        self._check_leases()
        # What comes so late that another has written meanwhile must not undo that.
        if not self.put_if(name, content, facts):
            raise DataError(
                f"{self._url(name)} was written by another run at the same time. Nothing was "
                "overwritten; run again when the other has ended."
            )
        return True

    def update(self, name: str, change: Callable[[bytes | None], bytes]) -> None:
        """Replace a small file by what ``change`` makes of it, unless another was quicker.

        Raises
        ------
        DataError
            The file changed in between, a lock was lost, or the store cannot be asked.
        """
        facts = self.facts(name)
        content = change(None if facts is None else self.read(name))
        self._check_leases()
        if not self.put_if(name, content, facts):
            raise DataError(
                f"{self._url(name)} was changed by another run at the same time. Nothing was "
                "overwritten; run again when the other has ended."
            )

    def put_file(
        self,
        name: str,
        source: Path,
        metadata: Mapping[str, str],
        *,
        replacing: ObjectFacts | None,
    ) -> bool:
        """Write a file of this machine's disk, of any size, unless another was quicker.

        Parameters
        ----------
        name
            The file's name.
        source
            The file on the disk.
        metadata
            What :meth:`facts` is to tell of it.
        replacing
            The present object, as :meth:`facts` returned it; None where there is none.

        Returns
        -------
        bool
            False where the object was replaced meanwhile; nothing is written then.

        Raises
        ------
        DataError
            A lock was lost, or the store cannot be asked.
        """
        self._check_leases()
        with source.open("rb") as file:
            return self._send_if(name, file, source.stat().st_size, replacing, metadata)

    def remove(self, name: str) -> bool:
        """Remove a file if it is there.

        Returns
        -------
        bool
            Whether it was there.

        Raises
        ------
        DataError
            A lock was lost, or the store cannot be asked.
        """
        self._check_leases()
        if self.facts(name) is None:
            return False
        with self._asking(f"remove {name!r}"):
            self._store.rm_file(self._url(name))
        return True

    def file_system(self) -> AbstractFileSystem:
        """Return the store as it is now: listed once, so that no file has to be asked about.

        Raises
        ------
        DataError
            The store cannot be asked.
        """
        with self._asking("list its files"):
            store = type(self._store)(
                **self._store.storage_options | {"use_listings_cache": True},
                skip_instance_cache=True,
            )
            store.find(str(self.root))
        return store

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Give an empty folder on this machine's disk for the duration of a ``with`` block."""
        with TemporaryDirectory(prefix=f"aind-etl-{name.replace('/', '-')[-60:]}-") as folder:
            yield Path(folder)

    def clear_staging(self, *scratch: str) -> None:
        """Do nothing: a write that was cut short leaves nothing on the store."""

    @contextmanager
    def lock(self, name: str, purpose: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold a lock: a lease on the store, renewed while held, that ends with its holder.

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
            Another process holds the lock, or the store cannot be asked.
        """
        with (
            refuse_reentry(f"{self.root}/{name}", purpose),
            self._leased(name, purpose, wait_seconds),
        ):
            yield

    @contextmanager
    def _leased(self, name: str, purpose: str, wait_seconds: float) -> Iterator[None]:
        lease = Lease(self, f"{_LOCKS}/{name}.lease")
        ends = time.monotonic() + wait_seconds
        while not lease.take():
            if time.monotonic() >= ends:
                raise DataError(
                    f"Another run is writing {purpose} ({lease.holder}). Wait for it to end, or "
                    "stop it, and run again. A run that was killed keeps its lock for about a "
                    "minute."
                )
            time.sleep(_RECHECK_SECONDS)
        held = _HELD.setdefault(str(self.root), [])
        held.append(lease)
        try:
            with lease.renewed():
                yield
        finally:
            held.remove(lease)
            lease.give_back()

    def discard(self, name: str) -> None:
        """Remove a file, regardless of locks."""
        with self._asking(f"remove {name!r}"):
            self._store.rm_file(self._url(name))

    def put_if(self, name: str, content: bytes, facts: ObjectFacts | None) -> bool:
        """Write a file if it is as ``facts`` say; return whether it was."""
        return self._send_if(name, io.BytesIO(content), len(content), facts, {})

    def fetch(self, name: str, target: Path) -> None:
        """Copy a file to this machine's disk, where it appears whole or not at all.

        Raises
        ------
        DataError
            The store cannot be asked, or has no such file.
        """
        with (
            self._asking(f"read {name!r}"),
            TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder,
        ):
            staged = Path(folder) / target.name
            self._store.get_file(self._url(name), str(staged))
            staged.replace(target)

    def _name(self, path: str) -> str:
        return path.removeprefix(str(self.root).partition("://")[2]).lstrip("/")

    def _is_same(self, name: str, facts: ObjectFacts, content: bytes) -> bool:
        if facts.size != len(content):
            return False
        # Of a file written in one plain request, most stores tell the MD5.
        if facts.etag.strip('"') == hashlib.md5(content, usedforsecurity=False).hexdigest():
            return True
        return self.read(name) == content

    def _kind(self, name: str) -> dict[str, Any]:
        """Return the content type of a file, for browsers."""
        kind, _ = mimetypes.guess_type(name)
        return {"ContentType": kind} if kind and self._is_s3 else {}

    def _send_if(
        self,
        name: str,
        content: BinaryIO,
        size: int,
        facts: ObjectFacts | None,
        metadata: Mapping[str, str],
    ) -> bool:
        """Write a file if it is as ``facts`` say; return whether it was."""
        # A request whose answer was lost is sent again, and then finds its own work there.
        ours = uuid.uuid4().hex
        with self._asking(f"write {name!r}"):
            try:
                if self._is_s3:
                    condition = {"IfNoneMatch": "*"} if facts is None else {"IfMatch": facts.etag}
                    self._send(name, content, size, condition, {**metadata, _WRITER: ours})
                elif self.facts(name) != facts:
                    return False
                else:
                    mode = "create" if facts is None else "overwrite"
                    self._store.pipe_file(self._url(name), content.read(), mode=mode)
            except OSError as error:
                # It was there a moment ago, or the parts were put together a moment ago.
                is_gone = isinstance(error, FileNotFoundError)
                if not is_gone and not isinstance(error, FileExistsError) and not _is_unmet(error):
                    raise
                now = self.facts(name)
                if now is None and facts is None:
                    raise
                return now is not None and now.writer == ours
        return True

    def _send(
        self,
        name: str,
        content: BinaryIO,
        size: int,
        condition: Mapping[str, str],
        metadata: Mapping[str, str],
    ) -> None:
        """Send a file to S3; it appears with its last byte, if the condition holds then."""
        bucket, key, _ = self._store.split_path(self._url(name))
        place: dict[str, Any] = {"Bucket": bucket, "Key": key}
        # Headers know little more than ASCII.
        told = self._kind(name) | {
            "Metadata": {about: quote(value) for about, value in metadata.items()}
        }
        if size <= _PART_BYTES:
            self._store.call_s3("put_object", **place, **told, **condition, Body=content.read())
            return
        upload = self._store.call_s3("create_multipart_upload", **place, **told)["UploadId"]
        place["UploadId"] = upload
        try:
            parts: list[dict[str, Any]] = []
            while some := content.read(_PART_BYTES):
                number = len(parts) + 1
                sent = self._store.call_s3("upload_part", **place, PartNumber=number, Body=some)
                parts.append({"PartNumber": number, "ETag": sent["ETag"]})
            whole = {"Parts": parts}
            self._store.call_s3(
                "complete_multipart_upload", **place, **condition, MultipartUpload=whole
            )
        except BaseException:
            # What was sent so far would be kept, and paid for.
            with suppress(*_STORE_ERRORS):
                self._store.call_s3("abort_multipart_upload", **place)
            raise

    def _check_leases(self) -> None:
        """Make sure that every lock this process holds here is still its own.

        Raises
        ------
        DataError
            One was lost.
        """
        for lease in _HELD.get(str(self.root), []):
            if not lease.is_held:
                raise DataError(
                    f"The lock {self._url(lease.name)} could not be renewed in time and may be "
                    "another's by now. Nothing more was written; run again."
                )

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Put in words what the store answers.

        Raises
        ------
        DataError
            The store refused, or cannot be reached.
        """
        try:
            yield
        except FileNotFoundError as error:
            raise DataError(
                f"{self._display_name} cannot {what}: {first_line(error)}. Check that the bucket "
                "exists."
            ) from None
        except PermissionError:
            raise DataError(
                f"{self._display_name} refuses to {what}. Check the credentials (AWS_PROFILE, "
                "AWS_ACCESS_KEY_ID) and the rights they give."
            ) from None
        except _STORE_ERRORS as error:
            raise DataError(
                f"{self._display_name} cannot {what}: {first_line(error)}. Check the endpoint "
                "(AWS_ENDPOINT_URL), the region and the network, and run again."
            ) from None


_HELD: dict[str, list[Lease]] = {}
"""By prefix, the leases that this process holds; every write checks that they are still held."""


def _etag(told: Mapping[str, Any]) -> str:
    """Return a text that differs whenever a file's content does, from what fsspec tells of it."""
    for name in ("ETag", "etag", "mtime", "last_modified", "created"):
        if told.get(name):
            return str(told[name])
    return ""


def _is_unmet(error: OSError) -> bool:
    """Return whether a store refused a request because its condition did not hold."""
    cause = error.__cause__
    if isinstance(cause, ClientError):
        return cause.response.get("Error", {}).get("Code") in {
            "PreconditionFailed",
            "ConditionalRequestConflict",
        }
    return error.errno == errno.EINVAL and "pre-condition" in str(error)
