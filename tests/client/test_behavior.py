"""Trials joined with the behaviour database, and the session table of the public reader."""

import doctest
import logging
import re
import shutil
from datetime import date
from itertools import islice
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
from result_endpoint import endpoint_before

from aind_etl import Warehouse, get_session_table
from aind_etl.errors import ArgumentError, DataError
from aind_etl.sample.calendar import plan_sessions
from aind_etl.sample.session_table import SessionTable
from aind_etl.sample.sessions import simulate_sessions
from aind_etl.settings import load_settings
from aind_etl.warehouse.connection import connect

DATABASE = "aind-scratch-data/aind-dynamic-foraging-cache"
AGENT = "QLearning_L2F1_CK1_softmax"
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "behavior.md"


@pytest.fixture
def database(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the behaviour database in a folder that the environment names."""
    folder = tmp_path / "database"
    shutil.copytree(world / "results" / DATABASE, folder)
    monkeypatch.setenv("AIND_ETL_BEHAVIOR_DATABASE", str(folder))
    return folder


@pytest.fixture
def warehouse(world: Path, database: Path) -> Warehouse[pl.DataFrame]:
    return Warehouse(world / "warehouse.duckdb")


def trials_of(database: Path, subject: str) -> pl.DataFrame:
    return pl.read_parquet(database / f"trial_table/subject_id={subject}/{subject}.parquet")


def replace_trials(database: Path, subject: str, trials: pl.DataFrame) -> None:
    trials.write_parquet(database / f"trial_table/subject_id={subject}/{subject}.parquet")


# --- trials ---------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["652257", "652324", "652001"])
def test_each_trial_of_a_fit_is_joined_with_what_the_animal_did(warehouse, database, subject):
    joined = warehouse.trials(subject_id=subject, behavior=True)
    alone = warehouse.trials(subject_id=subject)
    assert joined.select(alone.columns).equals(alone)
    played = joined.filter(pl.col("choice").is_not_null())
    assert played["behavior_session_id"].null_count() == 0
    assert (played["choice"] == played["animal_response"]).all()
    assert (played["reward"] == played["earned_reward"]).all()
    # The k-th trial with a response is trial k; ignored ones are counted by the database alone.
    assert (played["behavior_trial"] >= played["trial"]).all()
    assert (played["behavior_trial"] > played["trial"]).any()
    theirs = trials_of(database, subject).select(
        behavior_session_id="session_id",
        behavior_trial=pl.col("trial").cast(pl.Int32),
        expected="reward_probabilityL",
    )
    both = played.join(theirs, on=["behavior_session_id", "behavior_trial"], how="left")
    assert (both["expected"] == both["reward_probabilityL"]).all()
    # The state after the last trial belongs to no trial.
    last = joined.filter(pl.col("choice").is_null())
    assert last["behavior_trial"].null_count() == last.height > 0


def test_files_with_different_columns_and_types_become_one_frame(warehouse):
    frame = warehouse.trials(agent_alias=AGENT, behavior=True)
    schema = {
        "behavior_trial": pl.Int32,
        "animal_response": pl.Int8,
        "earned_reward": pl.Boolean,
        "reward_probabilityL": pl.Float64,
        "reaction_time": pl.Float64,
        "auto_waterR": pl.Boolean,
        "laser_location": pl.String,
    }
    assert {name: frame.schema[name] for name in schema} == schema
    with_laser = frame.filter(pl.col("laser_location").is_not_null())["subject_id"].unique()
    assert 0 < len(with_laser) < len(frame["subject_id"].unique())


def test_only_the_asked_subjects_are_read(warehouse, database, world):
    for folder in (database / "trial_table").iterdir():
        if folder.name != "subject_id=652257":
            (folder / f"{folder.name.removeprefix('subject_id=')}.parquet").write_bytes(b"broken")
    assert warehouse.trials(subject_id="652257", behavior=True, limit=3).height == 3
    with pytest.raises(DataError, match="AIND_ETL_BEHAVIOR_DATABASE"):
        warehouse.trials(subject_id="652324", behavior=True)
    # Subjects of which the limit leaves no trial are not read either.
    first = warehouse.trials(limit=1)["subject_id"].item()
    trials = database / f"trial_table/subject_id={first}/{first}.parquet"
    shutil.copy(world / "results" / DATABASE / trials.relative_to(database), trials)
    assert warehouse.trials(limit=3, behavior=True)["behavior_session_id"].null_count() == 0


def test_columns_are_chosen_by_their_names_in_the_database(warehouse):
    alone = warehouse.trials(subject_id="652257", limit=1).columns
    asked = ["laser_power", "goCue_start_time_in_session", "session_date"]
    frame = warehouse.trials(subject_id="652257", behavior=True, columns=asked)
    added = ["behavior_session_id", *asked[:2], "behavior_session_date"]
    assert frame.columns[len(alone) :] == added
    with pytest.raises(ArgumentError, match="Did you mean 'reaction_time'"):
        warehouse.trials(subject_id="652257", behavior=True, columns=["reaction_tim"])
    with pytest.raises(ArgumentError, match="behavior=True"):
        warehouse.trials(subject_id="652257", columns=["reaction_time"])


@pytest.mark.parametrize(
    "difference",
    [
        ("animal_response", pl.lit(2), "valid trials there"),
        ("animal_response", 1 - pl.col("animal_response"), "differs from"),
        ("earned_reward", 1 - pl.col("earned_reward"), "differs from"),
    ],
    ids=["another number of trials", "another choice", "another reward"],
)
def test_a_session_that_differs_is_reported_and_not_joined(warehouse, database, caplog, difference):
    column, value, words = difference
    theirs = trials_of(database, "652324")
    wrong = theirs["session_id"].unique().sort()[0]
    is_wrong = (pl.col("session_id") == wrong) & (pl.col("trial") == 7)
    assert (theirs.filter(is_wrong)["animal_response"] < 2).all()
    changed = pl.when(is_wrong).then(value).otherwise(column).alias(column)
    replace_trials(database, "652324", theirs.with_columns(changed))
    with caplog.at_level(logging.WARNING):
        frame = warehouse.trials(subject_id="652324", behavior=True)
    (message,) = [record.getMessage() for record in caplog.records]
    assert words in message
    assert wrong in message
    missing = frame.filter(pl.col("behavior_session_id").is_null())["session_key"].unique()
    (named,) = missing
    assert named in message
    of_session = frame.filter(pl.col("session_key") == named)
    assert of_session["animal_response"].null_count() == of_session.height > 0


def test_a_session_that_the_database_lacks_is_reported(warehouse, database, caplog):
    shutil.rmtree(database / "trial_table" / "subject_id=652324")
    with caplog.at_level(logging.WARNING):
        frame = warehouse.trials(subject_id="652324", behavior=True)
    assert frame["behavior_session_id"].null_count() == frame.height > 0
    assert "652324_2026-03-10_15-33-11 is not there" in caplog.text


def test_fits_without_a_session_are_reported(world, database, tmp_path, caplog):
    copy = shutil.copy(world / "warehouse.duckdb", tmp_path / "warehouse.duckdb")
    with duckdb.connect(copy) as connection:
        connection.execute("UPDATE analyses SET session_key = NULL WHERE subject_id = '652257'")
    frame = Warehouse(copy).trials(subject_id="652257", behavior=True)
    assert frame["behavior_session_id"].null_count() == frame.height > 0
    assert "a fit without a session is not there" in caplog.text


def test_the_database_is_read_from_an_object_store(world, monkeypatch):
    with endpoint_before(world / "results") as endpoint:
        monkeypatch.setenv("AIND_ETL_S3_ENDPOINT_URL", endpoint.url)
        monkeypatch.setenv("AIND_ETL_RESULTS_ROOT", "s3://")
        frame = Warehouse(world / "warehouse.duckdb").trials(
            subject_id="652257", agent_alias=AGENT, behavior=True
        )
    assert (frame["behavior_session_id"].is_not_null()).all()
    assert {method for method, _ in endpoint.requests} <= {"GET", "HEAD"}


def test_trials_need_a_filter_or_a_limit(warehouse):
    with pytest.raises(ArgumentError, match="subject_id"):
        warehouse.trials()
    with pytest.raises(ArgumentError, match="subject_id"):
        warehouse.trials(newest_only=True)
    assert warehouse.trials(limit=5).height == 5
    with pytest.raises(ArgumentError, match="limit is -1"):
        warehouse.trials(limit=-1)


# --- the documentation ---------------------------------------------------------------------


def test_the_examples_in_the_documentation_run(world, database, monkeypatch):
    monkeypatch.setenv("AIND_ETL_WAREHOUSE", str(world / "warehouse.duckdb"))
    failed, ran = doctest.testfile(str(DOCUMENTATION), module_relative=False)
    assert (failed, ran > 4) == (0, True)


def test_the_documented_query_returns_the_same_rows(world, warehouse, database):
    (recipe,) = re.findall(r"```sql\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
    public = load_settings().behavior_database
    default = type(load_settings()).model_fields["behavior_database"].default
    assert default in recipe
    with connect(world / "warehouse.duckdb") as connection:
        found = connection.sql(recipe.replace(default, public)).pl()
    expected = warehouse.trials(
        subject_id="652257", agent_alias=AGENT, newest_only=True, behavior=True
    ).filter(pl.col("behavior_trial").is_not_null())
    assert found.height > 300
    names = [name for name in found.columns if name in expected.columns]
    assert set(names) >= {"q_left", "reaction_time", "reward_probabilityL"}
    assert found.select(names).cast(expected.select(names).schema).equals(expected.select(names))


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("652001_2023-10-04_0", "652001_2023-10-04"),
        ("652001_2023-10-04_2", "652001_2023-10-04"),
        ("652001_2023-10-04_92026", "652001_2023-10-04_09-20-26"),
        ("652001_2023-10-04_235959", "652001_2023-10-04_23-59-59"),
        ("652001_2023-10-04_1000", "652001_2023-10-04_00-10-00"),
        ("652001_2023-10-04_999999", "652001_2023-10-04"),
        ("652001_2023-10-04", None),
        ("somebody", None),
        (None, None),
    ],
)
def test_a_session_of_the_database_has_the_key_of_the_session_table(world, name, key):
    with connect(world / "warehouse.duckdb") as connection:
        ((found,),) = connection.execute("SELECT behavior_session_key(?)", [name]).fetchall()
        assert found == key
        ((differing,),) = connection.execute(
            "SELECT count(*) FROM sessions WHERE behavior_session_key(session_id) <> session_key"
        ).fetchall()
    assert differing == 0


# --- the session table of the public reader -------------------------------------------------


@pytest.fixture(scope="module")
def of_reader() -> pd.DataFrame:
    """Return the public reader's table: the database's without the columns it adds."""
    table = SessionTable()
    for session in simulate_sessions(list(islice(plan_sessions(0), 24))):
        table.add(session)
    frame = table.in_database()
    added = ["_session_id", "co_asset_id", "co_s3_nwb_uri", "nwb_data_source"]
    return frame[frame["rig"].notna()].drop(columns=added)


def test_the_session_table_equals_that_of_the_public_reader(world, of_reader):
    frame = get_session_table(warehouse=world / "warehouse.duckdb")
    assert list(frame.columns[:12]) == list(of_reader.columns[:12])
    assert set(frame.columns) == set(of_reader.columns)
    assert isinstance(frame["session_date"].iloc[0], pd.Timestamp)
    assert frame["session_date"].is_monotonic_decreasing
    keys = ["subject_id", "session_date", "nwb_suffix"]
    expected = of_reader.assign(session_date=pd.to_datetime(of_reader["session_date"]))
    pd.testing.assert_frame_equal(
        frame.sort_values(keys, ignore_index=True)[list(expected.columns)],
        expected.sort_values(keys, ignore_index=True),
        check_dtype=False,
        check_index_type=False,
    )
    assert frame["has_video"].dtype == bool


def test_the_session_table_can_be_limited_to_recent_months(world, monkeypatch):
    whole = get_session_table(warehouse=world / "warehouse.duckdb")
    newest = whole["session_date"].max()
    monkeypatch.setattr(pd.Timestamp, "now", lambda: newest + pd.DateOffset(days=1))
    months = get_session_table(only_recent_n_month=3, warehouse=world / "warehouse.duckdb")
    assert 0 < len(months) < len(whole)
    assert months["session_date"].min().date() > date(2026, 1, 1)


def test_sessions_of_the_older_rigs_are_returned_on_request(world, tmp_path):
    copy = tmp_path / "warehouse.duckdb"
    shutil.copy(world / "warehouse.duckdb", copy)
    with duckdb.connect(copy) as connection:
        connection.execute("UPDATE sessions SET hardware = 'bpod' WHERE subject_id = '652001'")
    without = get_session_table(warehouse=copy)
    assert "652001" not in set(without["subject_id"])
    assert len(get_session_table(True, warehouse=copy)) > len(without)


def test_without_a_session_table_the_frame_is_empty_and_the_log_explains_it(built, caplog):
    with caplog.at_level(logging.WARNING):
        frame = get_session_table(warehouse=built.warehouse)
    assert frame.empty
    assert list(frame.columns[:3]) == ["subject_id", "session_date", "nwb_suffix"]
    assert "AIND_ETL_SESSION_TABLE" in caplog.text
