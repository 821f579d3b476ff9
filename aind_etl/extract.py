"""What is new, changed or gone: from a source to the change log.

Here belong the two passes over a collection and the comparison with what the log holds. How a
source is read and how the log is written belong to their own rooms; what documents mean is of
no concern here.

The *new* pass lists ids and reads what is missing or arrived lately; the *full* pass reads
everything and compares contents. Both note what is gone. A pass that is interrupted leaves
whole batches behind, and the next one goes on from there: whatever the log holds already is
not written again.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import Any

import polars as pl

from aind_etl.errors import DataError
from aind_etl.lake import Lake, record_ids
from aind_etl.sources import Document, Source

# How many documents are compared at a time: enough to make a comparison by columns pay.
_COMPARED_DOCUMENTS = 10_000
_COMPARED_BYTES = 32 << 20
# How much is written at a time. A batch is the most that an interruption can lose.
_BATCH_BYTES = 64 << 20

_VERSION_COLUMNS = ("record_id", "document", "content_hash", "operation", "extracted_at")


class Pass(StrEnum):
    """How thoroughly a collection is compared with the change log."""

    NEW = "new"
    """Ids are compared; documents missing or recently arrived are read."""
    FULL = "full"
    """Every document is read and compared."""


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """What a pass takes for recent, and when it takes a deletion for a mishap.

    Attributes
    ----------
    look_back
        A *new* pass reads again what arrived no longer ago than this, after the first load.
    max_deleted_share
        Largest share of a collection, from 0 to 1, that a pass may find gone.
    """

    look_back: timedelta = timedelta(days=1)
    max_deleted_share: float = 0.2


@dataclass(slots=True)
class ExtractReport:
    """What a pass over one collection found.

    Attributes
    ----------
    read, new, changed, unchanged, deleted
        Numbers of documents. ``read`` counts what the source handed over.
    repeated
        Documents whose id the source gave more than once; the first counts.
    batches
        Numbers of the batches written.
    """

    collection: str
    pass_kind: Pass
    read: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    deleted: int = 0
    repeated: int = 0
    batches: list[int] = field(default_factory=list)


def extract_collection(  # noqa: PLR0913 - each is a choice of the caller's
    source: Source,
    lake: Lake,
    collection: str,
    pass_kind: Pass,
    *,
    limits: ExtractLimits = ExtractLimits(),
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int], None] = lambda _documents: None,
) -> ExtractReport:
    """Bring a collection's change log up to date with its source.

    Parameters
    ----------
    source, lake, collection
        What is read, where it goes, and which collection.
    pass_kind
        How thoroughly to compare.
    limits
        What counts as recent and how much may be gone.
    now
        The clock.
    progress
        Called with the number of documents handed over since the last call.

    Returns
    -------
    ExtractReport
        What was found.

    Raises
    ------
    SourceError
        The source could not be read to its end. What was read stays; nothing is deleted.
    DataError
        More is gone than ``limits`` allow. What was read stays; nothing is deleted.
    """
    began = now()
    fingerprint = source.fingerprint(collection)
    log = _LogWriter(lake, collection, now)
    report = ExtractReport(collection, pass_kind)
    if pass_kind is Pass.FULL:
        documents: Iterable[Document] = source.read_documents(collection)
        gone = _compare(documents, log, report, progress)
    else:
        present = record_ids(source.list_ids(collection)).unique(maintain_order=True)
        missing = present.join(log.known, on="record_id", how="anti")
        recent = _recent(lake, collection, log.known, began - limits.look_back)
        wanted = set(pl.concat([missing, recent])["record_id"])
        # Gone is what the listing lacks; what vanished between listing and reading is found gone
        # by the next pass.
        gone = log.known.join(present, on="record_id", how="anti")
        if wanted:
            _compare(source.read_documents_by_id(collection, wanted), log, report, progress)
    last_source = lake.state(collection).source
    other_source = (
        f" The lake was last read from {last_source}." if last_source != source.name else ""
    )
    _note_deletions(gone, log, report, limits, hint=other_source)
    report.batches = log.finish()
    _note_pass(lake, source, report, fingerprint, now())
    return report


class _LogWriter:
    """Knows what the log holds of a collection, and appends to it in batches.

    ``known`` has the columns ``record_id``, ``content_hash`` and ``met``: whether the pass has
    come across the record.
    """

    def __init__(self, lake: Lake, collection: str, now: Callable[[], datetime]) -> None:
        self._lake = lake
        self._collection = collection
        self._now = now
        self._pending: list[pl.DataFrame] = []
        self._pending_bytes = 0
        self._batches: list[int] = []
        self.known = lake.live_documents(collection).select(
            "record_id", "content_hash", met=pl.lit(value=False)
        )

    def add(self, versions: pl.DataFrame) -> None:
        if versions.is_empty():
            return
        stamped = versions.with_columns(extracted_at=pl.lit(self._now(), pl.Datetime("us", "UTC")))
        self._pending.append(stamped.select(_VERSION_COLUMNS))
        self._pending_bytes += int(versions.estimated_size())
        if self._pending_bytes > _BATCH_BYTES:
            self._write()

    def finish(self) -> list[int]:
        self._write()
        return self._batches

    def _write(self) -> None:
        if self._pending:
            batch = self._lake.append_batch(self._collection, pl.concat(self._pending))
            self._batches.append(batch)
            self._pending.clear()
            self._pending_bytes = 0


def _compare(
    documents: Iterable[Document],
    log: _LogWriter,
    report: ExtractReport,
    progress: Callable[[int], None],
) -> pl.DataFrame:
    """Append what is new or changed, and return the known records that were not met."""
    for read in _in_portions(documents):
        found = read.unique("record_id", keep="first", maintain_order=True).join(
            log.known, on="record_id", how="left", suffix="_known", maintain_order="left"
        )
        first_met = found.filter(~pl.col("met").fill_null(value=False))
        is_new = pl.col("content_hash_known").is_null()
        is_changed = pl.col("content_hash_known") != pl.col("content_hash")
        differing = first_met.filter(is_new | is_changed)
        new = differing.select(is_new.sum()).item()
        report.read += read.height
        report.repeated += read.height - first_met.height
        report.new += new
        report.changed += differing.height - new
        report.unchanged += first_met.height - differing.height
        log.add(differing.with_columns(operation=pl.lit("upsert")))
        log.known = pl.concat(
            [
                log.known.join(first_met, on="record_id", how="anti"),
                first_met.select("record_id", "content_hash", met=pl.lit(value=True)),
            ]
        )
        progress(read.height)
    return log.known.filter(~pl.col("met"))


def _in_portions(documents: Iterable[Document]) -> Iterator[pl.DataFrame]:
    """Yield documents as frames small enough to hold several of."""
    iterator = iter(documents)
    while portion := list(islice(_until_full(iterator), _COMPARED_DOCUMENTS)):
        identifiers, texts, hashes = zip(*portion, strict=True)
        yield pl.DataFrame(
            {"record_id": identifiers, "document": texts, "content_hash": hashes},
            schema={"record_id": pl.String, "document": pl.String, "content_hash": pl.String},
        )


def _until_full(documents: Iterator[Document]) -> Iterator[Document]:
    size = 0
    for document in documents:
        yield document
        size += len(document.text)
        if size > _COMPARED_BYTES:
            return


def _recent(lake: Lake, collection: str, known: pl.DataFrame, since: datetime) -> pl.DataFrame:
    """Return the known records that arrived lately, other than by the first load.

    A record that has just arrived may still be written to; one that came with the first load is
    most likely old, and reading all of those again would make the pass a full one.
    """
    loaded = lake.state(collection).first_pass_ended_at
    if loaded is None:
        return known.select("record_id").clear()
    arrived = lake.live_documents(collection).filter(pl.col("extracted_at") > max(since, loaded))
    return arrived.select("record_id")


def _note_deletions(
    gone: pl.DataFrame, log: _LogWriter, report: ExtractReport, limits: ExtractLimits, *, hint: str
) -> None:
    """Append deletions, unless there are so many that a mishap is likelier.

    Raises
    ------
    DataError
        More is gone than the limits allow.
    """
    known_before = log.known.height - report.new
    if gone.height > limits.max_deleted_share * known_before:
        log.finish()
        raise DataError(
            f"{gone.height:,} of {known_before:,} documents of the collection "
            f"{report.collection!r} are gone from the source: more than the share of "
            f"{limits.max_deleted_share:g} that a pass may delete. Nothing was deleted.{hint} If "
            "they are meant to be gone, run once with --max-deleted-share 1."
        )
    report.deleted = gone.height
    log.add(
        gone.select(
            "record_id",
            document=pl.lit(None, pl.String),
            content_hash=pl.lit(None, pl.String),
            operation=pl.lit("delete"),
        )
    )


def _note_pass(
    lake: Lake, source: Source, report: ExtractReport, fingerprint: str, ended: datetime
) -> None:
    """Write to the state that a pass has ended."""
    changes: dict[str, Any] = {
        "source": source.name,
        "fingerprint": fingerprint,
        f"last_{report.pass_kind}_pass_at": ended,
    }
    if lake.state(report.collection).first_pass_ended_at is None:
        changes["first_pass_ended_at"] = ended
    lake.update_state(report.collection, changes)
