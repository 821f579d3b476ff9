"""The inventory: which files the result folder of each analysis holds.

A folder is due when `result_folders` does not contain its record, or has it with another address or
an earlier content; when it could not be listed; and, while its record is recent, when it was empty
or lacks a file, because the prototype writes documents before their files.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.result_files import FIGURE, RESULT_JSONS
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten.derived import s3_to_https
from aind_etl.lake import Lake
from aind_etl.lake.tables import is_in_range, shard_key
from aind_etl.results.folders import files_frame
from aind_etl.results.records import KEY, remove_gone, scan_analyses
from aind_etl.results.store import ResultStore

# A full listing also finds changed files and folders without a record.
_FULL_LISTING_EVERY = timedelta(days=7)
_NEVER = datetime(1970, 1, 1, tzinfo=UTC)
# Folders listed before their rows are written.
_BATCH_FOLDERS = 4096
# A page holds a thousand files, and both pipelines write four into a folder.
_FOLDERS_PER_PAGE = 250
# A full listing runs in ranges, each of at least one page.
_FEWEST_PAGES = 16
# A full listing is given up after this many times the estimated number of pages.
_MARGIN = 4

# The address directly above a result folder.
_HOME = pl.col("location").str.replace(r"/[^/]*$", "")


@dataclass(slots=True)
class ResultFilesReport:
    """What an update of the inventory of one collection did.

    Attributes
    ----------
    listed
        Number of result folders checked.
    present, missing, refused, unreachable
        How many of these hold files, do not exist, may not be listed, could not be listed.
    removed
        Number of records whose rows were removed: the record or its folder is gone.
    files, size_bytes
        Number and size of the files in the checked folders.
    partitions_written
        Number of files of the lake written or removed.
    """

    collection: str
    listed: int = 0
    present: int = 0
    missing: int = 0
    refused: int = 0
    unreachable: int = 0
    removed: int = 0
    files: int = 0
    size_bytes: int = 0
    partitions_written: int = 0


def refresh_result_files(  # noqa: PLR0913 - clock and progress have defaults
    lake: Lake,
    store: ResultStore,
    collection: str,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    look_back: timedelta = timedelta(days=7),
    progress: Callable[[int], None] = lambda _folders: None,
    expect: Callable[[int], None] = lambda _folders: None,
) -> ResultFilesReport:
    """Bring `result_folders`, `result_files` and `unclaimed_folders` of a collection up to date.

    Collections share buckets: call :func:`refresh_unclaimed_folders` once all of them are loaded.
    An interruption loses the current batch; the next run continues from there.

    Parameters
    ----------
    now
        The clock.
    look_back
        An empty or incomplete folder is checked again until its record arrived longer ago.
    progress
        Called with the number of folders listed since the last call.
    expect
        Called once, with the number of folders that will be listed.

    Raises
    ------
    SourceError
        The store does not answer.
    """
    records = scan_analyses(lake, collection).filter(pl.col("location") != "").collect()
    writer = _Writer(lake, collection, now)
    writer.report.removed = remove_gone(
        lake, collection, records, tables.RESULT_FOLDERS, [tables.RESULT_FILES]
    )
    due = _due(lake, collection, records, now() - look_back)
    expect(due["location"].n_unique())
    listed_at = lake.state(collection).results_listed_at
    list_all = listed_at is None or now() - listed_at >= _FULL_LISTING_EVERY
    # The folder of a record is never a bucket itself.
    homes = records.with_columns(home=_HOME).filter(pl.col("home").str.starts_with("s3://"))
    for (home,), there in homes.sort("home").group_by("home", maintain_order=True):
        due_there = due.join(there, on=KEY, how="semi")
        files = _list_home(store, str(home), there.height, due_there.height, list_all=list_all)
        if files is not None:
            writer.write(there, files, [])
            writer.write_unclaimed(str(home), files)
            progress(due_there["location"].n_unique())
            due = due.join(due_there, on=KEY, how="anti")
    number = pl.col("location").rle_id() // _BATCH_FOLDERS
    in_order = due.sort("session_month", "location")
    for _, batch in in_order.group_by(number, maintain_order=True):
        found, problems = [], []
        for listing in store.list_folders(batch["location"].unique().to_list()):
            found.append(files_frame(listing.location, listing.files))
            if listing.problem is not None:
                problems.append((listing.location, listing.problem.reason, listing.problem.message))
            progress(1)
        writer.write(batch, pl.concat(found), problems)
    if list_all and records.height:
        lake.update_state(collection, {"results_listed_at": now()})
    return writer.report


def refresh_unclaimed_folders(lake: Lake) -> int:
    """Remove the folders from `unclaimed_folders` that a record of any collection claims.

    Collections share buckets and are loaded one after the other, so this is known only once all of
    them are loaded.

    Returns
    -------
    int
        Number of rows left.
    """
    table = tables.UNCLAIMED_FOLDERS
    claimed = _claimed(lake)
    left = 0
    for collection in lake.collections():
        for shard in lake.shards(collection):
            with shard.tables_lock(collection):
                known = shard.tables.read_partition(table, collection)
                unclaimed = known.join(claimed, on="location", how="anti")
                if unclaimed.height < known.height:
                    shard.tables.replace_rows(table, collection, None, without=None, rows=unclaimed)
            left += unclaimed.height
    return left


def _claimed(lake: Lake) -> pl.DataFrame:
    """Return the locations of all records' folders, and the addresses directly above them."""
    location = pl.col("result_location").str.strip_chars_end("/")
    folders = lake.tables.scan(tables.ANALYSES).select(location=location).drop_nulls().unique()
    return pl.concat([folders, folders.select(location=_HOME).unique()]).collect()


