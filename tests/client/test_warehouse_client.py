"""Reading the warehouse from a notebook."""

import contextlib
import doctest
import os
import shutil
import subprocess
import sys
import threading
import time
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import aind_etl
from aind_etl import Warehouse
from aind_etl.client import model_fitting
from aind_etl.client import warehouse as warehouse_module
from aind_etl.client.query import open_warehouse
from aind_etl.contract import tables
from aind_etl.errors import ArgumentError, ConfigurationError

PUBLISH_SECONDS = float(os.environ.get("AIND_ETL_TEST_PUBLISH_SECONDS", "3"))
"""How long readers read while warehouses are published; ``make test-long`` gives a minute."""
READERS = 3


@pytest.fixture
def warehouse(built) -> Warehouse[pl.DataFrame]:
    return Warehouse(built.warehouse)


def publish(source: Path, path: Path) -> None:
    """Put a copy of a warehouse in a place, as the publisher does."""
    aside = path.with_name(f"{path.name}.aside")
    shutil.copy(source, aside)
    os.replace(aside, path)  # noqa: PTH105 - as the publisher does


def test_a_table_is_a_frame_with_all_its_rows(built, warehouse):
    frame = warehouse.table("analyses")
    assert frame.height == built.lake.tables.count_rows(tables.ANALYSES)
    assert frame.columns == list(tables.ANALYSES.column_names)


def test_a_query_takes_parameters(built):
    warehouse = Warehouse(str(built.warehouse))
    attack = "'; DROP TABLE analyses; --"
    assert warehouse.sql("SELECT ? AS a, ? AS b", [attack, 2]).row(0) == (attack, 2)
    assert warehouse.sql("SELECT $name AS a", {"name": attack}).item() == attack


@pytest.mark.parametrize(
    ("frames", "kind"), [("polars", pl.DataFrame), ("pandas", pd.DataFrame), ("arrow", pa.Table)]
)
def test_frames_are_of_the_chosen_kind(built, frames, kind):
    warehouse = Warehouse(built.warehouse, frames=frames)
    for frame in (
        warehouse.table("best_models"),
        warehouse.sql("FROM best_models"),
        warehouse.analyses(subject_id="652257"),
        warehouse.parameters(subject_id="652257"),
        warehouse.trials(subject_id="652257"),
    ):
        assert isinstance(frame, kind)


def test_the_environment_names_the_kind_of_frames_and_an_argument_wins(built, monkeypatch):
    monkeypatch.setenv("AIND_ETL_FRAMES", "pandas")
    assert isinstance(Warehouse(built.warehouse).table("best_models"), pd.DataFrame)
    chosen = Warehouse(built.warehouse, frames="polars").table("best_models")
    assert isinstance(chosen, pl.DataFrame)
    monkeypatch.setenv("AIND_ETL_FRAMES", "excel")
    with pytest.raises(ConfigurationError, match="AIND_ETL_FRAMES is 'excel'"):
        Warehouse(built.warehouse)


@pytest.mark.parametrize(
    ("arguments", "condition"),
    [
        ({}, "true"),
        ({"subject_id": "652257"}, "subject_id = '652257'"),
        ({"subject_id": 652257}, "subject_id = '652257'"),
        ({"subject_id": ["652257", 652001]}, "subject_id IN ('652257', '652001')"),
        ({"session_date": "2024-10-24"}, "session_date = '2024-10-24'"),
        ({"session_date": date(2024, 10, 24)}, "session_date = '2024-10-24'"),
        (
            {"session_date": ("2024-10-01", date(2025, 3, 31))},
            "session_date BETWEEN '2024-10-01' AND '2025-03-31'",
        ),
        ({"session_date": (None, "2024-10-24")}, "session_date <= '2024-10-24'"),
        ({"session_date": ("2024-10-24", None)}, "session_date >= '2024-10-24'"),
        ({"agent_alias": ["WSLS", "LossCounting"]}, "agent_alias IN ('WSLS', 'LossCounting')"),
        ({"analysis_name": "Unit filtering"}, "analysis_name = 'Unit filtering'"),
        ({"collection": "dynamic-foraging-nm"}, "source_collection = 'dynamic-foraging-nm'"),
        ({"pipeline_format": "framework"}, "pipeline_format = 'framework'"),
        ({"outcome": ["skipped", "failed"]}, "outcome IN ('skipped', 'failed')"),
        (
            {"subject_id": "652257", "outcome": "success", "agent_alias": "WSLS"},
            "subject_id = '652257' AND outcome = 'success' AND agent_alias = 'WSLS'",
        ),
    ],
)
def test_analyses_are_those_that_meet_every_argument(warehouse, arguments, condition):
    expected = warehouse.sql(f"SELECT * FROM analyses WHERE {condition}")
    assert expected.height
    found = warehouse.analyses(**arguments)
    assert found.columns == expected.columns
    key = ["source_collection", "record_id", "process_index"]
    assert found.sort(key).equals(expected.sort(key))


