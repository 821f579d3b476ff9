"""The command as a user or a script runs it, with its output and exit codes."""

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import duckdb
import pytest
from commands import execute, without_settings
from worlds import MAIN, load, read_dump, write_dump

from aind_etl.changelog.passes import Pass, extract_collection
from aind_etl.cli import main
from aind_etl.client.context import context_page
from aind_etl.client.query import Query
from aind_etl.contract import tables
from aind_etl.lake import Lake
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse

COMMAND = Path(sys.executable).with_name("aind-etl")
COMMANDS = (
    *("run", "status", "sql", "sample", "verify", "rebuild", "history", "dev", "as-of", "snapshot"),
    *("snapshots", "context", "mcp", "report", "export", "figures", "ddl"),
)
SMALL = "dynamic-foraging-analysis"
DONE, DIFFERENT, WRONG_USE, UNREACHABLE = 0, 1, 2, 3


class Session:
    """A working folder in which the command runs in this process, without the caller's settings.

    A process of its own would take ten times as long.
    """

    def __init__(self, folder):
        self.folder = folder
        self.lake = Lake(folder / "lake")
        self.environment = without_settings()
        self.environment.pop("FORCE_COLOR", None)

    def start(self, *arguments, **environment):
        """Run the command, and return its result."""
        output, errors = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(output),
            redirect_stderr(errors),
        ):
            patch.chdir(self.folder)
            for name in os.environ.keys() - self.environment.keys():
                patch.delenv(name)
            # Set before it is deleted, so that a value set by the command is undone.
            patch.setenv("DAGSTER_HOME", "")
            patch.delenv("DAGSTER_HOME")
            for name, value in (self.environment | environment).items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["aind-etl", *map(str, arguments)])
            with pytest.raises(SystemExit) as ended:
                main()
        written = (output.buffer.getvalue(), errors.buffer.getvalue())
        return subprocess.CompletedProcess(arguments, ended.value.code, *written)

    def run(self, *arguments, code=DONE, **environment):
        """Run the command, check its exit code, and return its output and errors."""
        ended = self.start(*arguments, **environment)
        output, errors = ended.stdout.decode(), ended.stderr.decode()
        assert ended.returncode == code, f"{output}\n{errors}"
        assert "Traceback" not in errors
        assert "\x1b" not in output + errors
        return output, errors

    def fails(self, code, *arguments, **environment):
        """Run the command, check that it fails, and return the error message."""
        output, errors = self.run(*arguments, code=code, **environment)
        assert output == ""
        return errors


@pytest.fixture
def session(tmp_path, new_history):
    folder = tmp_path / "working folder"
    folder.mkdir()
    session = Session(folder)
    session.environment["DAGSTER_HOME"] = str(new_history)
    return session


@pytest.fixture(scope="module")
def first_run(sample_dump, _made_history, tmp_path_factory):
    """Return a session after a run on two collections of the sample, and the run's output."""
    session = Session(tmp_path_factory.mktemp("first-run"))
    shutil.copytree(_made_history, session.folder / "lake" / "_dagster")
    dump = session.folder / "dump"
    dump.mkdir()
    for name in (MAIN, SMALL):
        shutil.copy(sample_dump / f"{name}.jsonl", dump)
    return session, *session.run("run", "--source", "dump")


def copy_sample(built, folder):
    """Copy the sample's lake and warehouse into a folder, and return a session in it."""
    shutil.copytree(built.lake.storage.root, folder / "lake")
    shutil.copy(built.warehouse, folder / "lake" / "warehouse.duckdb")
    return Session(folder)


@pytest.fixture(scope="module")
def loaded(built, tmp_path_factory):
    """Return a session with the sample's lake and warehouse, which no test may change."""
    return copy_sample(built, tmp_path_factory.mktemp("loaded"))


@pytest.fixture
def copy(built, session):
    """Return a session with a lake of its own that a test may change."""
    copy_sample(built, session.folder)
    return session


@pytest.fixture
def dump(sample_dump, session):
    """Return a dump of a small collection that a test may change."""
    folder = session.folder / "dump"
    folder.mkdir()
    shutil.copy(sample_dump / f"{SMALL}.jsonl", folder)
    return folder


