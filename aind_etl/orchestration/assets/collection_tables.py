"""The assets of a step that brings tables of one collection up to date."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg

from aind_etl.contract import Table, tables
from aind_etl.lake import Lake
from aind_etl.orchestration.metadata import FRESHNESS, Timer, partition_result, table_spec
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step

Work: TypeAlias = Callable[[dg.AssetExecutionContext, Etl, Lake, str], Mapping[str, Any]]
"""Brings the tables of a collection in a lake up to date, and returns metadata about that.

The lake is restricted to the shard of the partition. If ``partitions_written`` is 0, no file was
written.
"""


def collection_tables(
    written: Sequence[Table],
    *,
    deps: Sequence[Table],
    always: Table | None = None,
    **options: Any,  # noqa: ANN401 - Dagster's types
) -> Callable[[Work], dg.AssetsDefinition]:
    """Return a decorator that turns a function into a step with an asset per table.

    Parameters
    ----------
    written
        The tables that the step writes.
    deps
        The tables that the step reads.
    always
        The table that other steps wait for. If no file was written, the others are materialised
        only if Dagster does not know them yet for the partition.
    **options
        Further options of :class:`dagster.AssetSpec`.
    """
    specs = [
        table_spec(
            table,
            deps=[read.name for read in deps],
            partitions_def=COLLECTIONS,
            freshness_policy=FRESHNESS if table is tables.ANALYSES else None,
            skippable=table is not always,
            **options,
        )
        for table in written
    ]

    def decorate(work: Work) -> dg.AssetsDefinition:
        @dg.multi_asset(
            name=work.__name__,
            specs=specs,
            description=work.__doc__,
            backfill_policy=ONE_RUN_EACH,
        )
        @step
        def refresh(
            context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
        ) -> Iterator[dg.MaterializeResult[Any]]:
            lake, collection = etl.lake_and_collection(context.partition_key)
            timer = Timer()
            report = {**work(context, etl, lake, collection), "seconds": timer.seconds}
            for table in written:
                # An event takes longer than finding that there is nothing to do.
                if (
                    table is always
                    or report["partitions_written"]
                    or context.partition_key
                    not in context.instance.get_materialized_partitions(dg.AssetKey(table.name))
                ):
                    yield partition_result(lake, table, collection, report)

        return refresh

    return decorate
