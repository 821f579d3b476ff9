"""`analyses`, its children and the rejected documents, a collection at a time."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from aind_etl.contract import FLATTENED_TABLES, tables
from aind_etl.flatten import flattener_version
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.orchestration.metadata import (
    OWNERS,
    Timer,
    data_version,
    freshness,
    partition_metadata,
    table_metadata,
)
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH, tables_to_materialize
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step


@dg.multi_asset(
    name="flatten",
    specs=[
        dg.AssetSpec(
            table.name,
            description=table.description,
            deps=[tables.DOCUMENTS.name],
            group_name="lake",
            kinds={"polars", "parquet"},
            owners=OWNERS,
            metadata=table_metadata(table),
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
    """Flatten what changed in a collection's change log to `analyses` and its children."""
    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"flatten {context.partition_key}")
    watch = Timer()
    with lake.lock(collection):
        report = refresh_analyses(lake, collection, progress=etl.progress.advance)
    context.log.info(str(report))
    if report.repaired:
        etl.progress.say(
            f"{context.partition_key}: {report.repaired}; the tables were made again from the "
            "change log"
        )
    for rejected, things, table in (
        (report.rejected, "documents", tables.REJECTED_DOCUMENTS),
        (report.rejected_values, "values", tables.REJECTED_VALUES),
    ):
        if rejected:
            etl.progress.say(
                f"{context.partition_key}: {rejected:,} {things} rejected; the table {table.name} "
                "says why"
            )
    has_changed = bool(report.partitions_written)
    for table in tables_to_materialize(
        context, FLATTENED_TABLES, always=tables.ANALYSES, has_changed=has_changed
    ):
        yield dg.MaterializeResult(
            asset_key=table.name,
            data_version=data_version(lake, table, collection),
            metadata={
                "flattened": report.flattened,
                "rejected": report.rejected,
                "rejected_values": report.rejected_values,
                "removed": report.removed,
                "partitions_written": report.partitions_written,
                **partition_metadata(lake, table, collection, watch),
            },
        )
