"""The jobs: what is run as one.

Here belongs which assets and checks are run together, and nothing of when.
"""

import dagster as dg

from aind_etl.contract import tables
from aind_etl.extract import Pass
from aind_etl.orchestration.assets import BY_COLLECTION
from aind_etl.orchestration.assets.warehouse import WAREHOUSE

REFRESH_COLLECTION = "refresh_collection"
"""Brings one collection of the lake up to date with the source."""
PUBLISH = "publish_warehouse"
"""Builds, checks and publishes the warehouse with its views and marts."""

refresh_collection = dg.define_asset_job(
    REFRESH_COLLECTION,
    selection=dg.AssetSelection.assets(*BY_COLLECTION),
    description="Bring one collection of the lake up to date with the source.",
)
publish_warehouse = dg.define_asset_job(
    PUBLISH,
    selection=dg.AssetSelection.assets(WAREHOUSE).required_multi_asset_neighbors(),
    description="Build, check and publish the warehouse with its views and marts.",
)


def pass_config(pass_kind: Pass) -> dict[str, object]:
    """Return the configuration of a run that makes a pass of a kind over a collection."""
    return {"ops": {tables.DOCUMENTS.name: {"config": {"pass_kind": pass_kind.value}}}}
