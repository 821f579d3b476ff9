"""The contract: every column once, and everything that is derived from it."""

import re
import subprocess
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

from aind_etl.contract import ANALYSIS_TABLES, TABLES, Column, DataType, Table, table_named
from aind_etl.contract.columns import KEY, LEFT_IN_DOCUMENTS, PROCESS
from aind_etl.contract.ddl import comments, create_table, describe, quote_identifier, quote_text
from aind_etl.contract.dictionary import data_dictionary
from aind_etl.contract.schemas import POLARS_TYPES, arrow_schema, polars_schema
from aind_etl.flatten.paths import paths_read
from aind_etl.warehouse.sql_files import Kind, read_sql_files

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from renew_dictionary import DICTIONARY, dictionary

PATHS = {
    # Column: where it stands in either format, as the formats' own description says.
    "analysis_version": (
        ("analysis_spec.analysis_ver",),
        (f"{PROCESS}.code.parameters.analysis_tag", f"{PROCESS}.code.parameters.analysis_ver"),
    ),
    "status": (("status",), (f"{PROCESS}.output_parameters.additional_info",)),
    "finished_at": (("analysis_datetime",), (f"{PROCESS}.end_date_time",)),
    "result_location": (("s3_location",), ("location",)),
    "agent_class": (
        (
            "analysis_results.fit_settings.agent_class_name",
            "analysis_spec.analysis_args.agent_class",
        ),
        (
            f"{PROCESS}.output_parameters.fitting_results.fit_settings.agent_class_name",
            f"{PROCESS}.code.parameters.agent_class",
        ),
    ),
    "aic": (
        ("analysis_results.AIC",),
        (f"{PROCESS}.output_parameters.fitting_results.AIC",),
    ),
    "fit_converged": (
        ("analysis_results.success",),
        (f"{PROCESS}.output_parameters.fitting_results.success",),
    ),
    "n_function_evaluations": (
        ("analysis_results.nfev",),
        (f"{PROCESS}.output_parameters.fitting_results.nfev",),
    ),
    "model_library_version": (("analysis_libs_to_track_ver.aind_dynamic_foraging_models",), ()),
    "record_name": ((), ("name",)),
}

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
"""A value of every type that a narrower or coarser type could not hold."""

IN_DUCKDB = {DataType.TIMESTAMPTZ: "TIMESTAMP WITH TIME ZONE"}
"""How DuckDB spells a type when asked, where it is not as the contract does."""

every_table = pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)


def in_duckdb(column: Column) -> str:
    return IN_DUCKDB.get(column.type, column.type.value)


def a_row(table: Table) -> pl.DataFrame:
    """Return a row of a table with a telling value in every column."""
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
def test_the_columns_of_a_table_have_names_of_their_own(table):
    repeated = [name for name, count in Counter(table.column_names).items() if count > 1]
    assert repeated == []


@every_table
def test_every_column_has_a_snake_case_name_a_type_and_a_description(table):
    for column in table.columns:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", column.name)
        assert column.type in DataType
        assert re.match(r"[A-Z`].*\.$", column.description), column.name


@every_table
def test_a_table_says_what_a_row_is_in_one_sentence(table):
    assert table.description.startswith("One row per ")
    assert table.description.endswith(".")


@every_table
def test_the_columns_of_a_key_are_columns_and_never_empty(table):
    # What is no document has no id, and a session without a subject or a day no key.
    without = {("documents", "record_id"), ("sessions", "session_key")}
    for name in table.key:
        column = next(column for column in table.columns if column.name == name)
        assert column.required or (table.name, name) in without


@pytest.mark.parametrize(
    "table", [t for t in TABLES if t.key[:3] == tuple(c.name for c in KEY)], ids=lambda t: t.name
)
def test_tables_of_analyses_begin_with_one_and_the_same_key(table):
    assert table.columns[:3] == KEY


@pytest.mark.parametrize("name", PATHS)
def test_a_column_comes_from_where_the_formats_have_it(name):
    column = next(c for table in ANALYSIS_TABLES for c in table.columns if c.name == name)
    assert (column.prototype.paths, column.framework.paths) == PATHS[name]


@pytest.mark.parametrize("pipeline_format", ["prototype", "framework"])
def test_every_column_of_an_analysis_says_where_it_comes_from_in_both_formats(pipeline_format):
    only_in = {
        "prototype": {"model_library_version"},
        "framework": {
            "process_name",
            "record_name",
            "started_at",
            "code_url",
            "code_version",
            "schema_version",
            "input_asset_url",
            "position",
            "url",
        },
    }
    other = {"prototype": "framework", "framework": "prototype"}[pipeline_format]
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            said = str(column.origins[pipeline_format]) != "–"
            assert said is (column.name not in only_in[other]), column.name


