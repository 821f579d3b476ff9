"""Verification: whether source, lake and warehouse agree, by counts and by contents.

Nothing is changed. The usual verification lists the source's ids and checks everything in the lake.
The deep one also reads every document of the source and compares its hash, and derives the tables
again in a temporary folder to compare them value by value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
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
from aind_etl.lake.paths import UNKNOWN_MONTH
from aind_etl.settings import WarehouseLocation
from aind_etl.sources import Source, read_documents
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect, register_filesystem
from aind_etl.warehouse.sql_files import Kind, read_sql_files

if TYPE_CHECKING:
    from aind_etl.lake.storage.local import Location

_EXAMPLES = 5
_KEY = ("record_id", "process_index")
_GATHERED = 10_000
_Given = TypeVar("_Given")


@dataclass(frozen=True, slots=True)
class Difference:
    """One way in which two places that should agree do not.

    Attributes
    ----------
    between
        The two places, or the check that failed.
    subject
        The collection or table concerned.
    message
        What differs, with examples.
    is_warning
        Whether only what writers wrote is odd: all places agree on it.
    """

    between: str
    subject: str
    message: str
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was compared, for the report.

    Attributes
    ----------
    source, lake, flattened, rejected
        Numbers of documents of the collection in each place.
    """

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
    source, lake, collection
        What is compared.
    deep
        Read every document from the source again, and compare its content hash; otherwise the
        source's ids are listed and compared.
    progress
        Called with the number of documents or ids handed over since the last call.

    Raises
    ------
    SourceError
        The source could not be read to its end.
    DataError
        A file of the lake is damaged.
    """
    if deep:
        there = _read_hashes(source, collection, progress)
    else:
        there = record_ids(_counted(source.list_ids(collection), progress)).unique()
    identity = ("record_id", "content_hash")
    with reading(f"the change log of the collection {collection!r}"):
        live = lake.change_log(collection).live_documents().select(identity)
    with reading(f"the tables of the collection {collection!r}"):
        flattened = (
            lake.tables.scan(tables.ANALYSES, collection).select(identity).unique().collect()
        )
        rejected = (
            lake.tables.scan(tables.REJECTED_DOCUMENTS, collection).select(identity).collect()
        )
    differences = [
        *_differences("source and lake", collection, there, live),
        *_differences("change log and tables", collection, live, pl.concat([flattened, rejected])),
    ]
    differences += _log_differences(lake, collection)
    with reading(f"the tables of the collection {collection!r}"):
        differences += _misfiled(lake, collection)
    both = flattened.join(rejected, on="record_id", how="semi")
    if not both.is_empty():
        differences.append(
            Difference(
                "flattened and rejected",
                collection,
                f"{both.height:,} documents are both{_examples(both)}",
            )
        )
    return (
        Comparison(collection, there.height, live.height, flattened.height, rejected.height),
        differences,
    )


def _log_differences(lake: Lake, collection: str) -> Iterator[Difference]:
    """Yield what is odd about the files of a change log."""
    with reading(f"the change log of the collection {collection!r}"):
        missing = lake.change_log(collection).missing_batches()
    if missing:
        numbers = ", ".join(map(str, missing[:_EXAMPLES]))
        yield Difference(
            "change log",
            collection,
            f"{len(missing):,} batches are missing: {numbers}{', …' * (len(missing) > _EXAMPLES)}. "
            "Put their files back from a backup if there is one: a full pass restores only what "
            "the source still holds.",
            is_warning=True,
        )
    for name in lake.tables.foreign_files(collection):
        yield Difference(
            "lake",
            collection,
            f"The file {name!r} is not one of the lake's, and is ignored. Remove it, or rename it "
            "if it was one.",
            is_warning=True,
        )


def _misfiled(lake: Lake, collection: str) -> Iterator[Difference]:
    """Yield the tables with rows in another partition than their analysis' session month."""
    month = pl.col("session_date").dt.to_string("%Y-%m").fill_null(UNKNOWN_MONTH)
    right = lake.tables.scan(tables.ANALYSES, collection).select(*_KEY, month=month)
    for table in TABLES:
        if table.partitioning is not Partitioning.COLLECTION_AND_MONTH:
            continue
        shards = [
            lake.tables.scan_month(table, collection, name)
            .select(*_KEY, "source_collection")
            .with_columns(filed=pl.lit(name))
            for name in lake.tables.months(table, collection)
        ]
        if not shards:
            continue
        rows = pl.concat(shards).unique().join(right, on=_KEY)
        wrong = rows.filter(
            (pl.col("filed") != pl.col("month")) | (pl.col("source_collection") != collection)
        ).collect()
        if not wrong.is_empty():
            yield Difference(
                "lake",
                f"{table.name} of {collection}",
                f"{wrong.height:,} analyses have rows in the partition of another month"
                f"{_examples(wrong)}. 'aind-etl rebuild' files them.",
            )


