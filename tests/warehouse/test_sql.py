"""The views, marts, macros and checks of `sql/`, on a few known rows."""

import json
from datetime import UTC, date, datetime, time, timedelta
from math import exp, log
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from aind_etl.contract import ANALYSIS_TABLES, TABLES, DataType, table_named
from aind_etl.contract.ddl import create_table, quote_identifier
from aind_etl.flatten import derived
from aind_etl.warehouse.info import write_info
from aind_etl.warehouse.sql_files import Kind, dependencies, read_sql_files

SQL = Path(__file__).parents[2] / "sql"
MACROS, VIEWS, MARTS, CHECKS, WARNINGS = (
    read_sql_files(kind) for kind in (Kind.MACRO, Kind.VIEW, Kind.MART, Kind.CHECK, Kind.WARNING)
)
STATEMENTS = {file.name: file.statement for file in (*MARTS, *CHECKS)}
DYNAMIC = {"fit_parameters_wide"}
"""Statements whose columns depend on the data, which the parser cannot serialise."""

COLLECTION = "dynamic-foraging-model-fitting"
NOON = datetime(2025, 3, 1, 12, tzinfo=UTC)
REFERENCE = "QLearning_L2F1_softmax"
MLE_COLUMNS = [
    *("_id", "nwb_name", "subject_id", "session_date", "status", "agent_alias", "n_trials"),
    *("log_likelihood", "prediction_accuracy", "k_model", "AIC", "BIC", "LPT", "LPT_AIC"),
    *("LPT_BIC", "params", "prediction_accuracy_test", "prediction_accuracy_fit"),
    *("prediction_accuracy_test_bias_only", "analysis_time", "S3_location", "CO_asset_id"),
    *("analysis_tag", "pipeline_source"),
]


class World:
    """The contract's tables in memory with a few rows, and the views and marts on them."""

    def __init__(self):
        self.connection = duckdb.connect()
        self.connection.execute("SET TimeZone = 'America/Los_Angeles'")
        for table in TABLES:
            self.connection.execute(create_table(table))
        write_info(self.connection, {"built_at": "2026-05-01T12:00:00+00:00"})
        for file in MACROS:
            self.connection.execute(file.statement)
        files = {file.name: file for file in (*VIEWS, *MARTS)}
        marts = {file.name for file in MARTS}
        self._derived = []
        for name, read in dependencies([*files.values()]).items():
            file = files[name]
            if file.kind is Kind.MART or read & marts:
                self._derived.append(file)
            else:
                self.connection.execute(f"CREATE VIEW {file.name} AS {file.statement}")

    def insert(self, table, **values):
        """Insert one row; columns that are not given are NULL."""
        assert values.keys() <= set(table_named(table).column_names)
        names = ", ".join(map(quote_identifier, values))
        marks = ", ".join("?" for _ in values)
        self.connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({marks})", list(values.values())
        )

    def document(self, record_id, batch_id, operation, **values):
        """Insert one version of a document."""
        row: dict[str, Any] = {
            "source_collection": COLLECTION,
            "record_id": record_id,
            "batch_id": batch_id,
            "operation": operation,
            "content_hash": f"hash of {record_id}" if operation == "upsert" else None,
            "document": "{}" if operation == "upsert" else None,
            "extracted_at": NOON,
        }
        self.insert("documents", **row | values)

    def analysis(self, record_id, **values):
        """Insert an analysis as it is flattened from a live document, and that document."""
        defaults: dict[str, Any] = {
            "source_collection": COLLECTION,
            "record_id": record_id,
            "process_index": 0,
            "pipeline_format": "prototype",
            "outcome": "success",
            "n_attributes": 0,
            "n_rejected_values": 0,
            "content_hash": f"hash of {record_id}",
            "first_seen_at": NOON,
            "changed_at": NOON,
        }
        row = defaults | values
        self.insert("analyses", **row)
        if row["process_index"] == 0:
            shared = {name: row[name] for name in ("source_collection", "content_hash")}
            self.document(record_id, 1, "upsert", **shared, extracted_at=row["changed_at"])

    def fit(
        self,
        record_id,
        session="730945_2024-10-24_10-00-00",
        agent=REFERENCE,
        *,
        parameters=None,
        folds=None,
        **values,
    ):
        """Insert a successful MLE fit whose criteria follow from its likelihood."""
        subject, day, *clock = session.split("_")
        framework = values.get("pipeline_format") == "framework"
        log_likelihood, n, k = (
            values.pop(name, default)
            for name, default in (("log_likelihood", -200.0), ("n_trials", 400), ("k_model", 2))
        )
        aic, bic = 2 * k - 2 * log_likelihood, k * log(n) - 2 * log_likelihood
        row = {
            "analysis_name": "MLE fitting",
            "analysis_version": "aind-analysis-framework v0.2" if framework else "first version",
            "subject_id": subject,
            "session_date": date.fromisoformat(day),
            "session_time": time.fromisoformat(clock[0].replace("-", ":")) if clock else None,
            "session_key": session,
            "nwb_name": f"behavior_{session}.nwb" if framework else f"{session}.nwb",
            "status": "success",
            "finished_at": NOON - timedelta(hours=2),
            "result_location": f"s3://results/{record_id}",
            "agent_alias": agent,
            "n_trials": n,
            "k_model": k,
            "log_likelihood": log_likelihood,
            "aic": aic,
            "bic": bic,
            "lpt": exp(log_likelihood / n),
            "lpt_aic": exp(-aic / (2 * n)),
            "lpt_bic": exp(-bic / (2 * n)),
            "prediction_accuracy": 0.75,
            "cv_folds": len(folds) if folds else None,
            "prediction_accuracy_test_mean": sum(folds) / len(folds) if folds else None,
        }
        self.analysis(record_id, **row | values)
        key = {
            "source_collection": values.get("source_collection", COLLECTION),
            "record_id": record_id,
            "process_index": values.get("process_index", 0),
        }
        for number, (name, value) in enumerate((parameters or {}).items()):
            fitted = {"is_fitted": number < k, "at_bound": value == 0}
            self.insert("fit_parameters", **key, parameter=name, value=value, **fitted)
        # Backwards, so that no result is in order by accident.
        for number, accuracy in reversed(list(enumerate(folds or []))):
            self.insert(
                "cross_validation",
                **key,
                fold=number,
                prediction_accuracy_test=accuracy,
                prediction_accuracy_fit=accuracy + 0.1,
                prediction_accuracy_test_bias_only=0.5,
            )

    def skipped(self, record_id, session, agent, **values):
        """Insert an MLE fit that was not done."""
        subject, day, *_ = session.split("_")
        row = {
            "analysis_name": "MLE fitting",
            "subject_id": subject,
            "session_date": date.fromisoformat(day),
            "session_key": session,
            "nwb_name": f"{session}.nwb",
            "status": "skipped. valid trials < 50",
            "outcome": "skipped",
            "agent_alias": agent,
        }
        self.analysis(record_id, **row | values)

    def build_marts(self):
        """Create every mart, and the views that read one."""
        for file in self._derived:
            kind = "TABLE" if file.kind is Kind.MART else "VIEW"
            self.connection.execute(f"CREATE {kind} {file.name} AS {file.statement}")

    def rows(self, query):
        """Return the rows of a query by column name."""
        result = self.connection.execute(query)
        names = [column[0] for column in result.description]
        return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    def mart(self, name):
        """Build the marts and return the rows of one."""
        self.build_marts()
        return self.rows(f"SELECT * FROM {name} ORDER BY ALL")

    def offending(self, check):
        """Return the rows that a check finds."""
        return self.rows(STATEMENTS[check])

    def one(self, expression, argument):
        """Return the value of an expression of one argument."""
        row = self.connection.execute(f"SELECT {expression}", [argument]).fetchone()
        assert row is not None
        return row[0]


