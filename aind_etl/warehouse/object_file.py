"""A warehouse that is one object of a store.

DuckDB reads a file in small pieces, so readers of an object open a copy in the user's cache folder.
The copy is downloaded again when the object's etag changes, and replaced by a rename: readers that
have the previous copy open keep reading it.
"""

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from aind_etl.errors import ConfigurationError, DataError, needs_pipeline

if TYPE_CHECKING:
    # Slow to import, and not needed to read a file on a disk.
    from aind_etl.lake.storage.object_store import ObjectFacts, ObjectStorage
from aind_etl.text import folder_name, time_ago
from aind_etl.warehouse.local_file import no_warehouse, scratch_file, sync

_log = logging.getLogger(__name__)

# A notebook runs many queries per second; the store is not asked before each.
_RECHECK_SECONDS = 3.0
# A store that does not answer delays every query that asks it.
_RECHECK_AFTER_FAILURE_SECONDS = 30.0
# Readers have a copy to fall back on.
_SHORT_TIMEOUTS: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 5,
        "read_timeout": 20,
        "retries": {"total_max_attempts": 2, "mode": "standard"},
    }
}
_FETCHING_WAIT_SECONDS = 60.0
_FETCHES = 5
_FETCHING = ".fetching-"
_OWNER_ALONE = 0o700
_OWNER_READS = 0o600


@dataclass(frozen=True, slots=True)
class _Copy:
    """The etag of a copied object, the identity of its copy, and when the warehouse was built."""

    etag: str
    size: int
    modified: int
    inode: int
    built_at: str

    @classmethod
    def of(cls, path: Path, facts: "ObjectFacts") -> "_Copy":
        """Describe a downloaded file."""
        stat = path.stat()
        written_at = datetime.fromtimestamp(stat.st_mtime, UTC).isoformat(timespec="seconds")
        built_at = _read_facts(facts).get("built_at") or written_at
        return cls(facts.etag, stat.st_size, stat.st_mtime_ns, stat.st_ino, built_at)

    def is_at(self, path: Path) -> bool:
        """Return whether the file at a path is the described one."""
        try:
            stat = path.stat()
        except OSError:
            return False
        found = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
        return found == (self.size, self.modified, self.inode)


