"""The lake below one folder or prefix: collections, their state, and the locks on them."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import unquote

from pydantic import BaseModel

from aind_etl.contract import Table, tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard, shards
from aind_etl.errors import DataError
from aind_etl.lake.change_log import ChangeLog
from aind_etl.lake.paths import (
    COLLECTION_TABLES,
    CUT_NAME,
    STATE_FOLDER,
    collection_of,
    encode_name,
    is_own_file,
    layout_name,
    log_folder,
    shard_of,
    table_folder,
)
from aind_etl.lake.state import CollectionState, Layout, SourceHealth, merge_states, parse
from aind_etl.lake.storage import open_storage
from aind_etl.lake.storage.protocol import StoredFile
from aind_etl.lake.tables import Tables

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location

Scratch = Literal["extract", "raw-hashes", "refresh"]
"""What a run takes scratch space for."""
_SOURCE_HEALTH = f"{STATE_FOLDER}/source.health"
# Longer than replacing the largest collection, or loading the warehouse, takes.
_TABLES_WAIT_SECONDS = 1800
_LAYOUT_WAIT_SECONDS = 60


class ReshardedError(DataError):
    """A collection was resharded since the run began."""


class Lake:
    """The lake below one folder, or below one prefix of an object store.

    The whole lake reads all of every collection, and writes collections that have no shards. A
    lake for one shard (:meth:`for_shard`) reads and writes the files and the state of that shard,
    and everything else works on it as on a collection without shards.

    Parameters
    ----------
    root
        The folder, which is created when something is first written, or ``s3://bucket/prefix``.
    """

    def __init__(self, root: "Location | str") -> None:
        self.storage = open_storage(root)
        self.shard = UNSHARDED
        self.tables = Tables(self)

    def for_shard(self, shard: Shard) -> "Lake":
        """Return the lake for a shard of a collection."""
        if shard == self.shard:
            return self
        lake = copy(self)
        lake.shard = shard
        lake.tables = Tables(lake)
        return lake

    @property
    def whole(self) -> "Lake":
        """The whole lake."""
        return self.for_shard(UNSHARDED)

    def shards(self, collection: str) -> list["Lake"]:
        """Return the lake for each shard of a collection; the whole lake if it has only one."""
        return [self.for_shard(shard) for shard in shards(self.layout(collection).shards)]

    def __str__(self) -> str:
        """Return the folder or the address of the lake."""
        return str(self.storage.root)

    def collections(self) -> list[str]:
        """Return the names of all collections that were ever extracted, sorted."""
        prefix = f"{STATE_FOLDER}/collection="
        states = self._decode(
            name.removeprefix(prefix).removesuffix(".json")
            for name in self.storage.files(STATE_FOLDER, ".json")
            if name.startswith(prefix)
        )
        return sorted(states.union(self.logged_collections()))

    def logged_collections(self) -> list[str]:
        """Return the names of the collections that have a change log, sorted."""
        encoded = set(map(collection_of, self.stored_files(tables.DOCUMENTS.name)))
        return sorted(self._decode(encoded - {""}))

    def _decode(self, encoded: Iterable[str]) -> set[str]:
        """Return the names of collections from their encoded names.

        A name that was cut is in the collection's state. A collection without a state was never
        read to its end, and is read again.
        """
        found = set()
        for name in encoded:
            if not CUT_NAME.fullmatch(name):
                found.add(unquote(name))
                continue
            states = [
                f"{STATE_FOLDER}/collection={name}.json",
                *self.storage.files(f"{STATE_FOLDER}/parts-of={name}", ".json"),
            ]
            known = (parse(CollectionState, self.storage.read(state)) for state in states)
            found |= {state.collection for state in known if state} - {""}
        return found

    def name_of(self, collection: str) -> str:
        """Return a collection's name for people, with the shard."""
        return collection if self.shard == UNSHARDED else f"{collection}/{self.shard.label}"

    def change_log(self, collection: str) -> ChangeLog:
        """Return the change log of a collection, for this shard."""
        return ChangeLog(self, collection)

    def stored_files(self, folder: str) -> dict[str, StoredFile]:
        """Return all files of tables below a folder, of whichever layout, by name."""
        files = self.storage.files(folder, ".parquet")
        return {name: file for name, file in files.items() if is_own_file(name)}

    def live_files(self, folder: str) -> dict[str, StoredFile]:
        """Return the files below a folder that count, for this shard, by name.

        Files of another layout are there while a collection is being resharded, or where that was
        interrupted.
        """
        files = self.stored_files(folder)
        if self.shard != UNSHARDED:
            return {name: file for name, file in files.items() if shard_of(name) == self.shard}
        if all(shard_of(name) == UNSHARDED for name in files):
            return files
        numbers = {
            encoded: self.layout(collection).shards
            for encoded in set(map(collection_of, files))
            for collection in self._decode([encoded])
        }
        return {
            name: file
            for name, file in files.items()
            if shard_of(name).of == numbers.get(collection_of(name))
        }

    def layout(self, collection: str) -> Layout:
        """Return the layout of a collection: as written, or as the files of its log imply."""
        layout = self._written_layout(collection)
        if layout is not None:
            return layout
        numbers = {shard_of(name).of for name in self.stored_files(log_folder(collection))} or {1}
        if len(numbers) > 1:
            raise DataError(
                f"The change log of the collection {collection!r} of {self} has files "
                f"of {' and of '.join(map(str, sorted(numbers)))} shards, and which of them count "
                f"is not known: {layout_name(collection)} is missing or damaged. Fetch it from a "
                'backup, or write {"shards": …} into it with the number of those that are complete.'
            )
        of = numbers.pop()
        return Layout(parts=of, planned_parts=of)

    def _written_layout(self, collection: str) -> Layout | None:
        """Return the layout in a collection's layout file; None if there is no valid one."""
        return parse(Layout, self.storage.read(layout_name(collection)))

    def update_layout(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's layout; from then on, only its files count."""
        with self.storage.lock(
            f"layout-of={encode_name(collection)}",
            f"how the collection {collection!r} of {self} is divided",
            wait_seconds=_LAYOUT_WAIT_SECONDS,
        ):
            self._update(layout_name(collection), self.layout(collection), changes)

    def all_files(self, collection: str) -> list[tuple[str, int]]:
        """Return the name of every file of a collection, and the number of shards of its layout."""
        files = [
            (name, shard_of(name).of)
            for table in COLLECTION_TABLES
            for name in self.stored_files(table_folder(table, collection))
        ]
        for name in self.storage.files(f"{STATE_FOLDER}/parts-of={encode_name(collection)}", ""):
            shard = Shard.from_label(name.rsplit("/", 1)[-1].partition(".")[0])
            files.append((name, shard.of if shard else 0))
        of_whole = (self.whole.state_name(collection), self.whole.raw_hashes_name(collection))
        return files + [(name, 1) for name in of_whole if self.storage.exists(name)]

    def state(self, collection: str) -> CollectionState:
        """Return a collection's state; an empty one if it is missing or invalid.

        The state of a collection in several shards says only what is true of every shard.
        """
        if self.shard == UNSHARDED:
            layout = self._written_layout(collection)
            if layout is not None and layout.shards > 1:
                every = [self.for_shard(shard).state(collection) for shard in shards(layout.shards)]
                return merge_states(collection, every)
        content = self.storage.read(self.state_name(collection))
        return parse(CollectionState, content) or CollectionState(collection=collection)

    def state_name(self, collection: str) -> str:
        """Return the name of the file of a collection's state, for this shard."""
        if self.shard == UNSHARDED:
            return f"{STATE_FOLDER}/collection={encode_name(collection)}.json"
        return f"{STATE_FOLDER}/parts-of={encode_name(collection)}/{self.shard.label}.json"

    def update_state(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's state."""
        name = self.state_name(collection)
        self._update(name, CollectionState(collection=collection), changes)

    def raw_hashes_name(self, collection: str) -> str:
        """Return the name of the file with the hashes of a collection's raw documents."""
        return self.state_name(collection).removesuffix(".json") + ".raw-hashes"

    def source_health(self) -> SourceHealth:
        """Return whether the source can be read."""
        return parse(SourceHealth, self.storage.read(_SOURCE_HEALTH)) or SourceHealth()

    def update_source_health(self, changes: Mapping[str, Any]) -> None:
        """Write changed fields of the source's health."""

        def change(content: bytes | None) -> bytes:
            health = parse(SourceHealth, content) or SourceHealth()
            return health.model_copy(update=dict(changes)).model_dump_json().encode()

        self.storage.update(_SOURCE_HEALTH, change)

    def _update(self, name: str, default: BaseModel, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a state file; the others keep their values, or the default's."""

        def change(content: bytes | None) -> bytes:
            state = (parse(type(default), content) or default).model_copy(update=dict(changes))
            return json.dumps(state.model_dump(mode="json", by_alias=True), indent=1).encode()

        self.storage.update(name, change)

    @contextmanager
    def lock(self, collection: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Lock a collection, or this shard of it, for writing.

        Raises
        ------
        DataError
            Another process holds the lock.
        ReshardedError
            The collection no longer has this shard.
        """
        with self.storage.lock(
            f"collection={self._lock_name(collection)}",
            f"the collection {self._described(collection)} of {self}",
            wait_seconds=wait_seconds,
        ):
            # Without a layout file, only the lake for a shard has to look for shards.
            layout = self._written_layout(collection) or (
                Layout() if self.shard == UNSHARDED else self.layout(collection)
            )
            if layout.shards != self.shard.of:
                raise ReshardedError(
                    f"The collection {collection!r} of {self} has {layout.shards} shards, and this "
                    f"run is for one of {self.shard.of}: it was resharded meanwhile. Run again; "
                    "the sensor requests runs for the present shards by itself."
                )
            yield

    @contextmanager
    def tables_lock(self, collection: str) -> Iterator[None]:
        """Lock the tables derived from a collection's change log; wait until the lock is free.

        Writers that replace rows of several tables hold it, and so do readers that read several
        tables in one state. The whole lake locks those of every shard.
        """
        with (
            self.storage.lock(
                f"tables-of={self._lock_name(collection)}",
                f"the tables of the collection {self._described(collection)} of {self}",
                wait_seconds=_TABLES_WAIT_SECONDS,
            ),
            ExitStack() as held,
        ):
            if self.shard == UNSHARDED:
                # Nobody can reshard it from here on, because that takes the lock just taken.
                layout = self._written_layout(collection) or Layout()
                for shard in shards(layout.shards) if layout.shards > 1 else ():
                    held.enter_context(self.for_shard(shard).tables_lock(collection))
            yield

    def table_lock(self, table: Table) -> AbstractContextManager[None]:
        """Lock a table that is one file; wait until the lock is free."""
        return self.storage.lock(
            f"table={table.name}",
            f"the table {table.name!r} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )

    def _lock_name(self, collection: str) -> str:
        # No encoded name of a collection has a comma.
        encoded = encode_name(collection)
        return encoded if self.shard == UNSHARDED else f"{encoded},{self.shard.label}"

    def _described(self, collection: str) -> str:
        which = "" if self.shard == UNSHARDED else f", shard {self.shard.label},"
        return f"{collection!r}{which}"

    def scratch(self, purpose: Scratch, collection: str) -> AbstractContextManager[Path]:
        """Create an empty folder on a local disk for a ``with`` block, for this shard."""
        return self.storage.scratch(self._scratch_name(purpose, collection))

    def clear_staging(self, collection: str) -> None:
        """Remove what killed runs of this shard left; call it under :meth:`lock`."""
        # An earlier version called one of them "recognise".
        purposes = (*get_args(Scratch), "recognise")
        self.storage.clear_staging(*(self._scratch_name(one, collection) for one in purposes))

    def _scratch_name(self, purpose: str, collection: str) -> str:
        return f"{purpose}-{self._lock_name(collection)}"
