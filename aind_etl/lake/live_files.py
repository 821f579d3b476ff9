"""The files of the lake that count: those of each collection's present layout."""

from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard
from aind_etl.errors import DataError
from aind_etl.lake.paths import (
    CUT_NAME,
    STATE_FOLDER,
    collection_of,
    is_own_file,
    layout_name,
    log_folder,
    shard_of,
)
from aind_etl.lake.state import CollectionState, Layout, parse
from aind_etl.lake.storage.protocol import StoredFile

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Storage


class ReshardedError(DataError):
    """A collection was resharded since the run began."""


class LiveFiles:
    """The files of the lake that count, for one shard or, if that is UNSHARDED, for all."""

    def __init__(self, storage: "Storage", shard: Shard) -> None:
        self.storage = storage
        self.shard = shard

    def stored(self, folder: str) -> dict[str, StoredFile]:
        """Return all files of tables below a folder, of whichever layout, by name."""
        files = self.storage.files(folder, ".parquet")
        return {name: file for name, file in files.items() if is_own_file(name)}

    def live(self, folder: str) -> dict[str, StoredFile]:
        """Return the files below a folder that count, for this shard, by name.

        Files of another layout are there while a collection is being resharded, or where that was
        interrupted.
        """
        files = self.stored(folder)
        if self.shard != UNSHARDED:
            return {name: file for name, file in files.items() if shard_of(name) == self.shard}
        if all(shard_of(name) == UNSHARDED for name in files):
            return files
        numbers = {
            encoded: self.layout(collection).shards
            for encoded in set(map(collection_of, files))
            for collection in self.decode([encoded])
        }
        return {
            name: file
            for name, file in files.items()
            if shard_of(name).of == numbers.get(collection_of(name))
        }

    def logged(self) -> list[str]:
        """Return the names of the collections that have a change log, sorted."""
        encoded = set(map(collection_of, self.stored(tables.DOCUMENTS.name)))
        return sorted(self.decode(encoded - {""}))

    def decode(self, encoded: Iterable[str]) -> set[str]:
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

    def layout(self, collection: str) -> Layout:
        """Return the layout of a collection: as written, or as the files of its log imply.

        Raises
        ------
        DataError
            There is no valid layout file, and files of several layouts.
        """
        layout = self.written_layout(collection)
        if layout is not None:
            return layout
        numbers = {shard_of(name).of for name in self.stored(log_folder(collection))} or {1}
        if len(numbers) > 1:
            raise DataError(
                f"The change log of the collection {collection!r} of {self.storage.root} has files "
                f"of {' and of '.join(map(str, sorted(numbers)))} shards, and which of them count "
                f"is not known: {layout_name(collection)} is missing or damaged. Fetch it from a "
                'backup, or write {"shards": …} into it with the number of those that are complete.'
            )
        of = numbers.pop()
        return Layout(parts=of, planned_parts=of)

    def written_layout(self, collection: str) -> Layout | None:
        """Return the layout in a collection's layout file; None if there is no valid one."""
        return parse(Layout, self.storage.read(layout_name(collection)))
