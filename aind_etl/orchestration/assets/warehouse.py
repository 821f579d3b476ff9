"""The warehouse with its views and marts, published only if its checks pass, and the report."""

from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from time import monotonic
from typing import Any

import dagster as dg

from aind_etl.contract import TABLES
from aind_etl.orchestration.metadata import (
    FRESHNESS,
    OWNERS,
    freshness_pictures,
    seconds_since,
    view_metadata,
)
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.settings import WarehouseLocation
from aind_etl.text import markdown_table
from aind_etl.warehouse.build import STORAGE_VERSION, BuildReport
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.contents import LAKE_TABLES
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import beginning_beside, file_beside
from aind_etl.warehouse.publishing import (
    ChecksFailedError,
    Outcome,
    publish_checks,
    publish_warehouse,
)
from aind_etl.warehouse.sql_files import Kind, SqlFile, dependencies, read_sql_files

WAREHOUSE = dg.AssetKey("warehouse")

_PUBLISHED = "published"
_REPORT = "report.html"


def warehouse_asset() -> dg.AssetsDefinition:
    """Return the warehouse with its views and marts, one asset per file of ``sql/``.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` does not begin with a comment.
    """
    by_name = {file.name: file for kind in (Kind.VIEW, Kind.MART) for file in read_sql_files(kind)}
    reads = dependencies([*by_name.values()])
    files = [by_name[name] for name in reads]

    @dg.multi_asset(
        name="publish",
        specs=[
            dg.AssetSpec(
                WAREHOUSE,
                description="The DuckDB file with every table of the lake, views and marts.",
                deps=[table.name for table in LAKE_TABLES],
                group_name="warehouse",
                kinds={"duckdb"},
                owners=OWNERS,
                code_version=STORAGE_VERSION,
                freshness_policy=FRESHNESS,
            ),
            *(
                dg.AssetSpec(
                    file.name,
                    description=file.comment,
                    deps=_upstream(reads[file.name]),
                    group_name=file.kind.value,
                    kinds={"duckdb", "sql"},
                    owners=OWNERS,
                    # A publication that finds no change does not materialise it.
                    skippable=True,
                    code_version=sha256(file.statement.encode()).hexdigest()[:16],
                )
                for file in files
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(check.name, asset=WAREHOUSE, description=check.summary, blocking=True)
            for check in publish_checks()
        ],
        # A run needs the one slot of this pool to publish.
        pool="publisher",
    )
    @step
    def publish(
        context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
    ) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
        etl.progress.step("build the warehouse")
        began = monotonic()
        try:
            publication = publish_warehouse(
                etl.lake, etl.settings.warehouse_path, max_lost_share=etl.settings.max_deleted_share
            )
        except ChecksFailedError as error:
            yield from map(_check_result, error.outcomes)
            raise
        report = publication.report
        context.log.info(
            "%s: %s", "published" if report.published else "unchanged", report.location
        )
        yield from map(_check_result, publication.outcomes)
        yield _materialization(report, began)
        if report.published:
            yield from _views_and_marts(report, files)

    return publish


def was_published(context: dg.AssetCheckExecutionContext) -> bool:
    """Return whether the run has published a warehouse, or contained no publication."""
    last = context.instance.get_latest_materialization_event(WAREHOUSE)
    if last is None or last.run_id != context.run.run_id or not last.asset_materialization:
        return True
    return bool(last.asset_materialization.metadata[_PUBLISHED].value)


def _materialization(report: BuildReport, began: float) -> dg.MaterializeResult[Any]:
    rows = [(name, f"{count:,}") for name, count in sorted(report.rows.items())]
    return dg.MaterializeResult(
        asset_key=WAREHOUSE,
        metadata={
            "dagster/uri": dg.MetadataValue.path(str(report.location)),
            _PUBLISHED: report.published,
            "bytes": report.size_bytes,
            "seconds": seconds_since(began),
            "rows": dg.MetadataValue.md(markdown_table(("table", "rows"), rows)),
        },
    )


def _views_and_marts(
    report: BuildReport, files: Sequence[SqlFile]
) -> Iterator[dg.MaterializeResult[Any]]:
    with connect(report.location) as connection:
        for file in files:
            metadata = view_metadata(connection, file.name)
            if file.name in report.rows:
                metadata["dagster/row_count"] = report.rows[file.name]
            if file.name == "collection_freshness":
                metadata |= freshness_pictures(connection)
            yield dg.MaterializeResult(asset_key=file.name, metadata=metadata)


def _check_result(outcome: Outcome) -> dg.AssetCheckResult:
    details = outcome.details
    return dg.AssetCheckResult(
        asset_key=WAREHOUSE,
        check_name=outcome.check.name,
        passed=outcome.holds,
        description=outcome.message,
        metadata={"what offends": dg.MetadataValue.md(details)} if details else {},
    )


def _upstream(read: Iterable[str]) -> list[dg.AssetKey]:
    """Return the assets that a view or mart reads; other tables belong to the warehouse asset."""
    others = {table.name for table in TABLES if table not in LAKE_TABLES}
    return sorted({WAREHOUSE if name in others else dg.AssetKey(name) for name in read})


def is_drawn(warehouse: WarehouseLocation) -> bool:
    """Return whether the report beside the warehouse shows the present one."""
    # The head of the page contains the fingerprint of the warehouse that it shows.
    inputs = read_info(warehouse).get("inputs")
    return bool(inputs) and str(inputs).encode() in beginning_beside(warehouse, _REPORT)


@dg.asset(
    description="One page of plots of the warehouse, which needs no network.",
    deps=[WAREHOUSE],
    group_name="warehouse",
    kinds={"html"},
    owners=OWNERS,
    output_required=False,
)
@step
def report(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Draw the report unless it shows the published warehouse already."""
    from aind_etl.client.report import write_report  # noqa: PLC0415 - slow to import

    warehouse = etl.settings.warehouse_path
    if is_drawn(warehouse):
        context.log.info("The report shows the present warehouse.")
        return
    etl.progress.step("draw the report")
    began = monotonic()
    with file_beside(warehouse, _REPORT) as (place, path):
        headlines = write_report(warehouse, path)
        size_bytes = path.stat().st_size
    yield dg.MaterializeResult(
        metadata={
            **{name: n for name, n in headlines.items() if isinstance(n, int)},
            "size_bytes": size_bytes,
            "dagster/uri": dg.MetadataValue.path(str(place)),
            "newest session": str(headlines["newest_session"] or "none"),
            "seconds": seconds_since(began),
        }
    )