class ObjectWarehouse:
    """A warehouse that is an object of a store, read through a local copy.

    Every method raises a :class:`DataError` if the store does not answer, except :meth:`file`,
    which then returns the existing copy.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        root, _, self._name = url.rpartition("/")
        if not self._name or root.endswith(("/", ":")):
            raise ConfigurationError(
                f"The warehouse {url!r} names no object. Expected is a path, or something like "
                "s3://bucket/lake/warehouse.duckdb."
            )
        name = folder_name(url, f"{url}\0{endpoint()}")
        self._folder = cache_folder() / "warehouses" / name
        self._path = self._folder / self._name
        self._note = self._folder / ".copy.json"
        self._lock = threading.RLock()
        self._copy: _Copy | None = None
        self._ask_at = 0.0

    def exists(self) -> bool:
        """Return whether the object exists."""
        return self.current() is not None

    def file(self) -> Path:
        """Return an up-to-date local copy.

        If the store does not answer, the existing copy is returned, and a warning says how old it
        is.

        Raises
        ------
        ConfigurationError
            There is no warehouse; or the store does not answer, and there is no copy.
        """
        with self._lock:
            copy = self._known_copy()
            if copy is not None and time.monotonic() < self._ask_at:
                return self._path
            try:
                facts = self.current()
                if facts is None:
                    raise no_warehouse(self._url)
                if copy is None or copy.etag != facts.etag:
                    self._fetch(facts)
                self._ask_at = time.monotonic() + _RECHECK_SECONDS
            except DataError as error:
                if copy is None:
                    raise ConfigurationError(
                        f"{error} There is no copy of the warehouse on this machine yet."
                    ) from None
                age = time_ago(datetime.fromisoformat(copy.built_at))
                _log.warning("%s Reading the local copy, built %s.", error, age)
                self._ask_at = time.monotonic() + _RECHECK_AFTER_FAILURE_SECONDS
            return self._path

    def metadata(self) -> dict[str, str]:
        """Return the metadata of the warehouse without opening it; empty if it has none."""
        facts = self.current()
        return {} if facts is None else _read_facts(facts)

    def current(self) -> "ObjectFacts | None":
        """Return the current object, which :meth:`publish` is to replace."""
        return self._store.facts(self._name)

    def scratch_file(self) -> AbstractContextManager[Path]:
        """Give the path of a file to build, in a folder beside the local copy."""
        self._make_folder()
        return scratch_file(self._path)

    def publish(
        self, building: Path, facts: Mapping[str, str], *, replacing: "ObjectFacts | None"
    ) -> int:
        """Publish a finished file in one conditional request, and return its size.

        Parameters
        ----------
        building
            The file. It becomes the local copy.
        facts
            Its metadata.
        replacing
            The object when the build began, from :meth:`current`. If another has replaced it since,
            a :class:`DataError` is raised, and the other is left in place.
        """
        metadata = {name.replace("_", "-"): value for name, value in facts.items()}
        store = open_store(self._url)
        # Whether this succeeds or not, the store must be asked again.
        self._ask_at = 0.0
        if not store.put_file(self._name, building, metadata, replacing=replacing):
            raise DataError(
                f"The warehouse {self._url} was published by another run at the same time. "
                "Nothing was overwritten; run again when the other has ended."
            )
        size = building.stat().st_size
        with self._lock, suppress(ConfigurationError, DataError, OSError):
            # The machine that built it need not download it.
            now = store.facts(self._name)
            if now is not None and _read_facts(now) == dict(facts):
                with self._fetching():
                    self._replace_copy(building, now)
        return size

    @cached_property
    def _store(self) -> "ObjectStorage":
        return open_store(self._url, **_SHORT_TIMEOUTS)

    def _known_copy(self) -> _Copy | None:
        """Return the description of the existing copy; None if there is no valid one."""
        if self._copy is None or not self._copy.is_at(self._path):
            self._copy = None
            with suppress(OSError, ValueError, TypeError):
                written = _Copy(**json.loads(self._note.read_text()))
                self._copy = written if written.is_at(self._path) else None
        return self._copy

    def _make_folder(self) -> None:
        try:
            self._folder.parent.parent.mkdir(parents=True, exist_ok=True)
            # Not every user of this machine may be allowed to read the store.
            self._folder.parent.mkdir(mode=_OWNER_ALONE, exist_ok=True)
            self._folder.mkdir(mode=_OWNER_ALONE, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"No copy of the warehouse {self._url} can be kept in {str(self._folder)!r} "
                f"({error.strerror}). Name a folder for caches with XDG_CACHE_HOME."
            ) from None

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        """Hold the download lock, but wait for it a limited time: its holder may hang."""
        import filelock  # noqa: PLC0415 - not needed to read a file on a disk

        self._make_folder()
        lock = filelock.FileLock(self._folder / ".lock", mode=_OWNER_READS)
        with ExitStack() as held:
            with suppress(filelock.Timeout):
                held.enter_context(lock.acquire(timeout=_FETCHING_WAIT_SECONDS))
                # The lock is held, so any such folder was left by a killed process.
                for left in self._folder.glob(f"{_FETCHING}*"):
                    shutil.rmtree(left, ignore_errors=True)
            yield

    def _fetch(self, facts: "ObjectFacts") -> None:
        """Download the object, unless another process has just done so."""
        with self._fetching():
            copy = self._known_copy()
            if copy is not None and copy.etag == facts.etag:
                return
            with TemporaryDirectory(dir=self._folder, prefix=_FETCHING) as folder:
                fetched = Path(folder) / self._name
                for _ in range(_FETCHES):
                    self._store.fetch(self._name, fetched)
                    # It may have been replaced during the download, which takes several requests.
                    now = self.current()
                    if now == facts:
                        break
                    if now is None:
                        raise no_warehouse(self._url)
                    facts = now
                else:
                    raise DataError(
                        f"The warehouse {self._url} was replaced during each of {_FETCHES} "
                        "downloads. Try again when fewer runs publish it."
                    )
                self._replace_copy(fetched, facts)

    def _replace_copy(self, path: Path, facts: "ObjectFacts") -> None:
        """Replace the copy. Its description becomes valid only when the file is in place."""
        path.chmod(_OWNER_READS)
        sync(path)
        copy = _Copy.of(path, facts)
        path.replace(self._path)
        staged = self._note.with_name(f".copy-{os.getpid()}.tmp")
        staged.write_text(json.dumps(asdict(copy)))
        staged.replace(self._note)
        self._copy = copy


def open_store(
    url: str,
    what: str = "warehouse",
    **options: Any,  # noqa: ANN401 - the store's own
) -> "ObjectStorage":
    """Open the store of an object, at the folder that holds it; errors call it ``what``."""
    with needs_pipeline(f"The {what} {url}"):
        from aind_etl.lake.storage.object_store import (  # noqa: PLC0415 - slow to import
            ObjectStorage,
        )

    return ObjectStorage(url.rpartition("/")[0], name=f"The store of the {what} {url}", **options)


def endpoint() -> str:
    """Return the endpoint if it is not AWS: two stores may have buckets of the same name."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def cache_folder() -> Path:
    """Return the user's cache folder."""
    from platformdirs import user_cache_path  # noqa: PLC0415 - as above

    return user_cache_path("aind-etl")


def _read_facts(facts: "ObjectFacts") -> dict[str, str]:
    """Return the metadata that a publication attached; empty for any other object."""
    metadata = {name.replace("-", "_"): value for name, value in facts.metadata.items()}
    return metadata if "inputs" in metadata else {}
