"""The warehouse: its contents, ``sql/``, publishing and opening."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest
from worlds import ANY_SHARE, SMALL, Clock, load, read_dump, write_dump

from aind_etl.contract import TABLES, Partitioning
from aind_etl.contract.ddl import describe
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake import Lake
from aind_etl.warehouse import build, contents
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.checks import run_checks
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.sql_files import Kind, read_sql_files

MADE = [*read_sql_files(Kind.VIEW), *read_sql_files(Kind.MART)]
# The sample's dump is loaded without result folders and without a session table.
NEED_RESULTS = {"missing_result_files", "orphan_result_folders", "sessions_with_fits"}


@pytest.fixture
def path(tmp_path):
    """Return where to publish."""
    return tmp_path / "out" / "warehouse.duckdb"


@pytest.fixture(scope="module")
def warehouse(built):
    with connect(built.warehouse) as connection:
        yield connection


def scalar(connection, query, *values):
    ((value,),) = connection.execute(query, list(values)).fetchall()
    return value


def inode(path):
    return path.stat().st_ino


def left_beside(path):
    """Return the names of the files beside a warehouse."""
    return sorted(one.name for one in path.parent.iterdir() if one != path)


# --- what is in it --------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_has_its_columns_types_and_comments(warehouse, table):
    columns = warehouse.execute(
        "SELECT column_name, data_type, is_nullable, comment FROM duckdb_columns() "
        "WHERE table_name = ? ORDER BY column_index",
        [table.name],
    ).fetchall()
    full = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}
    assert columns == [
        (column.name, full.get(column.type, column.type), not column.required, describe(column))
        for column in table.columns
    ]
    query = "SELECT comment FROM duckdb_tables() WHERE table_name = ?"
    assert scalar(warehouse, query, table.name) == table.description


@pytest.mark.parametrize("file", MADE, ids=lambda file: file.name)
def test_every_view_and_mart_can_be_read_and_says_what_a_row_is(warehouse, file):
    view = "WHERE view_name = ?" if file.kind is Kind.VIEW else "WHERE table_name = ?"
    listed = "duckdb_views()" if file.kind is Kind.VIEW else "duckdb_tables()"
    comment = scalar(warehouse, f"SELECT comment FROM {listed} {view}", file.name)
    assert comment == file.comment
    assert comment.startswith("One row per ")
    n_rows = scalar(warehouse, f"SELECT count(*) FROM {file.name}")
    assert (n_rows > 0) == (file.name not in NEED_RESULTS)


@pytest.mark.parametrize("file", MADE, ids=lambda file: file.name)
def test_every_column_of_a_view_or_mart_says_what_it_means(warehouse, file):
    comments = dict(
        warehouse.execute(
            "SELECT column_name, comment FROM duckdb_columns() WHERE table_name = ?", [file.name]
        ).fetchall()
    )
    # Columns called like parameters mean those.
    names = warehouse.execute("SELECT DISTINCT parameter FROM fit_parameters").fetchall()
    parameters = {name for (name,) in names} if file.name == "fit_parameters_wide" else set()
    assert {name for name, comment in comments.items() if not comment} == parameters
    assert comments | file.columns == comments


RECORD = ("source_collection", "record_id", "process_index")
GRAINS = {
    "analyses_with_files": RECORD,
    "latest_analyses": RECORD,
    "missing_result_files": (*RECORD, "missing"),
    "orphan_result_folders": ("location",),
    "sessions_with_fits": ("session_key",),
    "warehouse_status": ("built_at",),
    "best_models": ("session_key", "criterion"),
    "collection_freshness": ("source_collection", "day"),
    "fit_coverage": ("subject_id", "session_month", "agent_alias"),
    "fit_parameters_wide": RECORD,
    "mle_fits": RECORD,
    "model_comparison": ("session_key", "agent_alias"),
    "parameter_trajectories": ("subject_id", "session_number", "agent_alias", "parameter"),
    "pipeline_agreement": ("session_key", "agent_alias"),
}
"""The columns that identify a row of a view or mart."""


@pytest.mark.parametrize("name", [file.name for file in MADE if file.name != "mle_fitting"])
def test_a_view_or_mart_has_one_row_per_grain(warehouse, name):
    assert name in GRAINS, "name the columns that identify a row in GRAINS"
    grain = ", ".join(GRAINS[name])
    repeated = f"SELECT {grain} FROM {name} GROUP BY ALL HAVING count(*) > 1"
    assert warehouse.execute(repeated).fetchall() == []


def test_a_column_of_analyses_keeps_its_comment_unless_the_file_has_another(warehouse):
    query = "SELECT comment FROM duckdb_columns() WHERE table_name = ? AND column_name = ?"
    taken = scalar(warehouse, query, "analyses", "agent_alias")
    assert scalar(warehouse, query, "model_comparison", "agent_alias") == taken
    assert scalar(warehouse, query, "best_models", "agent_alias") == "The best agent."


@pytest.mark.parametrize(
    "table",
    [table for table in TABLES if table.partitioning is not Partitioning.WAREHOUSE_ONLY],
    ids=lambda table: table.name,
)
def test_every_table_holds_the_rows_of_the_lake(built, warehouse, table):
    rows = warehouse.sql(f"FROM {table.name}").pl()
    expected = built.lake.tables.scan(table).collect()
    assert rows.sort(rows.columns).equals(expected.sort(expected.columns))


def test_every_table_is_described(warehouse):
    found = {name for (name,) in warehouse.sql("SELECT table_name FROM duckdb_tables()").fetchall()}
    marts = {file.name for file in MADE if file.kind is Kind.MART}
    assert found == {table.name for table in TABLES} | marts | {"warehouse_info"}
    uncommented = "SELECT table_name FROM duckdb_tables() WHERE comment IS NULL"
    assert warehouse.execute(uncommented).fetchall() == []


def test_macros_agree_with_the_flattened_columns(warehouse):
    differ = (
        "SELECT count(*) FROM analyses WHERE result_url IS DISTINCT FROM "
        "s3_to_https(result_location) OR (session_key(nwb_name) IS NOT NULL AND "
        "session_key IS DISTINCT FROM session_key(nwb_name))"
    )
    assert scalar(warehouse, differ) == 0


def test_the_collections_add_up(built, warehouse):
    found = {
        row["source_collection"]: row for row in warehouse.sql("FROM collections").pl().to_dicts()
    }
    assert list(found) == built.lake.collections()
    for collection, row in found.items():
        documents = read_dump(built.source, collection)
        framework = sum("processing" in one for one in documents)
        assert row["source"] == str(built.source)
        assert row["live_documents"] == len(documents)
        assert row["framework_documents"] == framework
        assert row["prototype_documents"] == len(documents) - framework
        assert (row["rejected_documents"], row["deleted_documents"]) == (0, 0)
        assert row["last_full_pass_at"] == built.lake.state(collection).last_full_pass_at
        assert row["last_new_pass_at"] is None
        outcomes = ("successful", "skipped", "failed", "unknown")
        analyses = sum(row[f"{outcome}_analyses"] for outcome in outcomes)
        query = "SELECT count(*), max(finished_at) FROM analyses WHERE source_collection = ?"
        counted = warehouse.execute(query, [collection]).fetchall()
        assert counted == [(analyses, row["newest_finished_at"])]


@pytest.mark.parametrize("check", read_sql_files(Kind.CHECK), ids=lambda check: check.name)
def test_every_check_passes_on_the_sample(warehouse, check):
    assert warehouse.execute(check.statement).fetchall() == []


def test_a_check_that_cannot_be_run_is_named(built, sql_folder):
    (sql_folder / "checks" / "mistaken.sql").write_text("-- Nothing.\nSELECT * FROM no_such_table")
    with connect(built.warehouse) as connection:
        words = r"sql/checks/mistaken\.sql cannot be run: .*no_such_table"
        with pytest.raises(ConfigurationError, match=words):
            list(run_checks(connection, read_sql_files(Kind.CHECK, sql_folder)))


def test_all_checks_are_run_with_the_number_of_offending_rows(lake, path, sql_folder):
    (sql_folder / "checks" / "no_analysis_at_all.sql").write_text(
        "-- There is no analysis.\nSELECT * FROM analyses -- which is not so"
    )
    build_warehouse(lake, path, sql_folder=sql_folder)
    checks = read_sql_files(Kind.CHECK, sql_folder)
    with connect(path) as connection:
        found = {check.name: count for check, count in run_checks(connection, checks)}
        expected = scalar(connection, "SELECT count(*) FROM analyses")
    assert found.pop("no_analysis_at_all") == expected > 0
    assert set(found) == {check.name for check in read_sql_files(Kind.CHECK)}
    assert set(found.values()) == {0}


def test_warehouse_info_names_lake_and_versions(built):
    info = read_info(built.warehouse)
    assert info["lake"] == str(built.lake)
    assert f"DuckDB {duckdb.__version__}" in info["built_by"]
    assert info.keys() == {"built_at", "built_by", "lake", "layout", "inputs"}


def test_deleted_and_rejected_documents_are_counted(dump, lake, path):
    first, second, *others = read_dump(dump, SMALL)
    write_dump(dump, [{"_id": second["_id"]}, *others], SMALL)
    clock = Clock()
    clock.move(days=1)
    load(dump, lake, now=clock, limits=ANY_SHARE)
    build_warehouse(lake, path)
    with connect(path) as connection:
        (row,) = connection.sql("FROM collections").pl().to_dicts()
        either = "SELECT count(*) FROM analyses WHERE record_id IN (?, ?)"
        assert scalar(connection, either, first["_id"], second["_id"]) == 0
        refused = connection.execute("SELECT record_id, reason, path FROM rejected_documents")
        assert refused.fetchall() == [(second["_id"], "unknown_format", None)]
    assert (row["live_documents"], row["deleted_documents"]) == (len(others) + 1, 1)
    assert (row["rejected_documents"], row["prototype_documents"]) == (1, len(others))


def test_an_empty_lake_gives_an_empty_warehouse_with_every_table_and_view(tmp_path, path):
    report = build_warehouse(Lake(tmp_path / "nothing"), path)
    assert report.published
    assert set(report.rows.values()) == {0}
    with connect(path) as connection:
        for file in MADE:
            rows = connection.execute(f"FROM {file.name}").fetchall()
            # One row says of the warehouse itself that there is nothing in it.
            assert len(rows) == (file.name == "warehouse_status")
        counts = run_checks(connection, read_sql_files(Kind.CHECK))
        assert not any(count for _, count in counts)


# --- sql/ is added to -------------------------------------------------------------------------


def test_a_build_without_enough_memory_starts_again_with_more(small, path, monkeypatch):
    monkeypatch.setattr(build, "_BUILD_CONFIG", build._BUILD_CONFIG | {"memory_limit": "4MB"})
    begun = []
    report = build_warehouse(small.lake, path, progress=begun.append)
    assert begun.count("analyses") == 2
    with connect(small.warehouse) as connection:
        for name, rows in report.rows.items():
            assert rows == scalar(connection, f"SELECT count(*) FROM {name}")
    assert report.rows["analyses"] > 0 < report.rows["best_models"]
    assert [one for one in path.parent.iterdir() if "building" in one.name] == []


def test_a_build_for_which_all_memory_is_too_little_is_explained(small, path, monkeypatch):
    for config in ("_BUILD_CONFIG", "READ_CONFIG"):
        monkeypatch.setattr(build, config, getattr(build, config) | {"memory_limit": "4MB"})
    with pytest.raises(DataError, match="Give the process more"):
        build_warehouse(small.lake, path)
    assert not path.exists()


def test_checks_have_the_memory_of_the_build_and_its_folder(small, path):
    limits = []

    def validate(built):
        limits.append(scalar(built, "SELECT current_setting('memory_limit')"))
        spilled = Path(scalar(built, "SELECT current_setting('temp_directory')"))
        assert "building" in spilled.parent.name
        if len(limits) == 1:
            raise duckdb.OutOfMemoryException

    assert build_warehouse(small.lake, path, validate=validate).published
    assert limits[0] == "488.2 MiB"
    assert limits[1] != limits[0]


def test_a_mart_waits_for_the_tables_that_its_query_hides(lake, path, sql_folder, monkeypatch):
    load_table = contents._load

    def slowly(table, *arguments):
        time.sleep(0.5 * (table.name == "attributes"))
        load_table(table, *arguments)

    monkeypatch.setattr(contents, "_load", slowly)
    (sql_folder / "macros" / "all_attributes.sql").write_text(
        "-- All attributes.\nCREATE MACRO all_attributes() AS TABLE FROM attributes"
    )
    reads = {"a_macro": "all_attributes()", "a_name": "query_table('attributes')"}
    for name, source in reads.items():
        text = f"-- One row per attribute.\nFROM {source}"
        (sql_folder / "marts" / f"{name}.sql").write_text(text)
    rows = build_warehouse(lake, path, sql_folder=sql_folder).rows
    assert rows["a_macro"] == rows["a_name"] == rows["attributes"] > 0


def test_a_mart_added_as_a_file_is_in_the_next_warehouse(lake, path, sql_folder):
    build_warehouse(lake, path, sql_folder=sql_folder)
    (sql_folder / "marts" / "a_first_mart.sql").write_text(
        "-- One row per subject: its fits.\nSELECT subject_id, count(*) AS n_fits\n"
        "FROM z_last_view\nGROUP BY subject_id;\n"
    )
    (sql_folder / "views" / "z_last_view.sql").write_text(
        "-- One row per fit.\nSELECT * FROM latest_analyses WHERE agent_alias IS NOT NULL"
    )
    report = build_warehouse(lake, path, sql_folder=sql_folder)
    assert report.published
    assert report.rows["a_first_mart"] > 0
    with connect(path) as connection:
        assert scalar(connection, "SELECT sum(n_fits) FROM a_first_mart") == scalar(
            connection, "SELECT count(*) FROM z_last_view"
        )


@pytest.mark.parametrize(
    "broken",
    [
        ("marts", "-- One row per mistake.\nSELECT agent_aliass FROM analyses", "agent_alias"),
        ("marts", "-- One row per mistake.\nSELECT * FROM no_such_table", "no_such_table"),
        ("views", "-- One row per mistake.\nSELEC 1", "syntax error"),
        ("macros", "-- A mistake.\nCREATE MACRO nothing AS", "syntax error"),
        ("marts", "-- One row per mistake.\nSELECT * FROM reads_mistaken", "in a cycle"),
        ("views", "SELECT 1", "must begin with a comment"),
    ],
)
def test_a_file_that_cannot_be_run_is_named_and_leaves_the_old_warehouse(
    small, lake, path, sql_folder, broken
):
    folder, text, words = broken
    path.parent.mkdir()
    shutil.copy(small.warehouse, path)
    before = inode(path), path.read_bytes()
    (sql_folder / folder / "mistaken.sql").write_text(text)
    if "cycle" in words:
        (sql_folder / "views" / "reads_mistaken.sql").write_text(
            "-- One row per thing.\nSELECT * FROM mistaken"
        )
    with pytest.raises(ConfigurationError, match=words) as caught:
        build_warehouse(lake, path, sql_folder=sql_folder)
    assert "mistaken" in str(caught.value)
    assert (inode(path), path.read_bytes()) == before
    assert left_beside(path) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("latest_analyses", r"sql/views/latest_analyses\.sql and sql/marts/latest_analyses\.sql"),
        ("analyses", r"sql/marts/analyses\.sql"),
    ],
)
def test_a_mart_with_the_name_of_a_view_or_table_is_refused(lake, path, sql_folder, name, words):
    (sql_folder / "marts" / f"{name}.sql").write_text("-- One row per thing.\nSELECT 1 AS x")
    with pytest.raises(ConfigurationError, match=words):
        build_warehouse(lake, path, sql_folder=sql_folder)
    assert not path.exists()


# --- publishing -------------------------------------------------------------------------------


def test_unchanged_inputs_are_not_built_again(lake, path):
    first = build_warehouse(lake, path)
    before = inode(path), path.stat().st_mtime_ns
    again = build_warehouse(lake, path)
    assert (first.published, again.published) == (True, False)
    assert (inode(path), path.stat().st_mtime_ns) == before
    assert again.rows == first.rows
    assert again.size_bytes == first.size_bytes == path.stat().st_size


def test_a_changed_document_is_rebuilt(dump, lake, path):
    build_warehouse(lake, path)
    before = inode(path)
    first, *others = read_dump(dump, SMALL)
    write_dump(dump, [first | {"status": "failed in the end"}, *others], SMALL)
    load(dump, lake)
    assert build_warehouse(lake, path).published
    assert inode(path) != before
    query = "SELECT status, outcome FROM analyses WHERE record_id = ?"
    with connect(path) as connection:
        found = connection.execute(query, [first["_id"]]).fetchall()
    assert found == [("failed in the end", "failed")]


def test_a_file_that_is_no_warehouse_is_replaced(lake, path):
    path.parent.mkdir()
    path.write_text("this is no database")
    assert read_info(path) == {}
    assert build_warehouse(lake, path).published
    assert read_info(path)


def test_a_folder_at_the_path_of_the_warehouse_is_kept(lake, path):
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="is a folder; name a file"):
        build_warehouse(lake, path)
    assert list(path.iterdir()) == []
    assert left_beside(path) == []


def test_two_builds_do_not_publish_at_the_same_time(lake, path):
    with (
        lake.storage.lock("warehouse", "the warehouse"),
        pytest.raises(DataError, match="Another run is writing the warehouse"),
    ):
        build_warehouse(lake, path)
    assert not path.exists()
    assert build_warehouse(lake, path).published


KILLED = """
import os, signal, sys
from pathlib import Path
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse

def die(step):
    if step == sys.argv[3]:
        os.kill(os.getpid(), signal.SIGKILL)

build_warehouse(Lake(Path(sys.argv[1])), Path(sys.argv[2]), progress=die)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["analyses", "best_models"])
def test_a_killed_build_leaves_the_old_warehouse_and_the_next_cleans_up(dump, lake, path, step):
    build_warehouse(lake, path)
    before = inode(path)
    write_dump(dump, read_dump(dump, SMALL)[1:], SMALL)
    load(dump, lake)
    killed = subprocess.run([sys.executable, "-c", KILLED, str(lake), str(path), step], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert inode(path) == before
    with connect(path) as connection:
        assert scalar(connection, "SELECT count(*) FROM documents") > 0
    assert left_beside(path)
    assert build_warehouse(lake, path).published
    assert left_beside(path) == []


READER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
for line in sys.stdin:
    if line.strip() == "reopen":
        connection.close()
        connection = duckdb.connect(sys.argv[1], read_only=True)
    print(connection.execute(
        "SELECT (SELECT count(*) FROM analyses), (SELECT count(*) FROM mle_fitting), "
        "(SELECT count(*) FROM best_models), (SELECT sum(hash(document)) FROM documents)"
    ).fetchone(), flush=True)
"""

RESTLESS = """
import sys, threading, duckdb
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
rounds = 0
while not stop.is_set() or rounds < 3:
    with duckdb.connect(sys.argv[1], read_only=True) as connection:
        (count,) = connection.execute("SELECT count(*) FROM mle_fitting").fetchone()
        assert count > 0
    rounds += 1
print(rounds)
"""


@contextmanager
def reader(script, path):
    """Run a reader of a warehouse in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process, words):
    process.stdin.write(f"{words}\n")
    process.stdin.flush()
    return process.stdout.readline() or process.stderr.read()