def test_the_newest_analyses_are_those_of_the_view(warehouse):
    found = warehouse.analyses(newest_only=True, columns=["record_id"])
    assert found.sort("record_id").equals(
        warehouse.sql("SELECT record_id FROM latest_analyses ORDER BY record_id")
    )


def test_columns_are_in_the_given_order(warehouse):
    assert warehouse.analyses(columns=["bic", "aic"]).columns == ["bic", "aic"]


def test_parameters_are_those_of_successful_fits_with_session_and_agent(warehouse):
    found = warehouse.parameters(parameter=["learn_rate", "biasL"], subject_id="652001")
    assert found.columns[:4] == ["session_key", "subject_id", "session_date", "agent_alias"]
    assert found.columns[4:] == list(tables.FIT_PARAMETERS.column_names)
    expected = warehouse.sql(
        "SELECT count(*) FROM fit_parameters JOIN analyses "
        "USING (source_collection, record_id, process_index) WHERE subject_id = '652001' "
        "AND outcome = 'success' AND parameter IN ('learn_rate', 'biasL')"
    ).item()
    assert found.height == expected > 0
    assert set(found["parameter"]) == {"learn_rate", "biasL"}


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda w: w.analyses(agent_alias="QLearning_L2F1_sofmax"), "'QLearning_L2F1_softmax'"),
        (lambda w: w.analyses(collection="dynamic-foraging-mn"), "'dynamic-foraging-nm'"),
        (lambda w: w.analyses(subject_id="65232"), "Did you mean '652324'"),
        (lambda w: w.analyses(analysis_name="MLE fiting"), "'MLE fitting'"),
        (lambda w: w.analyses(outcome="succes"), "Did you mean 'success'"),
        (lambda w: w.analyses(pipeline_format="frame"), "framework"),
        (lambda w: w.analyses(columns=["agent_alia"]), "Did you mean 'agent_alias'"),
        (lambda w: w.analyses(columns=["AIC"]), "Did you mean 'aic'"),
        (lambda w: w.analyses(columns=[]), "leave it out for all"),
        (lambda w: w.analyses(session_date="2024-02-30"), "a day such as '2024-10-24'"),
        (lambda w: w.analyses(session_date="20241024"), "session_date is '20241024'"),
        (lambda w: w.analyses(session_date=("2024-10-24",)), "the first and the last"),
        (lambda w: w.analyses(session_date=("2024-10-24", "2024-10-01")), "before it begins"),
        (lambda w: w.analyses(subject_id=1.5), "subject_id is 1.5"),
        (lambda w: w.parameters(parameter="learnrate"), "Did you mean 'learn_rate'"),
        (lambda w: Warehouse(w.path, frames="panda"), "'polars', 'pandas' or 'arrow'"),
    ],
)
def test_a_mistake_in_an_argument_is_explained(warehouse, ask, words):
    with pytest.raises(ArgumentError) as caught:
        ask(warehouse)
    assert isinstance(caught.value, ValueError)
    assert words in str(caught.value)


@pytest.mark.parametrize("method", ["analyses", "parameters", "trials"])
def test_a_mistake_in_the_name_of_an_argument_is_explained(warehouse, method):
    with pytest.raises(TypeError, match=r"no argument 'subject'\. Did you mean 'subject_id'"):
        getattr(warehouse, method)(subject="652257")


@pytest.mark.parametrize("query", ["FROM no_such_table", "COPY analyses TO 'stolen.csv'"])
def test_a_query_that_cannot_be_run_is_explained(warehouse, tmp_path, monkeypatch, query):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"cannot be run|not one query"):
        warehouse.sql(query)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_warehouse_that_is_half_copied_is_explained(built, tmp_path, share):
    content = built.warehouse.read_bytes()
    path = tmp_path / "half.duckdb"
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigurationError, match=r"copy it again|not one of aind-etl"):
        [Warehouse(path).table(name) for name in ("analyses", "attributes", "documents")]


def test_a_file_that_is_not_a_warehouse_is_explained(tmp_path):
    (tmp_path / "notes.duckdb").write_text("not a database")
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        Warehouse(tmp_path / "notes.duckdb").table("analyses")
    with duckdb.connect(tmp_path / "other.duckdb") as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1")
    with pytest.raises(ConfigurationError, match="not one of aind-etl"):
        Warehouse(tmp_path / "other.duckdb").table("mine")


def test_a_warehouse_of_a_later_layout_is_explained(built, tmp_path):
    path = Path(shutil.copy(built.warehouse, tmp_path / "later.duckdb"))
    with duckdb.connect(path) as connection:
        connection.execute("UPDATE warehouse_info SET value = '99' WHERE name = 'layout'")
    with pytest.raises(ConfigurationError, match=r"has layout 99, built by aind-etl .*Update"):
        Warehouse(path).analyses()


