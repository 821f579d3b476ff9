"""Runs made by Celery's workers: real servers, real workers, and what goes wrong between them."""

import signal
from zlib import crc32

import dagster as dg
import pytest
from cluster import WORKERS, running_cluster
from mongod import NoMongodError
from postgresql import NoPostgresqlError
from redis_server import NoRedisError
from result_endpoint import error
from worlds import assert_same, contents_of

from aind_etl.errors import ConfigurationError
from aind_etl.extract import Pass
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import REFRESH_COLLECTION, pass_config
from aind_etl.orchestration.launcher import LauncherOfTheSettings, WatchfulRunLauncher
from aind_etl.orchestration.partitions import add_partitions
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import load_settings

UNAVAILABLE = (NoMongodError, NoPostgresqlError, NoRedisError)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Give the parts, with three workers that start."""
    folder = tmp_path_factory.mktemp("cluster")
    try:
        running = running_cluster(folder, sessions=2)
        made = running.__enter__()
    except UNAVAILABLE as problem:
        pytest.skip(str(problem))
    try:
        for name in WORKERS:
            made.start(name)
        yield made
    finally:
        running.__exit__(None, None, None)


@pytest.fixture
def instance(cluster, monkeypatch):
    """Return the instance of the workers."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


@pytest.mark.slow
def test_three_workers_load_what_one_process_loads(cluster, instance, tmp_path):
    """Whatever the store refuses now and then, and though the broker is started anew meanwhile."""
    names = sorted(cluster.client["analysis"].list_collection_names())
    add_partitions(instance, names)
    cluster.store.faults = lambda path, times: (
        error(503, "SlowDown") if times == 0 and crc32(path.encode()) % 3 == 0 else None
    )
    runs = [cluster.launch(instance, REFRESH_COLLECTION, name) for name in names[:3]]
    cluster.wait_for_workers()
    cluster.broker.end(signal.SIGKILL)
    cluster.broker.start()
    runs += [cluster.launch(instance, REFRESH_COLLECTION, name) for name in names[3:]]
    assert [cluster.wait_for_run(instance, run) for run in runs] == ["SUCCESS"] * len(names)
    assert len(cluster.makers()) > 1
    assert_same(said_by(cluster.lake), said_by(loaded_alone(names, tmp_path / "alone")))


def loaded_alone(names, folder):
    """Return a lake on a disk that this process has loaded from the same source."""
    etl = Etl(load_settings(lake=folder))
    refresh = build_defs({"etl": etl}).resolve_job_def(REFRESH_COLLECTION)
    with dg.DagsterInstance.ephemeral() as instance:
        add_partitions(instance, names)
        for name in names:
            refresh.execute_in_process(
                instance=instance, partition_key=name, run_config=pass_config(Pass.NEW)
            )
    return etl.lake


def said_by(lake):
    """Return what a lake says, but not when it was looked at."""
    return {name: rows.drop("checked_at", strict=False) for name, rows in contents_of(lake).items()}


def choose_launcher(monkeypatch, engine, **more):
    monkeypatch.setenv("AIND_ETL_ENGINE", engine)
    for name, value in more.items():
        monkeypatch.setenv(name, value)
    return LauncherOfTheSettings.from_config_value(None, {"patience_seconds": 7})


@pytest.mark.parametrize("engine", ["process", "multiprocess"])
def test_on_one_machine_runs_are_processes_of_the_code_location(monkeypatch, engine):
    assert isinstance(choose_launcher(monkeypatch, engine), WatchfulRunLauncher)


def test_celery_needs_the_address_of_a_broker(monkeypatch):
    with pytest.raises(ConfigurationError, match="AIND_ETL_CELERY_BROKER_URL is not set"):
        choose_launcher(monkeypatch, "celery")


def test_kubernetes_needs_the_instance_of_the_chart(monkeypatch):
    with pytest.raises(ConfigurationError, match="Helm chart"):
        choose_launcher(monkeypatch, "kubernetes")
