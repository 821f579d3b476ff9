"""The model-fitting query, compared with the documents and result files themselves.

:class:`Reference` asks a MongoDB server and reads the result files. It shares no code with the
package: it is the documented behaviour, implemented a second time.
"""

import doctest
import inspect
import json
import logging
import math
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from mongod import mongod_or_skip
from pymongo import MongoClient
from pymongo.collection import Collection
from worlds import MAIN, Built, JsonDocument, loaded_lake, read_dump, write_dump

from aind_etl import get_mle_model_fitting
from aind_etl.warehouse.build import build_warehouse

FIRST = ["_id", "nwb_name", "session_date", "status", "subject_id", "analysis_time", "agent_alias"]
FIRST += ["n_trials", "S3_location", "CO_asset_id", "analysis_tag", "pipeline_source"]
METRICS = ["log_likelihood", "prediction_accuracy", "k_model", "AIC", "BIC", "LPT", "LPT_AIC"]
METRICS += ["LPT_BIC", "params"]
FOLDS = [f"prediction_accuracy_{name}" for name in ("test", "fit", "test_bias_only")]
LATENTS = ["latent_variables", "qvalue_spread"]
RESULT_FILES = ["original_results_mle_fitting.json", "docDB_mle_fitting.json", "docDB_record.json"]

PROCESS = "processing.data_processes"
OUTPUTS = f"{PROCESS}.output_parameters"
FIT = f"{OUTPUTS}.fitting_results"

CASES: dict[str, dict[str, Any]] = {
    "a subject of both pipelines": {"subject_id": "652175"},
    "a subject and an agent": {"subject_id": "652229", "agent_alias": "WSLS"},
    "a day": {"session_date": "2024-10-24"},
    "a subject on a day": {"subject_id": "652175", "session_date": "2024-10-24"},
    "an agent of both pipelines": {"agent_alias": "QLearning_L2F1_CK1_softmax"},
    "an agent of the framework": {"agent_alias": "ForagingCompareThreshold"},
    "a tag": {"analysis_tag": "aind-analysis-framework v0.2"},
    "tags": {"analysis_tag": [f"aind-analysis-framework v0.{n}" for n in (1, 2, 3)]},
    "a tag of a subject": {"subject_id": "652324", "analysis_tag": "aind-analysis-framework v0.2"},
    "everything of the prototype": {
        "from_custom_query": {"analysis_spec.analysis_name": "MLE fitting"}
    },
    "everything of the framework": {"from_custom_query": {f"{OUTPUTS}.additional_info": "success"}},
    "everything there is": {"from_custom_query": {"_id": {"$exists": True}}},
    "recent sessions": {
        "from_custom_query": {
            "$or": [
                {"session_date": {"$gte": "2025-01-01"}},
                {f"{OUTPUTS}.session_date": {"$gte": "2025-01-01"}},
            ]
        },
        "paginate_settings": {"paginate": False},
    },
    "long sessions": {
        "from_custom_query": {
            "analysis_results.fit_settings.agent_alias": {"$regex": "_CK"},
            "analysis_results.n_trials": {"$gt": 400},
        }
    },
    "a subject's recent fits": {
        "subject_id": "652324",
        "from_custom_query": {f"{PROCESS}.end_date_time": {"$gte": "2026-02-10T00:00:00"}},
    },
}


