"""Rows of many partitions that do not fit in memory, kept on disk until they are written."""

from pathlib import Path
from threading import Lock

import polars as pl

from aind_etl.contract import Table
from aind_etl.contract.schemas import polars_schema
from aind_etl.lake.parquet import read_arrow


class Spill:
    """Collects the rows of tables in batches, and returns them partition by partition.

    Rows beyond a budget are written to an empty folder on a disk, so that memory is bounded by the
    budget and the largest partition, not by the collection. The column ``key`` names a row's
    partition, and is not returned.
    """

    def __init__(self, folder: Path, budget_bytes: int, key: str = "session_month") -> None:
        self._folder = folder
        self._budget = budget_bytes
        self._key = key
        self._held: dict[str, list[pl.DataFrame]] = {}
        self._held_bytes = 0
        self._dividing = Lock()
        self._parts: dict[tuple[str, str], list[pl.DataFrame]] = {}
        self._files: dict[tuple[str, str], list[Path]] = {}

    def add(self, table: Table, rows: pl.DataFrame) -> None:
        """Add rows with columns of the table and the key."""
        # Divided later: a frame of a few rows takes more memory than its rows.
        self._held.setdefault(table.name, []).append(rows)
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self._budget:
            self._flush()

    def partitions(self, table: Table) -> list[str]:
        """Return the keys for which there are rows of a table, sorted."""
        self._divide(table.name)
        found = self._files.keys() | self._parts.keys()
        return sorted(partition for name, partition in found if name == table.name)

    def rows(self, table: Table, partition: str) -> pl.DataFrame:
        """Return the rows of one partition of a table, with the columns that were added."""
        self._divide(table.name)
        key = (table.name, partition)
        spilled = [read_arrow(path) for path in self._files.get(key, ())]
        held = self._parts.get(key, [])
        return pl.concat([*spilled, *held] or [pl.DataFrame(schema=polars_schema(table))])

    def _divide(self, name: str) -> None:
        # Another thread that reads the same table waits for its parts.
        with self._dividing:
            frames = self._held.pop(name, None)
            if frames:
                parts = pl.concat(frames).partition_by(self._key, as_dict=True, include_key=False)
                for (partition,), part in parts.items():
                    self._parts.setdefault((name, str(partition)), []).append(part)

    def _flush(self) -> None:
        for table in list(self._held):
            self._divide(table)
            for (name, partition), parts in self._parts.items():
                files = self._files.setdefault((name, partition), [])
                path = self._folder / f"{name}-{partition}-{len(files)}.arrow"
                pl.concat(parts).write_ipc(path, compression="lz4")
                files.append(path)
            self._parts.clear()
        self._held_bytes = 0