def _due(lake: Lake, collection: str, records: pl.DataFrame, recent: datetime) -> pl.DataFrame:
    """Return the records whose folder must be checked."""
    folders = lake.tables.scan(tables.RESULT_FOLDERS, collection).select(
        *KEY, "status", "checked_at", known_location="location"
    )
    name = pl.col("file_name")
    files = (
        lake.tables.scan(tables.RESULT_FILES, collection)
        .group_by(KEY)
        .agg(is_complete=name.is_in(RESULT_JSONS).any() & (name == FIGURE).any())
    )
    is_new = pl.col("known_location").is_null() | (pl.col("known_location") != pl.col("location"))
    is_changed = pl.col("changed_at") > pl.col("checked_at")
    was_unreachable = pl.col("status") == "unreachable"
    lacks_files = (pl.col("status") != "listed") | (
        pl.col("n_trials").is_not_null() & ~pl.col("is_complete").fill_null(value=False)
    )
    is_awaited = (pl.col("outcome") == "success") & (pl.col("changed_at") >= recent) & lacks_files
    due = (
        records.lazy()
        .join(folders, on=KEY, how="left")
        .join(files, on=KEY, how="left")
        .filter(is_new | is_changed | was_unreachable | is_awaited)
    )
    # All processes of a record, because its rows are replaced together.
    return records.lazy().join(due, on="record_id", how="semi").collect()


