"""Table definitions for engines that query the lake's parquet: Spark, Trino and Athena."""

from collections.abc import Callable
from enum import StrEnum

from aind_etl.contract.columns import Column
from aind_etl.contract.ddl import describe, quote_identifier, quote_text
from aind_etl.contract.tables import TABLES, Partitioning, Table
from aind_etl.contract.types import DataType

_HIVE_TYPES = {
    DataType.VARCHAR: "STRING",
    DataType.BOOLEAN: "BOOLEAN",
    DataType.TINYINT: "TINYINT",
    DataType.SMALLINT: "SMALLINT",
    DataType.INTEGER: "INT",
    DataType.BIGINT: "BIGINT",
    DataType.DOUBLE: "DOUBLE",
    DataType.DATE: "DATE",
    DataType.TIMESTAMPTZ: "TIMESTAMP",
}
# Hive tables, which Athena's and Trino's are, have no type for a time of day. Spark has since 4.1,
# where it is switched on.
_SPARK_SETTING = "SET spark.sql.timeType.enabled = true"
_SPARK_TYPES = _HIVE_TYPES | {DataType.TIME: "TIME(6)"}
_TRINO_TYPES = _HIVE_TYPES | {
    DataType.VARCHAR: "VARCHAR",
    DataType.INTEGER: "INTEGER",
    DataType.TIMESTAMPTZ: "TIMESTAMP(6)",
}


class Dialect(StrEnum):
    """An engine that queries the lake's parquet."""

    ATHENA = "athena"
    TRINO = "trino"
    SPARK = "spark"


def external_tables(dialect: Dialect, lake: str) -> list[str]:
    """Return the statements that make every table of the lake known to an engine.

    Parameters
    ----------
    dialect
        The engine.
    lake
        Where the lake lies, as the engine names it: ``s3://bucket/prefix``, or a folder.

    Returns
    -------
    list of str
        For each table its creation and, where it has partitions, the search for them. The latter
        is run again whenever a partition may have come.
    """
    make = _MAKERS[dialect]
    return [
        *([_SPARK_SETTING] if dialect is Dialect.SPARK else []),
        *(
            statement
            for table in TABLES
            if table.partitioning is not Partitioning.WAREHOUSE_ONLY
            for statement in make(table, f"{lake.rstrip('/')}/{table.name}")
        ),
    ]


def _athena(table: Table, location: str) -> list[str]:
    statement = f"CREATE EXTERNAL TABLE IF NOT EXISTS `{table.name}` (\n"
    statement += _hive_columns(table, _HIVE_TYPES) + f"\n)\nCOMMENT {_hive_text(table.description)}"
    if _keys(table):
        keys = ", ".join(f"`{key}` STRING" for key in _keys(table))
        statement += f"\nPARTITIONED BY ({keys})"
    statement += f"\nSTORED AS PARQUET\nLOCATION {_hive_text(location + '/')}"
    return [statement, *([f"MSCK REPAIR TABLE `{table.name}`"] if _keys(table) else [])]


def _spark(table: Table, location: str) -> list[str]:
    columns = _hive_columns(table, _SPARK_TYPES)
    if _keys(table):
        columns += "".join(f",\n  `{key}` STRING" for key in _keys(table))
    statement = f"CREATE TABLE IF NOT EXISTS `{table.name}` (\n{columns}\n)\nUSING parquet"
    if _keys(table):
        statement += f"\nPARTITIONED BY ({', '.join(_keys(table))})"
    statement += f"\nLOCATION {_hive_text(location)}\nCOMMENT {_hive_text(table.description)}"
    return [statement, *([f"MSCK REPAIR TABLE `{table.name}`"] if _keys(table) else [])]


def _trino(table: Table, location: str) -> list[str]:
    columns = [
        f"  {quote_identifier(column.name)} {_TRINO_TYPES[column.type]} "
        f"COMMENT {quote_text(describe(column))}"
        for column in _known(table, _TRINO_TYPES)
    ]
    # Trino wants the keys of partitions last among the columns.
    columns += [f"  {quote_identifier(key)} VARCHAR" for key in _keys(table)]
    properties = [
        f"external_location = {quote_text(location + '/')}",
        "format = 'PARQUET'",
    ]
    if _keys(table):
        keys = ", ".join(quote_text(key) for key in _keys(table))
        properties.append(f"partitioned_by = ARRAY[{keys}]")
    listed = ",\n".join(columns)
    statement = (
        f"CREATE TABLE IF NOT EXISTS {quote_identifier(table.name)} (\n{listed}\n)\n"
        f"COMMENT {quote_text(table.description)}\nWITH (\n  " + ",\n  ".join(properties) + "\n)"
    )
    search = (
        f"CALL system.sync_partition_metadata(CURRENT_SCHEMA, {quote_text(table.name)}, 'FULL')"
    )
    return [statement, *([search] if _keys(table) else [])]


_MAKERS: dict[Dialect, Callable[[Table, str], list[str]]] = {
    Dialect.ATHENA: _athena,
    Dialect.SPARK: _spark,
    Dialect.TRINO: _trino,
}


def _keys(table: Table) -> tuple[str, ...]:
    return table.partitioning.value or ()


def _known(table: Table, types: dict[DataType, str]) -> list[Column]:
    return [column for column in table.columns if column.type in types]


def _hive_columns(table: Table, types: dict[DataType, str]) -> str:
    return ",\n".join(
        f"  `{column.name}` {types[column.type]} COMMENT {_hive_text(describe(column))}"
        for column in _known(table, types)
    )


def _hive_text(text: str) -> str:
    """Return a text as Hive's dialects write it: with a backslash before what is special."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
