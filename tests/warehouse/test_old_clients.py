"""Older DuckDB clients, which most tools still have, read the warehouse."""

import json
import subprocess
import sys

import pytest
from environments import environment
from worlds import LAKE_TABLES

from aind_etl.contract import TABLES
from aind_etl.warehouse.sql_files import Kind, read_sql_files

pytestmark = pytest.mark.slow

OLDEST = "1.1.3"
PACKAGES = [f"duckdb=={OLDEST}", "pytz"]

SCRIPT = """
import json, sys, duckdb

connection = duckdb.connect(sys.argv[1], read_only=True)
connection.execute("SET autoinstall_known_extensions = false")
connection.execute("SET TimeZone = 'UTC'")
found = {"version": duckdb.__version__, "counts": {}, "sums": {}}
for (name,) in connection.execute(
    "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
).fetchall():
    # Every value of every column is read, not only counted.
    rows = connection.execute(f'FROM "{name}"').fetchall()
    found["counts"][name] = len(rows)
for query in json.loads(sys.argv[2]):
    found["sums"][query] = repr(connection.execute(query).fetchall())
found["comments"] = connection.execute(
    "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal ORDER BY ALL"
).fetchall()
found["comments"] += connection.execute(
    "SELECT table_name, comment FROM duckdb_tables() ORDER BY ALL"
).fetchall()
print(json.dumps(found))
"""

LAKE_SCRIPT = """
import duckdb, hashlib, json, sys

connection = duckdb.connect()
connection.execute("SET autoinstall_known_extensions = false")
connection.execute("SET TimeZone = 'UTC'")
found = {"version": duckdb.__version__}
for table, files in json.loads(sys.argv[1]).items():
    rows = connection.execute(
        "FROM read_parquet(?, union_by_name = true) ORDER BY ALL", [files]
    ).fetchall()
    found[table] = [len(rows), hashlib.sha256(repr(rows).encode()).hexdigest()]
print(json.dumps(found))
"""

QUERIES = [
    "SELECT count(*), round(sum(aic), 3), max(finished_at)::VARCHAR FROM analyses",
    "SELECT min(session_time)::VARCHAR, max(session_date)::VARCHAR FROM analyses",
    "SELECT session_key('behavior_1_2024-01-02_03-04-05.nwb'), s3_to_https('s3://bucket/key')",
    "SELECT count(*) FROM latest_analyses WHERE subject_id IS NOT NULL",
    'SELECT count(*), sum(len(prediction_accuracy_test)) FROM mle_fitting WHERE "AIC" > 0',
    "SELECT _id, map_keys(params), pipeline_source FROM mle_fitting ORDER BY ALL LIMIT 9",
    "SELECT agent_alias, count(*) FROM best_models GROUP BY ALL ORDER BY ALL",
]


@pytest.fixture(scope="module")
def old_client(tmp_path_factory):
    """Return the interpreter of an environment of its own with an old DuckDB."""
    return environment(tmp_path_factory.mktemp("old-client"), PACKAGES)


def answers(old_client, *arguments):
    """Return what a script prints with the old DuckDB and with this one, without the version."""
    old, new = (
        json.loads(
            subprocess.run(
                [python, "-c", *map(str, arguments)], stdout=subprocess.PIPE, check=True
            ).stdout
        )
        for python in (old_client, sys.executable)
    )
    assert old.pop("version") == OLDEST
    assert new.pop("version") != OLDEST
    return old, new


def test_an_old_client_reads_every_table_view_and_macro_as_this_one_does(built, old_client):
    old, new = answers(old_client, SCRIPT, built.warehouse, json.dumps(QUERIES))
    assert old == new
    made = [file.name for kind in (Kind.VIEW, Kind.MART) for file in read_sql_files(kind)]
    names = {table.name for table in TABLES} | set(made)
    assert names <= old["counts"].keys()
    # This warehouse was built without result folders and without a session table.
    need_results = {"missing_result_files", "orphan_result_folders", "sessions_with_fits"}
    assert {name for name in made if not old["counts"][name]} == need_results


def test_an_old_client_reads_every_file_of_the_lake_as_this_one_does(built, old_client):
    files = {table.name: list(map(str, built.lake.tables.files(table))) for table in LAKE_TABLES}
    given = {name: some for name, some in files.items() if some}
    assert {"analyses", "attributes", "cross_validation", "fit_parameters"} <= given.keys()
    old, new = answers(old_client, LAKE_SCRIPT, json.dumps(given))
    assert old == new
