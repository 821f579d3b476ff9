"""The session table in the lake and the warehouse: names, types, keys, and what changes them."""

import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from itertools import islice
from pathlib import Path

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from result_endpoint import PAGE, SLOW_DOWN, Endpoint, Fault, endpoint_before, error
from worlds import NOON, Built, Clock

from aind_etl.client.verify import verify_warehouse
from aind_etl.contract import DataType, tables
from aind_etl.contract.session_labels import original_label
from aind_etl.lake import Lake
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import SESSIONS
from aind_etl.orchestration.resources import Etl
from aind_etl.progress import NoProgress
from aind_etl.results import ResultStore, open_result_store
from aind_etl.results.store import open_store_of
from aind_etl.sample.calendar import plan_sessions
from aind_etl.sample.session_table import SessionTable
from aind_etl.sample.sessions import simulate_sessions
from aind_etl.sessions import SessionsReport, refresh_sessions
from aind_etl.sessions.frame_process import ReadingLimits
from aind_etl.sessions.pickled_frame import LABELS, read_frame
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
PARQUET = f"s3://{DATABASE}/session_table.parquet"
STAGES = {"STAGE_1_WARMUP", "STAGE_1", "STAGE_2", "STAGE_3", "STAGE_FINAL", "GRADUATED"}


@pytest.fixture(scope="session")
def sample_table() -> SessionTable:
    """Return the session table of the sample world."""
    table = SessionTable(0)
    for session in simulate_sessions(list(islice(plan_sessions(0), 24)), 0):
        table.add(session)
    return table


@pytest.fixture
def folder(tmp_path: Path, sample_table: SessionTable) -> Path:
    """Return the folder in which the session table lies, below one that replaces s3://."""
    folder = tmp_path / "results" / FOLDER
    folder.mkdir(parents=True)
    (folder / FRAME).write_bytes(sample_table.pickled())
    (folder / MAPPING).write_bytes(sample_table.investigators())
    return folder


@pytest.fixture
def store(folder: Path) -> Iterator[ResultStore]:
    """Return the store that holds it."""
    with open_result_store(load_settings(results_root=str(folder.parents[1]))) as store:
        yield store


@pytest.fixture
def parquet(folder: Path, sample_table: SessionTable) -> Path:
    """Return the session table of the behaviour database, in the same store."""
    path = folder.parents[1] / DATABASE / "session_table.parquet"
    path.parent.mkdir(parents=True)
    sample_table.in_database().to_parquet(path)
    return path


def refresh(lake: Lake, store: ResultStore, location: str = PICKLE) -> SessionsReport:
    return refresh_sessions(lake, store, now=Clock(), location=location)


def sessions_of(lake: Lake) -> pl.DataFrame:
    return lake.tables.scan(lake.tables.as_written(tables.SESSIONS)).collect()


def rows_of(frame: pd.DataFrame, investigators: dict[str, str] | None = None) -> pl.DataFrame:
    """Return what becomes of a frame."""
    columns = read_frame(pickle.dumps(frame))
    labels = [json.loads(field.metadata[LABELS]) for field in columns.schema]
    return session_rows(pl.DataFrame(columns), labels, investigators or {})[1]


def frame_of(rows: list[dict[str, object]], **columns: list[object]) -> pd.DataFrame:
    """Return a frame with the index and the levels of the real one."""
    index = pd.MultiIndex.from_tuples(
        [(row["subject"], row["date"], row["suffix"]) for row in rows],
        names=["subject_id", "session_date", "nwb_suffix"],
    )
    frame = pd.DataFrame({("metadata", name): values for name, values in columns.items()})
    return frame.set_index(index)


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
ONE_SESSION = [{"subject": "700001", "date": "2024-08-09", "suffix": 83912}]


# --- the sample's table ---------------------------------------------------------------------


def test_the_sample_s_sessions_are_all_there_with_types(lake: Lake, store: ResultStore) -> None:
    report = refresh(lake, store)
    rows = sessions_of(lake)
    assert (report.rows, report.columns) == rows.shape
    assert (report.rows, report.changed, report.note) == (24, True, "")
    types = {column.name: column.type for column in lake.tables.as_written(tables.SESSIONS).columns}
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