def sentence(text):
    """Return text without line breaks and the frames of usage errors."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


# --- run ------------------------------------------------------------------------------------


def test_a_run_makes_the_lake_and_the_warehouse_and_suggests_commands(first_run):
    session, output, errors = first_run
    assert (session.folder / "lake" / "warehouse.duckdb").is_file()
    assert f"{MAIN}: {session.lake.change_log(MAIN).last_batch() and 340} new" in errors
    assert re.search(rf"analyses +{session.lake.tables.count_rows(tables.ANALYSES)}\b", output)
    assert "The best agent of the newest sessions, by AIC" in output
    assert "Warehouse  lake/warehouse.duckdb" in output
    suggested = re.findall(r"^  \S*aind-etl (\S+)", output, re.MULTILINE)
    assert set(suggested) <= set(COMMANDS)


def test_the_first_suggested_command_works(first_run):
    session, output, _ = first_run
    command = re.search(r"aind-etl (sql \"[^\"]+\")", output)[1]
    ended = subprocess.run(
        f"{COMMAND} {command}", shell=True, cwd=session.folder, capture_output=True, check=True
    )
    rows = re.findall(r"^\d{6} +\d{4}-\d{2}-\d{2} +\S+", ended.stdout.decode(), re.MULTILINE)
    assert len(rows) == 5


@pytest.mark.slow
def test_a_second_run_finds_nothing_new_and_changes_nothing(first_run):
    session, _, _ = first_run
    warehouse = session.folder / "lake" / "warehouse.duckdb"
    before = warehouse.stat().st_ino
    _, errors = session.run("run", "--source", "dump", "--pass", "full")
    *collections, session_table, publication = errors.splitlines()
    assert collections == [f"{name}: nothing new" for name in (SMALL, MAIN)]
    assert publication == "Nothing has changed since the warehouse was published."
    assert session_table.startswith("There is no session table at s3://")
    assert warehouse.stat().st_ino == before
    state = session.lake.state(MAIN)
    assert state.last_full_pass_at > state.last_new_pass_at


@pytest.mark.slow
def test_settings_come_from_the_environment_and_options_take_precedence(session, dump):
    write_dump(dump, [{"_id": "a", "nwb_name": "1_2024-01-01.nwb"}], "another")
    settings = {"SOURCE": "dump", "LAKE": "theirs", "WAREHOUSE": "elsewhere/w.duckdb"}
    variables = {f"AIND_ETL_{name}": value for name, value in settings.items()}
    session.run("run", "--lake", "mine", AIND_ETL_COLLECTIONS="another", **variables)
    assert Lake(session.folder / "mine").collections() == ["another"]
    assert not (session.folder / "theirs").exists()
    assert (session.folder / "elsewhere" / "w.duckdb").is_file()
    assert not (session.folder / "mine" / "warehouse.duckdb").exists()


@pytest.mark.slow
def test_a_pass_that_would_delete_too_much_ends_with_1_and_deletes_nothing(copy, dump):
    documents = read_dump(dump, SMALL)
    write_dump(dump, documents[5:], SMALL)
    run = ("run", "--source", "dump", "--collection", SMALL, "--no-results")
    message = sentence(copy.fails(DIFFERENT, *run))
    assert f"5 of {len(documents)} documents" in message
    assert "--max-deleted-share 1" in message
    assert len(copy.lake.change_log(SMALL).live_documents()) == len(documents)
    _, errors = copy.run(*run, "--max-deleted-share", "1")
    assert errors.startswith(f"{SMALL}: 5 deleted\n")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1000, 300_000])
def test_a_truncated_warehouse_is_rebuilt(copy, sample_dump, size):
    warehouse = copy.folder / "lake" / "warehouse.duckdb"
    whole = warehouse.stat().st_size
    os.truncate(warehouse, size)
    copy.run("run", "--source", sample_dump, "--collection", SMALL, "--no-results")
    assert warehouse.stat().st_size > whole / 2
    copy.run("verify", "--source", sample_dump)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["memory", "main", "temp", "system", "pg_catalog"])
def test_a_warehouse_may_have_the_name_of_a_database_of_duckdb(session, dump, name):
    load(dump, session.lake)
    build_warehouse(session.lake, session.folder / f"{name}.duckdb")
    warehouse = ("--warehouse", f"{name}.duckdb")
    query = "SELECT count(*) > 0 AS n FROM analyses"
    assert session.run("sql", query, *warehouse)[0] == "n\nTrue\n"
    session.run("verify", "--source", "dump", *warehouse)


@pytest.mark.slow
def test_rejected_documents_and_values_are_reported_and_the_rest_is_loaded(session, dump):
    bad_values = {"_id": "bad", "nwb_name": [], "analysis_spec": 5, "status": "success"}
    write_dump(dump, [bad_values, {"_id": "unknown", "hello": "world"}], "another")
    _, errors = session.run("run", "--source", "dump", "--no-results")
    assert "another: 1 documents rejected; the table rejected_documents says why" in errors
    assert "another: 2 values rejected; the table rejected_values says why" in errors
    reason = session.run("sql", "SELECT reason FROM rejected_documents", "-f", "csv")[0]
    assert reason.split() == ["reason", "unknown_format"]
    query = "SELECT n_rejected_values AS n FROM analyses WHERE record_id = 'bad'"
    assert session.run("sql", query, "-f", "csv")[0].split() == ["n", "2"]
    assert "rejected values" in " ".join(session.run("status")[0].split())


@pytest.mark.slow
def test_a_truncated_dump_ends_with_3_and_the_other_collections_are_loaded(session, dump):
    whole = gzip.compress(b'{"_id": "a", "nwb_name": "1_2024-01-01.nwb"}\n' * 5000)
    (dump / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    message = session.fails(UNREACHABLE, "run", "--source", "dump")
    assert "The dump 'dump/cut.jsonl.gz' cannot be read to its end" in message
    assert session.lake.collections() == [SMALL]


# --- wrong use --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--source", "nowhere"], "The source 'nowhere' is not a folder"),
        (["verify", "--source", "."], "holds no dump"),
        (["verify", "--source", "sample:?session=3"], "is not understood"),
        (["verify", "--source", "ftp://host/x"], "Sources of the kind ftp:// are not known"),
        (["run", "--pass", "quick"], "'quick' is not one of 'new', 'full'"),
        (["run", "--max-deleted-share", "2"], "AIND_ETL_MAX_DELETED_SHARE"),
        (["run", "--source", "sample:?sessions=1", "--collection", "typo"], "no collection 'typo'"),
        (["run", "--lake", "file"], "The lake 'file' is a file; name a folder."),
        (["sample", "file/world"], "Not a directory"),
        (["rebuild", "--lake", "file/lake"], "nothing in the lake 'file/lake' to rebuild"),
        (["verify", "--source", "sample:?sessions=1", "--collection", "x"], "no collection 'x'"),
        (["sql", "SELECT 1"], "There is no warehouse at 'lake/warehouse.duckdb'"),
        (["sql", "SELECT 1", "--warehouse", "file"], "cannot be opened"),
        (["sql"], "Missing argument 'QUERY'"),
        (["sql", "SELECT", "1"], "unexpected extra argument"),
        (["sql", "SELECT 1", "--format", "xlsx"], "'xlsx' is not one of"),
        (["sample", "file"], "is not an empty folder"),
        (["sample", "."], "is not an empty folder"),
        (["sample", "new", "--format", "xml"], "--format takes jsonl or bson"),
        (["sample", "new", "--sessions", "0"], "--sessions"),
        (["dev", "--port", "0"], "--port"),
        (["load"], "No such command 'load'"),
        (["run", "--sauce", "x"], "No such option"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use_ends_with_2_and_an_explanation(session, arguments, words):
    (session.folder / "file").write_text("not what is expected")
    assert words in sentence(session.fails(WRONG_USE, *arguments))


@pytest.mark.slow
def test_a_warehouse_that_cannot_be_written_ends_with_2_and_leaves_the_lake(session, dump):
    (session.folder / "folder").mkdir()
    message = session.fails(WRONG_USE, "run", "--source", "dump", "--warehouse", "folder")
    assert "The warehouse 'folder' is a folder; name a file." in message
    assert session.lake.collections() == [SMALL]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIND_ETL_MAX_DELETED_SHARE (--max-deleted-share)", "abc"),
        ("AIND_ETL_LOOK_BACK_DAYS", "-1"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["sql", "SELECT 1"]])
def test_an_error_names_a_wrong_value_in_the_environment(session, command, name, value):
    variable = name.split()[0]
    assert f"{name} is '{value}'" in session.fails(WRONG_USE, *command, **{variable: value})


@pytest.mark.parametrize("command", ["run", "verify"])
def test_no_error_shows_a_password(session, command):
    source = "mysql://reader:s3cret@db.example/analysis"
    given = ["--source", source] if command == "verify" else []
    ended = session.start(command, *given, AIND_ETL_SOURCE=source)
    assert ended.returncode == WRONG_USE
    assert b"mysql://" in ended.stderr
    assert b"s3cret" not in ended.stdout + ended.stderr
    written = [path for path in session.folder.parent.rglob("*") if path.is_file()]
    assert not [path for path in written if b"s3cret" in path.read_bytes()]


# --- sql --------------------------------------------------------------------------------------


def test_rows_are_shown_as_a_table(loaded):
    output, _ = loaded.run("sql", "SELECT 'a [b]' AS words, 0.5 AS number, NULL AS nothing")
    header, row = (line.split("  ") for line in output.strip().splitlines())
    assert [cell.strip() for cell in header if cell.strip()] == ["words", "number", "nothing"]
    assert [cell.strip() for cell in row if cell.strip()] == ["a [b]", "0.5"]


def test_rows_too_wide_for_a_line_are_shown_with_one_value_per_line(loaded):
    wide, _ = loaded.run("sql", "FROM analyses ORDER BY record_id LIMIT 2")
    lines = wide.splitlines()
    names = [column.name for column in tables.ANALYSES.columns]
    assert [line.split()[0] for line in lines] == ["Row", *names, "Row", *names]
    assert loaded.run("sql", "FROM analyses LIMIT 0")[0] == "No rows.\n"


def test_only_the_first_rows_are_shown_with_a_note(loaded):
    output, _ = loaded.run("sql", "SELECT range AS n FROM range(1000)")
    assert output.splitlines()[-1] == "The first 200 rows; --format csv writes all."
    assert [line.strip() for line in output.splitlines()[1:4]] == ["0", "1", "2"]


@pytest.mark.parametrize("file_format", ["csv", "json", "parquet"])
def test_rows_are_written_in_every_format(loaded, built, tmp_path, file_format):
    text = "SELECT record_id, aic, session_date FROM analyses ORDER BY ALL"
    with Query(built.warehouse, text) as query:
        query.write(tmp_path / "expected", file_format)
    expected = (tmp_path / "expected").read_bytes()
    command, target = ("sql", text, "--format", file_format), tmp_path / "rows"
    streamed = loaded.start(*command)
    assert (streamed.returncode, streamed.stdout) == (DONE, expected)
    assert loaded.run(*command, "--output", target) == ("", f"Wrote {target}\n")
    assert target.read_bytes() == expected


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("FROM best_model", "best_models"),
        ("SELEC 1", "syntax error"),
        ("ATTACH 'new.duckdb'", "the warehouse is for reading"),
        ("", "the warehouse is for reading"),
    ],
)
def test_a_mistaken_query_ends_with_2_and_changes_nothing(session, built, query, words):
    assert words in sentence(session.fails(WRONG_USE, "sql", query, "--warehouse", built.warehouse))
    assert list(session.folder.iterdir()) == []


def test_a_table_is_not_written_to_a_file(loaded):
    message = loaded.fails(WRONG_USE, "sql", "SELECT 1", "--output", "rows.txt")
    assert "--output needs --format csv, json or parquet." in message


def test_a_closed_pipe_shows_no_traceback(loaded):
    for options in ("", "--format csv"):
        ended = subprocess.run(
            f"{COMMAND} sql 'FROM attributes' {options} | head -1",
            shell=True,
            cwd=loaded.folder,
            capture_output=True,
            check=True,
        )
        assert ended.stderr == b""
        assert ended.stdout.count(b"\n") == 1


# --- status, verify, rebuild, history ------------------------------------------------------------


def test_the_status_shows_every_collection_and_the_warehouse(first_run):
    session, _, _ = first_run
    output, errors = session.run("status")
    assert errors == ""
    ends = set()
    for name in (MAIN, SMALL):
        count = len(read_dump(session.folder / "dump", name))
        found = re.search(rf"^{name} +{count}(?= +0 +0 )", output, re.MULTILINE)
        ends.add(len(found[0]))
    assert len(ends) == 1, "numbers are aligned on the right"
    assert re.search(r"Warehouse .*/lake/warehouse\.duckdb, built .* by aind-etl", output)
    assert "dump" in output


def test_the_status_of_an_empty_lake_suggests_a_run(session):
    output, _ = session.run("status", "--lake", "nothing", code=DIFFERENT)
    assert "The lake 'nothing' is empty. Run 'aind-etl run' to load it." in output
    assert list(session.folder.iterdir()) == []


def test_verify_finds_that_source_lake_and_warehouse_agree(loaded, sample_dump):
    output, errors = loaded.run("verify", "--source", sample_dump)
    assert errors == ""
    for path in sample_dump.glob("*.jsonl"):
        count = len(read_dump(sample_dump, path.stem))
        assert re.search(rf"^{path.stem} +{count} +{count} +{count} +0 *$", output, re.MULTILINE)
    assert output.endswith("Source, lake and warehouse agree.\n")


@pytest.mark.slow
def test_verify_deep_finds_a_changed_document_of_the_source(loaded, sample_dump, tmp_path):
    dump = shutil.copytree(sample_dump, tmp_path / "dump")
    first, *others = read_dump(dump, SMALL)
    write_dump(dump, [first | {"status": "other"}, *others], SMALL)
    loaded.run("verify", "--source", dump)
    output, _ = loaded.run("verify", "--deep", "--source", dump, code=DIFFERENT)
    assert (
        f"source and lake · {SMALL}: 1 documents with different contents: {first['_id']}" in output
    )
    assert output.endswith("1 difference.\n")
    loaded.run("verify", "--deep", "--source", dump, "--collection", MAIN)


def test_verify_finds_changed_values_of_the_warehouse(copy, sample_dump):
    with duckdb.connect(copy.folder / "lake" / "warehouse.duckdb") as connection:
        connection.execute("UPDATE analyses SET aic = aic + 1 WHERE aic IS NOT NULL")
    output, _ = copy.run("verify", "--source", sample_dump, code=DIFFERENT)
    assert f"lake and warehouse · analyses of {MAIN}:" in output
    assert "with different contents" in output
    # A check warns of the change as well, and is not counted.
    assert "check fit_criteria_agree_with_log_likelihood" in output
    assert output.endswith("2 differences.\n")


@pytest.mark.slow
def test_a_damaged_lake_is_explained_and_rebuilt_from_the_change_log(copy, sample_dump):
    path = copy.lake.tables.files(tables.ANALYSES, SMALL)[0]
    path.write_bytes(path.read_bytes()[:-50])
    for command in (["status"], ["verify", "--source", sample_dump]):
        message = sentence(copy.fails(DIFFERENT, *command))
        assert "is damaged" in message
        assert "The next 'aind-etl run' derives" in message
    _, errors = copy.run("run", "--source", sample_dump, "--collection", SMALL, "--no-results")
    assert re.search(rf"{SMALL}: The file .* is not as it was written; the tables", errors)
    copy.run("verify", "--source", sample_dump)
    path.unlink()
    assert "no collection 'typo'" in copy.fails(WRONG_USE, "rebuild", "--collection", "typo")
    copy.run("rebuild")
    copy.run("verify", "--source", sample_dump)


@pytest.mark.slow
def test_a_snapshot_is_kept_and_listed_and_read(copy):
    output, _ = copy.run("snapshot", "paper")
    assert "lake/snapshots/paper.duckdb" in output
    output, _ = copy.run("snapshots")
    assert re.search(r"^paper +\d{4}-\d\d-\d\d \d\d:\d\d", output, re.MULTILINE)
    query = ("sql", "SELECT count(*) FROM analyses")
    assert copy.run(*query, "--warehouse", "lake/snapshots/paper.duckdb") == copy.run(*query)
    assert "The snapshot 'paper' already exists" in copy.fails(WRONG_USE, "snapshot", "paper")


@pytest.mark.slow
def test_the_warehouse_of_an_earlier_time_is_written_to_another_file(copy):
    output, _ = copy.run("as-of", "2100-01-01", "--output", "then.duckdb")
    assert "as of 2100-01-01T00:00:00+00:00. Wrote then.duckdb" in output
    told = copy.run("sql", "FROM warehouse_info", "--warehouse", "then.duckdb", "-f", "csv")[0]
    assert "as_of,2100-01-01T00:00:00+00:00" in told
    assert "Nothing was known at" in copy.fails(WRONG_USE, "as-of", "2001-01-01", "-o", "x.duckdb")
    assert "expected a day" in copy.fails(WRONG_USE, "as-of", "June", "-o", "x.duckdb")
    published = copy.fails(WRONG_USE, "as-of", "2100-01-01", "-o", "lake/warehouse.duckdb")
    assert "is the published warehouse" in published


def test_the_context_page_is_printed(session):
    output, _ = session.run("context")
    assert output == context_page()


def test_the_history_of_a_record_shows_what_changed(copy, dump):
    first, *others = read_dump(dump, SMALL)
    write_dump(dump, [first | {"status": "looked at [again]"}, *others], SMALL)
    extract_collection(DumpSource(dump), copy.lake, SMALL, Pass.FULL)
    output, _ = copy.run("history", SMALL, first["_id"])
    versions = [line.split()[3] for line in output.splitlines() if "batch" in line]
    assert versions == ["upsert", "upsert"]
    assert "looked at [again]" in output
    assert "never held a record" in copy.fails(DIFFERENT, "history", SMALL, "nobody")


# --- sample -----------------------------------------------------------------------------------


def test_a_sample_can_be_written(session):
    arguments = ("sample", "world", "--sessions", "2", "--seed", "3", "--no-results")
    output, errors = session.run(*arguments, "--format", "bson")
    assert errors == ""
    assert re.search(r"Load it with: aind-etl run --source '.*world' --no-results$", output.strip())
    assert {path.suffix for path in (session.folder / "world").iterdir()} == {".bson"}
    documents = DumpSource(session.folder / "world").list_ids(MAIN)
    assert re.search(rf"^ +{len(list(documents))}  {MAIN}$", output, re.MULTILINE)


# --- help, terminals and imports -------------------------------------------------------------


def test_the_help_names_every_command(session):
    output, _ = session.run("--help")
    for command in COMMANDS:
        assert re.search(rf"\b{command}\b", output)
    for words in ("aind-etl run", "AIND_ETL_SOURCE", "Exit codes", "aind-etl sql"):
        assert words in sentence(output)
    assert session.run("-h")[0] == output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(session, command):
    output, errors = session.run(command, "--help")
    assert errors == ""
    assert f"aind-etl {command}" in output
    assert "<bool>" not in output
    assert len(sentence(output)) > 100
    assert list(session.folder.iterdir()) == []


def test_the_help_of_options_names_their_environment_variables(session):
    output, _ = session.run("run", "--help")
    for setting in ("SOURCE", "LAKE", "WAREHOUSE", "COLLECTIONS"):
        assert f"AIND_ETL_{setting}" in sentence(output)


def test_the_version_is_shown(session):
    assert re.fullmatch(r"aind-etl \d+\.\d+\.\d+\n", session.run("--version")[0])


LOADED = """
import runpy, sys
sys.argv = ["aind-etl", *sys.argv[1:]]
from aind_etl import cli
try:
    cli.main()
except SystemExit as ended:
    assert not ended.code, ended.code
finally:
    print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "spared"),
    [
        (["--help"], {"dagster", "duckdb", "polars", "pyarrow", "matplotlib", "pydantic"}),
        (["run", "--help"], {"dagster", "duckdb", "polars", "pyarrow", "matplotlib"}),
        (
            ["sql", "SELECT 1"],
            {
                *("dagster", "polars", "pyarrow", "pandas", "numpy", "matplotlib", "sqlalchemy"),
                # Neither settings nor a query need an event loop.
                *("asyncio", "pydantic_settings"),
            },
        ),
        (["status"], {"matplotlib"}),
        (["verify", "--source", "{dump}"], {"dagster", "matplotlib", "sqlalchemy"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_does_not_import_libraries_that_it_does_not_need(
    loaded, sample_dump, arguments, spared
):
    command = [sys.executable, "-c", LOADED, *(one.format(dump=sample_dump) for one in arguments)]
    ended = execute(*command, cwd=loaded.folder, env=loaded.environment, check=True)
    names = set(ended.stderr.split())
    assert "typer" in names
    assert spared & names == set(), spared & names
