"""The session table in the lake and the warehouse: names, types, keys, and what changes them."""

import inspect
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from result_endpoint import PAGE, Endpoint, Fault, endpoint_before, error
from worlds import NOON, Built, Clock

from aind_etl.client.verify import verify_warehouse
from aind_etl.contract import DataType, tables
from aind_etl.contract.session_labels import original_label
from aind_etl.errors import DataError
from aind_etl.flatten import derived
from aind_etl.lake import Lake
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import SESSIONS
from aind_etl.orchestration.resources import Etl
from aind_etl.progress import NoProgress
from aind_etl.results import ResultStore, open_result_store
from aind_etl.sample.calendar import plan_sessions
from aind_etl.sample.session_table import SessionTable
from aind_etl.sample.sessions import simulate_sessions
from aind_etl.sessions import SessionsReport, refresh_sessions
from aind_etl.sessions import session_table as session_table_module
from aind_etl.sessions.frame_process import read_pickled_frame
from aind_etl.sessions.pickled_frame import LABELS, read_frame
from aind_etl.sessions.pickled_frame.cells import as_plain
from aind_etl.sessions.rows import column_names, session_rows, snake_case
from aind_etl.sessions.session_table import investigator_names
from aind_etl.settings import load_settings
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.publishing import publish_warehouse

FRAME, MAPPING = "df_sessions.pkl", "mouse_pi_mapping.json"
FOLDER = "aind-behavior-data/foraging_nwb_bonsai_processed"
PICKLE = f"s3://{FOLDER}"
DATABASE = "aind-scratch-data/aind-dynamic-foraging-cache"
TABLE = "session_table.parquet"
PARQUET = f"s3://{DATABASE}/{TABLE}"
STAGES = {"STAGE_1_WARMUP", "STAGE_1", "STAGE_2", "STAGE_3", "STAGE_FINAL", "GRADUATED"}


class Loaded(NamedTuple):
    """A store with both session tables, and a lake that has read the pickle. Not to be changed."""

    table: SessionTable
    results: Path
    lake: Lake
    report: SessionsReport


@pytest.fixture(scope="session")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Return the sample's session tables, read into a lake."""
    base = tmp_path_factory.mktemp("sessions")
    results, lake, table = base / "results", Lake(base / "lake"), session_table(0, 24)
    for folder in (FOLDER, DATABASE):
        (results / folder).mkdir(parents=True)
    (results / FOLDER / FRAME).write_bytes(table.pickled())
    (results / FOLDER / MAPPING).write_bytes(table.investigators())
    table.in_database().to_parquet(results / DATABASE / TABLE)
    with open_result_store(load_settings(results_root=str(results))) as store:
        return Loaded(table, results, lake, refresh(lake, store))


@pytest.fixture
def results(loaded: Loaded, tmp_path: Path) -> Path:
    """Return a folder that replaces s3:// and holds both session tables."""
    return shutil.copytree(loaded.results, tmp_path / "results")


@pytest.fixture
def folder(results: Path) -> Path:
    """Return the folder of the pickle."""
    return results / FOLDER


@pytest.fixture
def parquet(results: Path) -> Path:
    """Return the session table of the behaviour database."""
    return results / DATABASE / TABLE


@pytest.fixture
def filled(loaded: Loaded, tmp_path: Path) -> Lake:
    """Return a lake that has read the pickle."""
    return Lake(shutil.copytree(loaded.lake.storage.root, tmp_path / "filled"))


@pytest.fixture
def store(results: Path) -> Iterator[ResultStore]:
    """Return the store that holds the session tables."""
    with open_result_store(load_settings(results_root=str(results))) as store:
        yield store


@pytest.fixture(scope="module")
def warehouse(
    built: Built, loaded: Loaded, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Lake, Path]:
    """Return the sample's lake with its sessions, and the warehouse built from it."""
    folder = tmp_path_factory.mktemp("warehouse")
    lake = Lake(shutil.copytree(built.lake.storage.root, folder / "lake"))
    shutil.copytree(loaded.lake.storage.path("sessions"), lake.storage.path("sessions"))
    build_warehouse(lake, folder / "warehouse.duckdb")
    return lake, folder / "warehouse.duckdb"


def session_table(seed: int, sessions: int) -> SessionTable:
    table = SessionTable()
    for session in simulate_sessions(list(islice(plan_sessions(seed), sessions))):
        table.add(session)
    return table


def refresh(lake: Lake, store: ResultStore, location: str = PICKLE) -> SessionsReport:
    return refresh_sessions(lake, store, now=Clock(), location=location)


