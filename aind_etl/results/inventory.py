"""The inventory: which files the result folder of each analysis holds.

A folder is due when `result_folders` does not know its record, or knew another address or an
earlier content of the record; when it could not be listed; and, as long as its record is recent,
when it was empty or lacks a file, because the prototype writes documents before their files.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten.derived import s3_to_https, session_month
from aind_etl.lake import Lake
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.lake.tables import is_in_range, shard_key
from aind_etl.results.folders import files_frame
from aind_etl.results.store import ResultStore

RESULT_JSONS = (
    "original_results_mle_fitting.json",
    "docDB_mle_fitting.json",
    "docDB_record.json",
)
"""Names of the result file, in the order in which they are looked for."""

FIGURE = "fitted_session.png"
"""Name of the figure of a fitted session."""

KEY = list(tables.RECORD_KEY)

# So many folders are listed before what was found is written.
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_BATCH_FOLDERS = 4096
# A page holds a thousand files, and either pipeline writes four into a folder.
_FOLDERS_A_PAGE = 250
# A listing of everything goes on in ranges, each of at least one page.
_LEAST_PAGES = 16
# How far the guess of the pages there are may be wrong before a listing is given up.
_MARGIN = 4


@dataclass(frozen=True, slots=True)
class ResultLimits:
    """What is taken for recent.

    Attributes
    ----------
    look_back
        An empty or incomplete folder is checked again until its record arrived longer ago.
    list_everything_after
        All folders of a collection are listed again after this time: that finds files that
        changed, and folders without a record.
    """

    look_back: timedelta = timedelta(days=7)
    list_everything_after: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class ResultFilesReport:
    """What bringing the inventory of one collection up to date did.

    Attributes
    ----------
    listed
        Number of result folders checked.
    present, missing, refused, unreachable
        Of these, how many hold files, are not there, may not be listed, could not be.
    removed
        Number of records whose rows went, as they are gone or have no folder any more.
    files
        Number of files in the checked folders.
    size_bytes
        Size of these files.
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


def refresh_result_files(  # noqa: PLR0913 - each says something different of the work
    lake: Lake,
    store: ResultStore,
    collection: str,
    *,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    limits: ResultLimits = ResultLimits(),
    progress: Callable[[int], None] = lambda _folders: None,
    expect: Callable[[int], None] = lambda _folders: None,
) -> ResultFilesReport:
    """Bring `result_folders`, `result_files` and `unclaimed_folders` of a collection up to date.

    Of the last, as far as the collections are known that share a bucket: once all are loaded,
    :func:`refresh_unclaimed_folders` decides.

    An interruption loses the current batch; the next run continues from there.

    Parameters
    ----------
    lake, store, collection
        Which inventory, of which folders.
    now
        The clock.
    limits
        What is taken for recent.
    progress
        Called with the number of folders listed since the last call.
    expect
        Called once, with the number of folders that will be listed.

    Returns
    -------
    ResultFilesReport
        What was done.

    Raises
    ------
    SourceError
        The store does not answer.
    """
    records = records_with_folders(lake, collection)
    done = _Done(lake, collection, now)
    done.removed = remove_gone(
        lake, collection, records, [tables.RESULT_FILES], tables.RESULT_FOLDERS
    )
    due = _due(lake, collection, records, now() - limits.look_back)
    expect(due["location"].n_unique())
    listed_at = lake.state(collection).results_listed_at
    is_time = listed_at is None or now() - listed_at >= limits.list_everything_after
    for home, there in _by_home(records):
        due_there = due.join(there, on=KEY, how="semi")
        files = _list_home(store, home, there.height, due_there.height, is_time=is_time)
        if files is not None:
            done.write(there, files)
            done.write_unclaimed(home, files)
            progress(due_there["location"].n_unique())
            due = due.join(due_there, on=KEY, how="anti")
    for batch in due.sort("session_month", "location").iter_slices(_BATCH_FOLDERS):
        found, problems = [], []
        for listing in store.list_folders(batch["location"].unique().to_list()):
            found.append(files_frame(listing.location, listing.files))
            if listing.problem is not None:
                problems.append((listing.location, listing.problem.reason, listing.problem.message))
            progress(1)
        done.write(batch, pl.concat(found), problems)
    if is_time and records.height:
        lake.update_state(collection, {"results_listed_at": now()})
    return done.report()


