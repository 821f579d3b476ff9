"""The session table, shared by all collections."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import dagster as dg

from aind_etl.contract import tables
from aind_etl.orchestration.assets.results import RESULTS_GROUP, open_store
from aind_etl.orchestration.metadata import Timer, table_metadata, table_spec
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step

_CHECK = "session_table_can_be_read"


@dg.multi_asset(
    name=tables.SESSIONS.name,
    specs=[table_spec(tables.SESSIONS, **RESULTS_GROUP)],
    check_specs=[
        dg.AssetCheckSpec(
            _CHECK,
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
    timer = Timer()
    location = etl.settings.session_table_location
    with open_store(context, etl, location) as store:
        report = refresh_sessions(etl.lake, store, location=location)
    if report.note:
        etl.progress.say(f"Warning: {report.note}" if report.is_refused else report.note)
    yield dg.MaterializeResult(
        metadata={
            **asdict(report),
            **table_metadata(etl, tables.SESSIONS, report.rows, timer),
        }
    )
    yield dg.AssetCheckResult(
        check_name=_CHECK,
        passed=not report.is_refused,
        severity=dg.AssetCheckSeverity.WARN,
        description=report.note or "It was read, or has not changed since.",
    )