@pytest.fixture(scope="module")
def empty_world():
    world = World()
    yield world
    world.connection.close()


@pytest.fixture
def world(empty_world):
    """Give a world whose changes are rolled back after the test."""
    empty_world.connection.begin()
    yield empty_world
    empty_world.connection.rollback()


@pytest.fixture
def sound(world):
    """Return a world with both pipelines, a skipped fit, other records, a deletion, a rejection."""
    parameters = {"learn_rate": 0.4, "biasL": 0.0, "choice_kernel_step_size": 1.0}
    world.fit("p1", parameters=parameters, folds=[0.6, 0.7], finished_at=None)
    world.fit("f1", pipeline_format="framework", parameters=parameters | {"learn_rate": 0.5})
    world.fit("p2", agent="WSLS", log_likelihood=-2025.0, n_trials=394, k_model=0)
    world.fit("p3", session="730945_2024-10-25", parameters=parameters)
    world.skipped("p4", "685641_2023-10-04", "WSLS")
    for number in range(2):
        key = {"source_collection": "dynamic-foraging-nm", "record_id": f"other{number}"}
        world.analysis(
            **key,
            pipeline_format="framework",
            process_name="nm",
            n_attributes=1,
            n_rejected_values=number,
        )
        key["process_index"] = 0
        world.insert("attributes", **key, section="parameters", path="dry run", value_boolean=True)
    # The last of them has a value that does not fit.
    why = {"reason": "wrong_type", "content_hash": "hash of other1", "extracted_at": NOON}
    world.insert("rejected_values", **key, **why, path="name", value="[]", expected="a text")
    world.document("gone", 1, "upsert")
    world.document("gone", 2, "delete")
    world.document("odd", 1, "upsert")
    why |= {"reason": "unknown_format", "content_hash": "hash of odd", "message": "neither format"}
    world.insert("rejected_documents", source_collection=COLLECTION, record_id="odd", **why)
    world.insert("sessions", session_key="730945_2024-10-24_10-00-00", subject_id="730945")
    counted = {"live": 6, "rejected": 1, "deleted": 1, "prototype": 4, "framework": 1}
    documents = {f"{name}_documents": count for name, count in counted.items()}
    world.insert("collections", source_collection=COLLECTION, **documents)
    return world


