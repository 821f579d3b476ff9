"""What a disk and an object store have in common as the lake's storage.

:class:`~aind_etl.lake.storage.local.LocalStorage` and
:class:`~aind_etl.lake.storage.object_store.ObjectStorage` list, read, write and remove whole files
and hold locks, by methods of the same names. Files are named by relative paths with ``/``.
"""

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

    from upath import UPath

    from aind_etl.lake.storage.local import LocalStorage
    from aind_etl.lake.storage.object_store import ObjectStorage

    Storage: TypeAlias = LocalStorage | ObjectStorage
    Location: TypeAlias = Path | UPath
    """Where a file is: a path on a disk, or a URL."""


class StoredFile(NamedTuple):
    """What a listing says about a file.

    Attributes
    ----------
    size
        Its size in bytes.
    mark
        A text that changes with the content.
    """

    size: int
    mark: str