def sessions_of(lake: Lake) -> pl.DataFrame:
    return lake.tables.scan(lake.tables.as_written(tables.SESSIONS)).collect()


def rows_of(frame: pd.DataFrame, investigators: dict[str, str] | None = None) -> pl.DataFrame:
    """Return the rows of the table `sessions` for a frame."""
    columns = read_frame(pickle.dumps(frame))
    labels = [json.loads(field.metadata[LABELS]) for field in columns.schema]
    return session_rows(pl.DataFrame(columns), labels, investigators or {})[1]


ODD_CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=6),
    st.binary(max_size=4),
    st.lists(st.integers() | st.text(st.characters(), max_size=2), max_size=2),
    st.dictionaries(st.text(st.characters(), max_size=2), st.integers(), max_size=2),
    st.lists(st.lists(st.just("\ud800"))),
    st.sampled_from(
        [
            *("700001", "2024-08-09", "0001-01-01", "9999-12-31", "9999-12-31T23:59:59-14:00"),
            *(83912, 235959, 999999, -1, 10**12, "0", "083912", "\ud800", pd.NaT),
            *(pd.Timestamp("1700-01-01"), datetime(9999, 12, 31), date(1, 1, 1)),  # noqa: DTZ001
        ]
    ),
)


# --- the sample's table ---------------------------------------------------------------------


def test_every_session_of_the_sample_is_in_the_table_with_its_types(loaded: Loaded) -> None:
    rows, report = sessions_of(loaded.lake), loaded.report
    assert (report.rows, report.columns) == rows.shape
    assert (report.rows, report.changed, report.note) == (24, True, "")
    columns = loaded.lake.tables.as_written(tables.SESSIONS).columns
    types = {column.name: column.type for column in columns}
    expected = {
        "session_key": DataType.VARCHAR,
        "session_date": DataType.DATE,
        "nwb_suffix": DataType.BIGINT,
        "task": DataType.VARCHAR,
        "current_stage_actual": DataType.VARCHAR,
        "session_start_time": DataType.TIMESTAMPTZ,
        "foraging_eff": DataType.DOUBLE,
        "finished_trials": DataType.BIGINT,
        "has_video": DataType.BOOLEAN,
        "if_overriden_by_trainer": DataType.BOOLEAN,
        "reward_probabilities": DataType.VARCHAR,
    }
    assert {name: types[name] for name in expected} == expected
    assert set(rows["current_stage_actual"].drop_nulls()) <= STAGES
    assert all(isinstance(json.loads(text), list) for text in rows["reward_probabilities"])
    assert rows["principal_investigator"].null_count() == 0
    # The table says from where and when it was read.
    facts = loaded.lake.tables.facts(tables.SESSIONS)
    assert facts["source"] == PICKLE
    assert datetime.fromisoformat(facts["read_at"]) == NOON.astimezone(UTC)


def test_every_analysed_session_joins_on_its_key(warehouse: tuple[Lake, Path]) -> None:
    with connect(warehouse[1]) as connection:
        (unmatched,) = connection.execute(
            "SELECT list(DISTINCT nwb_name) FROM analyses ANTI JOIN sessions USING (session_key) "
            "WHERE analyses.session_key IS NOT NULL"
        ).fetchall()[0]
        # One name has no time of day, because it is not the name of an NWB file.
        assert [name for name in unmatched or [] if name.endswith(".nwb")] == []
        ((fitted, unfitted),) = connection.execute(
            "SELECT count(*) FILTER (n_fits > 0), count(*) FILTER (n_fits = 0) "
            "FROM sessions_with_fits"
        ).fetchall()
        assert fitted + unfitted == 24
        assert unfitted == 3, "those that were too short"
        stages = connection.execute(
            "SELECT current_stage_actual, best_agent_by_aic, count(*) FROM sessions_with_fits "
            "WHERE n_fits > 0 GROUP BY ALL"
        ).fetchall()
        assert len({stage for stage, _, _ in stages}) > 4
        assert all(agent for _, agent, _ in stages)


def test_every_column_is_in_the_warehouse_with_its_type_and_origin(
    warehouse: tuple[Lake, Path],
) -> None:
    lake, path = warehouse
    columns = "SELECT column_name, (data_type, comment) FROM duckdb_columns() "
    with duckdb.connect(path, read_only=True) as connection:
        found = dict(connection.execute(f"{columns} WHERE table_name = 'sessions'").fetchall())
    assert list(found) == list(sessions_of(lake).columns)
    origin = "`finished_trials` of the session table, under `session_stats`."
    assert found["finished_trials"] == ("BIGINT", origin)
    assert all(comment for _, comment in found.values())
    assert not [one for one in verify_warehouse(lake, path) if one.subject.startswith("sessions")]
    assert not build_warehouse(lake, path).published, "nothing has changed"