# --- the files --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(SQL.rglob("*.sql")), ids=lambda path: path.stem)
def test_lines_are_at_most_100_columns_wide(path):
    assert max(map(len, path.read_text().splitlines())) <= 100


@pytest.mark.parametrize("file", [*VIEWS, *MARTS, *CHECKS, *WARNINGS], ids=lambda file: file.name)
def test_a_statement_is_one_select_that_can_be_parsed(file):
    answer = duckdb.execute("SELECT json_serialize_sql(?::VARCHAR)", [file.statement]).fetchone()
    assert answer is not None
    parsed = json.loads(answer[0])
    if file.name in DYNAMIC:
        assert parsed["error_type"] == "not implemented"
    else:
        assert len(parsed["statements"]) == 1


@pytest.mark.parametrize("file", MACROS, ids=lambda file: file.name)
def test_a_macro_file_creates_the_macro_of_its_name(file):
    assert file.statement.startswith(f"CREATE MACRO {file.name}(")


def test_every_check_passes_on_a_sound_warehouse(sound):
    assert [file.name for file in CHECKS if sound.offending(file.name)] == []


def test_marts_have_only_types_that_every_tool_knows(sound):
    sound.build_marts()
    allowed = {"VARCHAR", "BOOLEAN", "SMALLINT", "INTEGER", "BIGINT", "DOUBLE", "DATE"}
    for file in MARTS:
        types = {row["column_type"] for row in sound.rows(f"DESCRIBE {file.name}")}
        assert types <= allowed or file.name == "mle_fits", file.name


@pytest.mark.parametrize("name", ["model_comparison", "best_models", "parameter_trajectories"])
def test_a_mart_does_not_depend_on_the_order_of_the_rows(sound, name):
    before = sound.mart(name)
    for table in ANALYSIS_TABLES:
        sound.connection.execute(
            f"CREATE OR REPLACE TABLE {table.name} AS "
            f"SELECT * FROM {table.name} ORDER BY hash(record_id, 1)"
        )
    assert before
    assert sound.rows(f"{STATEMENTS[name]} ORDER BY ALL") == before


# --- macros -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("s3://bucket/a/b.json", "https://bucket.s3.amazonaws.com/a/b.json"),
        ("s3://bucket/a/", "https://bucket.s3.amazonaws.com/a/"),
        ("s3://bucket", "https://bucket.s3.amazonaws.com/"),
        ("s3://", None),
        ("/results/a", None),
        (None, None),
    ],
)
def test_an_s3_address_becomes_an_https_one(world, path, address):
    assert world.one("s3_to_https(?::VARCHAR)", path) == address
    flattened = pl.DataFrame({"path": [path]}, {"path": pl.String}).select(
        derived.s3_to_https(pl.col("path"))
    )
    assert flattened.item() == address


@pytest.mark.parametrize(
    ("nwb_name", "key"),
    [
        ("721403_2024-08-09_08-39-12.nwb", "721403_2024-08-09_08-39-12"),
        ("721403_2024-08-09_08-39-12", "721403_2024-08-09_08-39-12"),
        ("behavior_721403_2024-08-09_08-39-12.nwb", "721403_2024-08-09_08-39-12"),
        ("685641_2023-10-04.nwb", "685641_2023-10-04"),
        ("721403_2024-08.nwb", None),
        ("demo.nwb", None),
        ("", None),
        (None, None),
    ],
)
def test_the_session_key_of_an_nwb_name_is_that_of_the_analyses(world, nwb_name, key):
    assert world.one("session_key(?::VARCHAR)", nwb_name) == key
    nothing = pl.lit(None, pl.String)
    flattened = pl.DataFrame({"name": [nwb_name]}, {"name": pl.String}).select(
        derived.session_key(pl.col("name"), nothing, nothing.cast(pl.Date))
    )
    assert flattened.item() == key


# --- latest_analyses --------------------------------------------------------------------------


def latest(world):
    rows = world.rows("SELECT record_id FROM latest_analyses ORDER BY record_id")
    return [row["record_id"] for row in rows]


def test_the_newest_successful_analysis_of_any_pipeline_and_collection_wins(world):
    world.fit("old", finished_at=NOON - timedelta(days=3))
    other = {"pipeline_format": "framework", "source_collection": "dynamic-foraging-analysis"}
    world.fit("new", **other, finished_at=NOON - timedelta(days=1))
    world.fit("newest, but failed", outcome="failed", finished_at=NOON)
    assert latest(world) == ["new"]


def test_an_analysis_without_finished_at_comes_last(world):
    world.fit("timeless", finished_at=None, changed_at=NOON + timedelta(days=9))
    world.fit("timed")
    assert latest(world) == ["timed"]


def test_ties_in_time_go_to_the_later_change_then_to_the_first_id(world):
    for record_id, days in (("c", 1), ("b", 1), ("a", 0)):
        world.fit(record_id, changed_at=NOON + timedelta(days=days))
    assert latest(world) == ["b"]


