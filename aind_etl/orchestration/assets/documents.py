"""The change log."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from aind_etl.changelog.passes import ExtractLimits, ExtractReport, Pass, extract_collection
from aind_etl.contract import tables
from aind_etl.errors import AindEtlError, ConfigurationError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake.resharding import reshard_as_planned
from aind_etl.orchestration.metadata import Timer, partition_result, table_spec
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.sources.kinds import kind_of

_REPORTED = ("read", "new", "changed", "deleted", "unchanged")


class PassConfig(dg.Config):
    """How thoroughly a collection is compared with the change log: ``new`` or ``full``."""

    pass_kind: str = Pass.NEW.value


@dg.multi_asset(
    name=tables.DOCUMENTS.name,
    specs=[
        table_spec(
            tables.DOCUMENTS, group_name="lake", kinds={"parquet"}, partitions_def=COLLECTIONS
        )
    ],
    backfill_policy=ONE_RUN_EACH,
)
@step
def documents(
    context: dg.AssetExecutionContext, config: PassConfig, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Bring a collection's change log up to date with the source."""
    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"extract {context.partition_key}")
    timer = Timer()
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
                    Pass(config.pass_kind),
                    limits=limits,
                    progress=etl.progress.advance,
                )
            except AindEtlError:
                # Later steps do not run, so the documents that were read are flattened now.
                refresh_analyses(lake, collection)
                raise
    etl.progress.say(f"{context.partition_key}: {_summary(report)}")
    metadata = {
        "source": source.name,
        "pass": config.pass_kind,
        **{name: getattr(report, name) for name in _REPORTED},
        "seconds": timer.seconds,
    }
    yield partition_result(lake, tables.DOCUMENTS, collection, metadata)


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
