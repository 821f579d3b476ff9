"""Real records keep their values through dump, lake and warehouse."""

import json
from datetime import UTC, date, datetime, time

import duckdb
import numpy as np
import pytest
from worlds import load

from aind_etl.client.verify import verify_collection, verify_warehouse
from aind_etl.contract.columns import FOLD_MEASURES
from aind_etl.lake import Lake
from aind_etl.sources.canonical import document_from_json
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

FITTING = "dynamic-foraging-model-fitting"
EXAMPLE = "architecture_example_v2"
BUCKET = "aind-dynamic-foraging-analysis-prod-o5171v"

ALIASES = ("QLearning_L1F0_CKfull_softmax", "WSLS", "QLearning_L2F1_softmax")
"""The agents of the three records of one session."""
METRICS = {
    **{name: name for name in ("log_likelihood", "k_model", "n_trials", "prediction_accuracy")},
    **{name.lower(): name for name in ("AIC", "BIC", "LPT", "LPT_AIC", "LPT_BIC")},
}


@pytest.fixture(scope="module")
def real(real_records, tmp_path_factory):
    """Return the real documents, and a lake and a warehouse loaded from a dump of them."""
    folder = tmp_path_factory.mktemp("real")
    dump = folder / "dump"
    dump.mkdir()
    skeletons = json.loads((real_records / "record_skeletons.json").read_bytes())
    fitting = json.loads((real_records / "prototype_730945_2024-10-24.json").read_bytes())
    example = json.loads((real_records / "framework_architecture_example_v2.json").read_bytes())
    documents = {
        FITTING: [*fitting, *skeletons.values()],
        EXAMPLE: example if isinstance(example, list) else [example],
    }
    for collection, values in documents.items():
        (dump / f"{collection}.json").write_text(json.dumps(values, indent=1))
    lake = Lake(folder / "lake")
    load(dump, lake)
    warehouse = folder / "warehouse.duckdb"
    build_warehouse(lake, warehouse)
    return documents, dump, lake, warehouse


@pytest.fixture(scope="module")
def documents(real):
    return real[0]


@pytest.fixture(scope="module")
def fits(documents):
    """Return the three records of one session, by alias."""
    fitted = documents[FITTING][:3]
    return {one["analysis_results"]["fit_settings"]["agent_alias"]: one for one in fitted}


@pytest.fixture(scope="module")
def warehouse(real):
    with connect(real[3]) as connection:
        yield connection


def rows(warehouse: duckdb.DuckDBPyConnection, query, *values):
    """Return the rows of a query as dictionaries."""
    result = warehouse.execute(query, list(values))
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def analysis(warehouse, record_id):
    (row,) = rows(warehouse, "FROM analyses WHERE record_id = ?", record_id)
    return row


def test_every_real_document_is_flattened(documents, warehouse):
    found = rows(warehouse, "SELECT source_collection, record_id FROM analyses")
    assert {(row["source_collection"], row["record_id"]) for row in found} == {
        (collection, one["_id"]) for collection, values in documents.items() for one in values
    }
    assert rows(warehouse, "FROM rejected_documents") == []


def test_source_lake_and_warehouse_agree(real):
    documents, dump, lake, warehouse = real
    source = DumpSource(dump)
    for collection in documents:
        assert verify_collection(source, lake, collection)[1] == []
    assert [one for one in verify_warehouse(lake, warehouse) if not one.is_warning] == []


