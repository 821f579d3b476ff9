"""Trial-by-trial variables: the tables read from the result files.

A file is read when neither `analyses_latents` nor `rejected_results` knows it with its present
etag. Files that could not be reached are retried by every run; rejected files are retried when
this code changes.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path

import polars as pl

from aind_etl.contract import tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten.derived import session_month
from aind_etl.lake import Lake
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.results.folders import FileRequest
from aind_etl.results.inventory import KEY, RESULT_JSONS, remove_gone
from aind_etl.results.result_json import read_document, read_result
from aind_etl.results.store import ResultStore
from aind_etl.results.trial_rows import (
    RECORD_SCHEMA,
    ParsedResults,
    ResultRecord,
    latent_rows,
    other_rows,
    parse_result,
    trial_rows,
)

_log = logging.getLogger(__name__)
DOCUMENT = "document"
"""In place of a file's name: the trials were read from the document itself."""

ASKED_AGAIN = ("gone", "refused", "unreachable")
"""Reasons of `rejected_results` that may pass by themselves."""

# So many records are read before what was found is written: some 100 MB of rows.
_BATCH_RECORDS = 1000
_DOCUMENTS_AT_A_TIME = 100
_WRITTEN = (tables.TRIALS, tables.OTHER_LATENTS)


@dataclass(frozen=True, slots=True)
class TrialsReport:
    """What bringing the trials of one collection up to date did.

    Attributes
    ----------
    read
        Number of result files asked for.
    loaded
        Number of records whose trials were read.
    rejected
        Number of records whose result file cannot be taken.
    unreachable
        Number of records whose result file could not be read; the next run retries it.
    without_result
        Number of successful analyses for which there is no result file.
    removed
        Number of records whose rows went, as they are gone or have changed.
    rows
        Number of rows of `trials` read.
    size_bytes
        Size of what was read.
    partitions_written
        Number of files of the lake written or removed.
    """

    collection: str
    read: int = 0
    loaded: int = 0
    rejected: int = 0
    unreachable: int = 0
    without_result: int = 0
    removed: int = 0
    rows: int = 0
    size_bytes: int = 0
    partitions_written: int = 0


def refresh_trials(  # noqa: PLR0913 - each says something different of the work
    lake: Lake,
    store: ResultStore,
    collection: str,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    progress: Callable[[int], None] = lambda _records: None,
    expect: Callable[[int], None] = lambda _records: None,
) -> TrialsReport:
    """Bring `trials`, `analyses_latents`, `other_latents` and `rejected_results` up to date.

    An interruption loses the current batch; the next run continues from there.

    Parameters
    ----------
    lake, store, collection
        Whose trials, and where their result files lie.
    now
        The clock.
    progress
        Called with the number of records done since the last call.
    expect
        Called once, with the number of records whose result file will be read.

    Returns
    -------
    TrialsReport
        What was done.

    Raises
    ------
    SourceError
        The store does not answer.
    """
    records = _successful_fits(lake, collection)
    done = _Done(lake, collection, now)
    done.removed = _remove_outdated(lake, collection, records)
    is_same_reader = lake.state(collection).results_reader == reader_version()
    due = _due(lake, collection, records, is_same_reader=is_same_reader)
    expect(due.height)
    for batch in _batches(due):
        _read_files(store, batch, done, progress)
    _read_documents(lake, records, done, everything=not is_same_reader)
    lake.update_state(
        collection,
        {
            "results_reader": reader_version(),
            "results_searched_through": lake.change_log(collection).last_batch(),
        },
    )
    return done.report(records.filter(pl.col("source_file").is_null()).height)


@cache
def reader_version() -> str:
    """Return a text that differs whenever the code that reads result files does."""
    digest = sha256()
    for name in ("result_json.py", "trials.py"):
        digest.update(Path(__file__).with_name(name).read_bytes())
    return digest.hexdigest()[:16]


# --- what is to be done ---------------------------------------------------------------------


def _successful_fits(lake: Lake, collection: str) -> pl.DataFrame:
    """Return the analyses that should have trials, with the result file there is.

    Returns
    -------
    polars.DataFrame
        The key, ``session_month``, ``n_trials``, ``content_hash``, ``changed_at``, and
        ``location``, ``source_file``, ``etag`` and ``size_bytes`` of the result file: NULL where
        there is none.
    """
    order = pl.col("file_name").replace_strict(
        {name: place for place, name in enumerate(RESULT_JSONS)}, return_dtype=pl.Int8
    )
    files = (
        lake.tables.scan(tables.RESULT_FILES, collection)
        .filter(pl.col("file_name").is_in(RESULT_JSONS))
        .sort(order)
        .unique(KEY, keep="first", maintain_order=True)
        .select(*KEY, "etag", "size_bytes", source_file="file_name")
    )
    # Of several processes of a document, those without a fit have no trials.
    has_fit = pl.col("n_trials").is_not_null() | (pl.len().over("record_id") == 1)
    return (
        lake.tables.scan(tables.ANALYSES, collection)
        .filter(pl.col("outcome") == "success")
        .filter(has_fit)
        .select(
            *KEY,
            "n_trials",
            "content_hash",
            "changed_at",
            location=pl.col("result_location").str.strip_chars_end("/"),
            session_month=session_month(pl.col("session_date"), UNKNOWN_MONTH),
        )
        .join(files, on=KEY, how="left")
        .collect()
    )


