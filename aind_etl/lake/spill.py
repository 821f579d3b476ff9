"""Rows of many partitions that do not fit in memory, kept on disk until they are written."""

from pathlib import Path

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
        self._held: dict[tuple[str, str], list[pl.DataFrame]] = {}
        self._held_bytes = 0
        self._files: dict[tuple[str, str], list[Path]] = {}

    def add(self, table: Table, rows: pl.DataFrame) -> None:
        """Add rows with columns of the table and the key."""
        parts = rows.partition_by(self._key, as_dict=True, include_key=False)
        for (partition,), part in parts.items():
            self._held.setdefault((table.name, str(partition)), []).append(part)
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self._budget:
            self._flush()

    def partitions(self, table: Table) -> list[str]:
        """Return the keys for which there are rows of a table, sorted."""
        found = self._files.keys() | self._held.keys()
        return sorted(partition for name, partition in found if name == table.name)

    def rows(self, table: Table, partition: str) -> pl.DataFrame:
        """Return the rows of one partition of a table, with the columns that were added."""
        key = (table.name, partition)
        spilled = [read_arrow(path) for path in self._files.get(key, ())]
        held = self._held.get(key, [])
        return pl.concat([*spilled, *held] or [pl.DataFrame(schema=polars_schema(table))])

    def _flush(self) -> None:
        for (name, partition), parts in self._held.items():
            files = self._files.setdefault((name, partition), [])
            path = self._folder / f"{name}-{partition}-{len(files)}.arrow"
            pl.concat(parts).write_ipc(path, compression="lz4")
            files.append(path)
        self._held.clear()
        self._held_bytes = 0
