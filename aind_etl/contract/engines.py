"""Table definitions for engines that query the lake's parquet: Spark, Trino and Athena."""

from enum import StrEnum

from aind_etl.contract.ddl import describe, quote_identifier, quote_text
from aind_etl.contract.tables import TABLES, Partitioning, Table
from aind_etl.contract.types import DataType

_TRINO_TYPES = {
    data_type: data_type.value for data_type in set(DataType) - {DataType.TIME, DataType.TIMESTAMP}
} | {DataType.TIMESTAMPTZ: "TIMESTAMP(6)"}
_HIVE_TYPES = _TRINO_TYPES | {
    DataType.VARCHAR: "STRING",
    DataType.INTEGER: "INT",
    DataType.TIMESTAMPTZ: "TIMESTAMP",
}
# Hive tables, which Athena and Trino use, have no type for a time of day. Spark has one since 4.1,
# if this setting is on.
_SPARK_SETTING = "SET spark.sql.timeType.enabled = true"
_SPARK_TYPES = _HIVE_TYPES | {DataType.TIME: "TIME(6)"}


class Dialect(StrEnum):
    """An engine that queries the lake's parquet."""

    ATHENA = "athena"
    TRINO = "trino"
    SPARK = "spark"


def external_tables(dialect: Dialect, lake: str) -> list[str]:
    """Return the statements that define every table of the lake, at its address, in an engine.

    For each table a CREATE statement and, if it has partitions, one that finds them, which is to be
    run again whenever there may be new partitions.
    """
    create = {Dialect.ATHENA: _athena, Dialect.TRINO: _trino, Dialect.SPARK: _spark}[dialect]
    statements = [_SPARK_SETTING] if dialect is Dialect.SPARK else []
    for table in TABLES:
        keys = table.partitioning.value
        if table.partitioning is Partitioning.WAREHOUSE_ONLY:
            continue
        statements.append(create(table, keys, f"{lake.rstrip('/')}/{table.name}"))
        if keys:
            statements.append(
                "CALL system.sync_partition_metadata"
                f"(CURRENT_SCHEMA, {quote_text(table.name)}, 'FULL')"
                if dialect is Dialect.TRINO
                else f"MSCK REPAIR TABLE `{table.name}`"
            )
    return statements


def _athena(table: Table, keys: tuple[str, ...], location: str) -> str:
    partitions = ", ".join(f"`{key}` STRING" for key in keys)
    return (
        f"CREATE EXTERNAL TABLE IF NOT EXISTS `{table.name}` (\n"
        f"{_hive_columns(table, _HIVE_TYPES)}\n)\nCOMMENT {_hive_text(table.description)}"
        + (f"\nPARTITIONED BY ({partitions})" if keys else "")
        + f"\nSTORED AS PARQUET\nLOCATION {_hive_text(location + '/')}"
    )


def _spark(table: Table, keys: tuple[str, ...], location: str) -> str:
    columns = _hive_columns(table, _SPARK_TYPES) + "".join(f",\n  `{key}` STRING" for key in keys)
    return (
        f"CREATE TABLE IF NOT EXISTS `{table.name}` (\n{columns}\n)\nUSING parquet"
        + (f"\nPARTITIONED BY ({', '.join(keys)})" if keys else "")
        + f"\nLOCATION {_hive_text(location)}\nCOMMENT {_hive_text(table.description)}"
    )


def _trino(table: Table, keys: tuple[str, ...], location: str) -> str:
    columns = [
        f"  {quote_identifier(column.name)} {_TRINO_TYPES[column.type]} "
        f"COMMENT {quote_text(describe(column))}"
        for column in table.columns
        if column.type in _TRINO_TYPES
    ]
    # Trino requires the partition keys to be the last columns.
    columns += [f"  {quote_identifier(key)} VARCHAR" for key in keys]
    properties = [f"external_location = {quote_text(location + '/')}", "format = 'PARQUET'"]
    if keys:
        properties.append(f"partitioned_by = ARRAY[{', '.join(map(quote_text, keys))}]")
    return (
        f"CREATE TABLE IF NOT EXISTS {quote_identifier(table.name)} (\n"
        + ",\n".join(columns)
        + f"\n)\nCOMMENT {quote_text(table.description)}\nWITH (\n  "
        + ",\n  ".join(properties)
        + "\n)"
    )


def _hive_columns(table: Table, types: dict[DataType, str]) -> str:
    return ",\n".join(
        f"  `{column.name}` {types[column.type]} COMMENT {_hive_text(describe(column))}"
        for column in table.columns
        if column.type in types
    )


def _hive_text(text: str) -> str:
    """Return a string literal of Hive and Spark, which escape by backslashes."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
