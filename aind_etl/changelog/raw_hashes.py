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
from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, BinaryIO

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from aind_etl.contract.id_ranges import Split
from aind_etl.lake import Lake
from aind_etl.lake.parquet import read_arrow
from aind_etl.lake.tables import is_in_range
from aind_etl.sources.canonical import canonical_version
from aind_etl.text import first_line

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location

_log = logging.getLogger(__name__)

KNOWN_COLUMNS = {"record_id": pl.String, "content_hash": pl.String, "raw_hash": pl.Binary}
"""The columns of raw hashes that identify live documents; each raw hash is there once."""
_NO_ENTRIES = pl.DataFrame(schema=KNOWN_COLUMNS | {"content_hash": pl.Binary})
_RAW_HASH_BYTES = 16
# Small, because whole row groups are read for a split.
_ROW_GROUP_ROWS = 8_192


def raw_hash(raw: bytes) -> bytes:
    """Return the first 128 bits of the SHA-256 of a document's bytes."""
    return sha256(raw).digest()[:_RAW_HASH_BYTES]


class RawHashes:
    """The raw hashes of a collection's documents: those of earlier passes, and new ones.

    Threads may share it, each for splits of its own. ``folder``, empty at first, holds a checked
    copy of the cache file, and the new hashes until the pass has ended.
    """

    def __init__(self, lake: Lake, collection: str, folder: Path) -> None:
        self._storage = lake.storage
        self._name = lake.raw_hashes_name(collection)
        self._folder = folder
        # Reading takes extra memory; one thread at a time takes it once.
        self._lock = Lock()
        self._entries: dict[Split, int] = {}
        self._recorded: dict[Split, Path] = {}
        self._earlier: Path | None = None
        try:
            if self._storage.exists(self._name):
                self._earlier = _copy_if_current(self._storage.path(self._name), folder)
        except (pa.ArrowException, OSError, ValueError) as error:
            _log.warning(
                "The cache of raw hashes of %r cannot be read (%s); every document is parsed",
                collection,
                first_line(error) or type(error).__name__,
            )

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
            _file_schema(),
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

        self._storage.write(self._name, write_with_digest)

    def _read(self, split: Split) -> pl.DataFrame:
        """Return the entries of a split in the file, sorted by record id."""
        if self._earlier is None:
            return _NO_ENTRIES
        earlier = pl.scan_parquet(self._earlier, glob=False, hive_partitioning=False)
        return earlier.filter(is_in_range(split, pl.col("record_id"))).collect()


def _copy_if_current(file: "Location", folder: Path) -> Path | None:
    """Return a copy of a cache file without its checksum; None if the canonical form has changed.

    Raises
    ------
    ValueError
        The checksum is wrong. Reading damaged parquet may crash the process.
    """
    earlier = folder / "earlier"
    with file.open("rb") as stored, earlier.open("w+b") as copied:
        shutil.copyfileobj(stored, copied)
        copied.seek(-sha256().digest_size, os.SEEK_END)
        digest = copied.read()
        copied.seek(-len(digest), os.SEEK_END)
        copied.truncate()
        copied.seek(0)
        if file_digest(copied, sha256).digest() != digest:
            raise ValueError("its checksum is wrong")
    is_current = pq.read_schema(earlier).equals(_file_schema(), check_metadata=True)
    return earlier if is_current else None


def _file_schema() -> pa.Schema:
    """Return the schema of a cache file, with the version of the canonical form."""
    return pa.schema(
        {"record_id": pa.string(), "content_hash": pa.binary(), "raw_hash": pa.binary()},
        metadata={"canonical form": canonical_version()},
    )
