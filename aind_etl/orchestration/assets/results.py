"""What is read from the result folders, a collection at a time: the inventory and the trials."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from aind_etl.contract import Table, tables
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.orchestration.metadata import (
    OWNERS,
    Timer,
    data_version,
    figures_preview,
    partition_metadata,
    table_metadata,
)
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH, tables_to_materialize
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.orchestration.steps import step

if TYPE_CHECKING:
    from aind_etl.results import ResultFilesReport, ResultStore, TrialsReport

INVENTORY = (tables.RESULT_FOLDERS, tables.RESULT_FILES)
"""The tables that come from listing result folders, but for unclaimed folders."""
TRIALS = (
    tables.TRIALS,
    tables.ANALYSES_LATENTS,
    tables.OTHER_LATENTS,
    tables.REJECTED_RESULTS,
)
"""The tables made by reading result files."""

_SHOWN_FIGURES = 3


def _specs(made: tuple[Table, ...], upstream: list[str]) -> list[dg.AssetSpec]:
    return [
        dg.AssetSpec(
            table.name,
            description=table.description,
            deps=upstream,
            group_name="results",
            kinds={"s3", "parquet"},
            owners=OWNERS,
            metadata=table_metadata(table),
            partitions_def=COLLECTIONS,
            skippable=table is not tables.RESULT_FILES,
        )
        for table in made
    ]


@dg.multi_asset(
    name="list_results",
    specs=_specs(INVENTORY, [tables.ANALYSES.name]),
    backfill_policy=ONE_RUN_EACH,
)
@step
def list_results(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """List the result folders of a collection's new records, and recent ones again."""
    from aind_etl.results import (  # noqa: PLC0415 - slow to import
        newest_figures,
        refresh_result_files,
    )

    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"list result folders of {context.partition_key}")
    watch = Timer()
    with open_store(context, etl) as store, lake.lock(collection):
        report = refresh_result_files(
            lake,
            store,
            collection,
            look_back=timedelta(days=etl.settings.results_look_back_days),
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="folders"),
        )
        figures = newest_figures(etl.lake, store, _SHOWN_FIGURES) if report.listed else []
    for made in _materializations(context, lake, INVENTORY, collection, report, watch):
        if figures and made.asset_key == dg.AssetKey(tables.RESULT_FILES.name):
            shown = {**(made.metadata or {}), "newest figures": figures_preview(figures)}
            yield made._replace(metadata=shown)
        else:
            yield made


@dg.multi_asset(
    name="read_results",
    specs=_specs(TRIALS, [tables.ANALYSES.name, tables.RESULT_FILES.name]),
    backfill_policy=ONE_RUN_EACH,
)
@step
def read_results(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Read the trials from a collection's new or changed result files."""
    from aind_etl.results import refresh_trials  # noqa: PLC0415 - slow to import

    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"read trials of {context.partition_key}")
    watch = Timer()
    with open_store(context, etl) as store, lake.lock(collection):
        report = refresh_trials(
            lake,
            store,
            collection,
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="records"),
        )
    yield from _materializations(context, lake, TRIALS, collection, report, watch)


@contextmanager
def open_store(
    context: dg.AssetExecutionContext, etl: Etl, location: str = "s3://"
) -> Iterator["ResultStore"]:
    """Open the store of an address for the duration of a ``with`` block.

    It is that of the result folders where no address is given.

    Raises
    ------
    ResultStoreError
        The store does not answer.
    dagster.RetryRequested
        It does not answer; a retry may help.
    """
    from aind_etl.results.store import open_store_of  # noqa: PLC0415 - slow to import

    with etl.retrying(context):
        try:
            with open_store_of(etl.settings, location) as store:
                yield store
        except SourceError as error:
            raise ResultStoreError(str(error)) from error


def _materializations(  # noqa: PLR0913, PLR0917 - one call each
    context: dg.AssetExecutionContext,
    lake: Lake,
    made: tuple[Table, ...],
    collection: str,
    report: "ResultFilesReport | TrialsReport",
    watch: Timer,
) -> Iterator[dg.MaterializeResult[Any]]:
    counts = {name: count for name, count in asdict(report).items() if name != "collection"}
    has_changed = bool(report.partitions_written)
    for table in tables_to_materialize(
        context, made, always=tables.RESULT_FILES, has_changed=has_changed
    ):
        yield dg.MaterializeResult(
            asset_key=table.name,
            data_version=data_version(lake, table, collection),
            metadata={**counts, **partition_metadata(lake, table, collection, watch)},
        )
