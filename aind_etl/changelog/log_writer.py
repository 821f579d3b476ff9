"""Appending versions to the change log in batches of bounded size."""

from collections.abc import Callable
from datetime import datetime

import polars as pl

from aind_etl.lake import Lake

# The most that an interruption loses.
_BATCH_BYTES = 16 << 20
_COLUMNS = ("record_id", "document", "content_hash", "operation", "extracted_at")


class LogWriter:
    """Appends versions to a collection's change log in batches."""

    def __init__(self, lake: Lake, collection: str, now: Callable[[], datetime]) -> None:
        self._log = lake.change_log(collection)
        self._now = now
        self._pending: list[pl.DataFrame] = []
        self._pending_bytes = 0
        self._batches: list[int] = []

    def add(self, versions: pl.DataFrame) -> None:
        """Add versions, and write a batch if there are enough of them."""
        if versions.is_empty():
            return
        stamped = versions.with_columns(extracted_at=pl.lit(self._now(), pl.Datetime("us", "UTC")))
        self._pending.append(stamped.select(_COLUMNS))
        self._pending_bytes += int(versions.estimated_size())
        if self._pending_bytes > _BATCH_BYTES:
            self._write()

    def finish(self) -> list[int]:
        """Write the remaining versions, and return the numbers of all batches written."""
        self._write()
        return self._batches

    def _write(self) -> None:
        if self._pending:
            self._batches.append(self._log.append(pl.concat(self._pending)))
            self._pending.clear()
            self._pending_bytes = 0
