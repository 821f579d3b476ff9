"""Where the lake's files are: a local disk, or an object store."""

from pathlib import Path
from typing import TYPE_CHECKING

from aind_etl.lake.storage.local import LocalStorage

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location, Storage


def open_storage(root: "Location | str") -> "Storage":
    """Return the storage below a folder, or below a prefix such as ``s3://bucket/lake``."""
    if "://" in str(root):
        # Imported here: a lake on a disk need not wait for the clients of object stores.
        from aind_etl.lake.storage.object_store import ObjectStorage  # noqa: PLC0415

        return ObjectStorage(str(root))
    return LocalStorage(Path(str(root)))
