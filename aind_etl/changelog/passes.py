"""Passes over a source: new, changed and deleted documents are appended to the change log.

The *new* pass lists ids and reads documents that are missing or recent; the *full* pass reads every
document and compares contents. Both record deletions. An interrupted pass leaves complete batches,
and the next pass continues from there.

Documents whose raw bytes have not changed are skipped before parsing. A large collection is
compared in splits (ranges of ids), several at a time, so memory is bounded by the splits in
progress.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from math import ceil
from typing import Any

import polars as pl

from aind_etl.changelog.compaction import compact_change_log
from aind_etl.changelog.comparison import COMPARED_BYTES, Comparison, Found
from aind_etl.changelog.current_versions import current_versions_by_split
from aind_etl.changelog.log_writer import LogWriter
from aind_etl.changelog.parallel import in_parallel
from aind_etl.changelog.raw_hashes import KNOWN_COLUMNS, RawHashes
from aind_etl.contract.id_ranges import Split
from aind_etl.errors import DataError, SourceError
from aind_etl.lake import Lake
from aind_etl.lake.change_log import record_ids
from aind_etl.lake.state import CollectionState
from aind_etl.sources.protocol import Source


class Pass(StrEnum):
    """How thoroughly a collection is compared with the change log."""

    NEW = "new"
    """Ids are compared; missing and recent documents are read."""
    FULL = "full"
    """Every document is read and compared."""


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """Limits of a pass.

    Attributes
    ----------
    look_back
        A *new* pass reads documents again that arrived within this time, after the first load.
    max_deleted_share
        Largest share of a collection, from 0 to 1, that a pass may delete.
    shard_documents
        A collection of more documents than this is read in splits of about this size.
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
        Numbers of documents. ``read`` counts what the source returned.
    repeated
        Documents whose id the source returned more than once; the first one counts.
    splits
        The number of splits.
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


