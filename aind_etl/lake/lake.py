"""The lake below one folder or prefix: collections, their state, and the locks on them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from aind_etl.contract import TABLES, Partitioning, Table
from aind_etl.contract.id_ranges import UNSHARDED, Shard, shards
from aind_etl.lake.storage import open_storage

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location
from aind_etl.lake.change_log import ChangeLog
from aind_etl.lake.live_files import LiveFiles, ReshardedError
from aind_etl.lake.paths import (
    RAW_HASHES,
    SOURCE_HEALTH,
    STATE_FOLDER,
    encode_name,
    layout_name,
    shard_of,
    table_folder,
)
from aind_etl.lake.state import (
    CollectionState,
    Layout,
    SourceHealth,
    merge_states,
    parse_layout,
    parse_state,
)
from aind_etl.lake.tables import Tables

Scratch = Literal["extract", "recognise", "refresh"]
"""What a run takes scratch space for."""
# Longer than the largest collection takes to be replaced, or the warehouse to be loaded.
_TABLES_WAIT_SECONDS = 1800
_LAYOUT_WAIT_SECONDS = 60


class Lake:
    """The lake below one folder, or below one prefix of an object store.

    A lake seen whole reads all of every collection, and writes collections that are not divided.
    Seen for one shard (:meth:`for_shard`) it reads and writes the files and the state of that
    shard, and everything else works on it as on a collection without shards.

    Parameters
    ----------
    root
        The folder, which is made when something is first written, or ``s3://bucket/prefix``.
    shard
        Which shard of a collection is seen.
    """

    def __init__(self, root: "Location | str", shard: Shard = UNSHARDED) -> None:
        self.storage = open_storage(root)
        self._see(shard)

    def _see(self, shard: Shard) -> None:
        self.shard = shard
        self._files = LiveFiles(self.storage, shard)
        self.tables = Tables(self._files)

    def __str__(self) -> str:
        """Return where the lake lies."""
        return str(self.storage.root)

    def collections(self) -> list[str]:
        """Return the names of the collections that were ever extracted, sorted."""
        prefix = f"{STATE_FOLDER}/collection="
        states = self._files.decode(
            name.removeprefix(prefix).removesuffix(".json")
            for name in self.storage.files(STATE_FOLDER, ".json")
            if name.startswith(prefix)
        )
        return sorted(states.union(self._files.logged()))

    def layout(self, collection: str) -> Layout:
        """Return how many shards a collection has; one where nothing else is known."""
        return self._files.layout(collection)

    def change_log(self, collection: str) -> ChangeLog:
        """Return the change log of a collection, or of this shard of it."""
        return ChangeLog(self._files, collection)

    def shards(self, collection: str) -> list["Lake"]:
        """Return the lake as seen for each shard of a collection; itself where that has but one."""
        of = self.layout(collection).shards
        return [self.for_shard(shard) for shard in shards(of)]

    def for_shard(self, shard: Shard) -> "Lake":
        """Return the lake as seen for a shard of a collection."""
        return self if shard == self.shard else self._seen_for(shard)

    @property
    def whole(self) -> "Lake":
        """The lake seen whole."""
        return self.for_shard(UNSHARDED)

    def name_of(self, collection: str) -> str:
        """Return a collection's name for people, with the shard if it is seen for one."""
        return collection if self.shard == UNSHARDED else f"{collection}/{self.shard.label}"

    def _seen_for(self, shard: Shard) -> "Lake":
        seen = copy(self)
        seen._see(shard)  # noqa: SLF001 - a copy of itself
        return seen

    def names_by_shards(self, collection: str) -> dict[int, list[str]]:
        """Return the names of all files of a collection, by how many shards they are one of."""
        encoded = encode_name(collection)
        found: dict[int, list[str]] = {1: []}
        for table in TABLES:
            if table.partitioning not in {Partitioning.WHOLE, Partitioning.WAREHOUSE_ONLY}:
                for name in self._files.names(table_folder(table, collection)):
                    found.setdefault(shard_of(name).of, []).append(name)
        for name in self.storage.files(f"{STATE_FOLDER}/parts-of={encoded}", ""):
            shard = Shard.from_label(name.rsplit("/", 1)[-1].partition(".")[0])
            found.setdefault(shard.of if shard else 0, []).append(name)
        of_whole = (self.whole.state_name(collection), self.whole.raw_hashes_name(collection))
        found[1].extend(filter(self.storage.exists, of_whole))
        return found

    def state(self, collection: str) -> CollectionState:
        """Return a collection's state; a fresh one where it is missing or cannot be read.

        That of all shards merge_states says of each thing only what holds of every shard.
        """
        if self.shard == UNSHARDED:
            layout = self._files.written_layout(collection)
            if layout is not None and layout.shards > 1:
                every = [self.for_shard(shard).state(collection) for shard in shards(layout.shards)]
                return merge_states(collection, every)
        return parse_state(collection, self.storage.read(self.state_name(collection)))

    def state_name(self, collection: str) -> str:
        """Return the name of the file of a collection's state, for this shard."""
        if self.shard == UNSHARDED:
            return f"{STATE_FOLDER}/collection={encode_name(collection)}.json"
        return f"{STATE_FOLDER}/parts-of={encode_name(collection)}/{self.shard.label}.json"

    def update_state(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's state."""

        def change(content: bytes | None) -> bytes:
            state = parse_state(collection, content).model_copy(update=dict(changes))
            return json.dumps(state.model_dump(mode="json"), indent=1).encode()

        self.storage.update(self.state_name(collection), change)

    def source_health(self) -> SourceHealth:
        """Return whether the source can be read."""
        content = self.storage.read(SOURCE_HEALTH)
        try:
            return SourceHealth.model_validate_json(content or b"{}")
        except ValidationError:
            return SourceHealth()

    def update_source_health(self, changes: Mapping[str, Any]) -> None:
        """Write changed fields of the source's health."""
        health = self.source_health().model_copy(update=dict(changes))
        self.storage.update(SOURCE_HEALTH, lambda _: health.model_dump_json().encode())

    def raw_hashes_name(self, collection: str) -> str:
        """Return the name of the file that says what the bytes of a collection's documents were."""
        return self.state_name(collection).removesuffix(".json") + RAW_HASHES

    def update_layout(self, collection: str, changes: Mapping[str, Any]) -> None:
        """Write changed fields of a collection's layout; only files of its shards count then."""
        name = layout_name(collection)
        with self.storage.lock(
            f"layout-of={encode_name(collection)}",
            f"how the collection {collection!r} of {self} is divided",
            wait_seconds=_LAYOUT_WAIT_SECONDS,
        ):
            present = self.layout(collection)

            def change(content: bytes | None) -> bytes:
                layout = (parse_layout(content) or present).model_copy(update=dict(changes))
                return json.dumps(layout.model_dump(by_alias=True), indent=1).encode()

            self.storage.update(name, change)

    @contextmanager
    def lock(self, collection: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the right to write a collection, or this shard of it.

        Raises
        ------
        DataError
            Another process holds it.
        ReshardedError
            The collection has other shards than this by now.
        """
        with self.storage.lock(
            f"collection={self._lock_name(collection)}",
            f"the collection {collection!r}{self._which} of {self}",
            wait_seconds=wait_seconds,
        ):
            layout = self._files.written_layout(collection)
            if layout is None:
                # Only the view of the whole collection has to check for shards.
                layout = Layout() if self.shard == UNSHARDED else self.layout(collection)
            if layout.shards != self.shard.of:
                raise ReshardedError(
                    f"The collection {collection!r} of {self} lies in {layout.shards} shards, and "
                    f"this run is for one of {self.shard.of}: it was resharded meanwhile. Run "
                    "again; the sensor asks for the present shards by itself."
                )
            yield

    @contextmanager
    def tables_lock(self, collection: str) -> Iterator[None]:
        """Lock the tables derived from a collection's change log; wait until the lock is free.

        Writers that replace rows of several tables hold it, and so do readers that read
        them all merge_states. Seen whole, those of every shard are held.
        """
        with ExitStack() as held:
            held.enter_context(self._one_tables_lock(collection))
            if self.shard == UNSHARDED:
                # Nobody reshards it from here on, as that takes the lock just taken.
                layout = self._files.written_layout(collection) or Layout()
                for shard in shards(layout.shards) if layout.shards > 1 else ():
                    held.enter_context(self.for_shard(shard).tables_lock(collection))
            yield

    def _one_tables_lock(self, collection: str) -> AbstractContextManager[None]:
        return self.storage.lock(
            f"tables-of={self._lock_name(collection)}",
            f"the tables of the collection {collection!r}{self._which} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )

    def _lock_name(self, collection: str) -> str:
        # No encoded name of a collection has a comma.
        encoded = encode_name(collection)
        return encoded if self.shard == UNSHARDED else f"{encoded},{self.shard.label}"

    @property
    def _which(self) -> str:
        return "" if self.shard == UNSHARDED else f", shard {self.shard.label},"

    @contextmanager
    def scratch(self, purpose: Scratch, collection: str) -> Iterator[Path]:
        """Yield an empty folder on a disk for the duration of a ``with`` block, for this shard."""
        with self.storage.scratch(self._scratch_name(purpose, collection)) as folder:
            yield folder

    def clear_staging(self, collection: str) -> None:
        """Remove what a run of this shard that was killed left; call it under :meth:`lock`."""
        self.storage.clear_staging(
            *(self._scratch_name(purpose, collection) for purpose in get_args(Scratch))
        )

    def _scratch_name(self, purpose: Scratch, collection: str) -> str:
        return f"{purpose}-{self._lock_name(collection)}"

    def table_lock(self, table: Table) -> AbstractContextManager[None]:
        """Lock a table that is one file; wait until the lock is free."""
        return self.storage.lock(
            f"table={table.name}",
            f"the table {table.name!r} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )
