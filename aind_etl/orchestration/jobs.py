"""The jobs: which assets and checks run together."""

from collections.abc import Iterator

import dagster as dg

from aind_etl.changelog.passes import Pass
from aind_etl.client.verify import verify_collection, verify_tables, verify_warehouse
from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.orchestration.asset_checks import warnings
from aind_etl.orchestration.assets import BY_COLLECTION
from aind_etl.orchestration.assets.results import sessions, unclaimed_folders
from aind_etl.orchestration.assets.warehouse import WAREHOUSE, report
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step


def _pod_memory(mebibytes: int) -> dict[str, object]:
    """Return the tags for the memory of a job's pods in Kubernetes."""
    memory = f"{mebibytes}Mi"
    resources = {"requests": {"cpu": "1", "memory": memory}, "limits": {"memory": memory}}
    return {"dagster-k8s/config": {"container_config": {"resources": resources}}}


REFRESH_COLLECTION = "refresh_collection"
SESSIONS = "refresh_sessions"
PUBLISH = "publish_warehouse"

refresh_collection = dg.define_asset_job(
    REFRESH_COLLECTION,
    # Their checks read the warehouse and are run by its publication.
    selection=dg.AssetSelection.assets(*BY_COLLECTION).without_checks(),
    description="Bring one collection of the lake up to date with the source.",
    tags=_pod_memory(2048),
)
refresh_sessions = dg.define_asset_job(
    SESSIONS,
    selection=dg.AssetSelection.assets(sessions).without_checks()
    | dg.AssetSelection.checks(*sessions.check_keys),
    description="Bring the session table up to date.",
    tags=_pod_memory(4096),
)
publish_warehouse = dg.define_asset_job(
    PUBLISH,
    selection=(
        dg.AssetSelection.assets(unclaimed_folders, report)
        | dg.AssetSelection.assets(WAREHOUSE).required_multi_asset_neighbors()
        | dg.AssetSelection.checks(*warnings.check_keys)
    ),
    description="Build, check and publish the warehouse with its views and marts, and the report.",
    tags=_pod_memory(4096),
)


@dg.op(out=dg.Out(dg.Nothing))
@step
def compare_contents(
    context: dg.OpExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.Output[None]]:
    """Compare every document of the source with the lake, and every table with the warehouse."""
    lake = etl.lake
    found = []
    with etl.open_source() as source:
        for name in etl.settings.choose({*source.list_collections(), *lake.collections()}):
            found += verify_collection(source, lake, name, deep=True)[1]
    for name in lake.collections():
        found += verify_tables(lake, name)
    found += verify_warehouse(lake, etl.settings.warehouse_path)
    errors = []
    for one in found:
        text = f"{one.between} · {one.subject}: {one.message}"
        context.log.warning(text)
        if not one.is_warning:
            errors.append(text)
    if errors:
        raise DataError("\n".join(errors))
    yield dg.Output(None)


@dg.job(tags=_pod_memory(4096))
def verify_everything() -> None:
    """Compare source, lake and warehouse, content by content, without changes."""
    compare_contents()


ALL_JOBS = (refresh_collection, refresh_sessions, publish_warehouse, verify_everything)
"""Every job."""


def pass_config(pass_kind: Pass) -> dict[str, object]:
    """Return the configuration of a run that makes a pass over a collection."""
    return {"ops": {tables.DOCUMENTS.name: {"config": {"pass_kind": pass_kind.value}}}}
