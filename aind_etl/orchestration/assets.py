"""The assets: the change log, the analysis tables, the warehouse with its views and marts."""

from collections.abc import Iterator
from hashlib import sha256
from typing import Any

import dagster as dg

from aind_etl.analyses import refresh_analyses
from aind_etl.contract import ANALYSIS_TABLES, TABLES, tables
from aind_etl.errors import AindEtlError, ConfigurationError
from aind_etl.extract import ExtractReport, Pass, extract_collection
from aind_etl.flatten import flattener_version
from aind_etl.orchestration.metadata import made_column_schema, table_metadata, uri
from aind_etl.orchestration.resources import Etl
from aind_etl.sql_files import Kind, SqlFile, in_order, read_sql_files, tables_read
from aind_etl.warehouse import build_warehouse, connect

WAREHOUSE = dg.AssetKey("warehouse")
_FLATTENED = (*ANALYSIS_TABLES, tables.REJECTED_DOCUMENTS)


class PassConfig(dg.Config):
    """How thoroughly the collections are compared with the change log: ``new`` or ``full``."""

    pass_kind: str = Pass.NEW.value


@dg.asset(
    name=tables.DOCUMENTS.name,
    description=tables.DOCUMENTS.description,
    group_name="lake",
    kinds={"mongodb", "parquet"},
    metadata=table_metadata(tables.DOCUMENTS),
)
def documents(
    context: dg.AssetExecutionContext, config: PassConfig, etl: dg.ResourceParam[Etl]
) -> dg.MaterializeResult[Any]:
    """Bring the change log of every collection up to date with the source."""
    reports: list[ExtractReport] = []
    etl.failures.clear()
    with etl.open_source() as source:
        _refuse_to_mix(source.name, etl)
        # What the lake has and the source has not is compared too: it is gone, or misplaced.
        present = {*source.list_collections(), *etl.lake.collections()}
        for collection in etl.settings.choose(present):
            etl.progress.step(f"extract {collection}")
            try:
                with etl.lake.lock(collection):
                    etl.lake.storage.clear_staging()
                    report = extract_collection(
                        source,
                        etl.lake,
                        collection,
                        Pass(config.pass_kind),
                        limits=etl.limits,
                        progress=etl.progress.advance,
                    )
            except AindEtlError as error:
                # The other collections need not wait for this one to be mended.
                context.log.error(str(error))  # noqa: TRY400 - the error is for people
                etl.failures.append(error)
                continue
            reports.append(report)
            etl.progress.say(_sentence(report))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": etl.lake.count_rows(tables.DOCUMENTS),
            "dagster/uri": uri(etl.lake.storage.path(tables.DOCUMENTS.name)),
            "source": source.name,
            "pass": config.pass_kind,
            "new": sum(report.new for report in reports),
            "changed": sum(report.changed for report in reports),
            "deleted": sum(report.deleted for report in reports),
            "unchanged": sum(report.unchanged for report in reports),
        }
    )


@dg.multi_asset(
    name="flatten",
    specs=[
        dg.AssetSpec(
            table.name,
            description=table.description,
            deps=[tables.DOCUMENTS.name],
            group_name="lake",
            kinds={"polars", "parquet"},
            metadata=table_metadata(table),
            code_version=flattener_version(),
        )
        for table in _FLATTENED
    ],
)
def analyses(
    context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.MaterializeResult[Any]]:
    """Flatten what changed in the change log to `analyses` and its children."""
    reports = []
    for collection in etl.settings.choose(etl.lake.collections()):
        etl.progress.step(f"flatten {collection}")
        with etl.lake.lock(collection):
            report = refresh_analyses(etl.lake, collection, progress=etl.progress.advance)
        reports.append(report)
        context.log.info(str(report))
        if report.rejected:
            etl.progress.say(
                f"{collection}: {report.rejected:,} documents rejected; the table "
                "rejected_documents says why"
            )
    for table in _FLATTENED:
        yield dg.MaterializeResult(
            asset_key=table.name,
            metadata={
                "dagster/row_count": etl.lake.count_rows(table),
                "dagster/uri": uri(etl.lake.storage.path(table.name)),
                "flattened": sum(report.flattened for report in reports),
                "rejected": sum(report.rejected for report in reports),
                "removed": sum(report.removed for report in reports),
            },
        )