def test_every_session_that_was_analysed_joins_on_its_key(
    built: Built, sample_lake: Lake, store: ResultStore, tmp_path: Path
) -> None:
    refresh(sample_lake, store)
    path = tmp_path / "warehouse.duckdb"
    build_warehouse(sample_lake, path)
    with connect(path) as connection:
        (unmatched,) = connection.execute(
            "SELECT list(DISTINCT nwb_name) FROM analyses ANTI JOIN sessions USING (session_key) "
            "WHERE analyses.session_key IS NOT NULL"
        ).fetchall()[0]
        # The one whose name says no time of day, as it is no NWB file's name at all.
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


def test_every_column_reaches_the_warehouse_with_its_type_and_where_it_comes_from(
    lake: Lake, store: ResultStore, tmp_path: Path
) -> None:
    refresh(lake, store)
    path = tmp_path / "warehouse.duckdb"
    build_warehouse(lake, path)
    with duckdb.connect(path, read_only=True) as connection:
        found = {
            name: (kind, comment)
            for name, kind, comment in connection.execute(
                "SELECT column_name, data_type, comment FROM duckdb_columns() "
                "WHERE table_name = 'sessions'"
            ).fetchall()
        }
    assert list(found) == list(sessions_of(lake).columns)
    assert found["finished_trials"] == (
        "BIGINT",
        "`finished_trials` of the session table, under `session_stats`.",
    )
    assert all(comment for _, comment in found.values())
    assert not [one for one in verify_warehouse(lake, path) if one.subject.startswith("sessions")]
    assert not build_warehouse(lake, path).published, "nothing has changed"


def test_a_session_saved_twice_is_one_row_that_keeps_the_other(
    lake: Lake, store: ResultStore
) -> None:
    assert refresh(lake, store).other_rows == 1
    (row,) = sessions_of(lake).filter(pl.col("other_rows").is_not_null()).to_dicts()
    (other,) = json.loads(row["other_rows"])
    assert row["session_key"] == "652001_2023-10-04"
    assert (row["nwb_suffix"], other["nwb_suffix"]) == (0, 1)
    assert other["finished_trials"] < row["finished_trials"]
    assert other["notes"] == "saved too early"


def test_the_table_is_written_only_when_a_file_of_it_has_changed(
    lake: Lake, store: ResultStore, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refresh(lake, store).changed
    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "read_files", None)  # Nothing is even read.
        again = refresh(lake, store)
    assert (again.changed, again.rows, again.note) == (False, 24, "")
    mice = json.loads((folder / MAPPING).read_text())
    (folder / MAPPING).write_text(json.dumps([mouse | {"PI": "Somebody Else"} for mouse in mice]))
    assert refresh(lake, store).changed
    assert set(sessions_of(lake)["principal_investigator"]) == {"Somebody Else"}


# --- what can be wrong ----------------------------------------------------------------------


def test_an_absent_table_is_an_empty_one_and_a_note(
    lake: Lake, store: ResultStore, folder: Path, tmp_path: Path
) -> None:
    (folder / FRAME).unlink()
    report = refresh(lake, store)
    assert (report.rows, report.changed) == (0, False)
    assert "There is no session table at s3://aind-behavior-data/" in report.note
    assert "Nothing need be done" in report.note
    assert not report.is_refused
    path = tmp_path / "warehouse.duckdb"
    build_warehouse(lake, path)
    with connect(path) as connection:
        assert connection.execute("FROM sessions_with_fits").fetchall() == []


@pytest.mark.parametrize("content", [b"<html>no such page</html>", b"", b"\x80\x04K\x01."])
def test_a_table_that_is_refused_takes_away_nothing(
    lake: Lake, store: ResultStore, folder: Path, content: bytes
) -> None:
    refresh(lake, store)
    before = sessions_of(lake)
    good = (folder / FRAME).read_bytes()
    (folder / FRAME).write_bytes(content)
    report = refresh(lake, store)
    assert not report.changed
    assert "The 24 sessions known before stay." in report.note
    assert report.is_refused
    assert sessions_of(lake).equals(before)
    (folder / FRAME).write_bytes(good)
    assert refresh(lake, store).note == ""