def test_other_sessions_agents_and_analyses_are_independent(world):
    world.fit("a")
    world.fit("b", agent="WSLS")
    world.fit("c", session="730945_2024-10-25_10-00-00")
    world.fit("d", analysis_name="Bayesian fitting")
    assert latest(world) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("missing", ["session_key", "agent_alias", "analysis_name"])
def test_records_without_an_identity_do_not_replace_each_other(world, missing):
    for record_id in ("a", "b"):
        world.fit(record_id, **{missing: None})
    assert latest(world) == ["a", "b"]


def test_latest_analyses_has_the_columns_of_analyses(world):
    columns = [row["column_name"] for row in world.rows("DESCRIBE latest_analyses")]
    assert columns == list(table_named("analyses").column_names)


# --- mle_fitting ------------------------------------------------------------------------------


def test_mle_fitting_has_the_columns_of_the_public_reader(world):
    world.build_marts()
    described = {
        row["column_name"]: row["column_type"] for row in world.rows("FROM (DESCRIBE mle_fitting)")
    }
    assert list(described) == MLE_COLUMNS
    assert described["params"] == "MAP(VARCHAR, DOUBLE)"
    assert described["prediction_accuracy_test"] == "DOUBLE[]"


def test_mle_fitting_shows_a_prototype_fit(world):
    world.fit("p", parameters={"learn_rate": 0.4, "biasL": None}, folds=[0.6, 0.7, 0.5])
    (row,) = world.mart("mle_fitting")
    assert row["_id"] == "p"
    assert row["params"] == {"biasL": None, "learn_rate": 0.4}
    assert row["prediction_accuracy_test"] == [0.6, 0.7, 0.5]
    assert row["prediction_accuracy_fit"] == pytest.approx([0.7, 0.8, 0.6])
    assert row["prediction_accuracy_test_bias_only"] == [0.5] * 3
    assert row["AIC"] == 404
    assert row["S3_location"] == "s3://results/p"
    assert row["analysis_time"] == NOON - timedelta(hours=2)
    assert (row["CO_asset_id"], row["analysis_tag"]) == (None, None)
    assert row["pipeline_source"] == "han's analysis pipeline"


def test_mle_fitting_shows_a_framework_fit(world):
    world.fit("f", pipeline_format="framework", parameters={"learn_rate": 0.4})
    key = {"source_collection": COLLECTION, "record_id": "f", "process_index": 0}
    for position, url in ((1, "s3://b/2"), (0, "s3://b/1")):
        world.insert("input_assets", **key, position=position, url=url)
    (row,) = world.mart("mle_fitting")
    assert row["CO_asset_id"] == ["s3://b/1", "s3://b/2"]
    assert row["analysis_tag"] == "aind-analysis-framework v0.2"
    assert row["pipeline_source"] == "aind analysis framework"
    assert row["nwb_name"] == "behavior_730945_2024-10-24_10-00-00.nwb"


def test_mle_fitting_has_fits_of_every_outcome_and_no_other_analyses(world):
    world.fit("a", pipeline_format="framework", status="Success!")
    world.skipped("b", "685641_2023-10-04", "WSLS")
    world.fit("c", analysis_name="Bayesian fitting")
    world.analysis("d")
    rows = world.mart("mle_fitting")
    assert [row["status"] for row in rows] == ["success", "skipped. valid trials < 50"]
    assert rows[1]["params"] is None
    assert rows[1]["prediction_accuracy_test"] is None


def test_mle_fitting_has_no_list_where_a_measure_is_missing_in_all_folds(world):
    world.fit("a", folds=[0.5, 0.6])
    world.connection.execute(
        "UPDATE cross_validation SET prediction_accuracy_test_bias_only = NULL,"
        " prediction_accuracy_fit = CASE WHEN fold = 1 THEN 0.7 END"
    )
    (row,) = world.mart("mle_fitting")
    assert row["prediction_accuracy_test_bias_only"] is None
    assert row["prediction_accuracy_fit"] == [None, 0.7]


def test_processes_of_one_document_keep_their_own_parameters(world):
    world.fit("a", parameters={"learn_rate": 0.1})
    world.fit("a", agent="WSLS", process_index=1, parameters={"biasL": 0.2})
    world.fit("a", source_collection="dynamic-foraging-analysis", parameters={"biasL": 0.3})
    rows = sorted(world.mart("mle_fitting"), key=lambda row: [*row["params"].items()])
    assert [row["params"] for row in rows] == [{"biasL": 0.2}, {"biasL": 0.3}, {"learn_rate": 0.1}]


# --- fit_parameters_wide ----------------------------------------------------------------------


def test_every_parameter_of_the_data_is_a_column_of_the_wide_table(world):
    world.fit("a", parameters={"learn_rate": 0.1, "biasL": 0.2})
    world.fit("b", parameters={"threshold": 0.3})
    rows = world.mart("fit_parameters_wide")
    assert [(row["learn_rate"], row["biasL"], row["threshold"]) for row in rows] == [
        (0.1, 0.2, None),
        (None, None, 0.3),
    ]
    assert rows[0]["agent_alias"] == REFERENCE


