"""The change log, a collection at a time."""

from typing import Any

import dagster as dg

from aind_etl.changelog.passes import ExtractReport, Pass, extract_collection
from aind_etl.contract import tables
from aind_etl.errors import AindEtlError, ConfigurationError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake.resharding import reshard_as_planned
from aind_etl.orchestration.metadata import (
    OWNERS,
    Timer,
    data_version,
    partition_metadata,
    table_metadata,
)
from aind_etl.orchestration.partitions import COLLECTIONS, ONE_RUN_EACH
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.sources.kinds import kind_of


class PassConfig(dg.Config):
    """How thoroughly a collection is compared with the change log: ``new`` or ``full``."""

    pass_kind: str = Pass.NEW.value


@dg.asset(
    name=tables.DOCUMENTS.name,
    description=tables.DOCUMENTS.description,
    group_name="lake",
    kinds={"parquet"},
    owners=OWNERS,
    metadata=table_metadata(tables.DOCUMENTS),
    partitions_def=COLLECTIONS,
    backfill_policy=ONE_RUN_EACH,
)
@step
def documents(
    context: dg.AssetExecutionContext, config: PassConfig, etl: dg.ResourceParam[Etl]
) -> dg.MaterializeResult[Any]:
    """Bring a collection's change log up to date with the source."""
    lake, collection = etl.lake_and_collection(context.partition_key)
    etl.progress.step(f"extract {context.partition_key}")
    watch = Timer()
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
                    limits=etl.limits,
                    progress=etl.progress.advance,
                )
            except AindEtlError:
                # The steps after one that failed do not run: what was read is flattened now.
                refresh_analyses(lake, collection)
                raise
    etl.progress.say(f"{context.partition_key}: {_sentence(report)}")
    return dg.MaterializeResult(
        data_version=data_version(lake, tables.DOCUMENTS, collection),
        metadata={
            "source": source.name,
            "pass": config.pass_kind,
            "read": report.read,
            "new": report.new,
            "changed": report.changed,
            "deleted": report.deleted,
            "unchanged": report.unchanged,
            **partition_metadata(lake, tables.DOCUMENTS, collection, watch),
        },
    )


def _refuse_to_mix(source: str, etl: Etl) -> None:
    """Keep simulated documents out of a lake of real ones, and the other way round.

    Raises
    ------
    ConfigurationError
        The lake was filled from the other kind of source.
    """
    for collection in etl.lake.collections():
        last = etl.lake.state(collection).source
        if last and kind_of(last).is_simulated != kind_of(source).is_simulated:
            raise ConfigurationError(
                f"The lake {etl.lake} was filled from {last}, and the source now is {source}: the "
                "sample's documents would be mixed with real ones. Name the right source with "
                "--source, or another lake with --lake."
            )


def _sentence(report: ExtractReport) -> str:
    shards = [
        f"{count:,} {word}"
        for count, word in (
            (report.new, "new"),
            (report.changed, "changed"),
            (report.deleted, "deleted"),
            (report.repeated, "repeated"),
        )
        if count
    ]
    return ", ".join(shards) or "nothing new"
