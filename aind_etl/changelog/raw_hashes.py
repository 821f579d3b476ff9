"""A cache of raw-byte hashes that skips unchanged documents.

Bringing a document into canonical form takes twenty times as long as hashing its bytes. A pass over
a collection, or a shard of it, therefore stores the hash of each document's bytes beside its record
id and content hash. The next pass uses an entry only if the change log still holds that content of
that record, and if the canonical form has not changed since. The file can be deleted or damaged at
any time; documents without an entry are parsed.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.parquet import read_arrow
from aind_etl.lake.tables import is_in_range
from aind_etl.sources.canonical import canonical_version

_log = logging.getLogger(__name__)

_SCHEMA = {"record_id": pl.String, "content_hash": pl.Binary, "raw_hash": pl.Binary}
_FILE_SCHEMA = pa.schema(
    {"record_id": pa.string(), "content_hash": pa.binary(), "raw_hash": pa.binary()}
)
_VERSION_KEY = b"canonical form"
_RAW_HASH_BYTES = 16
_PIECE_BYTES = 1 << 20
# Few rows more than those of a split are read with it.
_ROW_GROUP_ROWS = 8_192

_NOTHING_NOTED = pl.DataFrame(schema=_SCHEMA)


def raw_hash(raw: bytes) -> bytes:
    """Return 128 bits of the SHA-256 of a document's bytes."""
    return sha256(raw).digest()[:_RAW_HASH_BYTES]


class Known(NamedTuple):
    """What is known of the bytes of documents.

    Attributes
    ----------
    rows
        Columns ``raw_hash``, which is there once at most, and ``row``: where ``live`` has the
        record that came as such bytes, and their content.
    live
        Columns ``record_id`` and ``content_hash``.
    """

    rows: pl.DataFrame
    live: pl.DataFrame

    def look_up(self, hashes: Sequence[bytes | None]) -> pl.DataFrame:
        """Return columns ``record_id``, ``content_hash`` and ``raw_hash``, a row per hash.

        Of bytes that are not known there is only the hash.
        """
        found = pl.DataFrame({"raw_hash": hashes}, schema={"raw_hash": pl.Binary}).join(
            self.rows, on="raw_hash", how="left", maintain_order="left"
        )
        return found.select(
            self.live["record_id"].gather(found["row"]),
            self.live["content_hash"].gather(found["row"]),
            "raw_hash",
        )


NO_HASHES = Known(
    pl.DataFrame(schema={"raw_hash": pl.Binary, "row": pl.get_index_type()}),
    pl.DataFrame(schema={"record_id": pl.String, "content_hash": pl.String}),
)


