"""The change log and the tables flattened from it."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dagster as dg

from aind_etl.changelog.passes import ExtractLimits, ExtractReport, Pass, extract_collection
from aind_etl.contract import FLATTENED_TABLES, tables
from aind_etl.errors import AindEtlError, ConfigurationError
from aind_etl.flatten import flattener_version
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.resharding import reshard_as_planned
from aind_etl.orchestration.assets.collection_tables import collection_tables
from aind_etl.orchestration.resources import Etl
from aind_etl.sources.kinds import kind_of

_EXTRACTED = ("read", "new", "changed", "deleted", "unchanged")
_FLATTENED = ("flattened", "rejected", "rejected_values", "removed", "partitions_written")


_PASS_KIND = dg.Field(
    str,
    default_value=Pass.NEW.value,
    description="How thoroughly a collection is compared with the change log: ``new`` or ``full``.",
)


@collection_tables(
    [tables.DOCUMENTS],
    always=tables.DOCUMENTS,
    config_schema={"pass_kind": _PASS_KIND},
    group_name="lake",
    kinds={"parquet"},
)
def documents(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, Any]:
    """Bring a collection's change log up to date with the source."""
    pass_kind = context.op_execution_context.op_config["pass_kind"]
    etl.progress.step(f"extract {context.partition_key}")
    limits = ExtractLimits(
        look_back=timedelta(days=etl.settings.look_back_days),
        max_deleted_share=etl.settings.max_deleted_share,
        shard_documents=etl.settings.shard_documents,
    )
    with etl.retrying(context), etl.open_source() as source:
        _refuse_to_mix(source.name, etl)
        reshard_as_planned(lake, collection)
        with lake.lock(collection):
            lake.clear_staging(collection)
            try:
                report = extract_collection(
                    source,
                    lake,
                    collection,
                    Pass(pass_kind),
                    limits=limits,
                    progress=etl.progress.advance,
                )
            except AindEtlError:
                # Later steps do not run, so the documents that were read are flattened now.
                refresh_analyses(lake, collection)
                raise
    etl.progress.say(f"{context.partition_key}: {_summary(report)}")
    counts = {name: getattr(report, name) for name in _EXTRACTED}
    return {"source": source.name, "pass": pass_kind, **counts}


def _refuse_to_mix(source: str, etl: Etl) -> None:
    """Raise an error if simulated and real documents would be mixed in the lake."""
    for collection in etl.lake.collections():
        last = etl.lake.state(collection).source
        if last and kind_of(last).is_simulated != kind_of(source).is_simulated:
            raise ConfigurationError(
                f"The lake {etl.lake} was loaded from {last}, and the source now is {source}: the "
                "sample's documents would be mixed with real ones. Name the right source with "
                "--source, or another lake with --lake."
            )


def _summary(report: ExtractReport) -> str:
    counts = {name: getattr(report, name) for name in ("new", "changed", "deleted", "repeated")}
    return ", ".join(f"{n:,} {name}" for name, n in counts.items() if n) or "nothing new"


@collection_tables(
    FLATTENED_TABLES,
    deps=[tables.DOCUMENTS],
    always=tables.ANALYSES,
    group_name="lake",
    kinds={"polars", "parquet"},
    code_version=flattener_version(),
)
def flatten(
    context: dg.AssetExecutionContext, etl: Etl, lake: Lake, collection: str
) -> Mapping[str, int]:
    """Flatten the changes in a collection's change log."""
    key = context.partition_key
    etl.progress.step(f"flatten {key}")
    with lake.lock(collection):
        report = refresh_analyses(lake, collection, progress=etl.progress.advance)
    context.log.info(str(report))
    if report.repaired:
        etl.progress.say(f"{key}: {report.repaired}; the tables were rebuilt from the change log")
    for count, what in ((report.rejected, "documents"), (report.rejected_values, "values")):
        if count:
            etl.progress.say(
                f"{key}: {count:,} {what} rejected; the table rejected_{what} says why"
            )
    return {name: getattr(report, name) for name in _FLATTENED}
