"""Verification: whether source, lake and warehouse agree, by counts and by contents.

It changes nothing. By default it lists the source's ids and checks everything in the lake. A deep
verification also reads every document of the source and compares its hash, and derives the tables
again in a temporary folder to compare them value by value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import duckdb
import polars as pl

from aind_etl.contract import FLATTENED_TABLES, TABLES, Partitioning, Table, tables
from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import DataError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.change_log import record_ids
from aind_etl.lake.parquet import scan_files
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.settings import WarehouseLocation
from aind_etl.sources.protocol import Source, read_documents
from aind_etl.text import first_line
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect, register_filesystem
from aind_etl.warehouse.sql_files import Kind, read_sql_files

if TYPE_CHECKING:
    from aind_etl.lake.storage.protocol import Location

_EXAMPLES = 5
_KEY = ("record_id", "process_index")
_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two places, or a failed check.

    Attributes
    ----------
    between
        The two places, or the check.
    subject
        The collection or table.
    is_warning
        Whether all places agree, and only the contents of documents are odd.
    """

    between: str
    subject: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Numbers of a collection's documents in the source, and in the lake in each state."""

    collection: str
    source: int
    lake: int
    flattened: int
    rejected: int


def verify_collection(
    source: Source,
    lake: Lake,
    collection: str,
    *,
    deep: bool = False,
    progress: Callable[[int], None] = lambda _documents: None,
) -> tuple[Comparison, list[Difference]]:
    """Compare a collection's source with the lake, and the lake's tables with each other.

    Parameters
    ----------
    deep
        Whether to read every document from the source and compare its content hash; otherwise the
        source's ids are listed and compared.
    progress
        Called with the number of documents or ids read since the last call.

    Raises
    ------
    SourceError
        The source could not be read to its end.
    DataError
        A file of the lake is damaged.
    """
    if deep:
        in_source = _read_hashes(source, collection, progress)
    else:
        in_source = record_ids(_counted(source.list_ids(collection), progress)).unique()
    identity = ("record_id", "content_hash")
    with reading(f"the change log of the collection {collection!r}"):
        live = lake.change_log(collection).live_documents().select(identity)
    with reading(f"the tables of the collection {collection!r}"):
        flattened, rejected = (
            lake.tables.scan(table, collection).select(identity).unique().collect()
            for table in (tables.ANALYSES, tables.REJECTED_DOCUMENTS)
        )
        misfiled = list(_misfiled(lake, collection))
    both = flattened.join(rejected, on="record_id", how="semi")
    differences = [
        *_differences("source and lake", collection, in_source, live),
        *_differences("change log and tables", collection, live, pl.concat([flattened, rejected])),
        *_file_warnings(lake, collection),
        *misfiled,
        *_documents("flattened and rejected", collection, both, "are both"),
    ]
    counts = (frame.height for frame in (in_source, live, flattened, rejected))
    return Comparison(collection, *counts), differences


def _file_warnings(lake: Lake, collection: str) -> Iterator[Difference]:
    """Yield warnings about missing batches of a change log, and about unknown files."""
    with reading(f"the change log of the collection {collection!r}"):
        missing = lake.change_log(collection).missing_batches()
    if missing:
        yield Difference(
            "change log",
            collection,
            f"{len(missing):,} batches are missing{_examples(missing)}. Restore their files from a "
            "backup if there is one: a full pass restores only what the source still holds.",
            is_warning=True,
        )
    for name in lake.tables.foreign_files(collection):
        yield Difference(
            "lake",
            collection,
            f"The file {name!r} does not belong to the lake, and is ignored. Remove it; if it is "
            "a file of the lake, restore its name.",
            is_warning=True,
        )