class RawHashes:
    """What the bytes of a collection's documents were found to be, and are found to be now.

    Several threads may use it, each for splits of its own.

    Parameters
    ----------
    lake, collection
        Whose side file it is.
    folder
        An empty folder for what is noted until the pass has ended.
    """

    def __init__(self, lake: Lake, collection: str, folder: Path) -> None:
        self._lake = lake
        self._collection = collection
        self._folder = folder
        self._name = lake.raw_hashes_name(collection)
        # What reading takes besides what it returns is then taken once, not once a thread.
        self._one_at_a_time = Lock()
        self._rows: dict[Split, int] = {}
        self._noted: dict[Split, Path] = {}
        self._metadata: pq.FileMetaData | None = None
        with self._reading():
            if lake.storage.exists(self._name):
                with lake.storage.path(self._name).open("rb") as file:
                    metadata = pq.read_metadata(pa.BufferReader(_checked_footer(file)))
                if _is_ours(metadata):
                    self._metadata = metadata

    def known(self, split: Split, live: pl.DataFrame) -> Known:
        """Return what is known of bytes, and still holds.

        Parameters
        ----------
        split
            Of which record ids.
        live
            Columns ``record_id`` and ``content_hash``: the split's live documents.
        """
        with self._one_at_a_time:
            said = self._read(split)
            self._rows[split] = said.height
            contents = live.select(
                "record_id", pl.col("content_hash").str.decode("hex", strict=False)
            ).with_row_index("row")
            rows = (
                said.join(contents, on=["record_id", "content_hash"])
                .select("raw_hash", "row")
                .unique("raw_hash", keep="none")
            )
        return Known(rows, live)

    def note(
        self, split: Split, known: Known, met: pl.DataFrame, looked_into: pl.DataFrame
    ) -> None:
        """Note what the bytes of a split were found to be, all of which was read.

        Parameters
        ----------
        split
            Which split.
        known
            What :meth:`known` returned of it.
        met
            Column ``record_id``: the records that the pass has seen.
        looked_into
            Columns ``record_id``, ``content_hash`` and ``raw_hash`` of those that had other bytes.
        """
        with self._one_at_a_time:
            kept = known.live[known.rows["row"]].select("record_id", "content_hash")
            kept = kept.with_columns(known.rows["raw_hash"])
            kept = kept.join(met, on="record_id", how="semi")
            if looked_into.is_empty() and kept.height == self._rows[split]:
                return
            kept = kept.join(looked_into, on="record_id", how="anti")
            path = self._folder / f"{split.lower}.arrow"
            pl.concat([kept, looked_into.select(kept.columns)], rechunk=False).write_ipc(path)
            self._noted[split] = path

    def write(self, divided: Sequence[Split]) -> bool:
        """Rewrite the file if there are hashes that it does not hold.

        Parameters
        ----------
        divided
            All the splits of the collection, in order.

        Returns
        -------
        bool
            Whether it was written.
        """
        if not self._noted:
            return False

        def write_parquet(file: BinaryIO) -> None:
            hashed = _HashedFile(file)
            with pq.ParquetWriter(
                hashed,
                _FILE_SCHEMA.with_metadata({_VERSION_KEY: canonical_version().encode()}),
                compression={"record_id": "zstd", "content_hash": "none", "raw_hash": "none"},
                use_dictionary=False,
            ) as writer:
                for split in divided:
                    path = self._noted.get(split)
                    noted = self._read(split) if path is None else _noted(path)
                    for rows in noted.iter_slices(_ROW_GROUP_ROWS):
                        writer.write_table(rows.to_arrow().cast(writer.schema))
            file.write(hashed.digest())

        return self._lake.storage.write(self._name, write_parquet)

    def _read(self, split: Split) -> pl.DataFrame:
        """Return what the side file says of a split, sorted by record id."""
        parts = [_NOTHING_NOTED]
        with self._reading():
            if self._metadata is not None:
                groups = _groups_of(self._metadata, split)
                path = self._lake.storage.path(self._name)
                with path.open("rb") as file:
                    side_file = pq.ParquetFile(file, metadata=self._metadata)
                    for group in groups:
                        # One thread: each that decodes keeps memory of its own for later.
                        rows = pl.DataFrame(side_file.read_row_group(group, use_threads=False))
                        parts.append(rows.filter(is_in_range(split, pl.col("record_id"))))
        return pl.concat(parts)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Do without the side file where it cannot be read."""
        try:
            yield
        except (pa.ArrowException, pl.exceptions.PolarsError, OSError, ValueError) as error:
            self._metadata = None
            _log.warning(
                "The cache of raw hashes of %r cannot be read (%s); every document is parsed",
                self._collection,
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )


@contextmanager
def open_raw_hashes(lake: Lake, collection: str) -> Iterator[RawHashes]:
    """Give, for the duration of a ``with`` block, the raw hashes of a collection."""
    with lake.scratch("recognise", collection) as folder:
        yield RawHashes(lake, collection, folder)


class _HashedFile:
    """A file that is written, and hashed meanwhile."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hash = sha256()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever else is asked of a file
        return getattr(self._file, name)

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def digest(self) -> bytes:
        return self._hash.digest()


def _checked_footer(file: BinaryIO) -> bytes:
    """Return the end of a side file's parquet, once it is known that all is as it was written.

    Reading damaged parquet may end the process, and this file is not repaired by hand.

    Raises
    ------
    ValueError
        Something is not as it was written.
    """
    size = file.seek(0, os.SEEK_END) - sha256().digest_size
    file.seek(0)
    found = sha256()
    for start in range(0, size, _PIECE_BYTES):
        found.update(file.read(min(_PIECE_BYTES, size - start)))
    if size < 0 or file.read() != found.digest():
        raise ValueError("it is not as it was written")
    # The parquet ends with the length of what comes before, in four bytes, and four of its name.
    file.seek(size - 8)
    footer = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - footer)
    return file.read(footer + 8)


def _noted(path: Path) -> pl.DataFrame:
    """Return what was noted of a split, as the side file has it."""
    noted = read_arrow(path).with_columns(pl.col("content_hash").str.decode("hex"))
    return noted.select(_NOTHING_NOTED.columns).sort("record_id")


def _is_ours(metadata: pq.FileMetaData) -> bool:
    """Return whether a side file was written for the canonical form there is now."""
    version = (metadata.metadata or {}).get(_VERSION_KEY)
    return version == canonical_version().encode() and metadata.schema.to_arrow_schema().equals(
        _FILE_SCHEMA
    )


def _groups_of(metadata: pq.FileMetaData, split: Split) -> list[int]:
    """Return the row groups that may have record ids of a split."""
    groups = []
    for group in range(metadata.num_row_groups):
        facts = metadata.row_group(group).column(0).statistics
        is_told = facts is not None and facts.has_min_max
        if not is_told or (
            facts.max >= split.lower and (split.upper is None or facts.min < split.upper)
        ):
            groups.append(group)
    return groups
