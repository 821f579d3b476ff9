"""The contract: every column once, and everything that is derived from it."""

import re
import sys
from collections import Counter
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import execute

from aind_etl.contract import ANALYSIS_TABLES, TABLES, DataType, Table, table_named
from aind_etl.contract.columns import KEY
from aind_etl.contract.ddl import comments, create_table, describe, quote_identifier, quote_text
from aind_etl.contract.dictionary import data_dictionary
from aind_etl.contract.schemas import POLARS_TYPES, arrow_schema, polars_schema
from aind_etl.flatten.paths import paths_read
from aind_etl.warehouse.sql_files import Kind, read_sql_files

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from renew_dictionary import DICTIONARY, dictionary

VALUES: dict[DataType, Any] = {
    DataType.VARCHAR: "a 'text' with \"quotes\" and ümlauts",
    DataType.BOOLEAN: True,
    DataType.TINYINT: -128,
    DataType.SMALLINT: -32_768,
    DataType.INTEGER: -(2**31),
    DataType.BIGINT: -(2**63),
    DataType.DOUBLE: 0.1 + 0.2,
    DataType.DATE: date(2024, 2, 29),
    DataType.TIME: time(17, 38, 6, 123_456),
    DataType.TIMESTAMP: datetime(2026, 1, 8, 7, 39, 40, 883_131),  # noqa: DTZ001 - it has no zone
    DataType.TIMESTAMPTZ: datetime(2026, 1, 8, 7, 39, 40, 883_131, tzinfo=UTC),
}
"""For each type, a value that a narrower or coarser type cannot hold."""

IN_DUCKDB = {DataType.TIMESTAMPTZ: "TIMESTAMP WITH TIME ZONE"}
"""Types that DuckDB spells differently in its answers."""

every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def a_row(table: Table) -> pl.DataFrame:
    """Return a row of a table with the value of :data:`VALUES` in every column."""
    return pl.DataFrame(
        {column.name: [VALUES[column.type]] for column in table.columns},
        schema=polars_schema(table),
    )


def warehouse_of(table: Table) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(create_table(table))
    for statement in comments(table):
        connection.execute(statement)
    return connection


# --- the columns themselves -----------------------------------------------------------------


@every_table
def test_a_table_and_its_columns_are_named_and_described(table):
    assert re.fullmatch(r"One row per .*\.", table.description)
    assert len(set(table.column_names)) == len(table.column_names)
    for column in table.columns:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
        assert column.type in DataType
        assert re.match(r"[A-Z`].*\.$", column.description), column.name


@every_table
def test_the_columns_of_a_key_are_never_null(table):
    # Values that are not documents have no id, and a session without subject or day has no key.
    without = {("documents", "record_id"), ("sessions", "session_key")}
    for name in table.key:
        column = next(column for column in table.columns if column.name == name)
        assert column.required or (table.name, name) in without


@pytest.mark.parametrize(
    "table", [t for t in TABLES if t.key[:3] == tuple(c.name for c in KEY)], ids=lambda t: t.name
)
def test_tables_of_analyses_begin_with_the_same_key(table):
    assert table.columns[:3] == KEY


def test_columns_of_an_analysis_have_an_origin_in_every_format_that_has_them():
    # Only the framework names its inputs.
    computed_in_one = {"input_asset_url", "position"}
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            missing = [str(origin) for origin in column.origins.values()].count("–")
            assert missing <= (column.is_read or column.name in computed_in_one), column.name


@pytest.mark.parametrize("pipeline_format", ["prototype", "framework"])
def test_no_two_columns_read_the_same_path(pipeline_format):
    paths = {(path, column.name) for path, column in paths_read(pipeline_format)}
    assert [path for path, n in Counter(path for path, _ in paths).items() if n > 1] == []


def test_the_error_about_an_unknown_table_lists_the_tables():
    assert table_named("analyses").name == "analyses"
    with pytest.raises(
        KeyError, match="'analysis' is not a table; the tables are analyses, fit_parameters"
    ):
        table_named("analysis")


@pytest.mark.parametrize(
    ("data_type", "expected"),
    [
        (DataType.TINYINT, (-128, 127)),
        (DataType.SMALLINT, (-32_768, 32_767)),
        (DataType.INTEGER, (-2_147_483_648, 2_147_483_647)),
        (DataType.BIGINT, (-9_223_372_036_854_775_808, 9_223_372_036_854_775_807)),
    ],
)
def test_integers_have_the_range_of_their_type_in_duckdb(data_type, expected):
    assert data_type.is_integer
    assert data_type.integer_range == expected
    for limit, beyond in zip(expected, (-1, 1), strict=True):
        assert duckdb.execute(f"SELECT ({limit})::{data_type}").fetchone() == (limit,)
        with pytest.raises(duckdb.Error):
            duckdb.execute(f"SELECT ({limit + beyond})::{data_type}")


