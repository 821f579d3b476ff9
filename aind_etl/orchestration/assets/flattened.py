"""The flattened tables: `analyses`, its child tables and the rejected documents and values."""

from collections.abc import Mapping

import dagster as dg

from aind_etl.contract import FLATTENED_TABLES, tables
from aind_etl.flatten import flattener_version
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.orchestration.assets.collection_tables import collection_tables
from aind_etl.orchestration.resources import Etl

_REPORTED = ("flattened", "rejected", "rejected_values", "removed", "partitions_written")


@collection_tables(
    FLATTENED_TABLES,
    deps=[tables.DOCUMENTS],
    always=tables.ANALYSES,
    group_name="lake",
    kinds={"polars", "parquet"},
    code_version=flattener_version(),
)
def flatten(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """Flatten the changes in a collection's change log."""
    key = context.partition_key
    etl.progress.step(f"flatten {key}")
    with lake.lock(collection):
        report = refresh_analyses(lake, collection, progress=etl.progress.advance)
    context.log.info(str(report))
    if report.repaired:
        etl.progress.say(f"{key}: {report.repaired}; the tables were rebuilt from the change log")
    for count, rejected, table in (
        (report.rejected, "documents", tables.REJECTED_DOCUMENTS),
        (report.rejected_values, "values", tables.REJECTED_VALUES),
    ):
        if count:
            etl.progress.say(
                f"{key}: {count:,} {rejected} rejected; the table {table.name} says why"
            )
    return {name: getattr(report, name) for name in _REPORTED}