@pytest.mark.parametrize("alias", ALIASES)
def test_the_analysis_of_a_record_has_its_values(fits, warehouse, alias):
    document = fits[alias]
    fit = document["analysis_results"]
    row = analysis(warehouse, document["_id"])
    assert {name: row[name] for name in METRICS} == {
        name: fit[path] for name, path in METRICS.items()
    }
    assert row["agent_alias"] == alias
    assert row["agent_class"] == document["analysis_spec"]["analysis_args"]["agent_class"]
    assert row["finished_at"] == datetime.fromisoformat(f"{document['analysis_datetime']}Z")
    assert row["n_trials"] == 394
    assert row["session_key"] == "730945_2024-10-24_17-38-06"
    assert row["session_time"] == time(17, 38, 6)
    assert row["session_date"] == date(2024, 10, 24)
    assert (row["pipeline_format"], row["outcome"]) == ("prototype", "success")
    assert row["analysis_version"] == "first version @ 0.10.0"
    assert row["result_url"] == f"https://{BUCKET}.s3.amazonaws.com/{row['record_id']}"
    for column in ("nwb_name", "status", "subject_id"):
        assert row[column] == document[column]
    assert row["result_location"] == document["s3_location"]
    assert row["analysis_name"] == document["analysis_spec"]["analysis_name"]
    text = json.dumps(document).encode()
    assert row["content_hash"] == document_from_json(text).content_hash
    # The source leaves these out.
    for column in ("fit_converged", "n_function_evaluations", "duration_seconds"):
        assert row[column] is None


@pytest.mark.parametrize("alias", ALIASES)
def test_every_parameter_has_its_value_and_bounds(fits, warehouse, alias):
    fit = fits[alias]["analysis_results"]
    settings = fit["fit_settings"]
    bounds = {
        name: (low, high)
        for name, low, high in zip(
            settings["fit_names"], settings["lower_bounds"], settings["upper_bounds"], strict=True
        )
    }
    found = rows(warehouse, "FROM fit_parameters WHERE record_id = ?", fits[alias]["_id"])
    assert {row["parameter"]: row["value"] for row in found} == fit["params"]
    for row in found:
        expected = bounds.get(row["parameter"], (None, None))
        assert (row["lower_bound"], row["upper_bound"]) == expected
        assert row["is_fitted"] is (row["parameter"] in bounds)
        assert row["at_bound"] is (False if row["is_fitted"] else None)


@pytest.mark.parametrize("alias", ALIASES)
def test_every_fold_of_the_cross_validation_is_a_row(fits, warehouse, alias):
    folds = fits[alias]["analysis_results"].get("cross_validation") or {}
    found = rows(
        warehouse, "FROM cross_validation WHERE record_id = ? ORDER BY fold", fits[alias]["_id"]
    )
    parts = [name for name in FOLD_MEASURES if name.startswith("prediction_accuracy")]
    assert len(found) == len(folds.get(parts[0], []))
    summary = analysis(warehouse, fits[alias]["_id"])
    for part in parts:
        assert [row[part] for row in found] == folds.get(part, [])
        if folds:
            assert summary[f"{part}_mean"] == pytest.approx(np.mean(folds[part]), rel=1e-12)
            assert summary[f"{part}_std"] == pytest.approx(np.std(folds[part]), rel=1e-9)
        else:
            assert summary[f"{part}_mean"] is summary[f"{part}_std"] is None


def test_values_without_a_column_are_attributes(fits, warehouse):
    found = rows(warehouse, "FROM attributes WHERE record_id = ?", fits["WSLS"]["_id"])
    values = {
        (row["section"], row["path"]): next(
            value
            for value in (row["value_text"], row["value_number"], row["value_boolean"])
            if value is not None
        )
        for row in found
    }
    assert values == {
        ("parameters", "agent_kwargs.win_stay_lose_switch"): True,
        ("parameters", "agent_kwargs.choice_kernel"): "none",
        ("parameters", "fit_kwargs.DE_kwargs.polish"): True,
        ("parameters", "fit_kwargs.DE_kwargs.seed"): 42.0,
        ("parameters", "fit_kwargs.k_fold_cross_validation"): 10.0,
        ("outputs", "fit_settings.clamp_params.loss_count_threshold_mean"): 1.0,
        ("outputs", "fit_settings.clamp_params.loss_count_threshold_std"): 0.0,
        ("outputs", "fit_settings.agent_kwargs.win_stay_lose_switch"): True,
        ("outputs", "fit_settings.agent_kwargs.choice_kernel"): "none",
        ("record", "analysis_spec.analysis_libs_to_track_ver[0]"): "aind_dynamic_foraging_models",
    }
    assert analysis(warehouse, fits["WSLS"]["_id"])["n_attributes"] == len(values)


