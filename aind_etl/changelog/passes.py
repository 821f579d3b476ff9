"""Passes over a source: what is new, changed or deleted is appended to the change log.

The *new* pass lists ids and reads documents that are missing or recent; the *full* pass reads every
document and compares contents. Both record deletions. An interrupted pass leaves complete batches,
and the next pass continues from there.

Documents whose raw bytes have not changed are skipped before parsing. A large collection is
compared in splits (ranges of ids), several at a time, so memory is bounded by the splits in
progress.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from math import ceil
from typing import Any

import polars as pl

from aind_etl.changelog.compaction import compact_change_log
from aind_etl.changelog.comparison import COMPARED_BYTES, Comparison, Found, in_portions
from aind_etl.changelog.current_versions import current_versions_by_split
from aind_etl.changelog.log_writer import LogWriter
from aind_etl.changelog.parallel import in_parallel
from aind_etl.changelog.raw_hashes import NO_HASHES, Known, RawHashes, open_raw_hashes
from aind_etl.contract.id_ranges import Shard, Split
from aind_etl.errors import DataError, SourceError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import record_ids
from aind_etl.sources.canonical import Document, RawDocument
from aind_etl.sources.protocol import Source


class Pass(StrEnum):
    """How thoroughly a collection is compared with the change log."""

    NEW = "new"
    """Ids are compared; documents missing or recently arrived are read."""
    FULL = "full"
    """Every document is read and compared."""


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """What a pass takes for recent, as an accidental mass deletion, and as large.

    Attributes
    ----------
    look_back
        A *new* pass reads again what arrived no longer ago than this, after the first load.
    max_deleted_share
        Largest share of a collection, from 0 to 1, that a pass may find gone.
    shard_documents
        A collection of more documents than this is read in splits of about so many.
    """

    look_back: timedelta = timedelta(days=1)
    max_deleted_share: float = 0.2
    shard_documents: int = 25_000


@dataclass(slots=True)
class ExtractReport:
    """What a pass over one collection found.

    Attributes
    ----------
    read, new, changed, unchanged, deleted
        Numbers of documents. ``read`` counts what the source handed over.
    repeated
        Documents whose id the source gave more than once; the first counts.
    splits
        How many splits the collection was read in.
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
    splits: int = 1
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
        The source could not be read to its end, or twice gave another number of documents than it
        counts. What was read stays; nothing is deleted.
    DataError
        More is gone than ``limits`` allow. What was read stays; nothing is deleted.
    """
    first = _extract_once(source, lake, collection, pass_kind, limits, now, progress)
    if isinstance(first, ExtractReport):
        return first
    # Documents come and go during a pass: only what two passes in a row say is believed.
    second = _extract_once(source, lake, collection, pass_kind, limits, now, progress)
    if isinstance(second, ExtractReport):
        second.new += first.report.new
        second.changed += first.report.changed
        return second
    raise SourceError(
        f"Of the collection {collection!r}, {second.seen:,} documents were found, and the source "
        f"counts {second.counts}. It leaves some out. Nothing was deleted, and what was found is "
        "kept. Report it to those who run the source, and run again."
    )


@dataclass(frozen=True, slots=True)
class _Disagreement:
    """A pass that found another number of documents than the source counts.

    Attributes
    ----------
    report
        What it found.
    seen
        The number of documents.
    counts
        What the source counts, in words.
    """

    report: ExtractReport
    seen: int
    counts: str


def _extract_once(  # noqa: PLR0913, PLR0917 - as above
    source: Source,
    lake: Lake,
    collection: str,
    pass_kind: Pass,
    limits: ExtractLimits,
    now: Callable[[], datetime],
    progress: Callable[[int], None],
) -> ExtractReport | _Disagreement:
    began = now()
    fingerprint = source.fingerprint(collection)
    counted = source.count_documents(collection, lake.shard.ids)
    state = lake.state(collection)
    if (
        max(state.flattened_through, state.results_searched_through)
        > lake.change_log(collection).last_batch()
    ):
        # The log that the state speaks of is gone; another one has batches of the same numbers.
        lake.update_state(collection, {"flattened_through": 0, "results_searched_through": 0})
    # A record that has just arrived may still be written to; one that came with the first load is
    # most likely old, and reading all of those again would make the pass a full one.
    recent_since = state.first_pass_ended_at and max(
        began - limits.look_back, state.first_pass_ended_at
    )
    divided = _divide(counted, lake.shard, limits.shard_documents)
    log = LogWriter(lake, collection, now)
    report = ExtractReport(collection, pass_kind, splits=len(divided))
    known = 0
    gone: list[pl.DataFrame] = []
    with (
        current_versions_by_split(lake, collection, divided) as live,
        open_raw_hashes(lake, collection) as recognition,
    ):
        pass_ = _Pass(source, collection, pass_kind, live, recent_since, recognition)
        work = [partial(pass_.compare, split) for split in divided]
        with closing(in_parallel(work, source.connections)) as results:
            for found in results:
                report.read += found.read
                report.new += found.new
                report.changed += found.changed
                report.unchanged += found.unchanged
                report.repeated += found.repeated
                known += found.known
                gone.append(found.gone)
                log.add(found.versions)
                if found.read:
                    progress(found.read)
        other_source = (
            f" The lake was last read from {state.source}." if state.source != source.name else ""
        )
        missing = _without_found(source, collection, pl.concat(gone))
        seen = known - missing.height + report.new
        counts = _disagreeing_counts(source, collection, lake.shard, counted, seen)
        if counts:
            report.batches = log.finish()
            return _Disagreement(report, seen, counts)
        _note_deletions(missing, known, log, report, limits, hint=other_source)
        report.batches = log.finish()
        recognition.write(divided)
    _note_pass(lake, source, report, fingerprint, now(), is_first=known == 0)
    compact_change_log(lake, collection)
    return report


def _without_found(source: Source, collection: str, gone: pl.DataFrame) -> pl.DataFrame:
    """Return the records that the source does not have either when it is asked for their ids."""
    if gone.is_empty():
        return gone
    asked = set(gone["record_id"])
    found = {one.record_id for one in source.read_documents_by_id(collection, asked)}
    return gone.filter(~pl.col("record_id").is_in(found)) if found else gone


def _disagreeing_counts(
    source: Source, collection: str, shard: Shard, before: int | None, seen: int
) -> str:
    """Return what a source counted before and after a pass, where the pass saw another number.

    Nothing where they agree, and where the source cannot count.
    """
    if before is None:
        return ""
    after = source.count_documents(collection, shard.ids)
    if after is None or min(before, after) <= seen <= max(before, after):
        return ""
    return f"{before:,}" if before == after else f"{before:,} before and {after:,} after the pass"


def _divide(counted: int | None, shard: Shard, shard_documents: int) -> list[Split]:
    """Return the splits to read a shard of a collection in."""
    return shard.splits(max(1, ceil((counted or 0) / shard_documents)))


@dataclass(frozen=True)
class _Pass:
    """One pass over a collection, to be made split by split; nothing is written by it.

    Attributes
    ----------
    live
        Returns the live documents that the log holds of a split.
    recent_since
        Records that arrived later are read by a *new* pass again; None where none are.
    recognition
        What is known of documents by their bytes.
    """

    source: Source
    collection: str
    kind: Pass
    live: Callable[[Split], pl.DataFrame]
    recent_since: datetime | None
    recognition: RawHashes

    def compare(self, split: Split) -> Iterator[Found]:
        """Yield what differs in a split, and at last what is gone."""
        live = self.live(split)
        comparison = Comparison(live.select("record_id", "content_hash"))
        if self.kind is Pass.FULL:
            yield from self._compare_all(split, live, comparison)
            gone = comparison.not_met()
        else:
            present = record_ids(self.source.list_ids(self.collection, split)).unique()
            missing = present.join(live, on="record_id", how="anti")
            recent = live.filter(
                pl.col("extracted_at") > pl.lit(self.recent_since, pl.Datetime("us", "UTC"))
            )
            wanted = pl.concat([missing, recent.select("record_id")])
            # Gone is what the listing lacks; what vanished between listing and reading is found
            # gone by the next pass.
            gone = live.join(present, on="record_id", how="anti").select("record_id")
            if wanted.height * 2 > present.height:
                # Reading on is quicker than asking for so many by their ids.
                yield from self._compare_all(split, live, comparison)
            elif not wanted.is_empty():
                some = set(wanted["record_id"])
                documents = self.source.read_documents_by_id(self.collection, some)
                yield from comparison.compare(self._in_portions(documents, NO_HASHES))
        yield Found(known=live.height, gone=gone)

    def _compare_all(
        self, split: Split, live: pl.DataFrame, comparison: "Comparison"
    ) -> Iterator[Found]:
        """Yield what is new or changed of a split, all of which is read."""
        known = self.recognition.known(split, live)
        documents = self.source.read_raw(self.collection, split)
        yield from comparison.compare(self._in_portions(documents, known))
        self.recognition.note(split, known, comparison.met(), comparison.looked_into())

    def _in_portions(
        self, documents: Iterable[RawDocument | Document], known: Known
    ) -> Iterator[pl.DataFrame]:
        """Yield documents as frames small enough to hold several of."""
        return in_portions(documents, known, COMPARED_BYTES // self.source.connections)


def _note_deletions(  # noqa: PLR0913 - all that the message speaks of
    gone: pl.DataFrame,
    known: int,
    log: LogWriter,
    report: ExtractReport,
    limits: ExtractLimits,
    *,
    hint: str,
) -> None:
    """Append deletions, unless there are so many that an accidental mass deletion is more likely.

    Raises
    ------
    DataError
        More is gone than the limits allow.
    """
    if gone.height > limits.max_deleted_share * known:
        log.finish()
        raise DataError(
            f"{gone.height:,} of {known:,} documents of the collection "
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


def _note_pass(  # noqa: PLR0913 - what the state says of a pass
    lake: Lake,
    source: Source,
    report: ExtractReport,
    fingerprint: str,
    ended: datetime,
    *,
    is_first: bool,
) -> None:
    """Write to the state that a pass has ended; a first one read every document."""
    changes: dict[str, Any] = {
        "source": source.name,
        "fingerprint": fingerprint,
        f"last_{report.pass_kind}_pass_at": ended,
    }
    if is_first:
        changes["last_full_pass_at"] = ended
    if lake.state(report.collection).first_pass_ended_at is None:
        changes["first_pass_ended_at"] = ended
    lake.update_state(report.collection, changes)