def test_only_integers_have_a_range():
    assert not DataType.DOUBLE.is_integer
    with pytest.raises(KeyError):
        _ = DataType.DOUBLE.integer_range


def test_the_contract_imports_no_other_package_of_aind_etl():
    script = (
        "import sys, aind_etl.contract, aind_etl.contract.schemas, aind_etl.contract.ddl, "
        "aind_etl.contract.dictionary\n"
        "print(*(name for name in sys.modules if name.startswith('aind_etl')))"
    )
    loaded = execute(sys.executable, "-c", script, check=True).stdout.split()
    assert [name for name in loaded if not name.startswith("aind_etl.contract")] == ["aind_etl"]


# --- what is derived: polars, arrow, DuckDB -------------------------------------------------


def test_every_type_of_the_contract_is_tested():
    assert set(VALUES) == set(DataType) == set(POLARS_TYPES)


@every_table
def test_polars_and_arrow_schemas_have_the_columns_of_the_table(table):
    assert polars_schema(table).names() == list(table.column_names)
    assert [(field.name, field.nullable) for field in arrow_schema(table)] == [
        (column.name, not column.required) for column in table.columns
    ]


@every_table
def test_a_row_survives_polars_parquet_and_duckdb_with_the_types_of_the_ddl(table, tmp_path):
    path = tmp_path / "rows.parquet"
    row = a_row(table)
    pq.write_table(row.to_arrow().cast(arrow_schema(table)), path)
    expected = [(column.name, IN_DUCKDB.get(column.type, column.type)) for column in table.columns]
    with warehouse_of(table) as connection:
        connection.execute(f"INSERT INTO {table.name} SELECT * FROM read_parquet('{path}')")
        for rows in (f"read_parquet('{path}')", quote_identifier(table.name)):
            described = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
            assert [row[:2] for row in described] == expected
        back = connection.sql(f"FROM {table.name}").pl()
    assert back.rows() == row.rows() == [tuple(VALUES[column.type] for column in table.columns)]
    assert pl.read_parquet(path).schema == polars_schema(table)


def test_parquet_has_microseconds_for_older_readers():
    units = {
        field.type.unit
        for table in TABLES
        for field in arrow_schema(table)
        if pa.types.is_timestamp(field.type) or pa.types.is_time(field.type)
    }
    assert units == {"us"}


@every_table
def test_duckdb_rejects_null_only_in_required_columns(table):
    with warehouse_of(table) as connection:
        for column in table.columns:
            insert = f"INSERT INTO {table.name} VALUES ({', '.join('?' * len(table.columns))})"
            values = [None if other is column else VALUES[other.type] for other in table.columns]
            if column.required:
                with pytest.raises(duckdb.ConstraintException):
                    connection.execute(insert, values)
            else:
                connection.execute(insert, values)


@every_table
def test_duckdb_has_the_comments_of_tables_and_columns(table):
    with warehouse_of(table) as connection:
        found = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE NOT internal"
            ).fetchall()
        )
        of_table = connection.execute("SELECT comment FROM duckdb_tables()").fetchone()
    assert found == {column.name: describe(column) for column in table.columns}
    assert of_table == (table.description,)


def test_a_unit_follows_the_description():
    (column,) = [c for c in table_named("analyses").columns if c.name == "duration_seconds"]
    assert describe(column) == "How long the analysis took. [s]"


def test_names_and_texts_are_quoted_for_sql():
    name, text = 'a "name"; --', "it's; --"
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE t AS SELECT {quote_text(text)} AS {quote_identifier(name)}"
        )
        assert connection.sql("FROM t").columns == [name]
        assert connection.execute("FROM t").fetchone() == (text,)


# --- what is derived: the data dictionary ---------------------------------------------------


def test_the_data_dictionary_in_the_documentation_is_up_to_date():
    assert DICTIONARY.read_text(encoding="utf-8") == dictionary(), "run `make docs`"


@pytest.mark.parametrize("kind", [Kind.VIEW, Kind.MART, Kind.MACRO])
def test_the_dictionary_describes_views_marts_and_macros(kind):
    page = DICTIONARY.read_text(encoding="utf-8").replace("\\", "")
    for file in read_sql_files(kind):
        section = page.split(f"\n### {file.name}\n")[1].split("\n#")[0]
        assert file.comment in section
        for column, meaning in file.columns.items():
            row = rf"^\| `{column}` \| [^|]+ \| {re.escape(meaning)} \|$"
            assert re.search(row, section, re.MULTILINE), f"{file.name}.{column}"


@every_table
def test_the_dictionary_has_a_row_for_every_column_of_a_table(table):
    section = data_dictionary().split(f"\n## {table.name}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.+?) \| .+ \| .+ \|$", section, re.MULTILINE)
    assert rows == [(column.name, column.type.value, describe(column)) for column in table.columns]
    assert table.description in section
