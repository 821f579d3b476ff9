"""Checks that warn about the published warehouse: what a person should look at.

They are the files of ``sql/warnings``, and those checks of ``sql/checks`` that only warn. The
checks that must pass before publication are in :mod:`aind_etl.warehouse.publishing`.
"""

from collections.abc import Iterator

import dagster as dg

from aind_etl.contract import TABLES, tables
from aind_etl.orchestration.assets.warehouse import WAREHOUSE, was_published
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.text import markdown_table
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect, is_whole
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.sql_files import Kind, SqlFile, read_sql_files, tables_read

_EXAMPLES = 20
_ASSETS = {
    "collections_are_fresh": tables.DOCUMENTS,
    "no_attribute_is_new": tables.ATTRIBUTES,
    "no_result_file_is_missing": tables.RESULT_FILES,
}
"""The tables of checks that are not about the first table that they read."""
_DEPEND_ON_TIME = {"collections_are_fresh"}
"""The checks whose result can change although the warehouse does not."""


def _asset(check: SqlFile) -> str:
    """Return the name of the asset that a check is about."""
    if check.name in _ASSETS:
        return _ASSETS[check.name].name
    read = tables_read(check.statement, {table.name for table in TABLES})
    in_order = [table.name for table in TABLES if table.name in read]
    named = [name for name in in_order if check.name.startswith(f"{name}_belong_to_")]
    return (named or in_order)[0]


_WARNINGS = {
    dg.AssetCheckKey(dg.AssetKey(_asset(check)), check.name): check
    for kind in (Kind.WARNING, Kind.CHECK)
    for check in read_sql_files(kind)
    if kind is Kind.WARNING or check.is_warning
}


@dg.multi_asset_check(
    name="look_at_warehouse",
    specs=[
        dg.AssetCheckSpec(
            key.name, asset=key.asset_key, description=check.summary, additional_deps=[WAREHOUSE]
        )
        for key, check in _WARNINGS.items()
    ],
    # The page materialises an asset together with only the checks of that asset.
    can_subset=True,
)
@step
def warnings(
    context: dg.AssetCheckExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.AssetCheckResult]:
    """Run the checks of the selected assets on the published warehouse.

    If the run has found nothing to publish, only checks that depend on time are run.
    """
    is_new = was_published(context)
    keys = [
        key
        for key in _WARNINGS
        if key in context.selected_asset_check_keys and (is_new or key.name in _DEPEND_ON_TIME)
    ]
    warehouse = locate_warehouse(etl.settings.warehouse_path)
    if not warehouse.exists() or not is_whole(warehouse.file()):
        return  # Nothing was published yet, or the next publication replaces it.
    with connect(etl.settings.warehouse_path) as connection:
        counts = run_checks(connection, [_WARNINGS[key] for key in keys])
        for key, (check, count) in zip(keys, counts, strict=True):
            metadata = {}
            if count:
                rows = connection.sql(f"FROM (\n{check.statement}\n) LIMIT {_EXAMPLES}")
                text = markdown_table(rows.columns, rows.fetchall())
                metadata["to look at"] = dg.MetadataValue.md(text)
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=not count,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{count:,} to look at." if count else "Nothing to look at.",
                metadata=metadata,
            )
