"""Which files of the lake count: those of the present layout of each collection."""

from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from aind_etl.contract import tables
from aind_etl.contract.id_ranges import UNSHARDED, Shard
from aind_etl.errors import DataError
from aind_etl.lake.paths import (
    CUT_NAME,
    OWN_NAME,
    STATE_FOLDER,
    collection_of,
    layout_name,
    log_folder,
    shard_of,
)
from aind_etl.lake.state import Layout, parse_layout, parse_state
from aind_etl.lake.storage.protocol import Storage


class ReshardedError(DataError):
    """A collection has other shards than it had a moment ago."""


class LiveFiles:
    """The files of the lake that count: those of the present layout of each collection.

    Parameters
    ----------
    storage
        Where the lake lies.
    shard
        Which shard of a collection is seen.
    """

    def __init__(self, storage: Storage, shard: Shard) -> None:
        self.storage = storage
        self.shard = shard

    def names(self, folder: str) -> list[str]:
        """Return the names of the tables' files below a folder, without what others put there."""
        names = self.storage.files(folder, ".parquet")
        return [name for name in names if OWN_NAME.fullmatch(name.rsplit("/", 1)[-1])]

    def counting(self, names: Sequence[str]) -> list[str]:
        """Return those names of files that are of this shard; or, of the whole, of any shard.

        Others are there while a collection is being resharded, or where that was interrupted.
        """
        if self.shard != UNSHARDED:
            return [name for name in names if shard_of(name) == self.shard]
        if all(shard_of(name) == UNSHARDED for name in names):
            return list(names)
        of = {
            one: self.layout(collection).shards
            for one in set(map(collection_of, names))
            for collection in self.decode([one])
        }
        return [name for name in names if shard_of(name).of == of.get(collection_of(name))]

    def logged(self) -> list[str]:
        """Return the names of the collections that have a change log, sorted."""
        names = self.names(tables.DOCUMENTS.name)
        folders = {name.split("/")[1] for name in names}
        return sorted(self.decode(folder.removeprefix("collection=") for folder in folders))

    def decode(self, names: Iterable[str]) -> set[str]:
        """Return the collections whose files have these names.

        A name that was cut is in the collection's state; one without a state was never read to its
        end, and is read again.
        """
        found = set()
        for name in names:
            if not CUT_NAME.fullmatch(name):
                found.add(unquote(name))
                continue
            states = [
                f"{STATE_FOLDER}/collection={name}.json",
                *self.storage.files(f"{STATE_FOLDER}/parts-of={name}", ".json"),
            ]
            known = {parse_state("", self.storage.read(state)).collection for state in states}
            found |= known - {""}
        return found

    def layout(self, collection: str) -> Layout:
        """Return how many shards a collection has; one where nothing else is known."""
        layout = self.written_layout(collection)
        if layout is None:
            of = self._shards_found(collection, self.names(log_folder(collection)))
            layout = Layout(parts=of, planned_parts=of)
        return layout

    def written_layout(self, collection: str) -> Layout | None:
        """Return the layout in a collection's layout file; None where there is no valid one."""
        return parse_layout(self.storage.read(layout_name(collection)))

    def _shards_found(self, collection: str, names: Sequence[str]) -> int:
        """Return how many shards the files of a change log are of.

        Raises
        ------
        DataError
            They are of several layouts.
        """
        found = {shard_of(name).of for name in names} or {1}
        if len(found) > 1:
            raise DataError(
                f"The change log of the collection {collection!r} of {self.storage.root} has files "
                f"of {' and of '.join(map(str, sorted(found)))} shards, and which of them count is "
                f"not known: {layout_name(collection)} is missing or damaged. Fetch it from a "
                'backup, or write {"shards": …} into it with the number of those that are complete.'
            )
        return found.pop()