class Reference:
    """The documented behaviour, from a server and the result files."""

    def __init__(self, collection: Collection[JsonDocument], results: Path) -> None:
        self._collection = collection
        self._results = results

    def rows(  # noqa: PLR0913 - the arguments of the public reader
        self,
        *,
        subject_id: str | None = None,
        session_date: str | None = None,
        agent_alias: str | None = None,
        from_custom_query: JsonDocument | None = None,
        analysis_tag: str | list[str] | None = None,
        only_recent_version: bool = True,
        paginate_settings: JsonDocument | None = None,  # noqa: ARG002 - as the reader has it
    ) -> dict[str, dict[str, Any]]:
        """Return the rows by ``_id``, the newest first."""
        tags = [analysis_tag] if isinstance(analysis_tag, str) else analysis_tag
        found = [
            row
            for document in self._collection.find(from_custom_query or {}).sort("_id")
            for row in (*self._prototype(document), *self._framework(document))
            if row["status"] == "success"
            and subject_id in {None, row["subject_id"]}
            and session_date in {None, row["session_date"]}
            and agent_alias in {None, row["agent_alias"]}
            and (tags is None or row["analysis_tag"] in tags)
        ]
        found.sort(key=lambda row: row["analysis_time"], reverse=True)
        chosen: dict[Any, dict[str, Any]] = {}
        for row in found:
            pair = (row["nwb_name"], row["agent_alias"])
            chosen.setdefault(pair if only_recent_version else row["_id"], row)
        return {row["_id"]: row for row in chosen.values()}

    def _prototype(self, document: JsonDocument) -> Iterator[dict[str, Any]]:
        specification = document.get("analysis_spec", {})
        if specification.get("analysis_name") != "MLE fitting":
            return
        fit = document.get("analysis_results") or {}
        yield {
            "_id": document["_id"],
            "nwb_name": document["nwb_name"],
            "session_date": document["session_date"],
            "status": document["status"],
            "subject_id": document["subject_id"],
            "analysis_time": moment(document.get("analysis_datetime")),
            "S3_location": document["s3_location"],
            "CO_asset_id": None,
            "analysis_tag": None,
            "pipeline_source": "han's analysis pipeline",
            **self._of_fit(fit),
        }

    def _framework(self, document: JsonDocument) -> Iterator[dict[str, Any]]:
        for process in document.get("processing", {}).get("data_processes", []):
            code = process["code"]
            if code["parameters"].get("analysis_name") != "MLE fitting":
                continue
            outputs = process["output_parameters"] or {}
            if isinstance(outputs, list):
                outputs = outputs[0]
            parameters = code["parameters"]
            fit = self._of_fit(outputs.get("fitting_results") or {})
            yield {
                "_id": document["_id"],
                "nwb_name": outputs.get("nwb_name"),
                "session_date": outputs.get("session_date"),
                "status": outputs.get("additional_info"),
                "subject_id": outputs.get("subject_id"),
                "analysis_time": moment(process["end_date_time"]),
                "S3_location": document["location"],
                "CO_asset_id": [one["url"] for one in code["input_data"]],
                "analysis_tag": parameters.get("analysis_tag", parameters.get("analysis_ver")),
                "pipeline_source": "aind analysis framework",
                **fit,
                # A server's projection from a list of processes is a list.
                **{name: fit[name] or [] for name in FOLDS},
            }

    @staticmethod
    def _of_fit(fit: JsonDocument) -> dict[str, Any]:
        folds = fit.get("cross_validation") or {}
        return {
            "agent_alias": fit.get("fit_settings", {}).get("agent_alias"),
            "n_trials": fit.get("n_trials"),
            **{name: fit.get(name) for name in METRICS},
            **{name: folds.get(name) for name in FOLDS},
            "fit": fit,
        }

    def latents(self, row: dict[str, Any]) -> tuple[dict[str, Any] | None, float]:
        """Return the latent variables of a fit and the spread of its Q values."""
        folder = self._results / row["S3_location"].removeprefix("s3://")
        fit = row["fit"]
        for name in reversed(RESULT_FILES):
            if (folder / name).exists():
                written = json.loads((folder / name).read_text())
                fit = written.get("analysis_results", written)
        if "fitted_latent_variables" not in fit:
            return None, math.nan
        latents = dict(fit["fitted_latent_variables"])
        if "q_value" not in latents:
            return latents, math.nan
        settings = fit["fit_settings"]
        outcomes = zip(settings["fit_choice_history"], settings["fit_reward_history"], strict=True)
        latents["rpe"] = [
            float(reward) - latents["q_value"][int(choice)][trial]
            for trial, (choice, reward) in enumerate(outcomes)
        ]
        return latents, spread([value for side in latents["q_value"] for value in side])


def moment(text: str | None) -> datetime | None:
    """Return a moment; a text without a zone is UTC."""
    if text is None:
        return None
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def spread(values: list[float]) -> float:
    """Return the entropy of a histogram of 100 bins over [0, 1], divided by log2(100)."""
    counts, _ = np.histogram(values, bins=100, range=(0, 1))
    shares = [count / counts.sum() for count in counts if count]
    return -sum(share * math.log2(share) for share in shares) / math.log2(100)


