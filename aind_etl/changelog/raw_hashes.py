"""A cache of raw-byte hashes, by which unchanged documents are skipped before parsing.

Converting a document to canonical form takes twenty times as long as hashing its bytes. A pass that
reads all of a collection, a shard or a split therefore stores the hash of each document's bytes
with its record id and content hash. The next pass uses an entry only if the change log still holds
that content for that record and the canonical form has not changed. The file can be deleted or
damaged at any time: documents without an entry are parsed.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from typing import BinaryIO, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.parquet import read_arrow
from aind_etl.lake.tables import is_in_range
from aind_etl.sources.canonical import canonical_version

_log = logging.getLogger(__name__)

_NO_ENTRIES = pl.DataFrame(
    schema={"record_id": pl.String, "content_hash": pl.Binary, "raw_hash": pl.Binary}
)
_FILE_SCHEMA = pa.schema(
    {"record_id": pa.string(), "content_hash": pa.binary(), "raw_hash": pa.binary()}
)
_VERSION_KEY = b"canonical form"
_RAW_HASH_BYTES = 16
_PIECE_BYTES = 1 << 20
# Small, because whole row groups are read for a split.
_ROW_GROUP_ROWS = 8_192


def raw_hash(raw: bytes) -> bytes:
    """Return the first 128 bits of the SHA-256 of a document's bytes."""
    return sha256(raw).digest()[:_RAW_HASH_BYTES]


class KnownHashes(NamedTuple):
    """The raw hashes that identify live documents.

    Attributes
    ----------
    rows
        Columns ``raw_hash``, each once, and ``row``: the row of ``live`` with that record and
        content.
    live
        Columns ``record_id`` and ``content_hash``.
    """

    rows: pl.DataFrame
    live: pl.DataFrame

    def look_up(self, hashes: Sequence[bytes | None]) -> pl.DataFrame:
        """Return columns ``record_id``, ``content_hash`` and ``raw_hash``, one row per hash.

        An unknown hash has null in the other two columns.
        """
        found = pl.DataFrame({"raw_hash": hashes}, schema={"raw_hash": pl.Binary}).join(
            self.rows, on="raw_hash", how="left", maintain_order="left"
        )
        return found.select(
            self.live["record_id"].gather(found["row"]),
            self.live["content_hash"].gather(found["row"]),
            "raw_hash",
        )


NO_HASHES = KnownHashes(
    pl.DataFrame(schema={"raw_hash": pl.Binary, "row": pl.get_index_type()}),
    pl.DataFrame(schema={"record_id": pl.String, "content_hash": pl.String}),
)