def test_a_session_saved_twice_is_one_row_that_keeps_the_other(loaded: Loaded) -> None:
    assert loaded.report.other_rows == 1
    (row,) = sessions_of(loaded.lake).filter(pl.col("other_rows").is_not_null()).to_dicts()
    (other,) = json.loads(row["other_rows"])
    assert row["session_key"] == "652001_2023-10-04"
    assert (row["nwb_suffix"], other["nwb_suffix"]) == (0, 1)
    assert other["finished_trials"] < row["finished_trials"]
    assert other["notes"] == "saved too early"


@pytest.mark.parametrize("location", [PICKLE, PARQUET])
def test_the_table_is_read_only_when_an_etag_has_changed(
    filled: Lake, store: ResultStore, results: Path, location: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refresh(filled, store, location).changed == (location == PARQUET)
    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "read_files", None)  # Nothing is read.
        again = refresh(filled, store, location)
    assert (again.changed, again.rows, again.note) == (False, 24, "")
    mapping, parquet = results / FOLDER / MAPPING, results / DATABASE / TABLE
    mice = json.loads(mapping.read_text())
    mapping.write_text(json.dumps([mouse | {"PI": "Somebody Else"} for mouse in mice]))
    pl.read_parquet(parquet).with_columns(PI=pl.lit("Somebody Else")).write_parquet(parquet)
    assert refresh(filled, store, location).changed
    assert set(sessions_of(filled)["principal_investigator"]) == {"Somebody Else"}


@pytest.mark.parametrize("decides", [read_frame, as_plain, session_rows, derived.session_key])
def test_the_table_is_read_again_when_the_code_that_reads_it_changes(
    decides: Callable[..., object], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Path(inspect.getfile(decides))
    before = session_table_module._reader_version()
    read_bytes = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: b"changed" if path == module else read_bytes(path)
    )
    assert session_table_module._reader_version.__wrapped__() != before


# --- what can be wrong ----------------------------------------------------------------------


def test_without_a_session_table_the_table_is_empty_and_the_report_says_so(
    lake: Lake, store: ResultStore, folder: Path, tmp_path: Path
) -> None:
    (folder / FRAME).unlink()
    report = refresh(lake, store)
    assert (report.rows, report.changed) == (0, False)
    assert "There is no session table at s3://aind-behavior-data/" in report.note
    assert "No action is needed" in report.note
    assert not report.is_refused
    path = tmp_path / "warehouse.duckdb"
    build_warehouse(lake, path)
    with connect(path) as connection:
        assert connection.execute("FROM sessions_with_fits").fetchall() == []


def without_column(name: str, parquet: bytes) -> bytes:
    file = io.BytesIO()
    pl.read_parquet(parquet).drop(name).write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("location", "damages"),
    [
        (PICKLE, [lambda _: PAGE.encode(), lambda _: b"", lambda _: b"\x80\x04K\x01."]),
        (
            PARQUET,
            [
                lambda _: PAGE.encode(),
                lambda _: b"",
                lambda _: b"PAR1" + b"x" * 99,
                lambda good: good[:-20],
                lambda good: good[:1000] + b"\0" * 50 + good[1050:],
                lambda good: without_column("subject_id", good),
            ],
        ),
    ],
    ids=["pickle", "parquet"],
)
def test_a_file_that_cannot_be_read_leaves_the_table_as_it_is(
    filled: Lake,
    store: ResultStore,
    results: Path,
    location: str,
    damages: list[Callable[[bytes], bytes]],
) -> None:
    refresh(filled, store, location)
    before = sessions_of(filled)
    path = results / (f"{FOLDER}/{FRAME}" if location == PICKLE else f"{DATABASE}/{TABLE}")
    good = path.read_bytes()
    for damage in damages:
        path.write_bytes(damage(good))
        report = refresh(filled, store, location)
        assert (report.is_refused, report.changed) == (True, False)
        assert "The 24 known sessions are kept." in report.note
        assert sessions_of(filled).equals(before)
    path.write_bytes(good)
    assert refresh(filled, store, location).note == ""


