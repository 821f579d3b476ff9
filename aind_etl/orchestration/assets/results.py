"""The tables of the result folders: the inventory, the trials, and the unclaimed folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from aind_etl.contract import Table, tables
from aind_etl.errors import SourceError
from aind_etl.orchestration.metadata import (
    Timer,
    figures_preview,
    table_metadata,
    table_results,
    table_spec,
)
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.orchestration.steps import step

if TYPE_CHECKING:
    from aind_etl.results import ResultFilesReport, ResultStore, TrialsReport

INVENTORY = (tables.RESULT_FOLDERS, tables.RESULT_FILES)
"""The tables that list the result folders of one collection."""
TRIALS = (
    tables.TRIALS,
    tables.ANALYSES_LATENTS,
    tables.OTHER_LATENTS,
    tables.REJECTED_RESULTS,
)
"""The tables read from result files."""

_SHOWN_FIGURES = 3


def _specs(written: tuple[Table, ...], upstream: list[str]) -> list[dg.AssetSpec]:
    return [
        table_spec(
            table,
            "results",
            {"s3", "parquet"},
            deps=upstream,
            partitions_def=COLLECTIONS,
            skippable=table is not tables.RESULT_FILES,
        )
        for table in written
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
    """List the result folders of a collection's new and recent records."""
    from aind_etl.results import (  # noqa: PLC0415 - slow to import
        newest_figures,
        refresh_result_files,
    )

    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"list result folders of {context.partition_key}")
    timer = Timer()
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
    counts = _metadata(report, timer)
    for result in table_results(context, etl, INVENTORY, counts, always=tables.RESULT_FILES):
        if figures and result.asset_key == dg.AssetKey(tables.RESULT_FILES.name):
            metadata = {**(result.metadata or {}), "newest figures": figures_preview(figures)}
            yield result._replace(metadata=metadata)
        else:
            yield result


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
    timer = Timer()
    with open_store(context, etl) as store, lake.lock(collection):
        report = refresh_trials(
            lake,
            store,
            collection,
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="records"),
        )
    counts = _metadata(report, timer)
    yield from table_results(context, etl, TRIALS, counts, always=tables.RESULT_FILES)


@contextmanager
def open_store(
    context: dg.AssetExecutionContext, etl: Etl, location: str = "s3://"
) -> Iterator["ResultStore"]:
    """Open the store of an address, by default of the result folders, for a ``with`` block.

    Raises
    ------
    ResultStoreError
        The store does not answer.
    dagster.RetryRequested
        The store does not answer, and retries are left.
    """
    from aind_etl.results import open_result_store  # noqa: PLC0415 - slow to import

    with etl.retrying(context):
        try:
            with open_result_store(etl.settings, location) as store:
                yield store
        except SourceError as error:
            raise ResultStoreError(str(error)) from error


def _metadata(report: "ResultFilesReport | TrialsReport", timer: Timer) -> dict[str, Any]:
    counts = {name: count for name, count in asdict(report).items() if name != "collection"}
    return {**counts, "seconds": timer.seconds}


@dg.multi_asset(
    name=tables.UNCLAIMED_FOLDERS.name,
    specs=[
        table_spec(
            tables.UNCLAIMED_FOLDERS,
            "results",
            {"s3", "parquet"},
            deps=[tables.ANALYSES.name, tables.RESULT_FILES.name],
        )
    ],
)
@step
def unclaimed_folders(etl: dg.ResourceParam[Etl]) -> dg.MaterializeResult[Any]:
    """Keep the listed folders that no record of any collection claims."""
    from aind_etl.results import refresh_unclaimed_folders  # noqa: PLC0415 - slow to import

    timer = Timer()
    rows = refresh_unclaimed_folders(etl.lake)
    metadata = table_metadata(etl, tables.UNCLAIMED_FOLDERS, rows, timer)
    return dg.MaterializeResult(metadata=metadata)
