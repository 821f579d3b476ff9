"""The tables of the result folders: inventory, trials, unclaimed folders; and the sessions."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import dagster as dg

from aind_etl.contract import tables
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.orchestration.assets.collection_tables import collection_tables
from aind_etl.orchestration.metadata import figures_preview, table_metadata, table_spec
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.orchestration.steps import step

if TYPE_CHECKING:
    from aind_etl.results import ResultFilesReport, ResultStore, TrialsReport

_OPTIONS: Mapping[str, Any] = {"group_name": "results", "kinds": {"s3", "parquet"}}
_SHOWN_FIGURES = 3
_SESSIONS_CHECK = "session_table_can_be_read"


@collection_tables(
    [tables.RESULT_FOLDERS, tables.RESULT_FILES],
    deps=[tables.ANALYSES],
    always=tables.RESULT_FILES,
    **_OPTIONS,
)
def list_results(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """List the result folders of a collection's new and recent records."""
    from aind_etl import results  # noqa: PLC0415 - slow to import

    etl.progress.step(f"list result folders of {context.partition_key}")
    with _open_store(context, etl) as store, lake.lock(collection):
        report = results.refresh_result_files(
            lake,
            store,
            collection,
            look_back=timedelta(days=etl.settings.results_look_back_days),
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="folders"),
        )
        figures = results.newest_figures(etl.lake, store, _SHOWN_FIGURES) if report.listed else {}
    if figures:
        context.add_asset_metadata(
            {"newest figures": figures_preview(figures)}, asset_key=tables.RESULT_FILES.name
        )
    return _counts(report)


@collection_tables(
    [tables.TRIALS, tables.ANALYSES_LATENTS, tables.OTHER_LATENTS, tables.REJECTED_RESULTS],
    deps=[tables.ANALYSES, tables.RESULT_FILES],
    **_OPTIONS,
)
def read_results(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """Read the trials from a collection's new or changed result files."""
    from aind_etl import results  # noqa: PLC0415 - slow to import

    etl.progress.step(f"read trials of {context.partition_key}")
    with _open_store(context, etl) as store, lake.lock(collection):
        report = results.refresh_trials(
            lake,
            store,
            collection,
            progress=etl.progress.advance,
            expect=partial(etl.progress.expect, unit="records"),
        )
    return _counts(report)


@contextmanager
def _open_store(
    context: dg.AssetExecutionContext, etl: Etl, location: str = "s3://"
) -> Iterator["ResultStore"]:
    """Open the store of an address, by default of the result folders, for a ``with`` block."""
    from aind_etl import results  # noqa: PLC0415 - slow to import

    with etl.retrying(context):
        try:
            with results.open_result_store(etl.settings, location) as store:
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
            **_OPTIONS,
        )
    ],
)
@step
def unclaimed_folders(etl: dg.ResourceParam[Etl]) -> Iterator[dg.MaterializeResult[Any]]:
    """Keep the listed folders that no record of any collection claims."""
    from aind_etl import results  # noqa: PLC0415 - slow to import

    began = monotonic()
    rows = results.refresh_unclaimed_folders(etl.lake)
    metadata = table_metadata(etl, tables.UNCLAIMED_FOLDERS, rows, began)
    yield dg.MaterializeResult(metadata=metadata)


@dg.multi_asset(
    name=tables.SESSIONS.name,
    specs=[table_spec(tables.SESSIONS, **_OPTIONS)],
    check_specs=[
        dg.AssetCheckSpec(
            _SESSIONS_CHECK,
            asset=tables.SESSIONS.name,
            description="The session table in the store, if there is one, can be read.",
        )
    ],
)
@step
def sessions(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Bring the session table up to date."""
    from aind_etl.sessions import refresh_sessions  # noqa: PLC0415 - slow to import

    etl.progress.step("read the session table")
    began = monotonic()
    location = etl.settings.session_table_location
    with _open_store(context, etl, location) as store:
        report = refresh_sessions(etl.lake, store, location=location)
    if report.note:
        etl.progress.say(f"Warning: {report.note}" if report.is_refused else report.note)
    metadata = table_metadata(etl, tables.SESSIONS, report.rows, began)
    yield dg.MaterializeResult(metadata={**asdict(report), **metadata})
    yield dg.AssetCheckResult(
        check_name=_SESSIONS_CHECK,
        passed=not report.is_refused,
        severity=dg.AssetCheckSeverity.WARN,
        description=report.note or "It was read, or has not changed since.",
    )
