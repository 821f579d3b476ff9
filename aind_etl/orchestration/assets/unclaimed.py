"""The folders without a record, which only all collections together can tell."""

from typing import Any

import dagster as dg

from aind_etl.contract import tables
from aind_etl.orchestration.metadata import OWNERS, Timer, table_metadata, uri
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step


@dg.asset(
    name=tables.UNCLAIMED_FOLDERS.name,
    description=tables.UNCLAIMED_FOLDERS.description,
    deps=[tables.ANALYSES.name, tables.RESULT_FILES.name],
    group_name="results",
    kinds={"s3", "parquet"},
    owners=OWNERS,
    metadata=table_metadata(tables.UNCLAIMED_FOLDERS),
)
@step
def unclaimed_folders(etl: dg.ResourceParam[Etl]) -> dg.MaterializeResult[Any]:
    """Keep, of the folders that were listed, those that no record of any collection claims."""
    from aind_etl.results import refresh_unclaimed_folders  # noqa: PLC0415 - slow to import

    watch = Timer()
    rows = refresh_unclaimed_folders(etl.lake)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": rows,
            "dagster/uri": uri(etl.lake.storage.path(tables.UNCLAIMED_FOLDERS.name)),
            "seconds": watch.seconds,
        }
    )