def refresh_unclaimed_folders(lake: Lake) -> int:
    """Take what a record of any collection claims out of `unclaimed_folders`.

    Collections share buckets, and are loaded one after the other: which folders no record claims
    is known only once all of them are.

    Returns
    -------
    int
        Number of rows that stay.
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
    """Return the locations that are no orphans: the folder of any record, and what holds one."""
    location = pl.col("result_location").str.strip_chars_end("/")
    folders = lake.tables.scan(tables.ANALYSES).select(location=location).drop_nulls().unique()
    homes = folders.select(pl.col("location").str.replace(r"/[^/]*$", "")).unique()
    return pl.concat([folders, homes]).collect()


def records_with_folders(lake: Lake, collection: str) -> pl.DataFrame:
    """Return the analyses of a collection that have a result folder.

    Returns
    -------
    polars.DataFrame
        The key, ``location``, ``session_month``, ``outcome``, ``n_trials``, ``content_hash`` and
        ``changed_at``.
    """
    return (
        lake.tables.scan(tables.ANALYSES, collection)
        .filter(pl.col("result_location").str.strip_chars_end("/").str.len_chars() > 0)
        .select(
            *KEY,
            "outcome",
            "n_trials",
            "content_hash",
            "changed_at",
            location=pl.col("result_location").str.strip_chars_end("/"),
            session_month=session_month(pl.col("session_date"), UNKNOWN_MONTH),
        )
        .collect()
    )


def remove_gone(
    lake: Lake, collection: str, records: pl.DataFrame, others: list[Table], index: Table
) -> int:
    """Remove the rows of deleted records from a partition.

    Parameters
    ----------
    lake, collection
        Whose rows.
    records
        The records there are, with ``session_month``.
    others, index
        The tables; the last one tells which records stand in a partition, and is written last.

    Returns
    -------
    int
        Number of records removed.
    """
    removed = 0
    for month in lake.tables.months(index, collection):
        standing = lake.tables.read_partition(index, collection, month).select("record_id").unique()
        expected = records.filter(pl.col("session_month") == month)
        gone = standing.join(expected, on="record_id", how="anti")
        if gone.height:
            removed += gone.height
            with lake.tables_lock(collection):
                for table in (*others, index):
                    nothing = pl.DataFrame(schema=polars_schema(table))
                    lake.tables.replace_rows(table, collection, month, without=gone, rows=nothing)
    return removed


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
    was_out_of_reach = pl.col("status") == "unreachable"
    lacks_files = (pl.col("status") != "listed") | (
        pl.col("n_trials").is_not_null() & ~pl.col("is_complete").fill_null(value=False)
    )
    is_awaited = (pl.col("outcome") == "success") & (pl.col("changed_at") >= recent) & lacks_files
    return (
        records.lazy()
        .join(folders, on=KEY, how="left")
        .join(files, on=KEY, how="left")
        .filter(is_new | is_changed | was_out_of_reach | is_awaited)
        .select(records.columns)
        .collect()
    )


def _by_home(records: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield each address above result folders, with the records whose folders lie there."""
    home = pl.col("location").str.replace(r"/[^/]*$", "")
    grouped = records.with_columns(home=home).partition_by("home", as_dict=True, include_key=False)
    for (address,), there in sorted(grouped.items()):
        # What is right below no bucket is no folder of one.
        if str(address).startswith("s3://") and str(address) != "s3:/":
            yield str(address), there


