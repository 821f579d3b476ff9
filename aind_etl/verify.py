"""Whether source, lake and warehouse agree: counts, and contents.

Here belong the comparisons and how a difference is put in words. Nothing is changed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

from aind_etl.contract import TABLES, Partitioning, Table, tables
from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.sources import Source
from aind_etl.warehouse import connect, run_checks

_EXAMPLES = 5


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
    progress: Callable[[int], None] = lambda _documents: None,
) -> tuple[Comparison, list[Difference]]:
    """Compare a collection's source with the lake, and the lake's tables with each other.

    Every document is read from the source again, and its content hash compared.

    Raises
    ------
    SourceError
        The source could not be read to its end.
    DataError
        A file of the lake is damaged.
    """
    there = _read_hashes(source, collection, progress)
    identity = ("record_id", "content_hash")
    with reading(f"the change log of the collection {collection!r}"):
        live = lake.live_documents(collection).select(identity)
    with reading(f"the tables of the collection {collection!r}"):
        flattened = lake.scan(tables.ANALYSES, collection).select(identity).unique().collect()
        rejected = lake.scan(tables.REJECTED_DOCUMENTS, collection).select(identity).collect()
    differences = [
        *_differences("source and lake", collection, there, live),
        *_differences("change log and tables", collection, live, pl.concat([flattened, rejected])),
    ]
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


def verify_warehouse(lake: Lake, warehouse: Path) -> Iterator[Difference]:
    """Compare every table of the lake with the warehouse's, and run the checks of ``sql/checks``.

    Raises
    ------
    ConfigurationError
        There is no warehouse, or it cannot be opened.
    DataError
        A file of the lake, or the warehouse, is damaged.
    """
    with connect(warehouse) as connection:
        for table in TABLES:
            if table.partitioning is not Partitioning.WAREHOUSE_ONLY:
                with reading(f"the table {table.name!r}"):
                    compared = list(
                        _compare_table(connection, lake.as_written(table), lake.files(table))
                    )
                yield from compared
        for check, offending in run_checks(connection):
            if offending:
                yield Difference(
                    f"check {check.name}",
                    "warehouse",
                    f"{offending:,} rows offend (the query is sql/checks/{check.name}.sql). What "
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
            f"A file of {what} is damaged: {str(error).splitlines()[0]}. 'aind-etl rebuild' makes "
            "tables and warehouse anew from the change log; the change log itself is only to be "
            "had from a backup."
        ) from None


def _read_hashes(source: Source, collection: str, progress: Callable[[int], None]) -> pl.DataFrame:
    identifiers: list[str] = []
    hashes: list[str] = []
    for document in source.read_documents(collection):
        identifiers.append(document.record_id)
        hashes.append(document.content_hash)
        progress(1)
    # Of documents with one id the first counts, as in the extraction.
    return pl.DataFrame(
        {"record_id": identifiers, "content_hash": hashes},
        schema={"record_id": pl.String, "content_hash": pl.String},
    ).unique("record_id", keep="first", maintain_order=True)


def _differences(
    between: str, collection: str, left: pl.DataFrame, right: pl.DataFrame
) -> Iterator[Difference]:
    here, there = between.split(" and ")
    for found, words in (
        (left.join(right, on="record_id", how="anti"), f"in the {here} but not in the {there}"),
        (right.join(left, on="record_id", how="anti"), f"in the {there} but not in the {here}"),
        (
            left.join(right, on="record_id").filter(
                pl.col("content_hash") != pl.col("content_hash_right")
            ),
            "with different contents",
        ),
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
    connection: duckdb.DuckDBPyConnection, table: Table, files: Sequence[Path]
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