@pytest.mark.parametrize(
    ("content", "passed", "words"),
    [
        (b"\x80\x04K\x01.", False, "Warning: The session table at "),
        (None, True, "There is no session table at "),
    ],
    ids=["refused", "absent"],
)
def test_a_refused_table_is_a_warning_of_the_run_and_on_the_page(
    results: Path, tmp_path: Path, content: bytes | None, passed: bool, words: str
) -> None:
    (results / FOLDER / FRAME).unlink()
    if content is not None:
        (results / FOLDER / FRAME).write_bytes(content)
    settings = load_settings(
        lake=tmp_path / "lake", results_root=str(results), session_table=PICKLE
    )
    progress, messages = NoProgress(), []
    progress.say = messages.append
    job = build_defs(Etl(settings, progress)).resolve_job_def(SESSIONS)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = job.execute_in_process(instance=instance)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("session_table_can_be_read", passed)
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert [message for message in messages if message.startswith(words)]


def test_a_table_too_large_for_its_limits_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="Nothing in it was run"):
        read_pickled_frame((folder / FRAME).read_bytes(), memory_bytes=200 << 20)


@pytest.mark.slow
def test_a_mapping_that_cannot_be_read_leaves_the_investigators_as_they_are(
    filled: Lake, store: ResultStore, folder: Path
) -> None:
    before = sessions_of(filled)
    for content in (b"{", b"[1, 2]", b'"text"', None):
        (folder / MAPPING).unlink()
        if content is not None:
            (folder / MAPPING).write_bytes(content)
        assert MAPPING in refresh(filled, store).note
        assert sessions_of(filled).equals(before)


def test_a_mapping_by_subject_or_as_a_list_is_understood() -> None:
    names = investigator_names(b'[{"subject_id": 700001, "PI": "Ada Fontana"}, {"PI": null}]')
    assert names == investigator_names(b'{"700001": "Ada Fontana"}')
    odd = (
        b'[{"subject_id": [1], "PI": "x"}, {"subject_id": {}}, {"subject_id": "700001", "PI": "y"}]'
    )
    assert investigator_names(odd) == {"700001": "y"}
    frame = pd.DataFrame({"subject_id": ["700001"], "session_date": ["2024-08-09"]})
    rows = rows_of(frame, names)
    assert rows["principal_investigator"].to_list() == ["Ada Fontana"]


def test_durations_become_seconds_and_other_zones_utc_and_lists_json() -> None:
    morning = datetime(2024, 1, 1, 10, tzinfo=ZoneInfo("America/Los_Angeles"))
    further = {"run_time": timedelta(seconds=1.5), "began": morning, "days": [date(2024, 1, 1)]}
    frame = pl.DataFrame([{"subject_id": "700001", "session_date": "2024-01-01"} | further])
    _, rows = session_rows(frame, [(name,) for name in frame.columns])
    assert rows.select(*further).row(0) == (1.5, morning.astimezone(UTC), '["2024-01-01"]')


def test_a_frame_without_subjects_or_days_is_refused() -> None:
    with pytest.raises(DataError, match="no column 'subject_id' and no column 'session_date'"):
        rows_of(pd.DataFrame({"rig": ["a"]}))


@settings(max_examples=150)
@given(
    st.lists(st.tuples(ODD_CELLS, ODD_CELLS, ODD_CELLS, ODD_CELLS), min_size=1, max_size=4),
)
def test_odd_cells_of_one_session_change_no_other(odd: list[tuple[object, ...]]) -> None:
    good = ("700001", "2024-08-09", 83912, "rig a")
    frame = pd.DataFrame(
        [*odd, good], columns=["subject_id", "session_date", "nwb_suffix", "rig"], dtype=object
    )
    rows = rows_of(frame)
    found = rows.filter(session_key="700001_2024-08-09_08-39-12")
    assert found.height == 1
    assert rows["session_key"].drop_nulls().is_unique().all()
    # The rows of one session are in one row, so that none is lost.
    others = sum(len(json.loads(text)) for text in rows["other_rows"].drop_nulls())
    without_key = rows.filter(pl.col("session_key").is_null()).height
    assert others + rows.height >= without_key + 1
    assert len(frame) >= others + rows.height