class Said(NoProgress):
    """What a run said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        """Keep it."""
        self.lines.append(message)


@pytest.mark.parametrize(
    ("content", "passed", "words"),
    [
        (b"\x80\x04K\x01.", False, "Warning: The session table at "),
        (None, True, "There is no session table at "),
    ],
    ids=["refused", "absent"],
)
def test_a_refused_table_is_a_warning_of_the_run_and_on_the_page(
    folder: Path, tmp_path: Path, content: bytes | None, passed: bool, words: str
) -> None:
    (folder / FRAME).unlink()
    if content is not None:
        (folder / FRAME).write_bytes(content)
    settings = load_settings(
        lake=tmp_path / "lake", results_root=str(folder.parents[1]), session_table=PICKLE
    )
    said = Said()
    job = build_defs({"etl": Etl(settings, said)}).resolve_job_def(SESSIONS)
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path)) as instance:
        result = job.execute_in_process(instance=instance)
    assert result.success
    (check,) = result.get_asset_check_evaluations()
    assert (check.check_name, check.passed) == ("session_table_can_be_read", passed)
    assert check.severity is dg.AssetCheckSeverity.WARN
    assert [line for line in said.lines if line.startswith(words)]


def test_a_table_too_large_for_its_limits_is_refused(lake: Lake, store: ResultStore) -> None:
    limits = ReadingLimits(memory_bytes=200 << 20)
    report = refresh_sessions(lake, store, location=PICKLE, limits=limits)
    assert report.rows == 0
    assert "Nothing of it was run" in report.note


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"{", b"[1, 2]", b'"text"'])
def test_a_mapping_that_cannot_be_read_takes_no_names_away(
    lake: Lake, store: ResultStore, folder: Path, content: bytes
) -> None:
    refresh(lake, store)
    before = sessions_of(lake)
    (folder / MAPPING).write_bytes(content)
    report = refresh(lake, store)
    assert MAPPING in report.note
    assert sessions_of(lake).equals(before)
    (folder / MAPPING).unlink()
    assert MAPPING in refresh(lake, store).note
    assert sessions_of(lake).equals(before)


def test_a_mapping_by_subject_or_as_a_list_is_understood() -> None:
    names = investigator_names(b'[{"subject_id": 700001, "PI": "Ada Fontana"}, {"PI": null}]')
    assert names == investigator_names(b'{"700001": "Ada Fontana"}')
    odd = (
        b'[{"subject_id": [1], "PI": "x"}, {"subject_id": {}}, {"subject_id": "700001", "PI": "y"}]'
    )
    assert investigator_names(odd) == {"700001": "y"}
    rows = rows_of(frame_of(ONE_SESSION, rig=["a"]), names)
    assert rows["principal_investigator"].to_list() == ["Ada Fontana"]


def test_a_frame_without_subjects_or_days_is_refused_by_what_it_lacks(
    lake: Lake, store: ResultStore, folder: Path
) -> None:
    (folder / FRAME).write_bytes(pickle.dumps(pd.DataFrame({"rig": ["a"]})))
    assert "no column 'subject_id' and no column 'session_date'" in refresh(lake, store).note


@settings(max_examples=150)
@given(
    st.lists(st.tuples(ODD_CELLS, ODD_CELLS, ODD_CELLS, ODD_CELLS), min_size=1, max_size=4),
)
def test_a_session_whose_cells_are_odd_harms_no_other(odd: list[tuple[object, ...]]) -> None:
    good = ("700001", "2024-08-09", 83912, "rig a")
    frame = pd.DataFrame(
        [*odd, good], columns=["subject_id", "session_date", "nwb_suffix", "rig"], dtype=object
    )
    rows = rows_of(frame)
    found = rows.filter(session_key="700001_2024-08-09_08-39-12")
    assert found.height == 1
    assert rows["session_key"].drop_nulls().is_unique().all()
    # Rows that are one session stand in one row, so that none is lost.
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
def test_the_key_is_that_of_the_analyses(
    subject: object, day: object, suffix: object, key: str | None
) -> None:
    frame = pd.DataFrame(
        {"subject_id": [subject], "session_date": [day], "nwb_suffix": [suffix], "rig": ["a"]}
    )
    assert rows_of(frame)["session_key"].to_list() == [key]


def test_the_row_with_the_most_finished_trials_stands_for_its_session() -> None:
    rows = [ONE_SESSION[0] | {"suffix": suffix} for suffix in (0, 1, 2, 2)]
    frame = frame_of(rows, finished_trials=[5, 70, 6, 6], rig=["a", "b", "c", "c"])
    (row,) = rows_of(frame).to_dicts()
    assert (row["finished_trials"], row["rig"]) == (70, "b")
    others = json.loads(row["other_rows"])
    assert [(one["finished_trials"], one["rig"]) for one in others] == [(6, "c"), (5, "a")]


# --- the behaviour database -----------------------------------------------------------------


def test_the_behaviour_databases_sessions_are_those_of_the_pickle(
    lake: Lake, store: ResultStore, parquet: Path
) -> None:
    refresh(lake, store)
    of_pickle = sessions_of(lake)
    report = refresh(lake, store, PARQUET)
    rows = sessions_of(lake)
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
    lake: Lake, store: ResultStore, parquet: Path, sample_table: SessionTable
) -> None:
    refresh(lake, store, PARQUET)
    columns = {one.name: one for one in lake.tables.as_written(tables.SESSIONS).columns}
    labels = {original_label(one.description) for one in columns.values()}
    assert labels >= set(sample_table.in_database().columns) - {"subject_id", "session_date"}
    assert original_label(columns["abs_bias_naive"].description) == "abs(bias_naive)"
    assert columns["pi"].type is DataType.VARCHAR
    assert columns["reward_probabilities"].type is DataType.VARCHAR
    rows = sessions_of(lake)
    assert rows["principal_investigator"].equals(rows["pi"].alias("principal_investigator"))


def test_it_is_read_again_only_when_its_etag_changes(
    lake: Lake, store: ResultStore, parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refresh(lake, store, PARQUET).changed
    with monkeypatch.context() as patch:
        patch.setattr(ResultStore, "read_files", None)  # Nothing is even read.
        again = refresh(lake, store, PARQUET)
    assert (again.changed, again.rows, again.note) == (False, 24, "")
    pl.read_parquet(parquet).head(20).write_parquet(parquet)
    assert refresh(lake, store, PARQUET).rows == 20


def test_rows_without_a_key_are_kept_and_counted(
    lake: Lake, store: ResultStore, parquet: Path, tmp_path: Path
) -> None:
    table = pl.read_parquet(parquet)
    odd = table.head(2).with_columns(subject_id=pl.lit(None, pl.String))
    pl.concat([table, odd]).write_parquet(parquet)
    report = refresh(lake, store, PARQUET)
    assert (report.rows, report.without_key) == (26, 2)
    assert sessions_of(lake).filter(pl.col("session_key").is_null()).height == 2
    # They keep no warehouse from being published.
    published = publish_warehouse(lake, tmp_path / "warehouse.duckdb", max_lost_share=0.2)
    assert all(outcome.holds for outcome in published.outcomes)
    with connect(tmp_path / "warehouse.duckdb") as connection:
        rows = connection.execute("FROM sessions_with_fits WHERE session_key IS NULL").fetchall()
    assert len(rows) == 2


@pytest.mark.parametrize("content", [b"<html>no such page</html>", b"", b"PAR1" + b"x" * 99])
def test_a_file_that_is_no_parquet_takes_nothing_away(
    lake: Lake, store: ResultStore, parquet: Path, content: bytes
) -> None:
    refresh(lake, store, PARQUET)
    good = parquet.read_bytes()
    parquet.write_bytes(content)
    report = refresh(lake, store, PARQUET)
    assert report.is_refused
    assert "The 24 sessions known before stay." in report.note
    for cut in (good[:-20], good[:1000] + b"\0" * 50 + good[1050:]):
        parquet.write_bytes(cut)
        assert refresh(lake, store, PARQUET).rows == 24
    parquet.write_bytes(good)
    assert refresh(lake, store, PARQUET).note == ""


def test_a_behaviour_database_in_a_folder_is_read_beside_a_store_of_result_folders(
    lake: Lake, parquet: Path
) -> None:
    settings = load_settings(behavior_database=str(parquet.parent))
    with open_store_of(settings, settings.session_table_location) as store:
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


def test_the_sample_s_table_is_a_frame_of_pandas_with_two_levels(
    sample_table: SessionTable,
) -> None:
    frame = pickle.loads(sample_table.pickled())
    assert isinstance(frame, pd.DataFrame)
    assert frame.columns.nlevels == 2
    assert set(frame.columns.get_level_values(0)) == {"metadata", "auto_train", "session_stats"}
    assert frame.index.names == ["subject_id", "session_date", "nwb_suffix"]
    assert set(frame.dtypes.map(lambda kind: kind.kind)) == {"O", "f", "i", "b", "M"}


def test_the_same_seed_gives_the_same_table() -> None:
    def made(seed: int) -> bytes:
        table = SessionTable(seed)
        for session in simulate_sessions(list(islice(plan_sessions(seed), 8)), seed):
            table.add(session)
        return table.pickled()

    assert made(3) == made(3)
    assert made(3) != made(4)


def test_what_was_read_says_when_and_from_where(lake: Lake, store: ResultStore) -> None:
    refresh(lake, store)
    facts = lake.tables.facts(tables.SESSIONS)
    assert facts["source"] == f"s3://{FOLDER}"
    assert datetime.fromisoformat(facts["read_at"]) == NOON.astimezone(UTC)


# --- a real endpoint ------------------------------------------------------------------------


@pytest.fixture
def endpoint(folder: Path) -> Iterator[Endpoint]:
    """Return a real S3 endpoint that has the session table, behind a proxy."""
    with endpoint_before(folder.parents[1]) as endpoint:
        yield endpoint


@contextmanager
def store_at(endpoint: Endpoint) -> Iterator[ResultStore]:
    with open_result_store(
        load_settings(results_root="s3://", s3_endpoint_url=endpoint.url)
    ) as store:
        yield store


def test_a_real_endpoint_is_only_read_and_an_unchanged_table_only_listed(
    lake: Lake, endpoint: Endpoint
) -> None:
    with store_at(endpoint) as store:
        assert refresh(lake, store).rows == 24
        endpoint.requests, first = [], endpoint.requests
        assert not refresh(lake, store).changed
    assert {method for method, _ in first + endpoint.requests} == {"GET"}
    assert any(path.endswith(FRAME) for _, path in first)
    assert not any(path.endswith((FRAME, MAPPING)) for _, path in endpoint.requests)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (error(403, "AccessDenied"), "cannot be read"),
        (error(404, "NoSuchKey"), "There is no session table"),
        (Fault(200, PAGE), "was refused. It is no pickle"),
        (Fault(200, b""), "cannot be read"),
    ],
    ids=["forbidden", "gone", "a page", "nothing"],
)
def test_what_an_endpoint_gives_in_place_of_the_table_takes_nothing_away(
    lake: Lake, endpoint: Endpoint, folder: Path, fault: Fault, words: str
) -> None:
    with store_at(endpoint) as store:
        refresh(lake, store)
        os.utime(folder / FRAME, (1, 1))
        (folder / FRAME).write_bytes((folder / FRAME).read_bytes() + b" ")
        endpoint.faults = lambda path, _times: fault if FRAME in path else None
        report = refresh(lake, store)
        assert (report.rows, report.changed) == (24, False)
        assert words in report.note
        endpoint.forget()
        assert refresh(lake, store).note == ""


def test_a_burst_of_errors_and_a_cut_body_are_outlived(lake: Lake, endpoint: Endpoint) -> None:
    faults = [error(500, "InternalError"), Fault(503, SLOW_DOWN), Fault(cut=True)]
    endpoint.faults = lambda path, times: faults[times] if times < 3 and FRAME in path else None
    with store_at(endpoint) as store:
        report = refresh(lake, store)
    assert (report.rows, report.note) == (24, "")
