"""The report: one page of plots of the warehouse."""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from aind_etl.orchestration.assets.warehouse import WAREHOUSE
from aind_etl.orchestration.metadata import OWNERS, Timer
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import beginning_beside, file_beside

REPORT = "report.html"
"""The name of the report's file, beside the warehouse."""


def is_drawn(warehouse: WarehouseLocation) -> bool:
    """Return whether the report shows the present warehouse.

    Raises
    ------
    DataError
        The store of the warehouse cannot be reached.
    """
    # The head of the page contains the fingerprint of the warehouse that it shows.
    inputs = read_info(warehouse).get("inputs")
    return bool(inputs) and str(inputs).encode() in beginning_beside(warehouse, REPORT)


@dg.asset(
    name="report",
    description="One page of plots of the warehouse, which needs no network.",
    deps=[WAREHOUSE],
    group_name="warehouse",
    kinds={"html"},
    owners=OWNERS,
    output_required=False,
)
@step
def report(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Draw the report unless it shows the published warehouse already."""
    from aind_etl.client.report import write_report  # noqa: PLC0415 - slow to import

    warehouse = etl.settings.warehouse_path
    if is_drawn(warehouse):
        context.log.info("The report shows the present warehouse.")
        return
    etl.progress.step("draw the report")
    timer = Timer()
    with file_beside(warehouse, REPORT) as (place, path):
        headlines = write_report(warehouse, path)
        size_bytes = path.stat().st_size
    yield dg.MaterializeResult(
        metadata={
            **{name: n for name, n in headlines.items() if isinstance(n, int)},
            "size_bytes": size_bytes,
            "dagster/uri": dg.MetadataValue.path(str(place)),
            "newest session": str(headlines["newest_session"] or "none"),
            "seconds": timer.seconds,
        }
    )