# --- keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "day", "suffix", "key"),
    [
        ("700001", "2024-08-09", 83912, "700001_2024-08-09_08-39-12"),
        ("700001", "2024-08-09", 235959, "700001_2024-08-09_23-59-59"),
        ("700001", "2024-08-09", 0, "700001_2024-08-09"),
        ("700001", "2024-08-09", 3, "700001_2024-08-09"),
        (700001, pd.Timestamp("2024-08-09"), 83912.0, "700001_2024-08-09_08-39-12"),
        ("700001", date(2024, 8, 9), "83912", "700001_2024-08-09_08-39-12"),
        ("700001", "2024-08-09", 999999, "700001_2024-08-09"),
        ("700001", "some day", 83912, None),
        (None, "2024-08-09", 83912, None),
    ],
)
def test_a_session_has_the_same_key_as_its_analyses(
    subject: object, day: object, suffix: object, key: str | None
) -> None:
    frame = pd.DataFrame({"subject_id": [subject], "session_date": [day], "nwb_suffix": [suffix]})
    assert rows_of(frame)["session_key"].to_list() == [key]


def test_the_row_of_a_session_is_the_one_with_the_most_finished_trials() -> None:
    rows = [(0, 5, None), (1, 70, "b"), (2, 6, "c"), (2, 6, "c")]
    frame = pd.DataFrame(rows, columns=["nwb_suffix", "finished_trials", "rig"])
    (row,) = rows_of(frame.assign(subject_id="700001", session_date="2024-08-09")).to_dicts()
    assert (row["finished_trials"], row["rig"]) == (70, "b")
    others = json.loads(row["other_rows"])
    assert [(one["finished_trials"], one.get("rig", "?")) for one in others] == [(6, "c"), (5, "?")]


# --- the behaviour database -----------------------------------------------------------------


def test_the_behaviour_database_has_the_same_sessions_as_the_pickle(
    filled: Lake, store: ResultStore
) -> None:
    of_pickle = sessions_of(filled)
    report = refresh(filled, store, PARQUET)
    rows = sessions_of(filled)
    assert (report.rows, report.changed, report.without_key, report.note) == (24, True, 0, "")
    assert rows["session_key"].to_list() == of_pickle["session_key"].to_list()
    known = rows.filter(pl.col("session").is_not_null())
    assert 20 < known.height < 24, "some sessions are in Code Ocean alone"
    assert rows.filter(pl.col("rig").is_null()).height == 24 - known.height
    assert rows.filter(pl.col("rig").is_null())["co_asset_id"].null_count() == 0
    both = [
        name
        for name in of_pickle.columns
        if name in rows.columns
        # The public reader writes times as text, and `None` where a session has no curriculum.
        and name not in {"nwb_suffix", "session_start_time", "other_rows", "trainer"}
        and not name.startswith(("cur", "if_"))
    ]
    assert len(both) > 50
    expected = of_pickle.filter(pl.col("session_key").is_in(known["session_key"].implode()))
    for name in both:
        assert known[name].equals(expected[name].cast(known[name].dtype)), name


def test_its_columns_keep_their_labels_and_get_names_in_snake_case(
    lake: Lake, store: ResultStore, loaded: Loaded
) -> None:
    refresh(lake, store, PARQUET)
    columns = {one.name: one for one in lake.tables.as_written(tables.SESSIONS).columns}
    labels = {original_label(one.description) for one in columns.values()}
    assert labels >= set(loaded.table.in_database().columns) - {"subject_id", "session_date"}
    assert original_label(columns["abs_bias_naive"].description) == "abs(bias_naive)"
    assert columns["pi"].type is DataType.VARCHAR
    assert columns["reward_probabilities"].type is DataType.VARCHAR
    rows = sessions_of(lake)
    assert rows["principal_investigator"].equals(rows["pi"].alias("principal_investigator"))


def test_rows_without_a_key_are_kept_counted_and_published(
    lake: Lake, store: ResultStore, parquet: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(parquet)
    odd = table.head(2).with_columns(subject_id=pl.lit(None, pl.String))
    pl.concat([table, odd]).write_parquet(parquet)
    report = refresh(lake, store, PARQUET)
    assert (report.rows, report.without_key) == (26, 2)
    assert sessions_of(lake).filter(pl.col("session_key").is_null()).height == 2
    published = publish_warehouse(lake, tmp_path / "warehouse.duckdb", max_lost_share=0.2)
    assert all(outcome.holds for outcome in published.outcomes)
    with connect(tmp_path / "warehouse.duckdb") as connection:
        rows = connection.execute("FROM sessions_with_fits WHERE session_key IS NULL").fetchall()
    assert len(rows) == 2


def test_a_behaviour_database_in_a_folder_is_read_beside_a_store_of_result_folders(
    lake: Lake, parquet: Path
) -> None:
    settings = load_settings(behavior_database=str(parquet.parent))
    with open_result_store(settings, settings.session_table_location) as store:
        report = refresh(lake, store, settings.session_table_location)
        assert (report.rows, report.note) == (24, "")
        assert not refresh(lake, store, settings.session_table_location).changed


# --- names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("foraging_eff", "foraging_eff"),
        ("commit_ID", "commit_id"),
        ("ForagingEfficiency", "foraging_efficiency"),
        ("RT mean (s)", "rt_mean_s"),
        ("abs(bias_naive)", "abs_bias_naive"),
        ("Größe", "groe"),
        ("2nd", "column_2nd"),
        ("", "column"),
        ("%", "column"),
    ],
)
def test_labels_become_snake_case(label: str, name: str) -> None:
    assert snake_case(label) == name


