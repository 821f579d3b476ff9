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
from typing import BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.parquet import read_arrow
from aind_etl.lake.tables import is_in_range
from aind_etl.sources.canonical import canonical_version
from aind_etl.text import first_line

_log = logging.getLogger(__name__)

KNOWN_COLUMNS = {"record_id": pl.String, "content_hash": pl.String, "raw_hash": pl.Binary}
"""The columns of raw hashes that identify live documents; each raw hash is there once."""
_NO_ENTRIES = pl.DataFrame(schema=KNOWN_COLUMNS | {"content_hash": pl.Binary})
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
                    self._metadata = _checked_metadata(file)

    def known(self, split: Split, live: pl.DataFrame) -> pl.DataFrame:
        """Return the hashes of a split that still hold, with :data:`KNOWN_COLUMNS`.

        ``live`` has the columns ``record_id`` and ``content_hash`` of its live documents.
        """
        with self._lock:
            entries = self._read(split)
            self._entries[split] = entries.height
            digest = pl.col("content_hash").str.decode("hex", strict=False)
            return (
                live.select("record_id", "content_hash", digest=digest)
                .join(entries.rename({"content_hash": "digest"}), on=["record_id", "digest"])
                .select(*KNOWN_COLUMNS)
                .unique("raw_hash", keep="none")
            )

    def record(
        self, split: Split, known: pl.DataFrame, seen: pl.DataFrame, parsed: pl.DataFrame
    ) -> None:
        """Record the hashes of a split that was read completely.

        They are those of ``known`` whose records were ``seen`` again, and those ``parsed``, which
        have :data:`KNOWN_COLUMNS` too.
        """
        with self._lock:
            kept = known.join(seen, on="record_id", how="semi")
            if parsed.is_empty() and kept.height == self._entries[split]:
                return
            kept = kept.join(parsed, on="record_id", how="anti")
            entries = pl.concat([kept, parsed], rechunk=False).with_columns(
                pl.col("content_hash").str.decode("hex")
            )
            path = self._folder / f"{split.lower}.arrow"
            entries.sort("record_id").write_ipc(path)
            self._recorded[split] = path

    def write(self, splits: Sequence[Split]) -> None:
        """Rewrite the cache file, from all splits in order, if hashes were recorded."""
        if not self._recorded:
            return
        parquet_path = self._folder / "raw_hashes.parquet"
        with pq.ParquetWriter(
            parquet_path,
            _FILE_SCHEMA.with_metadata({_VERSION_KEY: canonical_version().encode()}),
            compression={"record_id": "zstd", "content_hash": "none", "raw_hash": "none"},
            use_dictionary=False,
        ) as writer:
            for split in splits:
                path = self._recorded.get(split)
                entries = self._read(split) if path is None else read_arrow(path)
                for rows in entries.iter_slices(_ROW_GROUP_ROWS):
                    writer.write_table(rows.to_arrow().cast(writer.schema))

        def write_with_digest(target: BinaryIO) -> None:
            with parquet_path.open("rb") as parquet:
                digest = file_digest(parquet, sha256).digest()
                parquet.seek(0)
                shutil.copyfileobj(parquet, target)
            target.write(digest)

        self._lake.storage.write(self._name, write_with_digest)

    def _read(self, split: Split) -> pl.DataFrame:
        """Return the entries of a split in the file, sorted by record id."""
        parts = [_NO_ENTRIES]
        with self._ignoring_damage():
            if self._metadata is not None:
                with self._lake.storage.path(self._name).open("rb") as file:
                    parquet = pq.ParquetFile(file, metadata=self._metadata)
                    for group in _row_groups(self._metadata, split):
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
                first_line(error) or type(error).__name__,
            )


@contextmanager
def open_raw_hashes(lake: Lake, collection: str) -> Iterator[RawHashes]:
    """Provide the raw hashes of a collection during a pass."""
    with lake.scratch("raw-hashes", collection) as folder:
        yield RawHashes(lake, collection, folder)


def _checked_metadata(file: BinaryIO) -> pq.FileMetaData | None:
    """Return the metadata of a cache file; None if it is of another canonical form."""
    size = file.seek(0, os.SEEK_END) - sha256().digest_size
    file.seek(0)
    digest = sha256()
    for start in range(0, size, _PIECE_BYTES):
        digest.update(file.read(min(_PIECE_BYTES, size - start)))
    if size < 0 or file.read() != digest.digest():
        # Reading damaged parquet may crash the process.
        raise ValueError("its checksum is wrong")
    # Parquet ends with the metadata, its length in four bytes, and four magic bytes.
    file.seek(size - 8)
    footer_bytes = int.from_bytes(file.read(4), "little") + 8
    file.seek(size - footer_bytes)
    metadata = pq.read_metadata(pa.BufferReader(file.read(footer_bytes)))
    version = (metadata.metadata or {}).get(_VERSION_KEY)
    is_current = version == canonical_version().encode()
    return metadata if is_current and metadata.schema.to_arrow_schema() == _FILE_SCHEMA else None


def _row_groups(metadata: pq.FileMetaData, split: Split) -> list[int]:
    """Return the row groups that may hold record ids of a split."""

    def may_hold(group: int) -> bool:
        ids = metadata.row_group(group).column(0).statistics
        if ids is None or not ids.has_min_max:
            return True
        return ids.max >= split.lower and (split.upper is None or ids.min < split.upper)

    return list(filter(may_hold, range(metadata.num_row_groups)))
