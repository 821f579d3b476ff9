"""The lake described as a data package: ``datapackage.json``, after the Frictionless standard.

It tells catalogues and other languages which files a table consists of and what its columns mean.
"""

import json
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from aind_etl.contract import TABLES, Column, DataType, Partitioning, Table
from aind_etl.contract.ddl import describe
from aind_etl.errors import ConfigurationError

if TYPE_CHECKING:
    from aind_etl.lake import Lake
    from aind_etl.lake.storage.protocol import Location

FILE_NAME = "datapackage.json"
_TYPES = {
    DataType.VARCHAR: "string",
    DataType.BOOLEAN: "boolean",
    **{kind: "integer" for kind in DataType if kind.is_integer},
    DataType.DOUBLE: "number",
    DataType.DATE: "date",
    DataType.TIME: "time",
    DataType.TIMESTAMP: "datetime",
    DataType.TIMESTAMPTZ: "datetime",
}


def data_package(lake: "Lake") -> dict[str, Any]:
    """Return the description of the lake's files: a Data Package descriptor, version 1.

    It has one resource per table that has files, with its partitions as parts.

    Raises
    ------
    ConfigurationError
        The lake is empty.
    """
    resources = [
        _resource(lake, table)
        for table in TABLES
        if table.partitioning is not Partitioning.WAREHOUSE_ONLY and lake.tables.files(table)
    ]
    if not resources:
        raise ConfigurationError(
            f"The lake {str(lake)!r} is empty. Name another with --lake, or run 'aind-etl run' to "
            "load it."
        )
    return {
        "profile": "data-package",
        "name": "aind-analysis-results",
        "title": "Results of the analyses of the Allen Institute for Neural Dynamics",
        "description": "Analysis results of both pipeline formats as partitioned parquet. Times "
        f"are UTC. Written by aind-etl {version('aind-etl')}.",
        "resources": resources,
    }


def write_data_package(lake: "Lake") -> "Location":
    """Write the description into the lake, and return its path."""
    text = json.dumps(data_package(lake), indent=2, ensure_ascii=False) + "\n"
    lake.storage.write(FILE_NAME, lambda file: file.write(text.encode()))
    return lake.storage.path(FILE_NAME)


def _resource(lake: "Lake", table: Table) -> dict[str, Any]:
    paths = sorted(str(path).removeprefix(f"{lake}/") for path in lake.tables.files(table))
    # The files of the session table have more columns than the contract.
    columns = lake.tables.as_written(table).columns
    return {
        "profile": "tabular-data-resource",
        "name": table.name.replace("_", "-"),
        "title": table.name,
        "description": table.description,
        "path": paths[0] if len(paths) == 1 else paths,
        "format": "parquet",
        "mediatype": "application/vnd.apache.parquet",
        "schema": {"fields": [_field(column) for column in columns], "primaryKey": list(table.key)},
    }


def _field(column: Column) -> dict[str, Any]:
    return {
        "name": column.name,
        "type": _TYPES[column.type],
        "description": describe(column),
        **({"constraints": {"required": True}} if column.required else {}),
    }
