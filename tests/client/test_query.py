"""One query on the warehouse: its rows as a table, a file or a stream."""

import csv
import io
import json
import shutil
from contextlib import ExitStack
from datetime import date

import duckdb
import polars as pl
import pytest

from aind_etl.client.query import Query
from aind_etl.errors import ConfigurationError

NAMES = ["whole", "fraction", "words", "truth", "day", "nothing"]
EVERY_TYPE = (
    "SELECT 1 AS whole, 0.1::DOUBLE AS fraction, 'a, \"b\"' AS words, true AS truth, "
    "DATE '2024-10-24' AS day, NULL::DOUBLE AS nothing"
)
AWKWARD = [
    "SELECT count(*) AS n FROM analyses -- how many",
    "  SELECT count(*) AS n\nFROM analyses;\n",
    "SELECT count(*) AS n FROM analyses;;",
    "SHOW TABLES",
    "DESCRIBE analyses",
    "SUMMARIZE fit_parameters",
    "FROM best_models",
    "PIVOT fit_parameters ON parameter USING count(*) GROUP BY is_fitted",
    "WITH one AS (SELECT 1 AS x) FROM one",
    "VALUES (1), (2)",
    "SELECT s3_to_https('s3://a/b') AS url, session_key('1_2024-01-01') AS session",
]
"""Queries that are awkward to wrap in another."""

NOT_READING = [
    "INSERT INTO analyses SELECT * FROM analyses",
    "DELETE FROM analyses",
    "UPDATE analyses SET aic = 0",
    "DROP TABLE analyses",
    "CREATE TABLE mine AS SELECT 1",
    "ALTER TABLE analyses ADD COLUMN x INTEGER",
    "COPY analyses TO '{folder}/stolen.csv'",
    "EXPLAIN ANALYZE COPY analyses TO '{folder}/stolen.csv'",
    "EXPORT DATABASE '{folder}/exported'",
    "ATTACH '{folder}/new.duckdb'",
    "SET memory_limit = '1KB'",
    "PRAGMA threads = 1",
    "INSTALL httpfs",
    "CHECKPOINT",
    "SELECT 1; SELECT 2",
    "",
    "  ;  ",
    "-- only a comment",
]


@pytest.fixture
def ask(built):
    """Return a function that opens a query on the warehouse of the sample."""
    with ExitStack() as opened:
        yield lambda text: opened.enter_context(Query(built.warehouse, text))


def test_the_first_rows_are_formatted_for_people(ask):
    columns, rows, more = ask(EVERY_TYPE).head(10)
    numbers = [True, True, False, False, False, True]
    assert columns == list(zip(NAMES, numbers, strict=True))
    assert rows == [["1", "0.1", 'a, "b"', "True", "2024-10-24", ""]]
    assert not more


def test_more_rows_than_shown_are_announced(ask):
    assert ask("FROM range(5)").head(4)[1:] == ([["0"], ["1"], ["2"], ["3"]], True)
    assert ask("FROM range(4)").head(4)[1:] == ([["0"], ["1"], ["2"], ["3"]], False)


@pytest.mark.parametrize("text", AWKWARD)
@pytest.mark.parametrize("file_format", ["csv", "json", "parquet"])
def test_every_query_that_returns_rows_can_be_shown_and_written(ask, tmp_path, text, file_format):
    query = ask(text)
    columns, rows, more = query.head(1000)
    assert columns
    assert rows
    assert not more
    path = tmp_path / "rows"
    query.write(path, file_format)
    read = {"csv": pl.read_csv, "json": pl.read_json, "parquet": pl.read_parquet}[file_format]
    assert read(path).shape == (len(rows), len(columns))


def test_csv_has_a_header_and_quotes_only_where_needed(ask, tmp_path):
    ask(EVERY_TYPE).write(tmp_path / "rows.csv", "csv")
    header, row = csv.reader(io.StringIO((tmp_path / "rows.csv").read_text()))
    assert header == NAMES
    assert row == ["1", "0.1", 'a, "b"', "true", "2024-10-24", ""]


