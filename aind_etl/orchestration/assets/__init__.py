"""The assets: the change log, its tables, and the warehouse with views and marts."""

from collections.abc import Sequence

import dagster as dg

from aind_etl.orchestration.assets.lake import documents, flatten
from aind_etl.orchestration.assets.results import (
    list_results,
    read_results,
    sessions,
    unclaimed_folders,
)
from aind_etl.orchestration.assets.warehouse import report, warehouse_asset

RESULTS = (list_results, read_results)
"""The assets that read the result folders of one collection."""
BY_COLLECTION = (documents, flatten, *RESULTS)
"""The assets with a partition per collection."""


def all_assets() -> Sequence[dg.AssetsDefinition]:
    """Return every asset."""
    return [*BY_COLLECTION, sessions, unclaimed_folders, warehouse_asset(), report]