class RawHashes:
    """The raw hashes of a collection's documents: those of earlier passes, and new ones.

    Threads may share it, each for splits of its own. New hashes are kept in ``folder`` until the
    pass has ended.
    """

    def __init__(self, lake: Lake, collection: str, folder: Path) -> None:
        self._lake = lake
        self._collection = collection
        self._folder = folder
        self._name = lake.raw_hashes_name(collection)
        # Reading takes extra memory; one thread at a time takes it once.
        self._lock = Lock()
        self._entries: dict[Split, int] = {}
        self._recorded: dict[Split, Path] = {}
        self._metadata: pq.FileMetaData | None = None
        with self._ignoring_damage():
            if lake.storage.exists(self._name):
                with lake.storage.path(self._name).open("rb") as file:
                    metadata = pq.read_metadata(pa.BufferReader(_checked_footer(file)))
                if _is_current(metadata):
                    self._metadata = metadata

    def known(self, split: Split, live: pl.DataFrame) -> KnownHashes:
        """Return the hashes of a split that still hold.

        ``live`` has the columns ``record_id`` and ``content_hash`` of its live documents.
        """
        with self._lock:
            entries = self._read(split)
            self._entries[split] = entries.height
            contents = live.select(
                "record_id", pl.col("content_hash").str.decode("hex", strict=False)
            ).with_row_index("row")
            rows = (
                entries.join(contents, on=["record_id", "content_hash"])
                .select("raw_hash", "row")
                .unique("raw_hash", keep="none")
            )
        return KnownHashes(rows, live)

    def record(
        self, split: Split, known: KnownHashes, seen: pl.DataFrame, parsed: pl.DataFrame
    ) -> None:
        """Record the hashes of a split that was read completely.

        They are those of ``known`` whose records were ``seen`` again, and those ``parsed`` (columns
        ``record_id``, ``content_hash`` and ``raw_hash``).
        """
        with self._lock:
            kept = (
                known.live[known.rows["row"]]
                .select("record_id", "content_hash")
                .with_columns(known.rows["raw_hash"])
                .join(seen, on="record_id", how="semi")
            )
            if parsed.is_empty() and kept.height == self._entries[split]:
                return
            kept = kept.join(parsed, on="record_id", how="anti")
            path = self._folder / f"{split.lower}.arrow"
            pl.concat([kept, parsed.select(kept.columns)], rechunk=False).write_ipc(path)
            self._recorded[split] = path

    def write(self, splits: Sequence[Split]) -> None:
        """Rewrite the cache file, from all splits in order, if hashes were recorded."""
        if not self._recorded:
            return
        path = self._folder / "raw_hashes.parquet"
        with pq.ParquetWriter(
            path,
            _FILE_SCHEMA.with_metadata({_VERSION_KEY: canonical_version().encode()}),
            compression={"record_id": "zstd", "content_hash": "none", "raw_hash": "none"},
            use_dictionary=False,
        ) as writer:
            for split in splits:
                for rows in self._current(split).iter_slices(_ROW_GROUP_ROWS):
                    writer.write_table(rows.to_arrow().cast(writer.schema))

        def write_with_digest(target: BinaryIO) -> None:
            with path.open("rb") as parquet:
                digest = file_digest(parquet, sha256).digest()
                parquet.seek(0)
                shutil.copyfileobj(parquet, target)
            target.write(digest)

        self._lake.storage.write(self._name, write_with_digest)

    def _current(self, split: Split) -> pl.DataFrame:
        """Return the entries of a split: those recorded, or else those in the file."""
        path = self._recorded.get(split)
        if path is None:
            return self._read(split)
        recorded = read_arrow(path).with_columns(pl.col("content_hash").str.decode("hex"))
        return recorded.select(_NO_ENTRIES.columns).sort("record_id")

    def _read(self, split: Split) -> pl.DataFrame:
        """Return the entries of a split in the file, sorted by record id."""
        parts = [_NO_ENTRIES]
        with self._ignoring_damage():
            if self._metadata is not None:
                groups = _row_groups(self._metadata, split)
                with self._lake.storage.path(self._name).open("rb") as file:
                    parquet = pq.ParquetFile(file, metadata=self._metadata)
                    for group in groups:
                        # A single thread: each decoding thread would keep memory of its own.
                        rows = pl.DataFrame(parquet.read_row_group(group, use_threads=False))
                        parts.append(rows.filter(is_in_range(split, pl.col("record_id"))))
        return pl.concat(parts)

    @contextmanager
    def _ignoring_damage(self) -> Iterator[None]:
        """Continue without the file if it cannot be read."""
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
    """Provide the raw hashes of a collection during a pass."""
    with lake.scratch("recognise", collection) as folder:
        yield RawHashes(lake, collection, folder)


def _checked_footer(file: BinaryIO) -> bytes:
    """Return the parquet footer of a cache file, or raise a ValueError if its digest is wrong.

    Reading damaged parquet may crash the process.
    """
    size = file.seek(0, os.SEEK_END) - sha256().digest_size
    file.seek(0)
    digest = sha256()
    for start in range(0, size, _PIECE_BYTES):
        digest.update(file.read(min(_PIECE_BYTES, size - start)))
    if size < 0 or file.read() != digest.digest():
        raise ValueError("its checksum is wrong")
    # Parquet ends with the metadata, its length in four bytes, and four magic bytes.
    file.seek(size - 8)
    metadata_bytes = int.from_bytes(file.read(4), "little")
    file.seek(size - 8 - metadata_bytes)
    return file.read(metadata_bytes + 8)


def _is_current(metadata: pq.FileMetaData) -> bool:
    """Return whether a file was written for the current canonical form."""
    version = (metadata.metadata or {}).get(_VERSION_KEY)
    return version == canonical_version().encode() and metadata.schema.to_arrow_schema().equals(
        _FILE_SCHEMA
    )


def _row_groups(metadata: pq.FileMetaData, split: Split) -> list[int]:
    """Return the row groups that may hold record ids of a split."""
    groups = []
    for group in range(metadata.num_row_groups):
        ids = metadata.row_group(group).column(0).statistics
        if (
            ids is None
            or not ids.has_min_max
            or (ids.max >= split.lower and (split.upper is None or ids.min < split.upper))
        ):
            groups.append(group)
    return groups