def _remove_outdated(lake: Lake, collection: str, records: pl.DataFrame) -> int:
    """Remove the rows of records that are gone, or changed and have no result file now."""
    changed = (
        lake.tables.scan(tables.ANALYSES_LATENTS, collection)
        .select(*KEY, "extracted_at")
        .join(records.lazy(), on=KEY)
        .filter(pl.col("source_file").is_null() & (pl.col("changed_at") > pl.col("extracted_at")))
        .select(KEY)
        .collect()
    )
    removed = remove_gone(
        lake,
        collection,
        records.join(changed, on=KEY, how="anti"),
        list(_WRITTEN),
        tables.ANALYSES_LATENTS,
    )
    rejected = lake.tables.read_partition(tables.REJECTED_RESULTS, collection)
    wanted = records.select(*KEY, "content_hash", wanted_file="source_file")
    is_wanted = (pl.col("source_file") == pl.col("wanted_file")) | (
        pl.col("wanted_file").is_null() & (pl.col("etag") == pl.col("content_hash"))
    )
    kept = rejected.join(wanted, on=KEY).filter(is_wanted).select(rejected.columns)
    if kept.height < rejected.height:
        lake.tables.replace_rows(tables.REJECTED_RESULTS, collection, None, without=None, rows=kept)
    return removed


def _due(
    lake: Lake, collection: str, records: pl.DataFrame, *, is_same_reader: bool
) -> pl.DataFrame:
    """Return the records whose result file must be read, by month."""
    loaded = lake.tables.scan(tables.ANALYSES_LATENTS, collection).select(
        *KEY,
        loaded_file="source_file",
        loaded_etag="etag",
        loaded_trials="n_trials",
    )
    rejected = lake.tables.scan(tables.REJECTED_RESULTS, collection).select(
        *KEY, "reason", "checked_at", rejected_file="source_file", rejected_etag="etag"
    )
    file, etag = pl.col("source_file"), pl.col("etag")
    is_loaded = (
        (pl.col("loaded_file") == file)
        & pl.col("loaded_etag").eq_missing(etag)
        & (pl.col("loaded_trials") == pl.col("n_trials")).fill_null(value=True)
    )
    is_rejected = (
        (pl.col("rejected_file") == file)
        & pl.col("rejected_etag").eq_missing(etag)
        & ~pl.col("reason").is_in(ASKED_AGAIN)
        & (pl.col("changed_at") <= pl.col("checked_at"))
        & is_same_reader
    )
    is_known = is_loaded.fill_null(value=False) | is_rejected.fill_null(value=False)
    due = (
        records.lazy()
        .join(loaded, on=KEY, how="left")
        .join(rejected, on=KEY, how="left")
        .filter(file.is_not_null() & ~is_known)
        .select("record_id")
        .unique()
    )
    # All processes of a record: its rows are replaced together.
    with_file = records.lazy().filter(file.is_not_null())
    return (
        with_file.join(due, on="record_id", how="semi").sort("session_month", "record_id").collect()
    )