@pytest.mark.slow
def test_a_reader_keeps_its_file_while_new_ones_are_published(dump, lake, path):
    build_warehouse(lake, path)
    with reader(READER, path) as holding, reader(RESTLESS, path) as restless:
        before = ask(holding, "ask")
        assert before.startswith("(")
        seen = [before]
        for _ in range(3):
            write_dump(dump, read_dump(dump, SMALL)[1:], SMALL)
            load(dump, lake)
            assert build_warehouse(lake, path).published
            assert ask(holding, "ask") == before
            with reader(READER, path) as fresh:
                seen.append(ask(fresh, "ask"))
        assert len(set(seen)) == 4, "a new connection sees the new file"
        assert ask(holding, "reopen") == seen[-1]
        output, errors = restless.communicate()
        assert (restless.returncode, errors) == (0, "")
        assert int(output) >= 3


# --- opening ------------------------------------------------------------------------------------


def test_it_is_opened_read_only_and_in_utc(built):
    with connect(built.warehouse) as connection:
        assert scalar(connection, "SELECT current_setting('TimeZone')") == "UTC"
        writing = ("DELETE FROM analyses", "CREATE TABLE t (x INTEGER)", "DROP VIEW mle_fitting")
        for statement in writing:
            with pytest.raises(duckdb.InvalidInputException, match="read-only"):
                connection.execute(statement)