def _list_home(
    store: ResultStore, home: str, n_records: int, n_due: int, *, list_all: bool
) -> pl.DataFrame | None:
    """Return the files of all folders of a home, if that is cheaper or due; else None."""
    pages = max(_FEWEST_PAGES, n_records // _FOLDERS_PER_PAGE)
    if n_due > pages:
        return store.list_everything(home, most_pages=n_due)
    if list_all:
        return store.list_everything(home, most_pages=_MARGIN * pages)
    return None


class _Writer:
    """Writes the rows of checked folders, and counts them."""

    def __init__(self, lake: Lake, collection: str, now: Callable[[], datetime]) -> None:
        self._lake = lake
        self._collection = collection
        self._now = now
        self.report = ResultFilesReport(collection)

    def write(
        self, records: pl.DataFrame, files: pl.DataFrame, problems: list[tuple[str, str, str]]
    ) -> None:
        """Write the rows of checked folders; problems are location, reason and message of each."""
        checked_at = pl.lit(self._now()).alias("checked_at")
        frames = {
            tables.RESULT_FILES: _file_rows(records, files).with_columns(checked_at),
            tables.RESULT_FOLDERS: _folder_rows(records, files, problems).with_columns(checked_at),
        }

        with self._lake.tables_lock(self._collection):
            for month in sorted(set(records["session_month"])):
                replaced = records.filter(session_month=month)
                for table, rows in frames.items():
                    known = self._lake.tables.read_partition(table, self._collection, month)
                    new = _keep_unchanged_times(table, rows.filter(session_month=month), known)
                    self.report.partitions_written += self._lake.tables.replace_rows(
                        table, self._collection, month, without=replaced, rows=new
                    )
        self.report.files += files.height
        self.report.size_bytes += int(files["size_bytes"].sum())
        statuses = Counter(frames[tables.RESULT_FOLDERS].unique("location")["status"])
        self.report.listed += statuses.total()
        self.report.present += statuses["listed"]
        self.report.missing += statuses["missing"]
        self.report.refused += statuses["refused"]
        self.report.unreachable += statuses["unreachable"]

    def write_unclaimed(self, home: str, files: pl.DataFrame) -> None:
        """Replace the folders of a home that belong to no record."""
        table = tables.UNCLAIMED_FOLDERS
        found = (
            files.join(_claimed(self._lake.whole), on="location", how="anti")
            .filter(is_in_range(self._lake.shard.ids, shard_key(table)))
            .group_by("location")
            .agg(
                n_files=pl.len(),
                size_bytes=pl.col("size_bytes").sum(),
                last_modified=pl.col("last_modified").max(),
            )
            .with_columns(
                source_collection=pl.lit(self._collection),
                checked_at=pl.lit(self._now()),
                changed_at=pl.lit(_NEVER),
            )
        )
        with self._lake.tables_lock(self._collection):
            known = self._lake.tables.read_partition(table, self._collection)
            here = _keep_unchanged_times(table, found, known).select(known.columns)
            rows = pl.concat([known.filter(_HOME.ne(home)), here])
            self.report.partitions_written += self._lake.tables.replace_rows(
                table, self._collection, None, without=None, rows=rows
            )


def _folder_rows(
    records: pl.DataFrame, files: pl.DataFrame, problems: list[tuple[str, str, str]]
) -> pl.DataFrame:
    """Return the rows of `result_folders`, but for ``checked_at``."""
    schema = {"location": pl.String, "status": pl.String, "message": pl.String}
    failed = pl.DataFrame(problems, schema=schema, orient="row")
    sizes = files.group_by("location").agg(n_files=pl.len(), size_bytes=pl.col("size_bytes").sum())
    listed = pl.when(pl.col("n_files").is_not_null()).then(pl.lit("listed"))
    status = pl.coalesce(pl.col("status").replace({"gone": "missing"}), listed, pl.lit("missing"))
    return (
        records.join(sizes, on="location", how="left")
        .join(failed, on="location", how="left")
        .with_columns(pl.col("n_files", "size_bytes").fill_null(0), status=status)
    )


def _file_rows(records: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `result_files`, but for ``checked_at``."""
    names = {name: quote(name) for name in files["file_name"].unique()}
    url = pl.concat_str(
        s3_to_https(pl.col("location")), pl.col("file_name").replace(names), separator="/"
    )
    return records.join(files, on="location", how="inner").with_columns(url=url)


def _keep_unchanged_times(table: Table, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return rows with the table's types; those that are known already keep their ``checked_at``.

    So a partition of unchanged folders is not written again. A record that changed since gets the
    time of this check, or every run would check it.
    """
    schema = polars_schema(table)
    same = [name for name in schema if name != "checked_at"]
    is_same = pl.col("known_at") >= pl.col("changed_at")
    return (
        rows.select(*schema, "changed_at")
        .cast(schema)
        .join(known.select(*same, known_at="checked_at"), on=same, how="left", nulls_equal=True)
        .with_columns(checked_at=pl.when(is_same).then("known_at").otherwise("checked_at"))
    )
