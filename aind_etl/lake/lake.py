"""The lake: partitioned parquet that anything can read, and the state of each collection.

Here belong the layout of the files, the change log, the merge of new rows into partitions and
the state files. What the rows mean does not belong here, nor how they are made.

Layout, below the lake's folder::

    documents/collection=<name>/<batch>.parquet                        the change log
    documents/collection=<name>/<first batch>-<last batch>.parquet     the same, compacted
    <table>/collection=<name>/session_month=<YYYY-MM>/part.parquet     one live file a partition
    rejected_documents/collection=<name>/part.parquet
    sessions/part.parquet                                              a table in one file
    _state/  _staging/  _locks/                                        not for readers

A collection that is divided into parts has such files for each part in the same folders, with the
part's label in their names (``3-of-8-<batch>.parquet``, ``part-3-of-8.parquet``): its tables look
the same to readers. A state file says how many parts there are; only files with those labels count.

Names of collections are percent-encoded in paths, so that no name can lead out of the lake.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import ValidationError

from aind_etl.contract import TABLES, Partitioning, Table
from aind_etl.contract.id_ranges import WHOLE, Part, parts
from aind_etl.lake.storage.opening import open_storage

if TYPE_CHECKING:
    from aind_etl.lake.storage.local import Location
from aind_etl.lake.change_log import ChangeLog
from aind_etl.lake.live_files import DividedMeanwhileError, LiveFiles
from aind_etl.lake.paths import (
    RAW_HASHES,
    SOURCE_HEALTH,
    STATE_FOLDER,
    encode_name,
    layout_name,
    part_of,
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
    Seen for one part (:meth:`of_part`) it reads and writes the files and the state of that part of
    a collection, and everything else works on it as it does on an undivided collection.

    Parameters
    ----------
    root
        The folder, which is made when something is first written, or ``s3://bucket/prefix``.
    part
        Which part of a collection is seen.
    """

    def __init__(self, root: "Location | str", part: Part = WHOLE) -> None:
        self.storage = open_storage(root)
        self._see(part)

    def _see(self, part: Part) -> None:
        self.part = part
        self._files = LiveFiles(self.storage, part)
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
        """Return how many parts a collection has; one where nothing else is known."""
        return self._files.layout(collection)

    def change_log(self, collection: str) -> ChangeLog:
        """Return the change log of a collection, or of this part of it."""
        return ChangeLog(self._files, collection)

    def parts(self, collection: str) -> list["Lake"]:
        """Return the lake as seen for each part of a collection; itself where that has but one."""
        of = self.layout(collection).parts
        return [self.of_part(part) for part in parts(of)]

    def of_part(self, part: Part) -> "Lake":
        """Return the lake as seen for a part of a collection."""
        return self if part == self.part else self._seen_for(part)

    @property
    def whole(self) -> "Lake":
        """The lake seen whole."""
        return self.of_part(WHOLE)

    def name_of(self, collection: str) -> str:
        """Return a collection's name for people, with the part if it is seen for one."""
        return collection if self.part == WHOLE else f"{collection}/{self.part.label}"

    def _seen_for(self, part: Part) -> "Lake":
        seen = copy(self)
        seen._see(part)  # noqa: SLF001 - a copy of itself
        return seen

    @staticmethod
    def encoded(collection: str) -> str:
        """Return a collection's name as paths carry it."""
        return encode_name(collection)

    def names_by_parts(self, collection: str) -> dict[int, list[str]]:
        """Return the names of all files of a collection, by how many parts they are one of."""
        encoded = encode_name(collection)
        found: dict[int, list[str]] = {1: []}
        for table in TABLES:
            if table.partitioning not in {Partitioning.WHOLE, Partitioning.WAREHOUSE_ONLY}:
                for name in self._files.names(table_folder(table, collection)):
                    found.setdefault(part_of(name).of, []).append(name)
        for name in self.storage.files(f"{STATE_FOLDER}/parts-of={encoded}", ""):
            part = Part.from_label(name.rsplit("/", 1)[-1].partition(".")[0])
            found.setdefault(part.of if part else 0, []).append(name)
        of_whole = (self.whole.state_name(collection), self.whole.raw_hashes_name(collection))
        found[1].extend(filter(self.storage.exists, of_whole))
        return found

    def state(self, collection: str) -> CollectionState:
        """Return a collection's state; a fresh one where it is missing or cannot be read.

        That of all parts merge_states says of each thing only what holds of every part.
        """
        if self.part == WHOLE:
            layout = self._files.written_layout(collection)
            if layout is not None and layout.parts > 1:
                every = [self.of_part(part).state(collection) for part in parts(layout.parts)]
                return merge_states(collection, every)
        return parse_state(collection, self.storage.read(self.state_name(collection)))

    def state_name(self, collection: str) -> str:
        """Return the name of the file of a collection's state, for this part."""
        if self.part == WHOLE:
            return f"{STATE_FOLDER}/collection={encode_name(collection)}.json"
        return f"{STATE_FOLDER}/parts-of={encode_name(collection)}/{self.part.label}.json"

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
        """Write changed fields of a collection's layout; only files of its parts count then."""
        name = layout_name(collection)
        with self.storage.lock(
            f"layout-of={encode_name(collection)}",
            f"how the collection {collection!r} of {self} is divided",
            wait_seconds=_LAYOUT_WAIT_SECONDS,
        ):
            present = self.layout(collection)

            def change(content: bytes | None) -> bytes:
                layout = (parse_layout(content) or present).model_copy(update=dict(changes))
                return json.dumps(layout.model_dump(), indent=1).encode()

            self.storage.update(name, change)

    @contextmanager
    def lock(self, collection: str, *, wait_seconds: float = 0) -> Iterator[None]:
        """Hold the right to write a collection, or this part of it.

        Raises
        ------
        DataError
            Another process holds it.
        DividedMeanwhileError
            The collection has other parts than this by now.
        """
        with self.storage.lock(
            f"collection={self._lock_name(collection)}",
            f"the collection {collection!r}{self._which} of {self}",
            wait_seconds=wait_seconds,
        ):
            layout = self._files.written_layout(collection)
            if layout is None:
                # Whoever sees it whole asks whether there are parts; nobody else need pay for it.
                layout = Layout() if self.part == WHOLE else self.layout(collection)
            if layout.parts != self.part.of:
                raise DividedMeanwhileError(
                    f"The collection {collection!r} of {self} lies in {layout.parts} parts, and "
                    f"this run is for one of {self.part.of}: it was divided anew meanwhile. Run "
                    "again; the sensor asks for the present parts by itself."
                )
            yield

    @contextmanager
    def tables_lock(self, collection: str) -> Iterator[None]:
        """Hold still the tables made of a collection's change log; wait until they stand still.

        Whoever replaces rows of several of them holds it meanwhile, and so does whoever reads
        them all merge_states. Seen whole, those of every part are held.
        """
        with ExitStack() as held:
            held.enter_context(self._one_tables_lock(collection))
            if self.part == WHOLE:
                # Nobody divides it anew from here on, as that takes the lock just taken.
                layout = self._files.written_layout(collection) or Layout()
                for part in parts(layout.parts) if layout.parts > 1 else ():
                    held.enter_context(self.of_part(part).tables_lock(collection))
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
        return encoded if self.part == WHOLE else f"{encoded},{self.part.label}"

    @property
    def _which(self) -> str:
        return "" if self.part == WHOLE else f", part {self.part.label},"

    @contextmanager
    def scratch(self, purpose: Scratch, collection: str) -> Iterator[Path]:
        """Give an empty folder on a disk for the time of a ``with`` block, for this part alone."""
        with self.storage.scratch(self._scratch_name(purpose, collection)) as folder:
            yield folder

    def clear_staging(self, collection: str) -> None:
        """Remove what a run of this part that was killed left; call it under :meth:`lock`."""
        self.storage.clear_staging(
            *(self._scratch_name(purpose, collection) for purpose in get_args(Scratch))
        )

    def _scratch_name(self, purpose: Scratch, collection: str) -> str:
        return f"{purpose}-{self._lock_name(collection)}"

    def whole_lock(self, table: Table) -> AbstractContextManager[None]:
        """Hold still a table that lies in one file; wait until it stands still."""
        return self.storage.lock(
            f"table={table.name}",
            f"the table {table.name!r} of {self}",
            wait_seconds=_TABLES_WAIT_SECONDS,
        )