def test_odd_parameter_names_become_separate_columns(world):
    odd = {"a b": 1.0, 'quo"ted': 2.0, "it's; --": 3.0, "Agent_Alias": 4.0, "": 5.0, "A B": 6.0}
    world.fit("a", parameters=odd)
    (row,) = world.mart("fit_parameters_wide")
    values = [value for value in row.values() if isinstance(value, float)]
    assert sorted(values) == sorted(odd.values())
    assert {'quo"ted', "it's; --", "Agent_Alias_1"} <= row.keys()
    assert row["agent_alias"] == REFERENCE


# --- model_comparison and best_models ---------------------------------------------------------


def test_agents_of_a_session_are_compared_with_the_best_and_the_reference(world):
    world.fit("a", log_likelihood=-200.0, k_model=4, folds=[0.6, 0.8])
    world.fit("b", agent="WSLS", log_likelihood=-210.0, k_model=1)
    world.fit("c", agent="QLearning_L1F0_epsi", log_likelihood=-190.0, k_model=3, folds=[0.9, 0.8])
    world.fit("d", session="730945_2024-10-25_10-00-00", agent="WSLS")
    rows = world.mart("model_comparison")
    by_agent = {row["agent_alias"]: row for row in rows if row["session_date"].day == 24}
    ranks = {agent: row["aic_rank"] for agent, row in by_agent.items()}
    assert ranks == {"QLearning_L1F0_epsi": 1, REFERENCE: 2, "WSLS": 3}
    best, reference, simple = (by_agent[agent] for agent in ranks)
    assert best["delta_aic"] == 0
    assert reference["delta_aic"] == pytest.approx(22)
    assert reference["delta_lpt"] == pytest.approx(exp(-200 / 400) - exp(-190 / 400))
    assert reference["delta_cv_accuracy"] == pytest.approx(-0.15)
    assert best["delta_aic_to_reference"] == pytest.approx(-22)
    assert reference["delta_aic_to_reference"] == 0
    assert best["delta_cv_accuracy_to_reference"] == pytest.approx(0.15)
    assert simple["delta_cv_accuracy"] is None
    assert {row["n_agents"] for row in by_agent.values()} == {3}
    (alone,) = (row for row in rows if row["session_date"].day == 25)
    assert (alone["aic_rank"], alone["delta_bic"], alone["n_agents"]) == (1, 0, 1)
    assert alone["reference_agent"] == REFERENCE
    assert alone["delta_aic_to_reference"] is None


def test_only_the_newest_fit_of_an_agent_is_compared(world):
    world.fit("old", finished_at=NOON - timedelta(days=3))
    world.fit("new", pipeline_format="framework", finished_at=NOON)
    world.skipped("skipped", "730945_2024-10-24_10-00-00", "WSLS")
    world.analysis("other")
    (row,) = world.mart("model_comparison")
    assert (row["record_id"], row["n_agents"]) == ("new", 1)


def test_equally_good_agents_are_ranked_by_parameters_then_by_name(world):
    for agent, k in (("C", 3), ("B", 2), ("A", 2)):
        world.fit(agent, agent=agent, k_model=k, aic=400.0, bic=410.0)
    ranks = {row["agent_alias"]: row["bic_rank"] for row in world.mart("model_comparison")}
    assert ranks == {"A": 1, "B": 2, "C": 3}


def test_a_value_that_is_not_finite_is_never_the_best(world):
    world.fit("a", agent="A", lpt=float("nan"), aic=None)
    world.fit("b", agent="B")
    rows = world.mart("model_comparison")
    assert [(row["lpt"] is None, row["aic_rank"]) for row in rows] == [(True, None), (False, 1)]
    winners = {row["criterion"]: row["agent_alias"] for row in world.rows("FROM best_models")}
    assert (winners["lpt"], winners["aic"]) == ("B", "B")


@pytest.mark.parametrize(("n_trials", "differ"), [(400, False), (401, True)])
def test_fits_to_different_trials_are_marked(world, n_trials, differ):
    world.fit("a")
    world.fit("b", agent="WSLS", n_trials=n_trials)
    assert {row["n_trials_differ"] for row in world.mart("model_comparison")} == {differ}


def test_the_best_agent_is_the_lowest_by_aic_and_the_highest_by_likelihood(world):
    world.fit("a", agent="A", log_likelihood=-200.0, k_model=1, folds=[0.6])
    world.fit("b", agent="B", log_likelihood=-198.0, k_model=9, folds=[0.7])
    rows = {row["criterion"]: row for row in world.mart("best_models")}
    winners = {criterion: row["agent_alias"] for criterion, row in rows.items()}
    by_aic = dict.fromkeys(("aic", "bic", "lpt_aic", "lpt_bic"), "A")
    assert winners == by_aic | {"lpt": "B", "cv_accuracy": "B"}
    assert [rows["aic"][name] for name in ("value", "second_value", "margin")] == [402, 414, 12]
    assert rows["cv_accuracy"]["margin"] == pytest.approx(0.1)
    assert rows["cv_accuracy"]["second_agent_alias"] == "A"