@pytest.fixture(scope="module")
def reference(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """Give the world's documents in a MongoDB server."""
    with (
        mongod_or_skip(tmp_path_factory.mktemp("fitting-mongod")) as port,
        MongoClient[JsonDocument]("127.0.0.1", port) as client,
    ):
        client["analysis"][MAIN].insert_many(read_dump(world))
        yield Reference(client["analysis"][MAIN], world / "results")


@pytest.fixture(scope="module")
def warehouse(world: Path) -> Path:
    """Return the warehouse of the world, with the trials of its result folders."""
    return world / "warehouse.duckdb"


@pytest.fixture(scope="module")
def without_trials(built: Built) -> Path:
    """Return a warehouse of the same documents, and nothing of the result folders."""
    return built.warehouse


def assert_cells_equal(frame, expected: dict[str, dict[str, Any]], columns: list[str]) -> None:
    """Fail with the first cell that differs from the documents."""
    assert list(frame["_id"]) == list(expected)
    for cells in frame.to_dict("records"):
        row = expected[cells["_id"]]
        for name in columns:
            cell, value = cells[name], row[name]
            if value is None:
                assert cell is None or cell != cell, (name, row["_id"], cell)  # noqa: PLR0124
            else:
                assert cell == value, (name, row["_id"])


def assert_latents_equal(frame, reference: Reference, rows: dict[str, dict[str, Any]]) -> None:
    """Fail with the first latent variable that differs from the result file."""
    for cells in frame.to_dict("records"):
        latents, qvalue_spread = reference.latents(rows[cells["_id"]])
        np.testing.assert_allclose(cells["qvalue_spread"], qvalue_spread, rtol=1e-12)
        if latents is None:
            assert cells["latent_variables"] is None
            continue
        assert cells["latent_variables"].keys() == latents.keys()
        for name, values in latents.items():
            found = cells["latent_variables"][name]
            assert isinstance(found, np.ndarray)
            np.testing.assert_array_equal(found, np.array(values), err_msg=name)


@pytest.mark.parametrize("arguments", CASES.values(), ids=CASES)
@pytest.mark.parametrize("only_recent_version", [True, False], ids=["newest", "all"])
def test_every_cell_equals_the_documents(warehouse, reference, arguments, only_recent_version):
    expected = reference.rows(**arguments, only_recent_version=only_recent_version)
    assert expected
    frame = get_mle_model_fitting(
        **arguments,
        only_recent_version=only_recent_version,
        if_include_latent_variables=False,
        warehouse=warehouse,
    )
    assert list(frame.columns) == FIRST + METRICS + FOLDS
    assert_cells_equal(frame, expected, FIRST + METRICS + FOLDS)


@pytest.mark.parametrize("subject_id", ["652097", "652257", "652324"])
def test_latent_variables_are_those_of_the_result_files(warehouse, reference, subject_id):
    frame = get_mle_model_fitting(subject_id, warehouse=warehouse)
    assert list(frame.columns) == FIRST + METRICS + FOLDS + LATENTS
    assert frame["latent_variables"].notna().any()
    assert_latents_equal(frame, reference, reference.rows(subject_id=subject_id))


def test_latent_variables_without_a_column_keep_their_rows(warehouse, tmp_path):
    copy = shutil.copy(warehouse, tmp_path / "warehouse.duckdb")
    with duckdb.connect(copy) as connection:
        connection.execute(
            "INSERT INTO other_latents BY NAME SELECT source_collection, record_id, process_index, "
            "name, position, trial, nullif(10 * position + trial, 12) AS value "
            "FROM trials, (VALUES ('one', 0), ('two', 0), ('two', 1)) AS variables(name, position)"
        )
    frame = get_mle_model_fitting("652324", warehouse=copy).dropna(subset="latent_variables")
    for n_trials, latents in zip(frame["n_trials"], frame["latent_variables"], strict=True):
        rows = np.add.outer([0, 10], np.arange(n_trials + 1.0))
        rows[rows == 12] = np.nan
        np.testing.assert_array_equal(latents["two"], rows)
        np.testing.assert_array_equal(latents["one"], rows[0])


def test_latent_variables_that_the_warehouse_lacks_are_read_from_the_store(
    without_trials, reference, world, monkeypatch
):
    monkeypatch.setenv("AIND_ETL_RESULTS_ROOT", str(world / "results"))
    frame = get_mle_model_fitting("652324", warehouse=without_trials)
    assert frame["latent_variables"].notna().any()
    assert_latents_equal(frame, reference, reference.rows(subject_id="652324"))


@pytest.mark.parametrize("inventory", ["warehouse", "without_trials"])
def test_figures_are_downloaded_with_readable_names(  # noqa: PLR0913, PLR0917
    request, inventory, world, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("AIND_ETL_RESULTS_ROOT", str(world / "results"))
    frame = get_mle_model_fitting(
        "652324",
        if_include_latent_variables=False,
        if_download_figures=True,
        download_path=tmp_path / "figures",
        warehouse=request.getfixturevalue(inventory),
    )
    there = {}
    for row in frame.to_dict("records"):
        figure = world / "results" / row["S3_location"].removeprefix("s3://") / "fitted_session.png"
        name = f"{row['nwb_name'].removesuffix('.nwb')}_{row['agent_alias']}_{row['_id'][:10]}.png"
        if figure.exists():
            there[name] = figure.read_bytes()
        else:
            assert f"No figure {name}" in caplog.text
    assert there
    assert {path.name: path.read_bytes() for path in (tmp_path / "figures").iterdir()} == there


def test_without_metrics_and_latents_only_the_first_columns_are_returned(warehouse):
    frame = get_mle_model_fitting(
        "652257", if_include_metrics=False, if_include_latent_variables=False, warehouse=warehouse
    )
    assert list(frame.columns) == FIRST


def test_the_arguments_are_those_of_the_public_reader_in_its_order():
    parameters = inspect.signature(get_mle_model_fitting).parameters
    assert list(parameters) == [
        *("subject_id", "session_date", "agent_alias", "from_custom_query", "analysis_tag"),
        *("only_recent_version", "if_include_metrics", "if_include_latent_variables"),
        *("if_download_figures", "download_path", "paginate_settings", "max_threads_for_s3"),
        "warehouse",
    ]
    defaults = [*[None] * 5, True, True, True, False, "./results/mle_figures/", None, 10, None]
    assert [one.default for one in parameters.values()] == defaults


def test_arguments_may_be_given_by_position(warehouse):
    named = get_mle_model_fitting(
        subject_id="652324", if_include_latent_variables=False, warehouse=warehouse
    )
    given = get_mle_model_fitting(
        *("652324", None, None, None, None, True, True, False, False, ".", {"paginate": False}, 4),
        warehouse=warehouse,
    )
    pd.testing.assert_frame_equal(named, given)


FIT_PATHS = {
    "session_date": ("session_date", f"{OUTPUTS}.session_date", {"$gte": "2023-01-01"}),
    "subject_id": ("subject_id", f"{OUTPUTS}.subject_id", {"$regex": "^65"}),
    "status": ("status", f"{OUTPUTS}.additional_info", "success"),
    "agent_alias": (
        "analysis_results.fit_settings.agent_alias",
        f"{FIT}.fit_settings.agent_alias",
        {"$regex": "CK1"},
    ),
    "n_trials": ("analysis_results.n_trials", f"{FIT}.n_trials", {"$gt": 400}),
    "AIC": ("analysis_results.AIC", f"{FIT}.AIC", {"$lt": 300}),
    "aic": ("analysis_results.AIC", f"{FIT}.AIC", {"$not": {"$lt": 300}, "$exists": True}),
}


def ids_of(query, warehouse):
    found = get_mle_model_fitting(
        from_custom_query=query,
        only_recent_version=False,
        if_include_latent_variables=False,
        warehouse=warehouse,
    )
    return set() if found is None else set(found["_id"])


@pytest.mark.parametrize("name", FIT_PATHS)
def test_a_name_without_a_path_means_the_value_in_either_format(warehouse, name):
    *paths, test = FIT_PATHS[name]
    either = ids_of({"$or": [{f"{paths[1]}": test}, {"$and": [{paths[0]: test}]}]}, warehouse)
    found = ids_of({name: test}, warehouse)
    assert found
    assert found == either
    assert ids_of({paths[1]: test}, warehouse) < found
    other = {"$and": [{name: test}, {"analysis_spec": {"$exists": True}}]}
    assert ids_of(other, warehouse) < found


def test_what_a_server_finds_by_a_name_without_a_path_is_still_found(warehouse):
    # A framework document has no 'status' at its root, so a server finds all of them.
    found = ids_of({"status": {"$ne": "success"}}, warehouse)
    assert found >= ids_of({"processing": {"$exists": True}}, warehouse)
    assert not found & ids_of({"analysis_results": {"$exists": True}}, warehouse)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"subject_id": "652258"}, "Did you mean '652257'"),
        ({"agent_alias": "QLearning_L2F1_sofmax"}, "Did you mean 'QLearning_L2F1_softmax'"),
        ({"analysis_tag": "v0.2"}, "'aind-analysis-framework v0.2'"),
        ({"session_date": "1999-01-01"}, "No fit"),
        ({"from_custom_query": {"subject_id": "none"}}, "No fit"),
    ],
)
def test_none_is_returned_for_no_fit_with_a_hint_in_the_log(warehouse, caplog, arguments, words):
    assert get_mle_model_fitting(**arguments, warehouse=warehouse) is None
    assert words in caplog.text