def extract_collection(  # noqa: PLR0913
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

    ``progress`` is called with the number of documents read since the last call. After an error,
    what was read is kept, and nothing is deleted.

    Raises
    ------
    SourceError
        The source cannot be read to its end, or twice returned another number of documents than it
        counts.
    DataError
        More documents are gone than ``limits`` allow.
    """
    extraction = _Extraction(source, lake, collection, pass_kind, limits, now, progress)
    first, disagreement = extraction.run()
    if not disagreement:
        return first
    # Documents come and go during a pass, so only a second disagreement is an error.
    second, disagreement = extraction.run()
    if disagreement:
        raise SourceError(disagreement)
    second.new += first.new
    second.changed += first.changed
    return second


@dataclass(frozen=True)
class _Extraction:
    """The parameters of :func:`extract_collection`, and the steps of a pass."""

    source: Source
    lake: Lake
    collection: str
    kind: Pass
    limits: ExtractLimits
    now: Callable[[], datetime]
    progress: Callable[[int], None]

    def run(self) -> tuple[ExtractReport, str]:
        """Make a pass; also return the message if the source's own count disagrees."""
        began = self.now()
        fingerprint = self.source.fingerprint(self.collection)
        counted = self.source.count_documents(self.collection, self.lake.shard.ids)
        state = self._state()
        # A record that arrived recently may still be written to. Those of the first load are most
        # likely old, and reading all of them again would make this a full pass.
        recent_since = state.first_pass_ended_at and max(
            began - self.limits.look_back, state.first_pass_ended_at
        )
        splits = self.lake.shard.splits(max(1, ceil((counted or 0) / self.limits.shard_documents)))
        log = LogWriter(self.lake, self.collection, self.now)
        report = ExtractReport(self.collection, self.kind, splits=len(splits))
        with (
            current_versions_by_split(self.lake, self.collection, splits) as live,
            self.lake.scratch("raw-hashes", self.collection) as folder,
        ):
            raw_hashes = RawHashes(self.lake, self.collection, folder)
            compare = partial(self._compare, live, raw_hashes, recent_since)
            known, gone = self._read(list(map(compare, splits)), log, report)
            missing = self._still_missing(gone)
            seen = known - missing.height + report.new
            disagreement = self._disagreement(counted, seen)
            if disagreement:
                report.batches = log.finish()
                return report, disagreement
            if missing.height > self.limits.max_deleted_share * known:
                log.finish()
                raise self._mass_deletion(missing.height, known, state)
            self._delete(missing, log, report)
            report.batches = log.finish()
            raw_hashes.write(splits)
        self._update_state(fingerprint, is_first_load=known == 0)
        compact_change_log(self.lake, self.collection)
        return report, ""

    def _state(self) -> CollectionState:
        state = self.lake.state(self.collection)
        processed = max(state.flattened_through, state.results_searched_through)
        if processed > self.lake.change_log(self.collection).last_batch():
            # The change log that the state refers to was lost; its batch numbers are reused.
            self.lake.update_state(
                self.collection, {"flattened_through": 0, "results_searched_through": 0}
            )
        return state

    def _read(
        self,
        compared: Sequence[Generator[Found, None, None]],
        log: LogWriter,
        report: ExtractReport,
    ) -> tuple[int, pl.DataFrame]:
        """Compare all splits; return how many documents were known, and which were not seen."""
        known = 0
        gone: list[pl.DataFrame] = []
        with closing(in_parallel(compared, self.source.connections)) as results:
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
                    self.progress(found.read)
        return known, pl.concat(gone)

    def _compare(
        self,
        live_in: Callable[[Split], pl.DataFrame],
        raw_hashes: RawHashes,
        recent_since: datetime | None,
        split: Split,
    ) -> Generator[Found, None, None]:
        """Yield the differences in a split, and finally the documents that are gone.

        It runs in any thread and writes nothing.
        """
        live = live_in(split)
        # Each connection holds a portion in memory.
        comparison = Comparison(live, COMPARED_BYTES // self.source.connections)
        if self.kind is Pass.FULL:
            yield from self._compare_all(split, live, comparison, raw_hashes)
            gone = comparison.not_seen()
        else:
            present = record_ids(self.source.list_ids(self.collection, split)).unique()
            missing = present.join(live, on="record_id", how="anti")
            recent = live.filter(
                pl.col("extracted_at") > pl.lit(recent_since, pl.Datetime("us", "UTC"))
            )
            wanted = pl.concat([missing, recent.select("record_id")])
            # Documents deleted between listing and reading are found gone by the next pass.
            gone = live.join(present, on="record_id", how="anti").select("record_id")
            if wanted.height * 2 > present.height:
                # Scanning is faster than fetching this many documents by id.
                yield from self._compare_all(split, live, comparison, raw_hashes)
            elif not wanted.is_empty():
                documents = self.source.read_documents_by_id(
                    self.collection, set(wanted["record_id"])
                )
                yield from comparison.compare(documents, pl.DataFrame(schema=KNOWN_COLUMNS))
        yield Found(known=live.height, gone=gone)

    def _compare_all(
        self, split: Split, live: pl.DataFrame, comparison: Comparison, raw_hashes: RawHashes
    ) -> Iterator[Found]:
        known = raw_hashes.known(split, live)
        documents = self.source.read_raw(self.collection, split)
        yield from comparison.compare(documents, known)
        raw_hashes.record(split, known, comparison.seen, comparison.parsed)

    def _still_missing(self, gone: pl.DataFrame) -> pl.DataFrame:
        """Return the records that the source does not return by id either."""
        if gone.is_empty():
            return gone
        requested = set(gone["record_id"])
        documents = self.source.read_documents_by_id(self.collection, requested)
        found = {document.record_id for document in documents}
        return gone.filter(~pl.col("record_id").is_in(found)) if found else gone

    def _disagreement(self, before: int | None, seen: int) -> str:
        """Return the message if neither count, before or after the pass, fits what it saw."""
        if before is None:
            return ""
        after = self.source.count_documents(self.collection, self.lake.shard.ids)
        if after is None or min(before, after) <= seen <= max(before, after):
            return ""
        counts = f"{before:,}"
        if before != after:
            counts = f"{before:,} before and {after:,} after the pass"
        return (
            f"The source returned {seen:,} documents of the collection {self.collection!r}, but "
            f"counts {counts}: it leaves some out. Nothing was deleted, and what was found is "
            "kept. Report it to those who run the source, and run again."
        )

    def _mass_deletion(self, gone: int, known: int, state: CollectionState) -> DataError:
        other_source = ""
        if state.source != self.source.name:
            other_source = f" The lake was last read from {state.source}."
        return DataError(
            f"{gone:,} of {known:,} documents of the collection {self.collection!r} are gone from "
            f"the source: more than the share of {self.limits.max_deleted_share:g} that a pass may "
            f"delete. Nothing was deleted.{other_source} If the deletions are intended, run once "
            "with --max-deleted-share 1."
        )

    def _delete(self, missing: pl.DataFrame, log: LogWriter, report: ExtractReport) -> None:
        report.deleted = missing.height
        log.add(
            missing.select(
                "record_id",
                document=pl.lit(None, pl.String),
                content_hash=pl.lit(None, pl.String),
                operation=pl.lit("delete"),
            )
        )

    def _update_state(self, fingerprint: str, *, is_first_load: bool) -> None:
        """Record the end of a pass; a first load reads every document, like a full pass."""
        ended = self.now()
        changes: dict[str, Any] = {
            "source": self.source.name,
            "fingerprint": fingerprint,
            f"last_{self.kind}_pass_at": ended,
        }
        if is_first_load:
            changes["last_full_pass_at"] = ended
        if self.lake.state(self.collection).first_pass_ended_at is None:
            changes["first_pass_ended_at"] = ended
        self.lake.update_state(self.collection, changes)