def _batches(due: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield batches of whole months, or of parts of a month that is too large for one."""
    held: list[pl.DataFrame] = []
    for month in due.partition_by("session_month", maintain_order=True):
        if held and sum(map(len, held)) + month.height > _BATCH_RECORDS:
            yield pl.concat(held)
            held = []
        if month.height > _BATCH_RECORDS:
            # The rows of a record are replaced together.
            part = pl.col("record_id").rle_id() // _BATCH_RECORDS
            yield from (records for _, records in month.group_by(part, maintain_order=True))
        else:
            held.append(month)
    if held:
        yield pl.concat(held)


# --- reading --------------------------------------------------------------------------------


def _read_files(
    store: ResultStore, batch: pl.DataFrame, done: "_Done", progress: Callable[[int], None]
) -> None:
    """Read the result files of a batch of records, and write what they tell."""
    by_file: dict[tuple[str, str], list[ResultRecord]] = {}
    sizes = {}
    for row in batch.iter_rows(named=True):
        place = (row["location"], row["source_file"])
        by_file.setdefault(place, []).append(
            ResultRecord(**{name: row[name] for name in RECORD_SCHEMA})
        )
        sizes[place] = row["size_bytes"] or 0
    requests = [FileRequest(*place, size) for place, size in sizes.items()]
    found = ParsedResults()
    for answer in store.read_files(requests):
        records = by_file[answer.request.location, answer.request.name]
        done.read += 1
        done.size_bytes += len(answer.content)
        if answer.problem is not None:
            for record in records:
                found.reject(record, answer.problem.reason, None, answer.problem.message)
        else:
            parse_result(found, records, lambda: read_result(answer.content))  # noqa: B023 - called at once
        progress(len(records))
    done.write(found)


def _read_documents(lake: Lake, records: pl.DataFrame, done: "_Done", *, everything: bool) -> None:
    """Read the trials of documents that still hold them, where there is no result file."""
    through = 0 if everything else lake.state(done.collection).results_searched_through
    candidates = records.filter(pl.col("source_file").is_null()).with_columns(
        source_file=pl.lit(DOCUMENT), etag="content_hash"
    )
    versions = (
        lake.change_log(done.collection)
        .versions(after=through)
        .filter(pl.col("operation") == "upsert")
    )
    untrimmed = (
        versions.join(
            candidates.lazy().select("record_id", "content_hash"),
            on=["record_id", "content_hash"],
            how="semi",
        )
        .filter(pl.col("document").str.contains("fitted_latent_variables", literal=True))
        .select("record_id", "content_hash")
        .unique()
        .collect()
    )
    for part in untrimmed.sort("record_id").iter_slices(_DOCUMENTS_AT_A_TIME):
        documents = (
            versions.join(part.lazy(), on=["record_id", "content_hash"], how="semi")
            .select("record_id", "document")
            .unique("record_id")
            .collect()
        )
        texts = dict(documents.iter_rows())
        found = ParsedResults()
        for row in candidates.join(part, on="record_id", how="semi").iter_rows(named=True):
            record = ResultRecord(**{name: row[name] for name in RECORD_SCHEMA})
            text = texts[record.record_id]
            parse_result(found, [record], lambda: read_document(text, record.process_index))  # noqa: B023 - called at once
        done.write(found)


# --- writing --------------------------------------------------------------------------------


@dataclass
class _Done:
    """Writes what was found, and counts it."""

    lake: Lake
    collection: str
    now: Callable[[], datetime]
    removed: int = 0
    read: int = 0
    loaded: int = 0
    rejected: int = 0
    unreachable: int = 0
    rows: int = 0
    size_bytes: int = 0
    partitions_written: int = 0

    def write(self, found: ParsedResults) -> None:
        """Write the rows of a batch; `analyses_latents` last, as it says what is loaded."""
        moment = self.now()
        loaded = [record for record, _ in found.loaded]
        trials = [one for _, one in found.loaded]
        frames = (
            (tables.TRIALS, trial_rows(loaded, trials)),
            (tables.OTHER_LATENTS, other_rows(loaded, trials)),
            (tables.ANALYSES_LATENTS, latent_rows(loaded, trials, moment)),
        )
        # What could not be reached is not known to have changed: its rows stay.
        settled = pl.DataFrame(
            [
                (record.record_id, record.session_month)
                for record in (
                    *loaded,
                    *(one for one, reason, _, _ in found.rejected if reason not in ASKED_AGAIN),
                )
            ],
            schema={"record_id": pl.String, "session_month": pl.String},
            orient="row",
        ).unique()
        with self.lake.tables_lock(self.collection):
            self._write_rejected(found, settled, moment)
            for month in sorted(set(settled["session_month"])):
                is_here = pl.col("session_month") == month
                for table, rows in frames:
                    self.partitions_written += self.lake.tables.replace_rows(
                        table,
                        self.collection,
                        month,
                        without=settled.filter(is_here),
                        rows=self._complete(rows.filter(is_here), table),
                    )
        self.rows += frames[0][1].height
        self.loaded += len(loaded)
        passing = sum(reason in ASKED_AGAIN for _, reason, _, _ in found.rejected)
        self.unreachable += passing
        self.rejected += len(found.rejected) - passing

    def _write_rejected(
        self, found: ParsedResults, settled: pl.DataFrame, moment: datetime
    ) -> None:
        table = tables.REJECTED_RESULTS
        rows = pl.DataFrame(
            [
                (one.record_id, one.process_index, one.source_file, one.etag, *why)
                for one, *why in found.rejected
            ],
            schema={
                "record_id": pl.String,
                "process_index": pl.Int16,
                "source_file": pl.String,
                "etag": pl.String,
                "reason": pl.String,
                "path": pl.String,
                "message": pl.String,
            },
            orient="row",
        ).with_columns(checked_at=pl.lit(moment))
        renewed = pl.concat([settled.select("record_id"), rows.select("record_id")]).unique()
        present = self.lake.tables.read_partition(table, self.collection)
        if rows.is_empty() and present.join(renewed, on="record_id", how="semi").is_empty():
            return
        self.partitions_written += self.lake.tables.replace_rows(
            table, self.collection, None, without=renewed, rows=self._complete(rows, table)
        )

    def _complete(self, rows: pl.DataFrame, table: tables.Table) -> pl.DataFrame:
        """Return rows with the table's columns and types."""
        schema = polars_schema(table)
        return rows.with_columns(source_collection=pl.lit(self.collection)).select(
            pl.col(name).cast(kind) for name, kind in schema.items()
        )

    def report(self, without_file: int) -> TrialsReport:
        """Return what was done."""
        return TrialsReport(
            self.collection,
            read=self.read,
            loaded=self.loaded,
            rejected=self.rejected,
            unreachable=self.unreachable,
            without_result=without_file,
            removed=self.removed,
            rows=self.rows,
            size_bytes=self.size_bytes,
            partitions_written=self.partitions_written,
        )