def verify_tables(
    lake: Lake, collection: str, *, progress: Callable[[int], None] = lambda _documents: None
) -> Iterator[Difference]:
    """Derive a collection's tables again from the change log, and compare the lake's with them.

    The folder for temporary files needs space for them; ``TMPDIR`` names another one.

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
            months: Sequence[str | None] = [None]
            if table.partitioning is Partitioning.COLLECTION_AND_MONTH:
                there = {
                    *lake.tables.months(table, collection),
                    *derived.tables.months(table, collection),
                }
                months = sorted(there)
            for month in months:
                difference = _compare_partition(lake, derived, table, collection, month)
                if difference:
                    yield difference


def _compare_partition(
    lake: Lake, derived: Lake, table: Table, collection: str, month: str | None
) -> Difference | None:
    """Compare a partition with what the change log makes of it."""
    there = lake.tables.read_partition(table, collection, month)
    expected = derived.tables.read_partition(table, collection, month)
    if there.equals(expected):
        return None
    wrong = there.join(expected, on=there.columns, how="anti", nulls_equal=True)
    missing = expected.join(there, on=there.columns, how="anti", nulls_equal=True)
    records = pl.concat([wrong, missing]).select("record_id").unique()
    where = f"{table.name} of {lake.name_of(collection)}" + (f", {month}" if month else "")
    return Difference(
        "lake and change log",
        where,
        f"{wrong.height:,} rows are not what the change log makes, and {missing.height:,} are "
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
                    compared = list(
                        _compare_table(
                            connection, lake.tables.as_written(table), lake.tables.files(table)
                        )
                    )
                yield from compared
        for check, offending in run_checks(connection, read_sql_files(Kind.CHECK)):
            if offending:
                yield Difference(
                    f"check {check.name}",
                    "warehouse",
                    f"{offending:,} rows offend (the query is {check.origin}). What "
                    f"must hold: {check.summary}",
                    is_warning=check.is_warning,
                )


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn what damaged files make of reading them into an error for people.

    Raises
    ------
    DataError
        A file cannot be read.
    """
    try:
        yield
    except (pl.exceptions.PolarsError, duckdb.Error) as error:
        raise DataError(
            f"A file of {what} is damaged: {str(error).splitlines()[0]}. The next 'aind-etl run' "
            "makes tables and warehouse again from the change log, or 'aind-etl rebuild' at once."
        ) from None


def _read_hashes(source: Source, collection: str, progress: Callable[[int], None]) -> pl.DataFrame:
    schema = {"record_id": pl.String, "content_hash": pl.String}
    portions = [pl.DataFrame(schema=schema)]
    read = (
        (document.record_id, document.content_hash)
        for document in _counted(read_documents(source, collection), progress)
    )
    while some := list(islice(read, _GATHERED)):
        portions.append(pl.DataFrame(some, schema=schema, orient="row"))
    # Of documents with one id the first counts, as in the extraction.
    return pl.concat(portions).unique("record_id", keep="first", maintain_order=True)


def _counted(given: Iterable[_Given], progress: Callable[[int], None]) -> Iterator[_Given]:
    for one in given:
        yield one
        progress(1)


def _differences(
    between: str, collection: str, left: pl.DataFrame, right: pl.DataFrame
) -> Iterator[Difference]:
    """Say what only one of two places has, and, where both know hashes, which differ."""
    here, there = between.split(" and ")
    differing = left.clear()
    if "content_hash" in left.columns:
        is_other = pl.col("content_hash") != pl.col("content_hash_right")
        differing = left.join(right, on="record_id").filter(is_other)
    for found, words in (
        (left.join(right, on="record_id", how="anti"), f"in the {here} but not in the {there}"),
        (right.join(left, on="record_id", how="anti"), f"in the {there} but not in the {here}"),
        (differing, "with different contents"),
    ):
        if not found.is_empty():
            yield Difference(
                between, collection, f"{found.height:,} documents {words}{_examples(found)}"
            )


def _examples(found: pl.DataFrame) -> str:
    shown = found["record_id"].sort().head(_EXAMPLES).to_list()
    more = ", …" if found.height > len(shown) else ""
    return f": {', '.join(shown)}{more}"


def _compare_table(
    connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence["Location"]
) -> Iterator[Difference]:
    """Compare a table by collection: rows, and the sum of the rows' hashes."""
    in_warehouse = _summary(connection, table, quote_identifier(table.name))
    in_lake = {}
    if files:
        listed = ", ".join(quote_text(str(path)) for path in files)
        in_lake = _summary(
            connection,
            table,
            f"read_parquet([{listed}], hive_partitioning = false, union_by_name = true)",
        )
    for group in sorted(in_lake.keys() | in_warehouse.keys()):
        lake_rows, lake_sum = in_lake.get(group, (0, None))
        warehouse_rows, warehouse_sum = in_warehouse.get(group, (0, None))
        place = f"{table.name} of {group}" if group else table.name
        if lake_rows != warehouse_rows:
            message = f"{lake_rows:,} rows in the lake, {warehouse_rows:,} in the warehouse"
        elif lake_sum != warehouse_sum:
            message = f"{lake_rows:,} rows in both, with different contents"
        else:
            continue
        yield Difference(
            "lake and warehouse", place, f"{message}. 'aind-etl run' publishes the lake's."
        )


def _summary(
    connection: duckdb.DuckDBPyConnection, table: Table, rows: str
) -> dict[str, tuple[int, int]]:
    columns = ", ".join(quote_identifier(name) for name in table.column_names)
    group = "source_collection" if "source_collection" in table.column_names else "''"
    found = connection.execute(
        f"SELECT {group}, count(*), sum(hash({columns})::HUGEINT) FROM {rows} GROUP BY 1"
    ).fetchall()
    return {name: (count, total) for name, count, total in found}
