"""What makes the steps of a run: chosen by a setting, and the same tables whatever it is."""

import subprocess
import sys

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.definitions.reconstruct import ReconstructableRepository
from worlds import MAIN, assert_same, contents_of

from aind_etl.lake import Lake
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import REFRESH_COLLECTION
from aind_etl.orchestration.partitions import make_partitions
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import Engine, load_settings

NAMES = {
    Engine.PROCESS: "in_process",
    Engine.MULTIPROCESS: "multiprocess",
    Engine.CELERY: "in_process",
    Engine.KUBERNETES: "k8s",
}
LOOK = """
import sys
import aind_etl.orchestration.instance, aind_etl.orchestration.launcher
import aind_etl.orchestration.location, aind_etl.orchestration.storage
print(sorted({"celery", "dagster_celery", "dagster_k8s", "kubernetes"} & sys.modules.keys()))
"""


@pytest.mark.parametrize("engine", Engine)
def test_every_job_is_made_by_the_engine_of_the_settings(engine, tmp_path):
    settings = load_settings(engine=engine, lake=tmp_path)
    definitions = build_defs({"etl": Etl(settings)})
    made_by = {
        definitions.resolve_job_def(job.name).executor_def.name
        for job in definitions.resolve_all_job_defs()
    }
    assert made_by == {NAMES[engine]}


def test_on_one_machine_nothing_of_other_engines_is_imported():
    found = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.long
def test_a_process_a_step_makes_the_tables_of_one_process(built, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    settings = {"SOURCE": built.source, "LAKE": tmp_path / "lake", "ENGINE": "multiprocess"}
    for name, value in settings.items():
        monkeypatch.setenv(f"AIND_ETL_{name}", str(value))
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    pointer = ModuleCodePointer("aind_etl.orchestration.location", "defs")
    job = ReconstructableRepository(pointer).get_reconstructable_job(REFRESH_COLLECTION)
    with dg.DagsterInstance.get() as instance:
        make_partitions(instance, {MAIN: [MAIN]})
        result = dg.execute_job(
            job,
            instance,
            tags={"dagster/partition": MAIN},
        )
        started = [
            event
            for event in instance.all_logs(result.run_id)
            if event.dagster_event_type is dg.DagsterEventType.STEP_WORKER_STARTED
        ]
    assert result.success
    assert len(started) == len(result.get_step_success_events())
    assert_same(*(flattened(lake) for lake in (Lake(tmp_path / "lake"), built.lake)))


def flattened(lake):
    """Return what a lake says of one collection, but not of result folders."""
    tables = {"documents", "analyses", "attributes", "fit_parameters", "rejected_documents"}
    return {
        name: rows.filter(source_collection=MAIN)
        for name, rows in contents_of(lake).items()
        if name in tables
    }
