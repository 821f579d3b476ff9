"""The assets of a step that brings tables of one collection up to date."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import dagster as dg

from aind_etl.contract import Table, tables
from aind_etl.lake import Lake
from aind_etl.orchestration.metadata import (
    FRESHNESS,
    Timer,
    data_version,
    partition_metadata,
    table_spec,
)
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
    deps: Iterable[Table],
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
        The table that other steps wait for; the others are skipped if no file was written.
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
            yield from table_results(context, etl, written, report, always=always)

        return refresh

    return decorate


def table_results(
    context: dg.AssetExecutionContext,
    etl: Etl,
    written: Iterable[Table],
    report: Mapping[str, Any],
    *,
    always: Table | None,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Yield the result of each table that a step has written for a collection.

    If the step has written no file, these are the table that other steps of the run wait for, and
    the tables that Dagster does not know yet for the partition: an event takes longer than finding
    that there is nothing to do.
    """
    lake, collection = etl.lake_and_collection(context.partition_key)
    for table in written:
        if (
            table is always
            or report["partitions_written"]
            or context.partition_key
            not in context.instance.get_materialized_partitions(dg.AssetKey(table.name))
        ):
            yield dg.MaterializeResult(
                asset_key=table.name,
                data_version=data_version(lake, table, collection),
                metadata={**report, **partition_metadata(lake, table, collection)},
            )