def test_fits_of_other_collections_are_unknown(tmp_path, caplog):
    fit = {"analysis_spec": {"analysis_name": "MLE fitting"}, "analysis_results": {}}
    for subject, collection in (("652257", MAIN), ("652258", "another")):
        write_dump(tmp_path / "dump", [fit | {"_id": "a", "subject_id": subject}], collection)
    lake = loaded_lake(tmp_path / "dump", tmp_path / "lake")
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    assert get_mle_model_fitting("652258", warehouse=tmp_path / "warehouse.duckdb") is None
    assert "There is no subject_id '652258'. Did you mean '652257'?" in caplog.text


def test_numbers_of_fits_found_and_skipped_are_logged(warehouse, reference, caplog):
    caplog.set_level(logging.INFO, "aind_etl")
    frame = get_mle_model_fitting("652175", "2024-10-24", warehouse=warehouse)
    everything = reference.rows(
        subject_id="652175", session_date="2024-10-24", only_recent_version=False
    )
    assert f"{len(everything)} successful fits" in caplog.text
    assert f"{len(frame)} newest of each NWB name and agent" in caplog.text
    assert "han's analysis pipeline: " in caplog.text
    assert ("Several fits of one agent on this day" in caplog.text) == bool(
        frame["agent_alias"].duplicated().any()
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({}, ValueError, "Give at least one of subject_id"),
        ({"subject": "652257"}, TypeError, "Did you mean 'subject_id'"),
        ({"if_include_latents": False}, TypeError, "Did you mean 'if_include_latent_variables'"),
        ({"session_date": "2024-10-32"}, ValueError, "a day such as '2024-10-24'"),
        ({"session_date": "24.10.2024"}, ValueError, "session_date is '24.10.2024'"),
        ({"subject_id": 652257.0}, ValueError, "subject_id is 652257.0"),
        ({"from_custom_query": "status"}, ValueError, "not 'status'"),
        ({"from_custom_query": {"AIC": {"$gt": 10**400}}}, ValueError, "at most 64 bits"),
    ],
)
def test_a_mistake_in_the_arguments_is_explained(warehouse, arguments, error, words):
    with pytest.raises(error) as caught:
        get_mle_model_fitting(**arguments, warehouse=warehouse)
    assert words in str(caught.value)


def test_a_filter_is_never_run_as_sql(warehouse):
    attack = "'; DROP TABLE analyses; --"
    for arguments in (
        {"subject_id": attack},
        {"agent_alias": [attack]},
        {"analysis_tag": attack},
        {"from_custom_query": {"status": attack}},
        {"from_custom_query": {"nwb_name": {"$in": [attack]}}},
        {"from_custom_query": {"analysis_spec.analysis_ver": {"$ne": attack}, "status": attack}},
    ):
        assert get_mle_model_fitting(**arguments, warehouse=warehouse) is None
    with pytest.raises(ValueError, match="DROP TABLE"):
        get_mle_model_fitting(from_custom_query={attack: 1}, warehouse=warehouse)


def test_the_examples_on_the_page_about_notebooks_run(warehouse, monkeypatch):
    monkeypatch.setenv("AIND_ETL_WAREHOUSE", str(warehouse))
    page = Path(__file__).parents[2] / "docs" / "notebooks.md"
    # The fences of Markdown end an example where a blank line does.
    options = doctest.NORMALIZE_WHITESPACE | doctest.REPORT_NDIFF
    result = doctest.testfile(str(page), module_relative=False, optionflags=options)
    assert result.attempted
    assert not result.failed