def _misfiled(lake: Lake, collection: str) -> Iterator[Difference]:
    """Yield the tables with rows outside the partition of their analysis' session month."""
    month = pl.col("session_date").dt.to_string("%Y-%m").fill_null(UNKNOWN_MONTH)
    analyses = lake.tables.scan(tables.ANALYSES, collection).select(*_KEY, month=month)
    partition = pl.col("file").str.extract(r".*/session_month=([^/]+)/")
    is_misfiled = (pl.col("partition") != pl.col("month")) | (
        pl.col("source_collection") != collection
    )
    for table in TABLES:
        files = lake.tables.files(table, collection)
        if table.partitioning is not Partitioning.COLLECTION_AND_MONTH or not files:
            continue
        rows = scan_files(files, table, path_column="file")
        rows = rows.select(*_KEY, "source_collection", partition=partition).unique()
        wrong = rows.join(analyses, on=_KEY).filter(is_misfiled).collect()
        if not wrong.is_empty():
            yield Difference(
                "lake",
                f"{table.name} of {collection}",
                f"{wrong.height:,} analyses have rows in the partition of another month"
                f"{_examples(wrong['record_id'].sort())}. 'aind-etl rebuild' moves them.",
            )


def verify_tables(
    lake: Lake, collection: str, *, progress: Callable[[int], None] = lambda _documents: None
) -> Iterator[Difference]:
    """Compare a collection's tables with those derived again from the change log.

    These need space in the folder for temporary files; ``TMPDIR`` names another one.

    Raises
    ------
    DataError
        A file of the lake is damaged.
    """
    for shard in lake.shards(collection):
        yield from _verify_shard(shard, collection, progress)


def _verify_shard(
    lake: Lake, collection: str, progress: Callable[[int], None]
) -> Iterator[Difference]:
    with TemporaryDirectory(prefix="aind-etl-") as scratch, reading(f"{collection!r}"):
        derived = Lake(Path(scratch))
        for file in lake.change_log(collection).files():
            copy = Path(scratch) / derived.change_log(collection).file_name(file.first, file.last)
            copy.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file.path, Path):
                copy.symlink_to(file.path)
            else:
                copy.write_bytes(file.path.read_bytes())
        refresh_analyses(derived, collection, rebuild=True, progress=progress)
        for table in FLATTENED_TABLES:
            months: set[str | None] = {None}
            if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
                months = {
                    month
                    for one in (lake, derived)
                    for month in one.tables.months(table, collection)
                }
            for month in sorted(months, key=str):
                yield from _compare_partition(lake, derived, table, collection, month)


def _compare_partition(
    lake: Lake, derived: Lake, table: Table, collection: str, month: str | None
) -> Iterator[Difference]:
    """Compare a partition with the one derived from the change log."""
    found = lake.tables.read_partition(table, collection, month)
    expected = derived.tables.read_partition(table, collection, month)
    if found.equals(expected):
        return
    wrong = found.join(expected, on=found.columns, how="anti", nulls_equal=True)
    missing = expected.join(found, on=found.columns, how="anti", nulls_equal=True)
    records = pl.concat([wrong, missing])["record_id"].unique().sort()
    yield Difference(
        "lake and change log",
        f"{table.name} of {lake.name_of(collection)}" + (f", {month}" if month else ""),
        f"{wrong.height:,} rows do not follow from the change log, and {missing.height:,} are "
        f"missing{_examples(records)}. 'aind-etl rebuild' derives the tables again.",
    )


def verify_warehouse(lake: Lake, warehouse: WarehouseLocation) -> Iterator[Difference]:
    """Compare every table of the lake with the warehouse's, and run the checks of ``sql/checks``.

    Raises
    ------
    ConfigurationError
        There is no warehouse, or it cannot be opened.
    DataError
        A file of the lake, or the warehouse, is damaged.
    """
    with connect(warehouse) as connection:
        register_filesystem(connection, lake)
        for table in TABLES:
            if table.partitioning is not Partitioning.WAREHOUSE_ONLY:
                with reading(f"the table {table.name!r}"):
                    written, files = lake.tables.as_written(table), lake.tables.files(table)
                    compared = list(_compare_table(connection, written, files))
                yield from compared
        for check, offending in run_checks(connection, read_sql_files(Kind.CHECK)):
            if offending:
                yield Difference(
                    f"check {check.name}",
                    "warehouse",
                    f"{offending:,} rows offend (the query is {check.origin}). What must hold: "
                    f"{check.summary}",
                    is_warning=check.is_warning,
                )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn errors of reading a damaged file into one for people, in a ``with`` block.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, duckdb.Error) as error:
        raise DataError(
            f"A file of {what} is damaged: {first_line(error)}. The next 'aind-etl run' derives "
            "tables and warehouse again from the change log; 'aind-etl rebuild' does so at once."
        ) from None


