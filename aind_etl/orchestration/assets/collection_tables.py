"""The assets of a step that brings tables of one collection up to date."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any, TypeAlias

import dagster as dg

from aind_etl.contract import Table, tables
from aind_etl.lake import Lake
from aind_etl.orchestration.metadata import (
    FRESHNESS,
    data_version,
    partition_metadata,
    seconds_since,
    table_spec,
)
from aind_etl.orchestration.partitions import COLLECTIONS, partition_of
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
    deps: Sequence[Table] = (),
    always: Table | None = None,
    config_schema: Mapping[str, dg.Field] | None = None,
    **options: Any,  # noqa: ANN401 - Dagster's types
) -> Callable[[Work], dg.AssetsDefinition]:
    """Return a decorator that turns a function into a step with an asset per table.

    The step writes the tables ``written`` and reads the tables ``deps``. Other steps wait for the
    table ``always``; if no file was written, the others are materialised only if Dagster does not
    know them yet for the partition. ``options`` are those of :class:`dagster.AssetSpec`.
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
            config_schema=config_schema,
            # A run per partition has its own writer, history and retries.
            backfill_policy=dg.BackfillPolicy.multi_run(max_partitions_per_run=1),
        )
        @step
        def refresh(
            context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
        ) -> Iterator[dg.MaterializeResult[Any]]:
            collection, shard = partition_of(context.partition_key)
            lake = etl.lake.for_shard(shard)
            began = monotonic()
            report = {**work(context, etl, lake, collection), "seconds": seconds_since(began)}
            for table in written:
                # An event takes longer than finding that there is nothing to do.
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

        return refresh

    return decorate