def test_no_string_of_a_csv_is_a_formula_to_a_spreadsheet(ask, tmp_path):
    texts = ["=1+1", "+1", "-1", "@x", "\ty", "plain", "a=b", ""]
    values = ", ".join(f"('{text}', -1.5, {n})" for n, text in enumerate(texts))
    query = f'SELECT a AS "=a", b, a FROM (VALUES {values}) AS t(a, b, n) ORDER BY n'
    ask(query).write(tmp_path / "rows.csv", "csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["'=a", "b", "a"]
    assert [row[0] for row in rows] == [
        f"'{text}" if text[:1] in {"=", "+", "-", "@", "\t"} and text else text for text in texts
    ]
    assert {row[1] for row in rows} == {"-1.5"}


def test_json_is_one_array_of_objects(ask, tmp_path):
    ask(EVERY_TYPE + " UNION ALL " + EVERY_TYPE).write(tmp_path / "rows.json", "json")
    first, second = json.loads((tmp_path / "rows.json").read_text())
    values = [1, 0.1, 'a, "b"', True, "2024-10-24", None]
    assert first == second == dict(zip(NAMES, values, strict=True))


def test_a_file_without_rows_can_be_read(ask, tmp_path):
    query = ask("SELECT record_id, aic FROM analyses WHERE false")
    query.write(tmp_path / "rows.csv", "csv")
    assert (tmp_path / "rows.csv").read_text().splitlines() == ["record_id,aic"]
    query.write(tmp_path / "rows.json", "json")
    assert json.loads((tmp_path / "rows.json").read_text()) == []
    query.write(tmp_path / "rows.parquet", "parquet")
    schema = {"record_id": pl.String, "aic": pl.Float64}
    assert pl.read_parquet(tmp_path / "rows.parquet").schema == schema


def test_parquet_has_the_types_and_every_row(built, ask, tmp_path):
    ask("FROM analyses").write(tmp_path / "rows.parquet", "parquet")
    rows = pl.read_parquet(tmp_path / "rows.parquet")
    expected = pl.read_parquet(f"{built.lake}/analyses/**/*.parquet", hive_partitioning=False)
    assert rows.sort(rows.columns).equals(expected.sort(expected.columns))
    assert rows["session_date"].dtype == pl.Date
    assert rows["session_date"].drop_nulls()[0] > date(2023, 1, 1)


def test_rows_are_streamed_in_the_order_asked_for(ask):
    target = io.BytesIO()
    ask("SELECT range AS n FROM range(100000) ORDER BY n DESC").stream(target, "csv")
    assert target.getvalue().split() == [b"n", *(b"%d" % n for n in reversed(range(100_000)))]


@pytest.mark.parametrize("text", NOT_READING)
def test_only_a_single_query_is_run(built, tmp_path, text):
    copy = shutil.copy(built.warehouse, tmp_path / "copy.duckdb")
    before = copy.read_bytes()
    with pytest.raises(ConfigurationError, match=r"is for reading|cannot be run"):
        Query(copy, text.replace("{folder}", str(tmp_path)))
    assert copy.read_bytes() == before
    assert list(tmp_path.iterdir()) == [copy]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("SELECT agent_alia FROM analyses", "agent_alias"),
        ("FROM best_model", "best_models"),
        ("SELECT lenght(nwb_name) FROM analyses", "length"),
        ("SELEC 1", "SELEC"),
        ("SELECT 'never closed", "never closed"),
    ],
)
def test_a_mistake_is_explained_with_the_nearest_names(ask, text, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        ask(text)
    assert str(caught.value).startswith("The query cannot be run. ")


@pytest.mark.parametrize("use", ["head", "write"])
def test_an_error_in_the_rows_is_explained(ask, tmp_path, use):
    query = ask("SELECT record_id::INTEGER FROM analyses")
    with pytest.raises(ConfigurationError, match="Could not convert string"):
        query.head(5) if use == "head" else query.write(tmp_path / "rows.csv", "csv")


def test_a_missing_folder_is_explained(ask, tmp_path):
    with pytest.raises(ConfigurationError, match=r"could not be written: .* No such file"):
        ask("SELECT 1").write(tmp_path / "missing" / "rows.csv", "csv")


def test_a_query_that_failed_closes_the_file(built, tmp_path):
    copy = shutil.copy(built.warehouse, tmp_path / "copy.duckdb")
    # The traceback keeps the query.
    with pytest.raises(ConfigurationError) as _caught:
        Query(copy, "SELEC 1")
    # A writer can open the file only if no process has it open.
    with duckdb.connect(copy) as connection:
        connection.execute("CREATE TABLE t (x INTEGER)")


@pytest.mark.parametrize(
    "text",
    [
        "FROM read_csv('{folder}/given.csv')",
        "FROM '{folder}/given.csv'",
        "SELECT * FROM glob('{folder}/*')",
        "FROM read_text('/etc/hostname')",
        "FROM read_parquet('s3://bucket/file.parquet')",
    ],
)
def test_a_sandboxed_query_has_no_access_to_files_and_the_network(built, tmp_path, text):
    (tmp_path / "given.csv").write_text("a\n1\n")
    with (
        pytest.raises(ConfigurationError, match="disabled"),
        Query(built.warehouse, text.format(folder=tmp_path), sandbox=True) as asked,
    ):
        asked.head(1)


@pytest.mark.parametrize("file_format", ["csv", "json", "parquet"])
def test_a_sandboxed_query_writes_the_same_rows(built, tmp_path, file_format):
    paths = [tmp_path / "free", tmp_path / "sandboxed"]
    for path, sandbox in zip(paths, (False, True), strict=True):
        with Query(built.warehouse, "FROM best_models ORDER BY ALL", sandbox=sandbox) as asked:
            asked.write(path, file_format)
    free, sandboxed = (path.read_bytes() for path in paths)
    assert free == sandboxed
