"""The flattened tables: `analyses`, its child tables and the rejected documents and values."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from aind_etl.contract import FLATTENED_TABLES, tables
from aind_etl.flatten import flattener_version
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.orchestration.metadata import Timer, freshness, table_results, table_spec
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step


@dg.multi_asset(
    name="flatten",
    specs=[
        table_spec(
            table,
            "lake",
            {"polars", "parquet"},
            deps=[tables.DOCUMENTS.name],
            code_version=flattener_version(),
            partitions_def=COLLECTIONS,
            freshness_policy=freshness() if table is tables.ANALYSES else None,
            skippable=table is not tables.ANALYSES,
        )
        for table in FLATTENED_TABLES
    ],
    backfill_policy=ONE_RUN_EACH,
)
@step
def flatten(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Flatten the changes in a collection's change log."""
    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"flatten {context.partition_key}")
    timer = Timer()
    with lake.lock(collection):
        report = refresh_analyses(lake, collection, progress=etl.progress.advance)
    context.log.info(str(report))
    if report.repaired:
        etl.progress.say(
            f"{context.partition_key}: {report.repaired}; the tables were rebuilt from the change "
            "log"
        )
    for count, rejected, table in (
        (report.rejected, "documents", tables.REJECTED_DOCUMENTS),
        (report.rejected_values, "values", tables.REJECTED_VALUES),
    ):
        if count:
            etl.progress.say(
                f"{context.partition_key}: {count:,} {rejected} rejected; the table {table.name} "
                "says why"
            )
    counts = {
        "seconds": timer.seconds,
        "flattened": report.flattened,
        "rejected": report.rejected,
        "rejected_values": report.rejected_values,
        "removed": report.removed,
        "partitions_written": report.partitions_written,
    }
    yield from table_results(context, etl, FLATTENED_TABLES, counts, always=tables.ANALYSES)
