"""The session table, which is one for all collections."""

from dataclasses import asdict
from typing import Any

import dagster as dg

from aind_etl.contract import tables
from aind_etl.orchestration.assets.results import open_store
from aind_etl.orchestration.metadata import OWNERS, Stopwatch, table_metadata, uri
from aind_etl.orchestration.resources import Etl


@dg.asset(
    name=tables.SESSIONS.name,
    description=tables.SESSIONS.description,
    group_name="results",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(tables.SESSIONS),
)
def sessions(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> dg.MaterializeResult[Any]:
    """Bring the session table up to date, if it has changed."""
    from aind_etl.results import refresh_sessions  # noqa: PLC0415 - slow to import

    etl.progress.step("read the session table")
    watch = Stopwatch()
    with open_store(context, etl) as store:
        report = refresh_sessions(etl.lake, store, location=etl.settings.session_table)
    if report.note:
        etl.progress.say(report.note)
    return dg.MaterializeResult(
        metadata={
            **asdict(report),
            "dagster/row_count": report.rows,
            "dagster/uri": uri(etl.lake.storage.path(tables.SESSIONS.name)),
            "seconds": watch.seconds,
        }
    )
