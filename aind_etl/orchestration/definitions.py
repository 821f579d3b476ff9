"""The code location: every definition, made by one factory."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from aind_etl.orchestration.assets import analyses, documents, warehouse_asset
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import load_settings

EVERYTHING = "everything"
"""Name of the job that materialises every asset."""


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the definitions.

    Parameters
    ----------
    resource_overrides
        Resources in place of those that the environment's settings give, by name: commands and
        tests make variants with it, and nothing is ever patched.
    """
    resources = dict(resource_overrides or {})
    resources.setdefault("etl", Etl(load_settings()))
    return dg.Definitions(
        assets=[documents, analyses, warehouse_asset()],
        jobs=[
            dg.define_asset_job(
                EVERYTHING,
                selection=dg.AssetSelection.all(),
                description="Extract, flatten and publish every collection.",
            )
        ],
        resources=resources,
        executor=dg.in_process_executor,
    )