@pytest.mark.parametrize("pipeline_format", ["prototype", "framework"])
def test_no_two_columns_read_the_same_place(pipeline_format):
    places = Counter(
        (path, column.name) for path, column in paths_read(pipeline_format) if path != "_id"
    )
    by_path = Counter(path for path, _ in places)
    assert [path for path, count in by_path.items() if count > 1] == []


def test_what_stays_in_the_documents_says_why():
    assert LEFT_IN_DOCUMENTS
    assert all(reason for reason in LEFT_IN_DOCUMENTS.values())


def test_an_unknown_table_is_named_beside_those_there_are():
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
def test_whole_numbers_have_the_range_of_their_type_in_duckdb(data_type, expected):
    assert data_type.is_integer
    assert data_type.integer_range == expected
    for limit, beyond in zip(expected, (-1, 1), strict=True):
        assert duckdb.execute(f"SELECT ({limit})::{data_type}").fetchone() == (limit,)
        with pytest.raises(duckdb.Error):
            duckdb.execute(f"SELECT ({limit + beyond})::{data_type}")


def test_only_whole_numbers_have_a_range():
    assert not DataType.DOUBLE.is_integer
    with pytest.raises(KeyError):
        _ = DataType.DOUBLE.integer_range


def test_the_contract_imports_nothing_else_of_the_package():
    script = (
        "import sys, aind_etl.contract, aind_etl.contract.schemas, aind_etl.contract.ddl, "
        "aind_etl.contract.dictionary\n"
        "print(*(name for name in sys.modules if name.startswith('aind_etl')))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert [
        name for name in loaded if name != "aind_etl" and not name.startswith("aind_etl.contract")
    ] == []


# --- what is derived: polars, arrow, DuckDB -------------------------------------------------


def test_every_type_has_a_value_to_try_it_with():
    assert set(VALUES) == set(DataType) == set(POLARS_TYPES)


@every_table
def test_polars_and_arrow_have_the_columns_of_the_table(table):
    assert polars_schema(table).names() == list(table.column_names)
    assert arrow_schema(table).names == list(table.column_names)


@every_table
def test_arrow_knows_which_columns_are_never_empty(table):
    assert [field.nullable for field in arrow_schema(table)] == [
        not column.required for column in table.columns
    ]


@every_table
def test_parquet_of_a_table_has_in_duckdb_the_types_of_its_ddl(table, tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(a_row(table).to_arrow().cast(arrow_schema(table)), path)
    expected = [(column.name, in_duckdb(column)) for column in table.columns]
    with warehouse_of(table) as connection:
        for rows in (f"read_parquet('{path}')", quote_identifier(table.name)):
            described = connection.execute(f"DESCRIBE SELECT * FROM {rows}").fetchall()
            assert [row[:2] for row in described] == expected


@every_table
def test_a_row_of_every_type_survives_polars_parquet_duckdb_and_back(table, tmp_path):
    path = tmp_path / "rows.parquet"
    row = a_row(table)
    pq.write_table(row.to_arrow().cast(arrow_schema(table)), path)
    with warehouse_of(table) as connection:
        connection.execute(f"INSERT INTO {table.name} SELECT * FROM read_parquet('{path}')")
        back = connection.sql(f"FROM {table.name}").pl()
    assert back.rows() == row.rows() == [tuple(VALUES[column.type] for column in table.columns)]
    assert pl.read_parquet(path).schema == polars_schema(table)


def test_arrow_keeps_microseconds_which_older_readers_of_parquet_know():
    units = {
        field.type.unit
        for table in TABLES
        for field in arrow_schema(table)
        if pa.types.is_timestamp(field.type) or pa.types.is_time(field.type)
    }
    assert units == {"us"}


@every_table
def test_duckdb_refuses_null_in_a_column_that_is_never_empty(table):
    with warehouse_of(table) as connection:
        for column in table.columns:
            nulls = ", ".join(
                "NULL" if other is column else f"${number}"
                for number, other in enumerate(table.columns, start=1)
            )
            values = {
                str(number): VALUES[other.type]
                for number, other in enumerate(table.columns, start=1)
                if other is not column
            }
            insert = f"INSERT INTO {table.name} VALUES ({nulls})"
            if column.required:
                with pytest.raises(duckdb.ConstraintException):
                    connection.execute(insert, values)
            else:
                connection.execute(insert, values)


@every_table
def test_comments_of_tables_and_columns_land_in_duckdb(table):
    with warehouse_of(table) as connection:
        found = dict(
            connection.execute(
                "SELECT column_name, comment FROM duckdb_columns() WHERE NOT internal"
            ).fetchall()
        )
        of_table = connection.execute("SELECT comment FROM duckdb_tables()").fetchone()
    assert found == {column.name: describe(column) for column in table.columns}
    assert of_table == (table.description,)


def test_a_unit_stands_behind_the_description():
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
def test_the_dictionary_says_what_is_made_of_the_tables(kind):
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