def test_a_newly_published_file_is_seen_by_the_same_object(built, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    warehouse = Warehouse(path)
    with pytest.raises(ConfigurationError, match="no warehouse"):
        warehouse.table("analyses")
    publish(built.warehouse, path)
    assert warehouse.table("analyses").height > 0


def numbered(built, folder: Path, number: int) -> Path:
    """Return a copy of the warehouse that knows its number."""
    path = Path(shutil.copy(built.warehouse, folder / f"version-{number}.duckdb"))
    with duckdb.connect(path) as connection:
        connection.execute("INSERT INTO warehouse_info VALUES ('number', ?)", [str(number)])
    return path


def number_of(warehouse: Warehouse[pl.DataFrame]) -> int:
    found = warehouse.sql("SELECT value::INTEGER FROM warehouse_info WHERE name = 'number'")
    return int(found.item())


def test_a_new_file_is_seen_while_the_old_one_is_open(built, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    publish(numbered(built, tmp_path, 1), path)
    with duckdb.connect(path, read_only=True) as held:
        publish(numbered(built, tmp_path, 2), path)
        assert number_of(Warehouse(path)) == 2
        assert held.execute("SELECT count(*) FROM analyses").fetchall()[0][0] > 0


@pytest.mark.slow
def test_readers_and_publishes_do_not_disturb_each_other(built, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    path = folder / "warehouse.duckdb"
    versions = [numbered(built, tmp_path, number) for number in range(4)]
    rows = Warehouse(built.warehouse).analyses(columns=["record_id"]).height
    published = 0
    publish(versions[0], path)
    stop, errors, reads = threading.Event(), [], []

    def read() -> None:
        warehouse = Warehouse(path)
        while not stop.is_set():
            before = published
            try:
                number = number_of(warehouse)
                assert number % len(versions) == number
                # The file read is the one published last, or a later one.
                assert number in {n % len(versions) for n in range(before, published + 2)}
                assert warehouse.analyses(columns=["record_id"]).height == rows
            except BaseException as error:  # noqa: BLE001 - told by the test
                errors.append(error)
                return
            reads.append(number)

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    end = time.monotonic() + PUBLISH_SECONDS
    while time.monotonic() < end and not errors:
        time.sleep(min(PUBLISH_SECONDS / 10, 3))
        publish(versions[(published + 1) % len(versions)], path)
        published += 1
    stop.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert len(set(reads)) > 1
    assert [one.name for one in folder.iterdir()] == ["warehouse.duckdb"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux lists open files")
def test_the_file_is_closed_after_each_query(built, tmp_path):
    path = Path(shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb"))
    warehouse = Warehouse(path)
    for query in (
        "FROM best_models",
        "PIVOT best_models ON criterion USING count(*)",
        "FROM nothing",
    ):
        with contextlib.suppress(ConfigurationError):
            warehouse.sql(query)
        opened = [os.path.realpath(one) for one in Path("/proc/self/fd").iterdir()]
        assert str(path) not in opened
        # Another connection may write to it.
        with duckdb.connect(path) as connection:
            connection.execute("CREATE OR REPLACE TABLE mine AS SELECT 1")


def test_temporary_tables_end_with_their_query(built):
    for _ in range(2):
        with open_warehouse(built.warehouse) as connection:
            connection.execute("CREATE TEMP TABLE kept AS SELECT 1")
            connection.register("given", pl.DataFrame({"a": [1]}).to_arrow())
    with pytest.raises(ConfigurationError, match="given"):
        Warehouse(built.warehouse).sql("FROM given")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_may_query_before_and_after_a_fork(built):
    # In a process of its own, which has no threads but those of the warehouse.
    script = (
        "import os, sys\n"
        "from aind_etl import Warehouse\n"
        "def ask(): return Warehouse(sys.argv[1], frames='arrow').table('analyses').num_rows\n"
        "asked = ask()\n"
        "child = os.fork()\n"
        "again = ask()\n"
        "assert asked == again\n"
        "if child: assert os.waitpid(child, 0)[1] == 0\n"
        # The interpreter ends as usual, in both.
    )
    subprocess.run([sys.executable, "-c", script, str(built.warehouse)], check=True, timeout=60)


@pytest.mark.parametrize("module", [warehouse_module, model_fitting])
def test_examples_in_the_documentation_run(built, monkeypatch, module):
    monkeypatch.setenv("AIND_ETL_WAREHOUSE", str(built.warehouse))
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.attempted
    assert not result.failed


def test_public_names_are_imported_on_demand():
    names = {"get_mle_model_fitting", "get_session_table", "replace_public_reader"}
    assert {"Warehouse", *names} == set(aind_etl.__all__) <= set(dir(aind_etl))
    with pytest.raises(AttributeError, match="no attribute 'warehose'"):
        aind_etl.warehose  # noqa: B018 - asked for
    assert (Path(aind_etl.__file__).parent / "py.typed").exists()