def test_a_missing_warehouse_is_explained(tmp_path):
    with pytest.raises(ConfigurationError, match=r"There is no warehouse at .* 'aind-etl run'"):
        connect(tmp_path / "nothing.duckdb")


@pytest.mark.parametrize("content", [b"", b"no database", b"\x00" * 20_000])
def test_a_file_that_cannot_be_opened_is_explained(tmp_path, content):
    path = tmp_path / "odd.duckdb"
    path.write_bytes(content)
    if content:
        with pytest.raises(ConfigurationError, match=r"odd\.duckdb' cannot be opened \("):
            connect(path)
    assert read_info(path) == {}


def test_it_works_under_another_name_and_attached_to_another_database(built, tmp_path):
    copied = shutil.copy(built.warehouse, tmp_path / "another-name.duckdb")
    with duckdb.connect() as other, duckdb.connect(copied, read_only=True) as alone:
        other.execute(f"ATTACH '{copied}' AS theirs (READ_ONLY)")
        for file in MADE:
            for connection, name in ((other, f"theirs.{file.name}"), (alone, file.name)):
                holds_rows = scalar(connection, f"SELECT count(*) FROM {name}") > 0
                assert holds_rows == (file.name not in NEED_RESULTS)
        assert scalar(other, "SELECT theirs.session_key('1_2024-01-02.nwb')") == "1_2024-01-02"


def test_the_lake_alone_answers_the_same(built):
    query = (
        f"SELECT count(*) FROM read_parquet('{built.lake}/analyses/**/*.parquet') "
        "WHERE collection = 'dynamic-foraging-model-fitting' AND session_month <> 'unknown'"
    )
    in_warehouse = (
        "SELECT count(*) FROM analyses WHERE session_date IS NOT NULL AND source_collection = "
        "'dynamic-foraging-model-fitting'"
    )
    with connect(built.warehouse) as connection:
        assert scalar(duckdb, query) == scalar(connection, in_warehouse)


def test_only_model_fitting_users_get_nested_columns(warehouse):
    nested = warehouse.execute(
        "SELECT DISTINCT table_name FROM duckdb_columns() "
        "WHERE regexp_matches(data_type, 'STRUCT|MAP|UNION|\\[') AND NOT internal ORDER BY ALL"
    ).fetchall()
    assert nested == [("mle_fits",), ("mle_fitting",)]
