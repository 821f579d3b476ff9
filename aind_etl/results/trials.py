"""Trial-by-trial variables: the tables read from the result files.

A file is read if neither `analyses_latents` nor `rejected_results` has it with its present etag.
Every run retries files that could not be reached; rejected files are read again when this code
changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from hashlib import sha256
from pathlib import Path

import polars as pl

from aind_etl.contract import Table, result_files, tables
from aind_etl.lake import Lake
from aind_etl.results.folders import FileRequest
from aind_etl.results.records import KEY, remove_gone, scan_analyses
from aind_etl.results.result_json import read_document, read_result
from aind_etl.results.store import ResultStore
from aind_etl.results.trial_rows import (
    ParsedResults,
    latent_rows,
    other_rows,
    rejected_rows,
    trial_rows,
)

_DOCUMENT = "document"
"""In place of a file's name: the trials were read from the document itself."""

_RETRIED = ("gone", "refused", "unreachable")
"""Reasons of `rejected_results` that may pass by themselves."""

# Records read before their rows are written: some 100 MB of rows.
_BATCH_RECORDS = 1000
_BATCH_DOCUMENTS = 100


@dataclass(slots=True)
class TrialsReport:
    """What an update of the trials of one collection did.

    Attributes
    ----------
    read, size_bytes
        Number of result files requested, and their size.
    loaded, rejected, unreachable
        Number of records whose trials were read, whose result file is not valid, and whose result
        file could not be read, which the next run retries.
    without_result
        Number of successful analyses that have no result file.
    removed
        Number of records whose rows were removed: the record is gone, or it changed and has no
        result file now.
    rows
        Number of rows of `trials` read.
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


def refresh_trials(  # noqa: PLR0913 - clock and progress have defaults
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
    now
        The clock.
    progress
        Called with the number of records done since the last call.
    expect
        Called once, with the number of records whose result file will be read.

    Raises
    ------
    SourceError
        The store does not answer.
    """
    records = _successful_fits(lake, collection)
    writer = _Writer(lake, collection, now)
    writer.report.without_result = records["source_file"].null_count()
    writer.report.removed = _remove_outdated(lake, collection, records)
    is_same_reader = lake.state(collection).results_reader == reader_version()
    due = _due(lake, collection, records, is_same_reader=is_same_reader)
    expect(due.height)
    for batch in _batches(due):
        _read_files(store, batch, writer, progress)
    _read_documents(lake, collection, records, writer, everything=not is_same_reader)
    through = lake.change_log(collection).last_batch()
    state = {"results_reader": reader_version(), "results_searched_through": through}
    lake.update_state(collection, state)
    return writer.report


@cache
def reader_version() -> str:
    """Return a hash of the code that decides whether a result file is rejected."""
    names = ("result_json.py", "trial_rows.py", "trials.py")
    paths = (*map(Path(__file__).with_name, names), Path(result_files.__file__))
    return sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()[:16]


# --- what is due ----------------------------------------------------------------------------


def _successful_fits(lake: Lake, collection: str) -> pl.DataFrame:
    """Return the analyses that should have trials, each with its result file.

    To the columns of :func:`scan_analyses` come ``source_file``, ``etag`` and ``size_bytes``, NULL
    if there is no file.
    """
    files = (
        lake.tables.scan(tables.RESULT_FILES, collection)
        .filter(pl.col("file_name").is_in(result_files.RESULT_JSONS))
        .sort(pl.col("file_name").cast(pl.Enum(result_files.RESULT_JSONS)))
        .unique(KEY, keep="first", maintain_order=True)
        .select(*KEY, "etag", "size_bytes", source_file="file_name")
    )
    # Of a document with several processes, those without a fit have no trials.
    has_fit = pl.col("n_trials").is_not_null() | (pl.len().over("record_id") == 1)
    return (
        scan_analyses(lake, collection)
        .filter(pl.col("outcome") == "success")
        .filter(has_fit)
        .join(files, on=KEY, how="left")
        .collect()
    )


def _remove_outdated(lake: Lake, collection: str, records: pl.DataFrame) -> int:
    """Remove the rows of records that are gone, or that changed and have no result file now."""
    changed = (
        lake.tables.scan(tables.ANALYSES_LATENTS, collection)
        .select(*KEY, "extracted_at")
        .join(records.lazy(), on=KEY)
        .filter(pl.col("source_file").is_null() & (pl.col("changed_at") > pl.col("extracted_at")))
        .select(KEY)
        .collect()
    )
    loaded = records.join(changed, on=KEY, how="anti")
    others = [tables.TRIALS, tables.OTHER_LATENTS]
    removed = remove_gone(lake, collection, loaded, tables.ANALYSES_LATENTS, others)
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
    file = [*KEY, "source_file", "etag"]
    loaded = lake.tables.scan(tables.ANALYSES_LATENTS, collection).select(
        *file, loaded_trials="n_trials"
    )
    rejected = (
        lake.tables.scan(tables.REJECTED_RESULTS, collection)
        .filter(~pl.col("reason").is_in(_RETRIED), pl.lit(is_same_reader))
        .select(*file, "checked_at")
    )
    is_loaded = pl.col("loaded_trials") == pl.coalesce("n_trials", "loaded_trials")
    is_rejected = pl.col("checked_at") >= pl.col("changed_at")
    with_file = records.lazy().filter(pl.col("source_file").is_not_null())
    due = (
        with_file.join(loaded, on=file, how="left", nulls_equal=True)
        .join(rejected, on=file, how="left", nulls_equal=True)
        .filter(~(is_loaded | is_rejected).fill_null(value=False))
    )
    # All processes of a record, because its rows are replaced together.
    return (
        with_file.join(due, on="record_id", how="semi").sort("session_month", "record_id").collect()
    )