def test_the_document_of_another_project_has_its_values_and_input(documents, warehouse):
    (document,) = documents[EXAMPLE]
    (process,) = document["processing"]["data_processes"]
    row = analysis(warehouse, document["_id"])
    assert row["source_collection"] == EXAMPLE
    assert (row["pipeline_format"], row["process_index"]) == ("framework", 0)
    assert row["analysis_name"] == process["code"]["parameters"]["analysis_name"]
    assert row["analysis_version"] == process["code"]["parameters"]["analysis_tag"]
    assert row["process_name"] == process["name"] == "aind-analysis-wrapper"
    assert row["record_name"] == document["name"]
    assert row["result_location"] == document["location"]
    assert row["code_url"] == process["code"]["url"]
    assert row["code_version"] == process["code"]["version"]
    assert row["schema_version"] == document["schema_version"]
    assert row["started_at"] == datetime.fromisoformat(process["start_date_time"] + "Z")
    assert row["finished_at"] == datetime.fromisoformat(process["end_date_time"] + "Z")
    assert row["duration_seconds"] == 6.0
    assert row["outcome"] == "unknown"
    assert row["session_key"] is row["agent_alias"] is row["aic"] is None
    assert rows(
        warehouse, "SELECT position, url FROM input_assets WHERE record_id = ?", document["_id"]
    ) == [{"position": 0, "url": process["code"]["input_data"][0]["url"]}]
    assert row["input_asset_url"] == process["code"]["input_data"][0]["url"]


def test_parameters_of_another_project_are_attributes(documents, warehouse):
    (document,) = documents[EXAMPLE]
    found = {
        row["path"]: row["value_number"]
        for row in rows(
            warehouse,
            "FROM attributes WHERE record_id = ? AND section = 'parameters'",
            document["_id"],
        )
    }
    parameters = document["processing"]["data_processes"][0]["code"]["parameters"]
    in_columns = {"analysis_name", "analysis_tag"}
    assert found == {name: parameters[name] for name in parameters.keys() - in_columns}
    assert "isi_violations_cutoff" in found


def test_a_record_of_which_only_scalars_are_known_has_them_in_either_format(documents, warehouse):
    old, new = documents[FITTING][3:]
    outputs = new["processing"]["data_processes"][0]["output_parameters"]
    for document, fit, expected in (
        (old, old["analysis_results"], ("prototype", "744040_2024-12-09_13-30-23")),
        (new, outputs["fitting_results"], ("framework", "781575_2025-07-14_21-41-11")),
    ):
        row = analysis(warehouse, document["_id"])
        assert (row["pipeline_format"], row["session_key"]) == expected
        assert row["outcome"] == "success"
        assert row["agent_alias"] == fit["fit_settings"]["agent_alias"]
        for column in ("log_likelihood", "aic", "bic", "n_trials", "prediction_accuracy"):
            assert row[column] == fit[METRICS[column]]
    assert analysis(warehouse, new["_id"])["nwb_name"] == outputs["nwb_name"]
    started = datetime(2026, 1, 10, 4, 7, 11, tzinfo=UTC)
    assert analysis(warehouse, new["_id"])["started_at"] == started


def test_the_view_mle_fitting_has_the_columns_of_get_mle_model_fitting(fits, warehouse):
    found = rows(warehouse, "FROM mle_fitting WHERE subject_id = '730945'")
    assert {row["agent_alias"]: row["_id"] for row in found} == {
        alias: one["_id"] for alias, one in fits.items()
    }
    for row in found:
        fit = fits[row["agent_alias"]]["analysis_results"]
        assert row["params"] == fit["params"]
        assert row["AIC"] == fit["AIC"]
        folds = fit.get("cross_validation") or {}
        assert row["prediction_accuracy_test"] == folds.get("prediction_accuracy_test")
        assert row["pipeline_source"] == "han's analysis pipeline"


def test_the_best_agent_of_the_session_is_the_one_with_the_lowest_criterion(warehouse):
    found = rows(
        warehouse,
        "FROM best_models WHERE session_key = '730945_2024-10-24_17-38-06' AND criterion = 'aic'",
    )
    assert [row["agent_alias"] for row in found] == ["QLearning_L2F1_softmax"]