def test_a_column_is_named_after_its_last_label_unless_others_have_the_same() -> None:
    labels = [
        ("subject_id",),
        ("metadata", "rig"),
        ("metadata", "bias"),
        ("stats", "bias"),
        ("stats", "Bias"),
        ("metadata", "subject_id"),
        ("metadata", "session_key"),
    ]
    assert column_names(labels) == [
        "subject_id",
        "rig",
        "metadata_bias",
        "stats_bias",
        "stats_bias_2",
        "metadata_subject_id",
        "metadata_session_key",
    ]


NAMES = st.lists(
    st.text(max_size=6) | st.sampled_from(["a", "A", "a_b", "session_key"]), max_size=2
)


@given(st.lists(NAMES, max_size=12))
@example([["a_2"], ["a"], ["A"], ["x", "a"]])
def test_names_are_unique_and_nothing_but_small_letters_digits_and_lines(
    labels: list[list[str]],
) -> None:
    names = column_names(labels)
    assert len(names) == len(set(names)) == len(labels)
    assert all(name.isidentifier() and name.isascii() and name == name.lower() for name in names)
    assert "session_key" not in names


# --- the sample -----------------------------------------------------------------------------


def test_the_sample_s_table_is_a_frame_of_pandas_with_two_levels(loaded: Loaded) -> None:
    frame = pickle.loads(loaded.table.pickled())
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.nlevels == 2
    assert set(frame.columns.get_level_values(0)) == {"metadata", "auto_train", "session_stats"}
    assert frame.index.names == ["subject_id", "session_date", "nwb_suffix"]
    assert set(frame.dtypes.map(lambda kind: kind.kind)) == {"O", "f", "i", "b", "M"}


# --- a real endpoint ------------------------------------------------------------------------


@pytest.fixture
def endpoint(results: Path) -> Iterator[Endpoint]:
    """Return a real S3 endpoint that has the session tables, behind a proxy."""
    with endpoint_before(results) as endpoint:
        yield endpoint


@pytest.fixture
def remote_store(endpoint: Endpoint) -> Iterator[ResultStore]:
    """Return the store at the endpoint."""
    settings = load_settings(results_root="s3://", s3_endpoint_url=endpoint.url)
    with open_result_store(settings) as store:
        yield store


def test_requests_only_read_and_an_unchanged_table_is_only_listed(
    lake: Lake, endpoint: Endpoint, remote_store: ResultStore
) -> None:
    assert refresh(lake, remote_store).rows == 24
    endpoint.requests, first = [], endpoint.requests
    assert not refresh(lake, remote_store).changed
    assert {method for method, _ in first + endpoint.requests} == {"GET"}
    assert any(path.endswith(FRAME) for _, path in first)
    assert not any(path.endswith((FRAME, MAPPING)) for _, path in endpoint.requests)


@pytest.mark.slow
def test_a_wrong_answer_of_the_endpoint_leaves_the_table_as_it_is(
    lake: Lake, endpoint: Endpoint, remote_store: ResultStore, folder: Path
) -> None:
    refresh(lake, remote_store)
    os.utime(folder / FRAME, (1, 1))
    (folder / FRAME).write_bytes((folder / FRAME).read_bytes() + b" ")
    for fault, words in (
        (error(403, "AccessDenied"), "cannot be read"),
        (error(404, "NoSuchKey"), "There is no session table"),
        (Fault(200, PAGE), "was refused. It is not a pickle"),
        (Fault(200, b""), "cannot be read"),
    ):
        endpoint.faults = lambda path, _times, fault=fault: fault if FRAME in path else None
        report = refresh(lake, remote_store)
        assert (report.rows, report.changed) == (24, False)
        assert words in report.note
    endpoint.forget()
    assert refresh(lake, remote_store).note == ""
