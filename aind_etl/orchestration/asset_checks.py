"""Checks that warn about the published warehouse: what a person should look at.

The checks that must pass before publication are in :mod:`aind_etl.warehouse.publishing` and
``sql/checks``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import dagster as dg
import duckdb

from aind_etl.contract import TABLES, tables
from aind_etl.orchestration.assets.warehouse import WAREHOUSE, was_published
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.text import markdown_table
from aind_etl.warehouse.connection import connect, is_whole
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.parallel import run_parallel
from aind_etl.warehouse.sql_files import Kind, read_sql_files, tables_read

_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class _Warning:
    """A check of an asset: a query that returns one row per violation."""

    asset: str
    name: str
    description: str
    query: str
    # Whether the result can change although the warehouse does not.
    depends_on_time: bool = False


_DECLARED = (
    _Warning(
        tables.DOCUMENTS.name,
        "collections_are_fresh",
        "Every collection was read, in full or for what is new, within the last 26 hours.",
        """
        SELECT source_collection, source, last_new_pass_at, last_full_pass_at
        FROM collections
        WHERE coalesce(greatest(last_new_pass_at, last_full_pass_at), TIMESTAMPTZ '1970-01-01')
            < now() - INTERVAL 26 HOURS
        ORDER BY ALL
        """,
        depends_on_time=True,
    ),
    _Warning(
        tables.REJECTED_DOCUMENTS.name,
        "no_document_is_rejected",
        "Every document could be flattened.",
        """
        SELECT source_collection, reason, path, count(*) AS documents, any_value(message) AS example
        FROM rejected_documents
        GROUP BY ALL
        ORDER BY documents DESC, source_collection, reason, path
        """,
    ),
    _Warning(
        tables.REJECTED_VALUES.name,
        "no_value_is_rejected",
        "Every value of a document fits its column.",
        """
        SELECT
            source_collection,
            reason,
            regexp_replace(path, '\\[[0-9]+\\]', '[]', 'g') AS path,
            expected,
            count(*) AS n_values,
            min(value) AS example,
            min(record_id) AS record_id
        FROM rejected_values
        GROUP BY ALL
        ORDER BY n_values DESC, source_collection, reason, path, expected
        """,
    ),
    _Warning(
        tables.ATTRIBUTES.name,
        "no_attribute_is_new",
        "No attribute appeared in the last week that was new to its collection.",
        """
        WITH loaded AS (
            SELECT source_collection, min(first_seen_at) AS first_load
            FROM analyses
            GROUP BY source_collection
        ),
        paths AS (
            SELECT
                source_collection,
                section,
                path,
                min(changed_at) AS came_up,
                count(*) AS n_values
            FROM attributes
            JOIN analyses USING (source_collection, record_id, process_index)
            GROUP BY ALL
        ),
        attribute_names AS (
            SELECT
                source_collection,
                section,
                regexp_replace(path, '\\[[0-9]+\\]', '[]', 'g') AS path,
                min(came_up) AS came_up,
                sum(n_values)::BIGINT AS n_values
            FROM paths
            GROUP BY ALL
        )
        SELECT source_collection, section, path, came_up, n_values
        FROM attribute_names
        JOIN loaded USING (source_collection)
        WHERE came_up > first_load + INTERVAL 1 DAY AND came_up > now() - INTERVAL 7 DAYS
        ORDER BY ALL
        """,
    ),
    _Warning(
        tables.RESULT_FILES.name,
        "no_result_file_is_missing",
        "Every successful fit that was checked has its result file and its figure.",
        """
        SELECT * FROM missing_result_files
        """,
    ),
)


def _sql_warnings() -> Iterator[_Warning]:
    """Yield the warnings of ``sql/checks``, each on one of the tables that it reads."""
    names = [table.name for table in TABLES]
    for file in read_sql_files(Kind.CHECK):
        if file.is_warning:
            read = sorted(tables_read(file.statement, set(names)), key=names.index)
            named = [name for name in read if file.name.startswith(f"{name}_belong_to_")]
            yield _Warning((named or read)[0], file.name, file.summary, file.statement)


_WARNINGS = (*_DECLARED, *_sql_warnings())


@dg.multi_asset_check(
    name="look_at_warehouse",
    specs=[
        dg.AssetCheckSpec(
            one.name, asset=one.asset, description=one.description, additional_deps=[WAREHOUSE]
        )
        for one in _WARNINGS
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
    selected = [
        one
        for one in _WARNINGS
        if dg.AssetCheckKey(dg.AssetKey(one.asset), one.name) in context.selected_asset_check_keys
        and (is_new or one.depends_on_time)
    ]
    warehouse = locate_warehouse(etl.settings.warehouse_path)
    if not warehouse.exists() or not is_whole(warehouse.file()):
        return  # Nothing was published yet, or the next publication replaces it.
    with connect(etl.settings.warehouse_path) as connection:
        queries = {one.name: partial(_count, one.query) for one in selected}
        counts = run_parallel(connection, queries)
        for one in selected:
            count = counts[one.name]
            metadata = {}
            if count:
                rows = connection.execute(f"FROM ({one.query}) LIMIT {_EXAMPLES}").fetchall()
                names = [column[0] for column in connection.description or ()]
                metadata["to look at"] = dg.MetadataValue.md(markdown_table(names, rows))
            yield dg.AssetCheckResult(
                asset_key=one.asset,
                check_name=one.name,
                passed=not count,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{count:,} to look at." if count else "Nothing to look at.",
                metadata=metadata,
            )


def _count(query: str, connection: duckdb.DuckDBPyConnection) -> int:
    return int(connection.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0])
