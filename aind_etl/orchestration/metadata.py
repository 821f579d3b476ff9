"""The contract in the words of Dagster: column schemas and column lineage."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import duckdb

from aind_etl.contract import Table, tables
from aind_etl.contract.ddl import describe


def column_schema(table: Table) -> dg.TableSchema:
    """Return a table's columns with types, descriptions and constraints."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.value,
                describe(column),
                dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in table.columns
        ]
    )


def column_lineage(table: Table) -> dg.TableColumnLineage:
    """Return from which columns of the change log a table's columns follow."""
    log = dg.AssetKey(tables.DOCUMENTS.name)
    return dg.TableColumnLineage(
        {
            column.name: [dg.TableColumnDep(asset_key=log, column_name=column.source)]
            for column in table.columns
        }
    )


def table_metadata(table: Table) -> Mapping[str, dg.MetadataValue]:
    """Return what is known of a table before it is made."""
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(table))
    }
    if table is not tables.DOCUMENTS:
        metadata["dagster/column_lineage"] = dg.MetadataValue.column_lineage(column_lineage(table))
    return metadata


def made_column_schema(connection: duckdb.DuckDBPyConnection, name: str) -> dg.TableSchema:
    """Return the columns of a view or mart as the warehouse has them."""
    columns = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [name],
    ).fetchall()
    return dg.TableSchema(columns=[dg.TableColumn(column, kind) for column, kind in columns])


def uri(path: Path) -> dg.MetadataValue:
    """Return where something lies, as the page shows it."""
    return dg.MetadataValue.path(str(path))
