"""Snapshots: named copies of a published warehouse, kept for papers and reports.

They are in the folder ``snapshots`` beside the warehouse. The software never overwrites or removes
one.
"""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.text import suggest
from aind_etl.warehouse.info import read_info_of_file
from aind_etl.warehouse.local_file import sync
from aind_etl.warehouse.location import beside, locate_warehouse
from aind_etl.warehouse.object_file import open_store

_FOLDER = "snapshots"
_SUFFIX = ".duckdb"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_READ_ONLY = 0o444
# Keys of object metadata use hyphens.
_TAKEN_AT = "snapshot-at"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A named copy of a warehouse.

    Attributes
    ----------
    facts
        Its ``warehouse_info``: ``built_at``, ``built_by``, ``lake`` and more.
    """

    name: str
    location: WarehouseLocation
    taken_at: datetime
    size_bytes: int
    facts: dict[str, str]


def take_snapshot(warehouse: WarehouseLocation, name: str) -> Snapshot:
    """Copy the published warehouse under a name.

    Raises
    ------
    ConfigurationError
        There is no warehouse, the name is not valid, or a snapshot has that name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"The snapshot's name is {name!r}; expected letters, digits, '.', '_' and '-', such as "
            "'paper-2026'."
        )
    published = locate_warehouse(warehouse).file()
    location = beside(warehouse, f"{_FOLDER}/{name}{_SUFFIX}")
    if isinstance(location, Path):
        is_new = _keep_file(published, location)
    else:
        is_new = _keep_object(published, location)
    if not is_new:
        raise ConfigurationError(
            f"The snapshot {name!r} already exists, at {str(location)!r}. Snapshots are never "
            "overwritten; choose another name."
        )
    return next(one for one in list_snapshots(warehouse) if one.name == name)


def list_snapshots(warehouse: WarehouseLocation) -> list[Snapshot]:
    """Return the snapshots of a warehouse, the oldest first."""
    folder = beside(warehouse, f"{_FOLDER}/")
    found = _files(folder) if isinstance(folder, Path) else _objects(folder)
    return sorted(found, key=lambda one: (one.taken_at, one.name))


def find_snapshot(warehouse: WarehouseLocation, name: str) -> WarehouseLocation:
    """Return the location of a snapshot; an unknown name is a ConfigurationError."""
    known = {one.name: one.location for one in list_snapshots(warehouse)}
    if name not in known:
        hint = suggest(name, known) if known else "Take one with 'aind-etl snapshot NAME'."
        raise ConfigurationError(
            f"There is no snapshot {name!r} of the warehouse {str(warehouse)!r}. {hint}"
        )
    return known[name]


def _keep_file(published: Path, location: Path) -> bool:
    location.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=location.parent, prefix=".taking-") as folder:
        copy = Path(folder) / location.name
        # The published file may be replaced during the copy, which reads the file it opened.
        shutil.copyfile(published, copy)
        copy.chmod(_READ_ONLY)
        sync(copy)
        try:
            # Unlike a rename, a link fails if the name exists.
            os.link(copy, location)
        except FileExistsError:
            return False
    sync(location.parent)
    return True


def _keep_object(published: Path, location: str) -> bool:
    name = location.rpartition("/")[2]
    # The local copy of the warehouse may be replaced during the upload.
    with TemporaryDirectory(prefix="aind-etl-") as folder:
        copy = Path(folder) / name
        shutil.copyfile(published, copy)
        facts = read_info_of_file(copy) | {_TAKEN_AT: datetime.now(UTC).isoformat()}
        metadata = {key.replace("_", "-"): value for key, value in facts.items()}
        return open_store(location, "snapshot").put_file(name, copy, metadata, replacing=None)


def _files(folder: Path) -> Iterator[Snapshot]:
    for path in folder.glob(f"*{_SUFFIX}"):
        facts = path.stat()
        taken_at = datetime.fromtimestamp(facts.st_mtime, UTC)
        info = read_info_of_file(path)
        yield Snapshot(path.name.removesuffix(_SUFFIX), path, taken_at, facts.st_size, info)


def _objects(folder: str) -> Iterator[Snapshot]:
    store = open_store(folder, "snapshots")
    for name in store.files("", _SUFFIX):
        facts = store.facts(name)
        # An object without this time was uploaded by something else.
        if facts is None or "/" in name or _TAKEN_AT not in facts.metadata:
            continue
        taken_at = datetime.fromisoformat(facts.metadata[_TAKEN_AT])
        info = {key.replace("-", "_"): value for key, value in facts.metadata.items()}
        location = f"{store.root}/{name}"
        yield Snapshot(name.removesuffix(_SUFFIX), location, taken_at, facts.size, info)
