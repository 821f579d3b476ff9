"""The checks that warn: what a person should look at, though nothing is wrong with the warehouse.

They ask the published warehouse. What must hold before it is published is in
:mod:`aind_etl.warehouse.publishing` and ``sql/checks``.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from aind_etl.contract import TABLES, tables
from aind_etl.orchestration.assets.warehouse import WAREHOUSE, was_published
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.steps import step
from aind_etl.text import markdown_table
from aind_etl.warehouse.connection import connect, is_whole
from aind_etl.warehouse.location import locate_warehouse
from aind_etl.warehouse.sql_files import Kind, read_sql_files, tables_read

_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class _Warning:
    """A query that should return no rows.

    Attributes
    ----------
    asset, name
        The asset it warns of, and its name.
    description
        What should hold, as a sentence.
    query
        What offends, one row each.
    depends_on_time
        Whether the answer changes though the warehouse does not.
    """

    asset: str
    name: str
    description: str
    query: str
    depends_on_time: bool = False


_WARNINGS = (
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
        "No attribute came up within the last week that the collection had not had before.",
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


def _all_warnings() -> list[_Warning]:
    """Return the warnings above and those of ``sql/checks``, each on an asset it asks.

    Raises
    ------
    ConfigurationError
        A file of ``sql/checks`` cannot be read.
    """
    names = [table.name for table in TABLES]
    found = list(_WARNINGS)
    for file in read_sql_files(Kind.CHECK):
        if file.is_warning:
            read = sorted(tables_read(file.statement, set(names)), key=names.index)
            named = [name for name in read if file.name.startswith(f"{name}_belong_to_")]
            found.append(_Warning((named or read)[0], file.name, file.summary, file.statement))
    return found


@dg.multi_asset_check(
    name="look_at_warehouse",
    specs=[
        dg.AssetCheckSpec(
            one.name, asset=one.asset, description=one.description, additional_deps=[WAREHOUSE]
        )
        for one in _all_warnings()
    ],
    # The page materialises an asset together with the checks of that asset alone.
    can_subset=True,
)
@step
def warnings(
    context: dg.AssetCheckExecutionContext, etl: dg.ResourceParam[Etl]
) -> Iterator[dg.AssetCheckResult]:
    """Run the queries on the published warehouse, or those of the selected assets.

    Where the run has found nothing to publish, only the checks that depend on time run.
    """
    is_new = was_published(context)
    asked = [
        one
        for one in _all_warnings()
        if dg.AssetCheckKey(dg.AssetKey(one.asset), one.name) in context.selected_asset_check_keys
        and (is_new or one.depends_on_time)
    ]
    warehouse = locate_warehouse(etl.settings.warehouse_path)
    if not warehouse.exists() or not is_whole(warehouse.file()):
        return  # Nothing was published yet, or the next publication replaces it.
    with connect(etl.settings.warehouse_path) as connection:
        for one in asked:
            ((count,),) = connection.execute(f"SELECT count(*) FROM ({one.query})").fetchall()
            examples = (
                connection.execute(f"FROM ({one.query}) LIMIT {_EXAMPLES}").fetchall()
                if count
                else []
            )
            names = [column[0] for column in connection.description or ()]
            yield dg.AssetCheckResult(
                asset_key=one.asset,
                check_name=one.name,
                passed=not count,
                severity=dg.AssetCheckSeverity.WARN,
                description=f"{count:,} to look at." if count else "Nothing to look at.",
                metadata={"to look at": dg.MetadataValue.md(markdown_table(names, examples))}
                if count
                else {},
            )
