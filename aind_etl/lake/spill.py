"""Rows of many partitions that do not fit in memory, kept on disk until they are written."""

from pathlib import Path

import polars as pl

from aind_etl.contract import Table
from aind_etl.contract.schemas import polars_schema
from aind_etl.lake.parquet import read_arrow


class Spill:
    """Collects the rows of many tables in batches, and returns them partition by partition.

    Rows beyond a budget are written to disk, so that memory is bounded by the budget and the
    largest partition, not by the collection.

    Parameters
    ----------
    folder
        An empty folder for the rows on disk.
    budget_bytes
        Size of the rows kept in memory.
    """

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self._folder = folder
        self._budget = budget_bytes
        self._held: list[tuple[Table, pl.DataFrame]] = []
        self._held_bytes = 0
        self._files: dict[tuple[str, str], list[Path]] = {}

    def add(self, table: Table, rows: pl.DataFrame) -> None:
        """Add rows with the table's columns and ``session_month``."""
        if rows.is_empty():
            return
        self._held.append((table, rows))
        self._held_bytes += int(rows.estimated_size())
        if self._held_bytes > self._budget:
            self._flush()

    def months(self, table: Table) -> list[str]:
        """Return the session months for which there are rows of a table, sorted."""
        months = {month for name, month in self._files if name == table.name}
        for rows in self._held_rows(table):
            months.update(rows["session_month"].unique())
        return sorted(months)

    def rows(self, table: Table, month: str) -> pl.DataFrame:
        """Return the rows of one partition of a table."""
        spilled = [read_arrow(path) for path in self._files.get((table.name, month), ())]
        held = [
            rows.filter(pl.col("session_month") == month).drop("session_month")
            for rows in self._held_rows(table)
        ]
        return pl.concat([pl.DataFrame(schema=polars_schema(table)), *spilled, *held])

    def _held_rows(self, table: Table) -> list[pl.DataFrame]:
        return [rows for other, rows in self._held if other is table]

    def _flush(self) -> None:
        for number, (table, rows) in enumerate(self._held):
            parts = rows.partition_by("session_month", as_dict=True, include_key=False)
            for (month,), part in parts.items():
                files = self._files.setdefault((table.name, str(month)), [])
                path = self._folder / f"{table.name}-{month}-{number}-{len(files)}.arrow"
                part.write_ipc(path, compression="lz4")
                files.append(path)
        self._held.clear()
        self._held_bytes = 0