def test_sessions_won_are_counted_by_criterion_and_agent(world):
    for day in (24, 25, 26):
        session = f"730945_2024-10-{day}_10-00-00"
        world.fit(f"a{day}", session, "A", log_likelihood=-190.0 if day < 26 else -210.0)
        world.fit(f"b{day}", session, "B")
    rows = [row for row in world.mart("best_models") if row["criterion"] == "aic"]
    won = [(row["agent_alias"], row["n_sessions_won"]) for row in rows]
    assert won == [("A", 2), ("A", 2), ("B", 1)]


def test_a_tie_has_no_margin_and_a_lone_agent_none_at_all(world):
    world.fit("a", agent="A")
    world.fit("b", agent="B")
    world.fit("c", session="730945_2024-10-25_10-00-00", agent="B")
    rows = [row for row in world.mart("best_models") if row["criterion"] == "bic"]
    assert [(row["agent_alias"], row["margin"]) for row in rows] == [("A", 0), ("B", None)]
    assert not any(row["criterion"] == "cv_accuracy" for row in world.rows("FROM best_models"))


# --- parameter_trajectories -------------------------------------------------------------------


def test_sessions_are_numbered_in_time_over_all_agents(world):
    world.skipped("a", "730945_2024-10-01_09-00-00", None)
    world.fit("b", "730945_2024-10-02_15-00-00", parameters={"learn_rate": 0.1})
    world.fit("c", "730945_2024-10-02_09-00-00", parameters={"learn_rate": 0.4, "biasL": 0.0})
    world.fit("d", "730945_2024-10-03", agent="WSLS", parameters={"biasL": 0.2})
    world.fit("e", "730945_2024-10-04", parameters={"learn_rate": 0.2})
    world.fit("f", "999999_2024-10-04", parameters={"learn_rate": 0.9})
    rows = world.mart("parameter_trajectories")
    names = ("subject_id", "session_number", "value", "previous_session_number", "change")
    learn_rates = [row for row in rows if row["parameter"] == "learn_rate"]
    assert [tuple(row[name] for name in names) for row in learn_rates] == [
        ("730945", 2, 0.4, None, None),
        ("730945", 3, 0.1, 2, pytest.approx(-0.3)),
        ("730945", 5, 0.2, 3, pytest.approx(0.1)),
        ("999999", 1, 0.9, None, None),
    ]
    assert [
        (row["session_number"], row["at_bound"], row["is_fitted"])
        for row in rows
        if row["parameter"] == "biasL"
    ] == [(2, True, True), (4, False, True)]


def test_a_session_fitted_twice_has_one_number_and_one_value(world):
    world.fit("a", parameters={"learn_rate": 0.1}, finished_at=NOON - timedelta(days=1))
    world.fit("b", pipeline_format="framework", parameters={"learn_rate": 0.2}, subject_id=None)
    (row,) = world.mart("parameter_trajectories")
    assert (row["subject_id"], row["session_number"], row["value"]) == ("730945", 1, 0.2)


# --- pipeline_agreement -----------------------------------------------------------------------


def test_fits_of_both_pipelines_are_compared(world):
    parameters = {"learn_rate": 0.4, "biasL": 0.0, "only_prototype": 9.0, "no_number": None}
    world.fit("old p", parameters={"learn_rate": 9.0}, finished_at=NOON - timedelta(days=9))
    world.fit("p", parameters=parameters)
    world.fit(
        "f",
        pipeline_format="framework",
        log_likelihood=-199.0,
        n_trials=401,
        parameters={"learn_rate": 0.5, "biasL": -0.25, "no_number": 1.0},
    )
    world.fit("alone", agent="WSLS")
    world.fit("failed", agent="WSLS", pipeline_format="framework", outcome="failed")
    (row,) = world.mart("pipeline_agreement")
    assert (row["prototype_record_id"], row["framework_record_id"]) == ("p", "f")
    assert row["log_likelihood_difference"] == 1
    assert row["aic_difference"] == -2
    assert row["n_trials_difference"] == 1
    assert row["n_parameters"] == 2
    assert row["largest_parameter_difference"] == 0.25
    assert row["largest_difference_parameter"] == "biasL"


def test_equal_differences_name_the_first_parameter(world):
    world.fit("p", parameters={"b": 1.0, "a": 1.0})
    world.fit("f", pipeline_format="framework", parameters={"b": 1.5, "a": 0.5})
    (row,) = world.mart("pipeline_agreement")
    assert row["largest_difference_parameter"] == "a"


def test_fits_without_parameters_can_still_be_compared(world):
    world.fit("p")
    world.fit("f", pipeline_format="framework")
    (row,) = world.mart("pipeline_agreement")
    assert (row["n_parameters"], row["largest_parameter_difference"]) == (0, None)
    assert row["log_likelihood_difference"] == 0