def _read_hashes(source: Source, collection: str, progress: Callable[[int], None]) -> pl.DataFrame:
    schema = {"record_id": pl.String, "content_hash": pl.String}
    # A generator: polars reads it in chunks, and Python holds half a million hashes at most.
    rows = (
        (document.record_id, document.content_hash)
        for document in _counted(read_documents(source, collection), progress)
    )
    # As in the extraction, the first of several documents with the same id counts.
    hashes = pl.DataFrame(rows, schema=schema, orient="row")
    return hashes.unique("record_id", keep="first", maintain_order=True)


def _counted(items: Iterable[_Item], progress: Callable[[int], None]) -> Iterator[_Item]:
    for item in items:
        yield item
        progress(1)


def _differences(
    between: str, collection: str, left: pl.DataFrame, right: pl.DataFrame
) -> Iterator[Difference]:
    """Yield documents that only one of two places has, and those whose known hashes differ."""
    first, second = between.split(" and ")
    differing = left.clear()
    if "content_hash" in left.columns:
        is_other = pl.col("content_hash") != pl.col("content_hash_right")
        differing = left.join(right, on="record_id").filter(is_other)
    for found, words in (
        (left.join(right, on="record_id", how="anti"), f"in the {first} but not in the {second}"),
        (right.join(left, on="record_id", how="anti"), f"in the {second} but not in the {first}"),
        (differing, "with different contents"),
    ):
        yield from _documents(between, collection, found, words)


def _documents(
    between: str, collection: str, found: pl.DataFrame, words: str
) -> Iterator[Difference]:
    """Yield a difference for the documents found, if there are any."""
    if not found.is_empty():
        examples = _examples(found["record_id"].sort())
        yield Difference(between, collection, f"{found.height:,} documents {words}{examples}")


def _examples(values: Sequence[object] | pl.Series) -> str:
    shown = ", ".join(map(str, values[:_EXAMPLES]))
    return f": {shown}, …" if len(values) > _EXAMPLES else f": {shown}"


def _compare_table(
    connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence["Location"]
) -> Iterator[Difference]:
    """Compare a table by collection: rows, and the sum of the rows' hashes."""
    in_warehouse = _summary(connection, table, quote_identifier(table.name))
    in_lake = {}
    if files:
        paths = ", ".join(quote_text(str(path)) for path in files)
        rows = f"read_parquet([{paths}], hive_partitioning = false, union_by_name = true)"
        in_lake = _summary(connection, table, rows)
    for group in sorted(in_lake.keys() | in_warehouse.keys()):
        lake_rows, lake_sum = in_lake.get(group, (0, None))
        warehouse_rows, warehouse_sum = in_warehouse.get(group, (0, None))
        if lake_rows != warehouse_rows:
            message = f"{lake_rows:,} rows in the lake, {warehouse_rows:,} in the warehouse"
        elif lake_sum != warehouse_sum:
            message = f"{lake_rows:,} rows in both, with different contents"
        else:
            continue
        subject = f"{table.name} of {group}" if group else table.name
        message += ". 'aind-etl run' publishes the lake's."
        yield Difference("lake and warehouse", subject, message)


def _summary(
    connection: duckdb.DuckDBPyConnection, table: Table, rows: str
) -> dict[str, tuple[int, int]]:
    columns = ", ".join(quote_identifier(name) for name in table.column_names)
    group = "source_collection" if "source_collection" in table.column_names else "''"
    found = connection.execute(
        f"SELECT {group}, count(*), sum(hash({columns})::HUGEINT) FROM {rows} GROUP BY 1"
    ).fetchall()
    return {name: (count, total) for name, count, total in found}