def _list_home(
    store: ResultStore, home: str, n_records: int, n_due: int, *, is_time: bool
) -> pl.DataFrame | None:
    """Return the files of every folder of a home, where listing it whole is cheaper or is due."""
    pages = max(_LEAST_PAGES, n_records // _FOLDERS_A_PAGE)
    if n_due > pages:
        return store.list_everything(home, most_pages=n_due)
    if is_time:
        return store.list_everything(home, most_pages=_MARGIN * pages)
    return None


def _with_time_of_change(table: Table, rows: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """Return rows so that those which are known as they are keep their time.

    An unchanged folder leaves its file in the lake in place. A record that changed
    since gets the time of this check, or every run would check it.
    """
    schema = polars_schema(table)
    same = [name for name in schema if name != "checked_at"]
    typed = rows.select(
        *(pl.col(name).cast(data_type) for name, data_type in schema.items()), "changed_at"
    )
    known_at = pl.col("known_at")
    return typed.join(
        known.select(*same, known_at="checked_at"), on=same, how="left", nulls_equal=True
    ).with_columns(
        checked_at=pl.when(known_at >= pl.col("changed_at"))
        .then(known_at)
        .otherwise(pl.col("checked_at"))
    )


@dataclass
class _Done:
    """Writes what was found, and counts it."""

    lake: Lake
    collection: str
    now: Callable[[], datetime]
    removed: int = 0
    partitions_written: int = 0
    files: int = 0
    size_bytes: int = 0
    by_status: dict[str, int] = field(default_factory=dict)

    def write(
        self,
        records: pl.DataFrame,
        files: pl.DataFrame,
        problems: list[tuple[str, str, str]] | None = None,
    ) -> None:
        """Write the rows of records whose folders were checked.

        Parameters
        ----------
        records
            The records.
        files
            The files found, with the ``location`` of their folders.
        problems
            Location, reason and message where a folder could not be listed.
        """
        moment = pl.lit(self.now()).alias("checked_at")
        schema = {"location": pl.String, "status": pl.String, "message": pl.String}
        failed = pl.DataFrame(problems or [], schema=schema, orient="row")
        sizes = files.group_by("location").agg(
            n_files=pl.len().cast(pl.Int32), size_bytes=pl.col("size_bytes").sum()
        )
        status = (
            pl.when(pl.col("status").is_not_null())
            .then(pl.col("status").replace({"gone": "missing"}))
            .when(pl.col("n_files").is_not_null())
            .then(pl.lit("listed"))
            .otherwise(pl.lit("missing"))
        )
        folder_rows = (
            records.join(sizes, on="location", how="left")
            .join(failed, on="location", how="left")
            .with_columns(moment, status=status)
            .with_columns(pl.col("n_files", "size_bytes").fill_null(0))
        )
        names = {name: quote(name) for name in files["file_name"].unique()}
        address = pl.concat_str(
            s3_to_https(pl.col("location")), pl.col("file_name").replace(names), separator="/"
        )
        file_rows = records.join(files, on="location", how="inner").with_columns(
            moment, url=address
        )
        with self.lake.tables_lock(self.collection):
            for month in sorted(set(records["session_month"])):
                is_here = pl.col("session_month") == month
                for table, rows in (
                    (tables.RESULT_FILES, file_rows),
                    (tables.RESULT_FOLDERS, folder_rows),
                ):
                    known = self.lake.tables.read_partition(table, self.collection, month)
                    self.partitions_written += self.lake.tables.replace_rows(
                        table,
                        self.collection,
                        month,
                        without=records.filter(is_here).select("record_id").unique(),
                        rows=_with_time_of_change(table, rows.filter(is_here), known),
                    )
        self.files += files.height
        self.size_bytes += int(files["size_bytes"].sum())
        looked_at = folder_rows.unique("location")["status"].value_counts()
        for name, count in looked_at.iter_rows():
            self.by_status[name] = self.by_status.get(name, 0) + count

    def write_unclaimed(self, home: str, files: pl.DataFrame) -> None:
        """Write the folders of a home that belong to no record, in place of those known."""
        table = tables.UNCLAIMED_FOLDERS
        found = (
            files.join(_claimed(self.lake.whole), on="location", how="anti")
            .filter(is_in_range(self.lake.shard.ids, shard_key(table)))
            .group_by("location")
            .agg(
                n_files=pl.len().cast(pl.Int32),
                size_bytes=pl.col("size_bytes").sum(),
                last_modified=pl.col("last_modified").max(),
            )
            .with_columns(source_collection=pl.lit(self.collection), checked_at=pl.lit(self.now()))
        )
        is_of_home = pl.col("location").str.replace(r"/[^/]*$", "") == home
        found = found.with_columns(changed_at=pl.lit(_LONG_AGO))
        with self.lake.tables_lock(self.collection):
            known = self.lake.tables.read_partition(table, self.collection)
            found = _with_time_of_change(table, found, known).select(known.columns)
            self.partitions_written += self.lake.tables.replace_rows(
                table,
                self.collection,
                None,
                without=None,
                rows=pl.concat([known.filter(~is_of_home), found]),
            )

    def report(self) -> ResultFilesReport:
        """Return what was done."""
        return ResultFilesReport(
            self.collection,
            listed=sum(self.by_status.values()),
            present=self.by_status.get("listed", 0),
            missing=self.by_status.get("missing", 0),
            refused=self.by_status.get("refused", 0),
            unreachable=self.by_status.get("unreachable", 0),
            removed=self.removed,
            files=self.files,
            size_bytes=self.size_bytes,
            partitions_written=self.partitions_written,
        )