# --- fit_coverage -----------------------------------------------------------------------------


def counts(row):
    names = ("sessions", "fitted", "skipped", "failed", "unknown", "missing")
    return tuple(row[f"n_{name}"] for name in names)


def test_coverage_counts_every_session_once_by_its_best_outcome(world):
    world.fit("a", "730945_2024-10-01", "A")
    world.skipped("b", "730945_2024-10-01", "A")
    world.skipped("c", "730945_2024-10-02", "A")
    world.skipped("d", "730945_2024-10-02", "A", outcome="failed")
    world.skipped("e", "730945_2024-10-03", "A", outcome="failed")
    world.skipped("f", "730945_2024-10-04", "A", outcome="unknown")
    world.skipped("g", "730945_2024-10-05", None)
    (row,) = world.mart("fit_coverage")
    key = (row["subject_id"], row["session_month"], row["agent_alias"])
    assert key == ("730945", date(2024, 10, 1), "A")
    assert counts(row) == (5, 1, 1, 1, 1, 1)


def test_an_agent_of_any_subject_in_the_month_is_expected_of_every_subject(world):
    world.fit("a", "730945_2024-10-31", "A")
    world.fit("b", "999999_2024-10-01", "B")
    world.fit("c", "999999_2024-11-01", "A")
    rows = world.mart("fit_coverage")
    assert [
        (row["subject_id"], row["session_month"].month, row["agent_alias"], row["n_missing"])
        for row in rows
    ] == [
        ("730945", 10, "A", 0),
        ("730945", 10, "B", 1),
        ("999999", 10, "A", 1),
        ("999999", 10, "B", 0),
        ("999999", 11, "A", 0),
    ]


def test_a_session_known_from_another_analysis_is_missing_its_fits(world):
    world.fit("a", "730945_2024-10-01", "A")
    world.fit("b", "730945_2024-10-02", "A", analysis_name="Bayesian fitting")
    world.analysis("c")
    (row,) = world.mart("fit_coverage")
    assert counts(row) == (2, 1, 0, 0, 0, 1)


# --- collection_freshness ---------------------------------------------------------------------


def test_freshness_distinguishes_arrived_changed_and_deleted(world):
    days = [NOON + timedelta(days=number) for number in range(4)]
    world.document("a", 1, "upsert", extracted_at=days[0])
    world.document("b", 1, "upsert", extracted_at=days[0])
    world.document("a", 2, "upsert", extracted_at=days[1], content_hash="new")
    world.document("b", 2, "delete", extracted_at=days[1])
    world.document("b", 3, "delete", extracted_at=days[2])
    world.document("b", 4, "upsert", extracted_at=days[3])
    world.document("b", 4, "upsert", extracted_at=days[3], source_collection="other")
    rows = world.mart("collection_freshness")
    assert [
        (row["day"].day, row["n_arrived"], row["n_changed"], row["n_deleted"], row["n_live"])
        for row in rows
        if row["source_collection"] == COLLECTION
    ] == [(1, 2, 0, 0, 2), (2, 0, 1, 1, 1), (3, 0, 0, 0, 1), (4, 1, 0, 0, 2)]
    assert sum(row["source_collection"] == "other" for row in rows) == 1


def test_days_begin_and_end_in_utc(world):
    late = datetime(2025, 3, 1, 23, 59, tzinfo=UTC)
    world.document("a", 1, "upsert", extracted_at=late)
    world.document("b", 2, "upsert", extracted_at=late + timedelta(minutes=1))
    assert [row["day"].day for row in world.mart("collection_freshness")] == [1, 2]


@pytest.mark.parametrize(
    ("hours", "expected"), [((1, 2, 9), (3, 2, 9)), ((), (0, None, None))], ids=["some", "none"]
)
def test_the_lag_is_from_the_end_of_an_analysis_until_it_is_seen(world, hours, expected):
    for number in hours:
        world.fit(f"{number}", finished_at=NOON - timedelta(hours=number))
    world.fit("timeless", finished_at=None)
    (row,) = world.mart("collection_freshness")
    assert row["n_arrived"] == len(hours) + 1
    assert (row["n_lags"], row["median_lag_hours"], row["max_lag_hours"]) == expected


# --- checks -----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_table_is_checked_for_unique_keys(sound, table):
    check = f"{table.name}_key_is_unique"
    if not sound.rows(f"SELECT * FROM {table.name}"):
        row: dict[str, Any] = dict.fromkeys(table.column_names)
        for column in table.columns:
            if column.required:
                row[column.name] = {"VARCHAR": "x", "TIMESTAMPTZ": NOON}.get(column.type.value, 0)
        sound.insert(table.name, **row)
    sound.connection.execute(f"INSERT INTO {table.name} SELECT * FROM {table.name} LIMIT 1")
    (found,) = sound.offending(check)
    assert tuple(found) == (*table.key, "n_rows")
    assert found["n_rows"] == 2