def _batches(due: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield batches of records, each with all of its processes."""
    records = due.select("record_id").unique(maintain_order=True)
    for batch in records.iter_slices(_BATCH_RECORDS):
        yield due.join(batch, on="record_id", how="semi", maintain_order="left")


# --- reading --------------------------------------------------------------------------------


def _read_files(
    store: ResultStore, batch: pl.DataFrame, writer: "_Writer", progress: Callable[[int], None]
) -> None:
    """Read the result files of a batch of records, and write their rows."""
    place = ("location", "source_file")
    records_of = batch.rows_by_key(place, named=True, include_key=True)
    requests = [
        FileRequest(location, name, records[0]["size_bytes"] or 0)
        for (location, name), records in records_of.items()
    ]
    results = ParsedResults()
    for answer in store.read_files(requests):
        records = records_of[answer.request.location, answer.request.name]
        writer.report.read += 1
        writer.report.size_bytes += len(answer.content)
        for record in records:
            if answer.problem is None:
                results.parse(record, partial(read_result, answer.content))
            else:
                results.reject(record, answer.problem.reason, None, answer.problem.message)
        progress(len(records))
    writer.write(results)


def _read_documents(
    lake: Lake, collection: str, records: pl.DataFrame, writer: "_Writer", *, everything: bool
) -> None:
    """Read the trials of documents that still contain them, if there is no result file."""
    key = ["record_id", "content_hash"]
    through = 0 if everything else lake.state(collection).results_searched_through
    candidates = records.filter(pl.col("source_file").is_null()).with_columns(
        source_file=pl.lit(_DOCUMENT), etag="content_hash"
    )
    is_untrimmed = pl.col("document").str.contains("fitted_latent_variables", literal=True)
    for versions in lake.change_log(collection).read_batches(after=through):
        untrimmed = (
            versions.filter(pl.col("operation") == "upsert")
            .join(candidates, on=key, how="semi")
            .filter(is_untrimmed)
            .select(*key, "document")
            .unique(key, maintain_order=True)
        )
        for documents in untrimmed.iter_slices(_BATCH_DOCUMENTS):
            results = ParsedResults()
            for record in candidates.join(documents, on=key).iter_rows(named=True):
                text, process = record["document"], record["process_index"]
                results.parse(record, partial(read_document, text, process))
            writer.write(results)
        # A document that changed and changed back is in the log twice.
        candidates = candidates.join(untrimmed, on=key, how="anti")


# --- writing --------------------------------------------------------------------------------


class _Writer:
    """Writes the rows of batches, and counts them."""

    def __init__(self, lake: Lake, collection: str, now: Callable[[], datetime]) -> None:
        self._lake = lake
        self._collection = collection
        self._now = now
        self.report = TrialsReport(collection)

    def write(self, results: ParsedResults) -> None:
        """Write a batch; `analyses_latents` last, because it says what is loaded."""
        time = self._now()
        frames = {
            tables.TRIALS: trial_rows(results),
            tables.OTHER_LATENTS: other_rows(results),
            tables.ANALYSES_LATENTS: latent_rows(results, time),
        }
        rejected = rejected_rows(results, time)
        final = rejected.filter(~pl.col("reason").is_in(_RETRIED))
        # A file that cannot be reached may not have changed: its rows are kept.
        replaced = pl.concat(
            rows.select("record_id", "session_month")
            for rows in (frames[tables.ANALYSES_LATENTS], final)
        )
        with self._lake.tables_lock(self._collection):
            self._write_rejected(rejected, replaced)
            for month in sorted(set(replaced["session_month"])):
                records = replaced.filter(session_month=month)
                for table, rows in frames.items():
                    self._replace(table, month, records, rows.filter(session_month=month))
        self.report.rows += frames[tables.TRIALS].height
        self.report.loaded += len(results.loaded)
        self.report.rejected += final.height
        self.report.unreachable += rejected.height - final.height

    def _write_rejected(self, rows: pl.DataFrame, replaced: pl.DataFrame) -> None:
        renewed = pl.concat(one.select("record_id") for one in (replaced, rows))
        present = self._lake.tables.read_partition(tables.REJECTED_RESULTS, self._collection)
        if rows.height or present.join(renewed, on="record_id", how="semi").height:
            self._replace(tables.REJECTED_RESULTS, None, renewed, rows)

    def _replace(
        self, table: Table, month: str | None, records: pl.DataFrame, rows: pl.DataFrame
    ) -> None:
        self.report.partitions_written += self._lake.tables.replace_rows(
            table, self._collection, month, without=records, rows=rows
        )