def warehouse_asset() -> dg.AssetsDefinition:
    """Return the warehouse with its views and marts, one asset a file of ``sql/``.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` does not begin with a comment.
    """
    made = in_order([*read_sql_files(Kind.VIEW), *read_sql_files(Kind.MART)])
    names = {table.name for table in TABLES} | {file.name for file in made}

    @dg.multi_asset(
        name="publish",
        specs=[
            dg.AssetSpec(
                WAREHOUSE,
                description="The DuckDB file with every table of the lake, views and marts.",
                deps=[tables.DOCUMENTS.name, *(table.name for table in _FLATTENED)],
                group_name="warehouse",
                kinds={"duckdb"},
            ),
            *(
                dg.AssetSpec(
                    file.name,
                    description=file.comment,
                    deps=_upstream(file, names),
                    group_name=file.kind.value,
                    kinds={"duckdb", "sql"},
                    code_version=sha256(file.statement.encode()).hexdigest()[:16],
                )
                for file in made
            ),
        ],
    )
    def warehouse(
        context: dg.AssetExecutionContext, etl: dg.ResourceParam[Etl]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        etl.progress.step("build the warehouse")
        report = build_warehouse(etl.lake, etl.settings.warehouse_path)
        context.log.info("%s: %s", "published" if report.published else "unchanged", report.path)
        yield dg.MaterializeResult(
            asset_key=WAREHOUSE,
            metadata={
                "dagster/uri": uri(report.path),
                "published": report.published,
                "size_bytes": report.size_bytes,
                "rows": dg.MetadataValue.md(_as_markdown(report.rows)),
            },
        )
        with connect(report.path) as connection:
            for file in made:
                metadata: dict[str, Any] = {
                    "dagster/column_schema": made_column_schema(connection, file.name)
                }
                if file.name in report.rows:
                    metadata["dagster/row_count"] = report.rows[file.name]
                yield dg.MaterializeResult(asset_key=file.name, metadata=metadata)
        if etl.failures:
            # Only now: what could be read is published, and the run still counts as failed.
            raise _summed_up(etl.failures)

    return warehouse


def _refuse_to_mix(source: str, etl: Etl) -> None:
    """Keep simulated documents out of a lake of real ones, and the other way round.

    Raises
    ------
    ConfigurationError
        The lake was filled from the other kind of source.
    """
    for collection in etl.lake.collections():
        last = etl.lake.state(collection).source
        if last and last.startswith("sample:") != source.startswith("sample:"):
            raise ConfigurationError(
                f"The lake {etl.lake} was filled from {last}, and the source now is {source}: the "
                "sample's documents would be mixed with real ones. Name the right source with "
                "--source, or another lake with --lake."
            )


def _summed_up(failures: list[AindEtlError]) -> AindEtlError:
    """Return one error that says all that went wrong."""
    return type(failures[0])("\n".join(str(failure) for failure in failures))


def _upstream(file: SqlFile, names: set[str]) -> list[dg.AssetKey]:
    """Return the assets a view or mart reads; tables without an asset stand in the warehouse."""
    assets = {table.name for table in (tables.DOCUMENTS, *_FLATTENED)}
    read = tables_read(file.statement, names) - {file.name}
    others = {table.name for table in TABLES} - assets
    return sorted({WAREHOUSE if name in others else dg.AssetKey(name) for name in read})


def _sentence(report: ExtractReport) -> str:
    parts = [
        f"{count:,} {word}"
        for count, word in (
            (report.new, "new"),
            (report.changed, "changed"),
            (report.deleted, "deleted"),
            (report.repeated, "repeated"),
        )
        if count
    ]
    return f"{report.collection}: {', '.join(parts) or 'nothing new'}"


def _as_markdown(rows: dict[str, int]) -> str:
    lines = [f"| {name} | {count:,} |" for name, count in sorted(rows.items())]
    return "\n".join(["| table | rows |", "|---|---:|", *lines])
