"""The report: one page of pictures on the warehouse."""

from dataclasses import asdict
from typing import Any

import dagster as dg

from aind_etl.orchestration.assets.warehouse import WAREHOUSE
from aind_etl.orchestration.metadata import OWNERS, Timer, uri
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.warehouse.location import file_beside


@dg.asset(
    name="report",
    description="One page of pictures on the warehouse, beside it, that needs no network.",
    deps=[WAREHOUSE],
    group_name="warehouse",
    kinds={"html"},
    owners=OWNERS,
)
@step
def report(etl: dg.ResourceParam[Etl]) -> dg.MaterializeResult[Any]:
    """Draw the report on the warehouse that was published."""
    from aind_etl.client.report import write_report  # noqa: PLC0415 - slow to import

    etl.progress.step("draw the report")
    watch = Timer()
    warehouse = etl.settings.warehouse_path
    with file_beside(warehouse, "report.html") as (place, path):
        summary = write_report(warehouse, path)
    return dg.MaterializeResult(
        metadata={
            **{
                name: value
                for name, value in asdict(summary).items()
                if isinstance(value, int | str)
            },
            "dagster/uri": uri(place),
            "newest session": str(summary.newest_session or "none"),
            "seconds": watch.seconds,
        }
    )
