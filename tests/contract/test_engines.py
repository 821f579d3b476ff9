"""Spark, Trino and Athena understand the definitions of the lake's tables."""

import json
import os
import shutil
import subprocess
import sys

import duckdb
import pytest
import sqlglot
from sqlglot import expressions
from worlds import LAKE_TABLES

from aind_etl.contract import DataType, Partitioning, tables
from aind_etl.contract.engines import Dialect, external_tables
from aind_etl.warehouse.sql_files import Kind, in_order, read_sql_files, tables_read

SPARK = "pyspark==4.3.0"

# Hive tables have no type for a time of day.
HIVE_HAS_NOT = {DataType.TIME}

SPARK_SCRIPT = """
def shown(value):
    return f"{value:.9g}" if isinstance(value, float) else str(value)

import json, sys
from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.sql.session.timeZone", "UTC")
    .config("spark.sql.warehouse.dir", sys.argv[1])
    .getOrCreate()
)
spark.sparkContext.setLogLevel("OFF")
statements, queries = json.load(sys.stdin)
for statement in statements:
    spark.sql(statement)
found = {query: [list(map(shown, row)) for row in spark.sql(query).collect()] for query in queries}
print("\\n" + json.dumps(found))
"""

PORTABLE_MARTS = {"fit_coverage", "model_comparison", "parameter_trajectories"}
"""The marts whose SQL Spark supports.

The others pivot or unpivot, order within an aggregate, or subtract times.
"""


def shown(value):
    """Return a value for comparison: sums may differ in their last digits."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def portable_sql():
    """Return the marts in Spark's dialect, and the views that they read as its statements."""
    names = {table.name for table in LAKE_TABLES}
    files = in_order([*read_sql_files(Kind.VIEW), *read_sql_files(Kind.MART)])
    names |= {file.name for file in files}
    marts = {file.name: file.statement for file in files if file.name in PORTABLE_MARTS}
    read = set().union(*(tables_read(statement, names) for statement in marts.values()))
    views = [file for file in files if file.kind is Kind.VIEW and file.name in read]
    return (
        [f"CREATE TEMPORARY VIEW {view.name} AS {in_spark(view.statement)}" for view in views],
        {name: in_spark(statement) for name, statement in marts.items()},
    )


def in_spark(statement):
    """Return a statement in Spark's dialect, which has every function but one."""

    def spelled_out(node):
        if isinstance(node, expressions.Anonymous) and node.name.lower() == "isfinite":
            (value,) = node.expressions
            return sqlglot.parse_one(f"abs({value.sql()}) < CAST('infinity' AS DOUBLE)")
        return node

    parsed = sqlglot.parse_one(statement, read="duckdb").transform(spelled_out)
    return parsed.sql(dialect="spark")


@pytest.mark.parametrize("dialect", Dialect)
def test_every_table_of_the_lake_is_defined_with_its_columns_and_partitions(dialect):
    statements = external_tables(dialect, "s3://lakes/one/")
    created = [sqlglot.parse_one(one, dialect=dialect) for one in statements if "CREATE" in one]
    assert len(created) == len(LAKE_TABLES)
    for table, statement in zip(LAKE_TABLES, created, strict=True):
        assert isinstance(statement, expressions.Create)
        schema = statement.this
        assert schema.this.name == table.name
        columns = {column.name for column in schema.expressions}
        keys = set(table.partitioning.value)
        without = set() if dialect is Dialect.SPARK else HIVE_HAS_NOT
        expected = {column.name for column in table.columns if column.type not in without}
        assert columns | keys == expected | keys
        assert f"s3://lakes/one/{table.name}" in statement.sql(dialect)


@pytest.mark.parametrize("dialect", Dialect)
def test_partitions_are_searched_for_in_partitioned_tables(dialect):
    statements = external_tables(dialect, "s3://lakes/one")
    searched = [one for one in statements if "MSCK" in one or "sync_partition" in one]
    assert len(searched) == sum(
        table.partitioning is not Partitioning.WHOLE for table in LAKE_TABLES
    )


def test_descriptions_and_locations_are_quoted():
    (_, statement, *_) = external_tables(Dialect.SPARK, "s3://lakes/it's one")
    assert r"LOCATION 's3://lakes/it\'s one/analyses'" in statement
    meaning = tables.ANALYSES.columns[0].description
    assert meaning in statement


@pytest.mark.long
def test_spark_answers_queries_and_portable_marts_as_duckdb_does(built, tmp_path):
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java, and there is none")
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "spark")], check=True)
    python = tmp_path / "spark" / "bin" / "python"
    installed = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", SPARK], capture_output=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"pip could not install {SPARK}")
    lake = built.lake.storage.root
    filled = [table for table in LAKE_TABLES if built.lake.tables.files(table)]
    # Spark's search for partitions wants a folder to search.
    statements = [
        one
        for one in external_tables(Dialect.SPARK, str(lake))
        if "`" not in one or any(f"`{table.name}`" in one for table in filled)
    ]
    queries = [
        *(f"SELECT count(*) FROM {table.name}" for table in filled),
        "SELECT agent_alias, count(*), round(sum(aic), 3) FROM analyses GROUP BY 1 ORDER BY 2, 1",
        "SELECT session_key, session_time FROM analyses ORDER BY record_id, session_key LIMIT 20",
        "SELECT parameter, round(avg(value), 6) FROM fit_parameters GROUP BY 1 ORDER BY 1",
    ]
    views, marts = portable_sql()
    ended = subprocess.run(
        [python, "-c", SPARK_SCRIPT, str(tmp_path / "catalogue")],
        input=json.dumps([[*statements, *views], [*queries, *marts.values()]]).encode(),
        stdout=subprocess.PIPE,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"SPARK_LOCAL_IP": "127.0.0.1"},
    )
    found = json.loads(ended.stdout.decode().splitlines()[-1])
    with duckdb.connect(built.warehouse, read_only=True) as connection:
        for query in queries:
            rows = connection.execute(query).fetchall()
            assert found[query] == [[shown(value) for value in row] for row in rows], query
        for name, query in marts.items():
            rows = connection.execute(f"SELECT * FROM {name}").fetchall()
            assert rows
            assert sorted(found[query]) == sorted([shown(value) for value in row] for row in rows)