@pytest.mark.parametrize(
    "table",
    [table for table in TABLES if "process_index" in table.key and table.name != "analyses"],
    ids=lambda table: table.name,
)
def test_every_child_is_checked_for_its_analysis(world, table):
    row = {
        column.name: NOON if column.type is DataType.TIMESTAMPTZ else 0
        for column in table.columns
        if column.required
    }
    world.insert(table.name, **row)
    (found,) = world.offending(f"{table.name}_belong_to_analyses")
    assert found["n_rows"] == 1


@pytest.mark.parametrize(
    ("versions", "problems"),
    [
        ([("lost", 3, "upsert")], {"lost": "neither flattened nor rejected"}),
        (
            [("p1", 9, "delete"), ("odd", 9, "delete")],
            {"p1": "flattened, but not live", "odd": "rejected, but not live"},
        ),
        ([("p1", 8, "delete"), ("p1", 9, "upsert")], {}),
    ],
    ids=["lost", "deleted", "deleted and restored"],
)
def test_a_document_that_is_not_in_its_tables_is_found(sound, versions, problems):
    for version in versions:
        sound.document(*version)
    rows = sound.offending("live_documents_are_flattened_or_rejected")
    assert {row["record_id"]: row["problem"] for row in rows} == problems


def test_a_document_both_flattened_and_rejected_is_found(sound):
    sound.connection.execute("UPDATE rejected_documents SET record_id = 'p1'")
    rows = sound.offending("live_documents_are_flattened_or_rejected")
    assert {row["record_id"]: row["problem"] for row in rows} == {
        "p1": "both flattened and rejected",
        "odd": "neither flattened nor rejected",
    }


def test_rows_of_an_older_version_are_found(sound):
    sound.document("p1", 10, "upsert", content_hash="new")
    sound.document("odd", 9, "upsert", content_hash="new")
    rows = sound.offending("content_hashes_are_those_of_live_documents")
    assert {(row["made"], row["record_id"], row["live_content_hash"]) for row in rows} == {
        ("analyses", "p1", "new"),
        ("rejected_documents", "odd", "new"),
    }


@pytest.mark.parametrize("criterion", ["aic", "bic", "lpt", "lpt_aic", "lpt_bic"])
def test_a_criterion_that_does_not_follow_from_the_likelihood_is_found(world, criterion):
    world.fit("rounded")
    world.fit("wrong")
    world.connection.execute(
        f"UPDATE analyses SET {criterion} = {criterion} * "
        "CASE record_id WHEN 'wrong' THEN 1 + 1e-5 ELSE 1 + 1e-8 END"
    )
    (row,) = world.offending("fit_criteria_agree_with_log_likelihood")
    assert (row["record_id"], row["criterion"]) == ("wrong", criterion)


def test_criteria_that_cannot_be_computed_pass(world):
    world.fit("a", k_model=2)
    world.connection.execute("UPDATE analyses SET n_trials = 0")
    world.fit("b", bic=None, lpt=None)
    world.fit("c", aic=0.0, outcome="failed")
    assert world.offending("fit_criteria_agree_with_log_likelihood") == []


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_an_accuracy_outside_0_and_1_is_found(world, value):
    world.fit("a", prediction_accuracy=value, folds=[0.0, 0.9])
    world.connection.execute("UPDATE cross_validation SET lpt_test = ? WHERE fold = 1", [value])
    rows = world.offending("accuracies_and_likelihoods_lie_between_0_and_1")
    assert {(row["fold"], row["measure"]) for row in rows} == {
        (None, "prediction_accuracy"),
        (1, "lpt_test"),
    }


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("n_attributes_counts_attributes", "n_attributes = 3"),
        ("n_rejected_values_counts_rejected_values", "n_rejected_values = 1"),
        ("cv_folds_counts_folds", "cv_folds = 3"),
        ("k_model_counts_fitted_parameters", "k_model = 3"),
        ("successful_fits_have_session_agent_and_likelihood", "session_key = NULL"),
        ("successful_fits_have_session_agent_and_likelihood", "agent_alias = NULL"),
        ("successful_fits_have_session_agent_and_likelihood", "log_likelihood = NULL"),
        ("words_are_known", "outcome = 'Success'"),
        ("words_are_known", "pipeline_format = 'other'"),
        ("analyses_are_seen_before_they_change", "changed_at = first_seen_at - INTERVAL 1 DAY"),
    ],
)
def test_a_check_finds_a_wrong_value(sound, check, change):
    sound.connection.execute(f"UPDATE analyses SET {change} WHERE record_id = 'p1'")
    assert len(sound.offending(check)) == 1


def test_a_fit_of_a_file_without_a_session_in_its_name_needs_no_session(world):
    nothing = dict.fromkeys(("session_key", "subject_id", "session_date"))
    world.fit("a", nwb_name="demo.nwb", **nothing)
    assert world.offending("successful_fits_have_session_agent_and_likelihood") == []


def test_collections_that_do_not_add_up_are_found(sound):
    sound.connection.execute("UPDATE collections SET live_documents = 7")
    (row,) = sound.offending("collections_add_up")
    assert row["source_collection"] == COLLECTION
