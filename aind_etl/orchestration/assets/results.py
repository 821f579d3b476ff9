"""The tables of the result folders: the inventory, the trials, and the unclaimed folders."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from aind_etl.contract import tables
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.orchestration.assets.collection_tables import collection_tables
from aind_etl.orchestration.metadata import Timer, figures_preview, table_metadata, table_spec
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.orchestration.steps import step

if TYPE_CHECKING:
    from aind_etl.results import ResultFilesReport, ResultStore, TrialsReport

INVENTORY = (tables.RESULT_FOLDERS, tables.RESULT_FILES)
"""The tables that list the result folders of one collection."""
TRIALS = (tables.TRIALS, tables.ANALYSES_LATENTS, tables.OTHER_LATENTS, tables.REJECTED_RESULTS)
"""The tables read from result files."""
RESULTS_GROUP: Mapping[str, Any] = {"group_name": "results", "kinds": {"s3", "parquet"}}
"""Options of the assets read from the store."""

_SHOWN_FIGURES = 3


@collection_tables(INVENTORY, deps=[tables.ANALYSES], always=tables.RESULT_FILES, **RESULTS_GROUP)
def list_results(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """List the result folders of a collection's new and recent records."""
    from aind_etl.results import (  # noqa: PLC0415 - slow to import
        newest_figures,
        refresh_result_files,
    )

    etl.progress.step(f"list result folders of {context.partition_key}")
    with open_store(context, etl) as store, lake.lock(collection):
        report = refresh_result_files(
            lake,
            store,
            collection,
            look_back=timedelta(days=etl.settings.results_look_back_days),
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="folders"),
        )
        figures = newest_figures(etl.lake, store, _SHOWN_FIGURES) if report.listed else {}
    if figures:
        context.add_asset_metadata(
            {"newest figures": figures_preview(figures)}, asset_key=tables.RESULT_FILES.name
        )
    return _counts(report)


@collection_tables(TRIALS, deps=[tables.ANALYSES, tables.RESULT_FILES], **RESULTS_GROUP)
def read_results(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """Read the trials from a collection's new or changed result files."""
    from aind_etl.results import refresh_trials  # noqa: PLC0415 - slow to import

    etl.progress.step(f"read trials of {context.partition_key}")
    with open_store(context, etl) as store, lake.lock(collection):
        report = refresh_trials(
            lake,
            store,
            collection,
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="records"),
        )
    return _counts(report)


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


def _counts(report: "ResultFilesReport | TrialsReport") -> Mapping[str, int]:
    return {name: count for name, count in asdict(report).items() if name != "collection"}


@dg.multi_asset(
    name=tables.UNCLAIMED_FOLDERS.name,
    specs=[
        table_spec(
            tables.UNCLAIMED_FOLDERS,
            deps=[tables.ANALYSES.name, tables.RESULT_FILES.name],
            **RESULTS_GROUP,
        )
    ],
)
@step
def unclaimed_folders(etl: dg.ResourceParam[Etl]) -> Iterator[dg.MaterializeResult[Any]]:
    """Keep the listed folders that no record of any collection claims."""
    from aind_etl.results import refresh_unclaimed_folders  # noqa: PLC0415 - slow to import

    timer = Timer()
    rows = refresh_unclaimed_folders(etl.lake)
    metadata = table_metadata(etl, tables.UNCLAIMED_FOLDERS, rows, timer)
    yield dg.MaterializeResult(metadata=metadata)
