"""Programs written for the public reader run on the warehouse after one line."""

import json
import os
import subprocess
import sys

import pytest

import aind_etl
from aind_etl.errors import AindEtlError

LINE = "import aind_etl; aind_etl.replace_public_reader()\n"
CLIENT = "from aind_data_access_api.document_db import MetadataDbClient\n"
PIPELINE = "from aind_analysis_arch_result_access.han_pipeline import get_logistic_regression\n"

# What the lab's explorer asks for, with its arguments.
EXPLORER = """
import json
import pandas as pd

query = {
    "$or": [
        {"session_date": {"$gte": "2026-01-01"}},
        {"processing.data_processes.output_parameters.session_date": {"$gte": "2026-01-01"}},
    ]
}
from aind_analysis_arch_result_access import get_mle_model_fitting
fits = get_mle_model_fitting(
    from_custom_query=query,
    if_include_metrics=True,
    if_include_latent_variables=False,
    if_download_figures=False,
    paginate_settings={"paginate": False},
)
params = pd.json_normalize(fits["params"].tolist(), sep=".").add_prefix("params.")
flat = fits.drop(columns=["params"]).join(params)
flat["subject_id"] = flat["subject_id"].astype(str)
flat["session_date"] = pd.to_datetime(flat["session_date"], errors="coerce")

from aind_analysis_arch_result_access.han_pipeline import get_session_table
sessions = get_session_table(if_load_bpod=False)
sessions["subject_id"] = sessions["subject_id"].astype(str)
sessions["session_date"] = pd.to_datetime(sessions["session_date"], errors="coerce")
sessions = sessions.rename(
    columns=lambda name: name if name in ("subject_id", "session_date") else f"df_session.{name}"
)
both = flat.merge(sessions, how="left", on=["subject_id", "session_date"])
print(json.dumps({
    "fits": len(fits),
    "with_session": int(both["df_session.foraging_eff"].notna().sum()),
    "columns": len(both.columns),
}))
"""

RECORDS = """
from aind_data_access_api.document_db import MetadataDbClient
client = MetadataDbClient(
    host="api.allenneuraldynamics.org",
    database="analysis",
    collection="dynamic-foraging-model-fitting",
)
records = client.retrieve_docdb_records(filter_query={"status": "success"}, projection=None,
                                        paginate=False)
some = client.retrieve_docdb_records(
    filter_query={"status": "success"}, projection={"nwb_name": 1}, limit=2, paginate=True,
    paginate_batch_size=10000,
)
print(json.dumps([len(records), sorted(records[0])[:2], [sorted(one) for one in some]]))
"""


def test_the_explorers_calls_and_those_of_the_databases_client_are_answered(world):
    done = subprocess.run(
        [sys.executable, "-c", LINE + EXPLORER + RECORDS],
        env=os.environ | {"AIND_ETL_WAREHOUSE": str(world / "warehouse.duckdb")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    explorer, (n_records, first, some) = map(json.loads, done.stdout.splitlines())
    assert explorer["fits"] > 20
    assert 0 < explorer["with_session"] <= explorer["fits"]
    assert explorer["columns"] > 90
    assert n_records > 100
    assert first == ["_id", "analysis_datetime"]
    assert some == [["_id", "nwb_name"], ["_id", "nwb_name"]]


@pytest.fixture
def _replaced(built, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the public reader in this process, until the test is over."""
    monkeypatch.setenv("AIND_ETL_WAREHOUSE", str(built.warehouse))
    reader, client = "aind_analysis_arch_result_access", "aind_data_access_api"
    names = [reader, f"{reader}.han_pipeline", f"{reader}.df_mle_model_fitting"]
    for name in [*names, client, f"{client}.document_db"]:
        monkeypatch.setitem(sys.modules, name, None)
    aind_etl.replace_public_reader()


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (
            CLIENT + "MetadataDbClient('host', database='metadata_index', collection='assets')",
            "holds the database 'analysis', not 'metadata_index'",
        ),
        (
            CLIENT + "MetadataDbClient('').retrieve_docdb_records(sort={'_id': 1})",
            "sort is not supported",
        ),
        (PIPELINE + "get_logistic_regression([], 'Su2022')", "holds no logistic regressions"),
        ("import aind_analysis_arch_result_access.util.s3", "No module named"),
    ],
)
@pytest.mark.usefixtures("_replaced")
def test_a_call_that_the_warehouse_cannot_answer_is_explained(program, words):
    with pytest.raises((AindEtlError, ModuleNotFoundError), match=words):
        exec(program)
