"""Publishing a warehouse if its checks pass.

A file that fails a check is discarded, and the published file is left in place. Checks in SQL are
in ``sql/checks``.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import duckdb
import polars as pl

from aind_etl.contract import ANALYSIS_TABLES, TABLES, Table, tables
from aind_etl.contract.ddl import quote_identifier
from aind_etl.contract.schemas import arrow_schema
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.parquet import read_metadata
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.build import BuildReport, build_warehouse
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect, is_whole
from aind_etl.warehouse.contents import LAKE_TABLES
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files

if TYPE_CHECKING:
    import pyarrow as pa
from aind_etl.text import markdown_table


class Check(NamedTuple):
    """A condition that a warehouse must meet: its name, and a sentence."""

    name: str
    summary: str


CONTRACT_CHECK = Check(
    "tables_follow_the_contract",
    "Every table has the columns and types of the contract, and so have its files.",
)
AGREEMENT_CHECK = Check(
    "lake_and_warehouse_agree", "Every table has as many rows in the warehouse as in the lake."
)
COLLAPSE_CHECK = Check(
    "row_counts_do_not_collapse",
    "No table has lost more than a set share of the rows last published.",
)
# Tables that may shrink for a good reason are left out: a new version may accept documents that
# were rejected, or give a value a column that was an attribute.
_LASTING = tuple(
    table for table in (tables.DOCUMENTS, *ANALYSIS_TABLES) if table is not tables.ATTRIBUTES
)
_EXAMPLES = 5


class Outcome(NamedTuple):
    """Result of a check.

    Attributes
    ----------
    message
        What was found, as a sentence.
    details
        Examples of offending rows as a table in Markdown, or empty.
    """

    check: Check
    holds: bool
    message: str
    details: str


class Publication(NamedTuple):
    """What was built, and the results of the checks in the order of :func:`publish_checks`."""

    report: BuildReport
    outcomes: tuple[Outcome, ...]


class ChecksFailedError(DataError):
    """The warehouse was not published because some of the checks failed."""

    def __init__(self, message: str, outcomes: Sequence[Outcome]) -> None:
        super().__init__(message)
        self.outcomes = tuple(outcomes)


def publish_checks() -> list[Check]:
    """Return the checks that a warehouse must pass to be published, ``sql/checks`` last."""
    in_sql = [Check(file.name, file.summary) for file in _blocking_checks()]
    return [CONTRACT_CHECK, AGREEMENT_CHECK, COLLAPSE_CHECK, *in_sql]


def _blocking_checks() -> list[SqlFile]:
    """Return the checks of ``sql/checks`` that do more than warn."""
    return [file for file in read_sql_files(Kind.CHECK) if not file.is_warning]


def publish_warehouse(
    lake: Lake, location: WarehouseLocation, *, max_lost_share: float
) -> Publication:
    """Build the warehouse, check it, and publish it if every check passes.

    Parameters
    ----------
    lake, location
        As for :func:`.build_warehouse`, whose errors are raised too.
    max_lost_share
        Largest share of a table's rows, from 0 to 1, that may be lost since the last publication.

    Raises
    ------
    ChecksFailedError
        A check failed. The existing file is left in place.
    """
    outcomes: list[Outcome] = []

    def validate(built: duckdb.DuckDBPyConnection) -> None:
        outcomes[:] = [
            _contract_outcome(built, lake),
            _agreement_outcome(built, lake),
            _collapse_outcome(built, lake, location, max_lost_share),
            *_sql_outcomes(built),
        ]
        failed = [one for one in outcomes if not one.holds]
        if failed:
            raise ChecksFailedError(_refusal(failed, location), outcomes)

    report = build_warehouse(lake, location, validate=validate)
    if not report.published:
        # It was published because every check passed.
        unchanged = "Nothing has changed since it was published."
        outcomes = [_outcome(check, unchanged) for check in publish_checks()]
    return Publication(report, tuple(outcomes))


def _refusal(failed: Sequence[Outcome], location: WarehouseLocation) -> str:
    lines = [f"  {one.check.name}: {one.message} {one.check.summary}" for one in failed]
    exists = locate_warehouse(location).exists()
    stays = "the existing one was left in place" if exists else "none exists yet"
    what = f"The warehouse {str(location)!r} was not published, {stays}, because checks failed:"
    remedy = (
        "Run the queries of sql/checks to see the offending rows. 'aind-etl rebuild' derives the "
        "tables again from the change log."
    )
    return "\n".join([what, *lines, remedy])


def _contract_outcome(built: duckdb.DuckDBPyConnection, lake: Lake) -> Outcome:
    expected = {
        (table.name, column.name): f"{column.type}{' NOT NULL' if column.required else ''}"
        for table in TABLES
        for column in table.columns
    }
    found = built.execute(
        "SELECT table_name, column_name, "
        "replace(data_type, 'TIMESTAMP WITH TIME ZONE', 'TIMESTAMPTZ') || "
        "if(is_nullable, '', ' NOT NULL') FROM duckdb_columns() "
        "WHERE list_contains(?, table_name) ORDER BY table_name, column_index",
        [[table.name for table in TABLES]],
    )
    actual = {(table, column): kind for table, column, kind in found.fetchall()}
    differing = [
        (*key, expected.get(key, "no such column"), actual.get(key, "missing"))
        for key in dict.fromkeys([*expected, *actual])
        if expected.get(key) != actual.get(key)
        # The session table may have further columns.
        and (key in expected or key[0] != tables.SESSIONS.name)
    ]
    differing += [row for table in LAKE_TABLES for row in _differing_files(lake, table)]
    message = f"All {len(expected):,} columns of {len(TABLES)} tables follow the contract."
    if differing:
        message = f"{len(differing):,} columns differ."
    header = ("table or file", "column", "expected", "actual")
    return _outcome(CONTRACT_CHECK, message, header, differing)


def _outcome(
    check: Check, message: str, header: Sequence[str] = (), offending: Sequence[Sequence[str]] = ()
) -> Outcome:
    """Return the outcome of a check in Python, which holds if nothing offends."""
    details = markdown_table(header, offending) if offending else ""
    return Outcome(check, not offending, message, details)


def _differing_files(lake: Lake, table: Table) -> Iterator[tuple[str, str, str, str]]:
    """Yield the columns of files whose type differs from the contract's.

    A file may lack columns that are newer than it, and hold columns that were removed since.
    """
    expected = arrow_schema(table)
    types = {field.name: field.type for field in expected}
    known: set[pa.Schema] = {expected}
    for path in lake.tables.files(table):
        actual = read_metadata(path).schema.to_arrow_schema().remove_metadata()
        if actual in known:
            continue
        known.add(actual)
        for field in actual:
            wanted = types.get(field.name, field.type)
            if wanted != field.type:
                yield str(path), field.name, str(wanted), str(field.type)


def _agreement_outcome(built: duckdb.DuckDBPyConnection, lake: Lake) -> Outcome:
    differing = []
    total = 0
    for table in LAKE_TABLES:
        expected = _lake_rows(lake) if table is tables.DOCUMENTS else lake.tables.count_rows(table)
        actual = _count(built, table)
        total += actual
        if expected != actual:
            differing.append((table.name, f"{expected:,}", f"{actual:,}"))
    message = f"{total:,} rows of {len(LAKE_TABLES)} tables are in both."
    if differing:
        message = f"{len(differing)} tables differ."
    header = ("table", "rows in the lake", "rows in the warehouse")
    return _outcome(AGREEMENT_CHECK, message, header, differing)


def _lake_rows(lake: Lake) -> int:
    """Return the number of versions in the change log whose batches are flattened."""
    flattened = [
        shard.change_log(name)
        .versions()
        .filter(pl.col("batch_id") <= shard.state(name).flattened_through)
        for name in lake.collections()
        for shard in lake.shards(name)
    ]
    return sum(versions.select(pl.len()).collect().item() for versions in flattened)


def _collapse_outcome(
    built: duckdb.DuckDBPyConnection, lake: Lake, location: WarehouseLocation, max_lost_share: float
) -> Outcome:
    target = locate_warehouse(location)
    is_ours = read_info(location).get("lake") == str(lake)
    if not is_ours or not is_whole(target.file()):
        return _outcome(COLLAPSE_CHECK, "No warehouse of this lake was published before.")
    lost = []
    with connect(location) as current:
        for table in _LASTING:
            before, now = _count(current, table), _count(built, table)
            if before - now > max_lost_share * before:
                lost.append((table.name, f"{before:,}", f"{now:,}"))
    message = f"{len(_LASTING)} tables were compared."
    if lost:
        names = ", ".join(f"{name} from {before} rows to {now}" for name, before, now in lost)
        message = (
            f"More than a share of {max_lost_share:g} was lost: {names}. If these rows were "
            "deleted on purpose, run once with --max-deleted-share 1."
        )
    return _outcome(COLLAPSE_CHECK, message, ("table", "rows published", "rows now"), lost)


def _count(connection: duckdb.DuckDBPyConnection, table: Table) -> int:
    try:
        rows = connection.execute(f"SELECT count(*) FROM {quote_identifier(table.name)}").fetchall()
    except duckdb.CatalogException:
        return 0  # The published file is older than this table.
    return int(rows[0][0])


def _sql_outcomes(connection: duckdb.DuckDBPyConnection) -> Iterator[Outcome]:
    for file, offending in run_checks(connection, _blocking_checks()):
        message, details = "No row offends.", ""
        if offending:
            message = f"{offending:,} rows offend."
            rows = connection.sql(f"FROM (\n{file.statement}\n) LIMIT {_EXAMPLES}")
            details = markdown_table(rows.columns, rows.fetchall())
        yield Outcome(Check(file.name, file.summary), not offending, message, details)
