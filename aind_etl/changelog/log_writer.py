"""Appending versions to the change log in batches of bounded size."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from aind_etl.changelog.comparison import VERSION_COLUMNS
from aind_etl.lake import Lake

# How much is written at a time. A batch is the most that an interruption can lose.
_BATCH_BYTES = 24 << 20


class LogWriter:
    """Appends to a collection's log in batches."""

    def __init__(self, lake: Lake, collection: str, now: Callable[[], datetime]) -> None:
        self._lake = lake
        self._collection = collection
        self._now = now
        self._pending: list[pl.DataFrame] = []
        self._pending_bytes = 0
        self._batches: list[int] = []

    def add(self, versions: pl.DataFrame) -> None:
        """Add versions, and write a batch once there are enough of them."""
        if versions.is_empty():
            return
        stamped = versions.with_columns(extracted_at=pl.lit(self._now(), pl.Datetime("us", "UTC")))
        self._pending.append(stamped.select(VERSION_COLUMNS))
        self._pending_bytes += int(versions.estimated_size())
        if self._pending_bytes > _BATCH_BYTES:
            self._write()

    def finish(self) -> list[int]:
        """Write what is left, and return the numbers of the batches written."""
        self._write()
        return self._batches

    def _write(self) -> None:
        if self._pending:
            batch = self._lake.change_log(self._collection).append(pl.concat(self._pending))
            self._batches.append(batch)
            self._pending.clear()
            self._pending_bytes = 0
