"""Runs executed by Celery's workers, and failures of workers, broker and store."""

import os
import signal
import time
from contextlib import contextmanager
from datetime import timedelta
from zlib import crc32

import dagster as dg
import pytest
from cluster import PARTITION, WORKERS, running_cluster
from containers import servers_or_skip, wait_until
from mongod import failing
from result_endpoint import error
from worlds import MAIN, assert_same, contents_of

from aind_etl.changelog.passes import Pass
from aind_etl.changelog.staleness import find_stale_collections
from aind_etl.client.verify import verify_warehouse
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import REFRESH_COLLECTION, pass_config
from aind_etl.orchestration.partitions import make_partitions
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.runs import UNFINISHED
from aind_etl.settings import load_settings
from aind_etl.warehouse.build import is_current

pytestmark = pytest.mark.slow

DOCUMENTS = int(os.environ.get("AIND_ETL_TEST_DOCUMENTS", "1000"))
PARTITION_DOCUMENTS = os.environ.get("AIND_ETL_TEST_PARTITION_DOCUMENTS", "300")
DOCUMENTS_A_SESSION = 22
AN_HOUR = 3600


@contextmanager
def started(folder, services, **choices):
    """Yield a cluster with some of its services; skip the test if a server is not available."""
    with servers_or_skip(), running_cluster(folder, **choices) as made:
        for name in services:
            made.start(name)
        yield made


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Yield a cluster with three workers and no daemon."""
    with started(tmp_path_factory.mktemp("cluster"), WORKERS, sessions=2) as made:
        yield made


@pytest.fixture
def instance(cluster, monkeypatch):
    """Return the instance of the workers."""
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.get() as instance:
        yield instance


def test_three_workers_load_what_one_process_loads(cluster, instance, tmp_path):
    """Although the store refuses some requests and the broker is restarted."""
    names = sorted(cluster.client["analysis"].list_collection_names())
    make_partitions(instance, {name: [name] for name in names})
    cluster.store.faults = lambda path, times: (
        error(503, "SlowDown") if times == 0 and crc32(path.encode()) % 3 == 0 else None
    )
    runs = [cluster.launch(instance, REFRESH_COLLECTION, name) for name in names[:3]]
    cluster.wait_for_workers()
    begun = {dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.SUCCESS}
    wait_until(
        lambda: all(instance.get_run_by_id(run).status in begun for run in runs), 240, cluster.said
    )
    cluster.broker.end(signal.SIGKILL)
    cluster.broker.start()
    runs += [cluster.launch(instance, REFRESH_COLLECTION, name) for name in names[3:]]
    ended = [cluster.wait_for_run(instance, run) for run in runs]
    assert ended == ["SUCCESS"] * len(names), errors_of(instance)
    assert len(cluster.makers()) > 1
    for worker in WORKERS:
        assert "concurrency: 1 (prefork)" in cluster.containers.said(worker)
    assert_same(timeless(cluster.lake), timeless(loaded_alone(names, tmp_path / "alone")))


def loaded_alone(names, folder):
    """Return a lake that this process has loaded from the same source."""
    etl = Etl(load_settings(lake=folder, partition_documents=10**9))
    refresh = build_defs(etl).resolve_job_def(REFRESH_COLLECTION)
    with dg.DagsterInstance.ephemeral() as instance:
        make_partitions(instance, {name: [name] for name in names})
        for name in names:
            refresh.execute_in_process(
                instance=instance, partition_key=name, run_config=pass_config(Pass.NEW)
            )
    return etl.lake


def errors_of(instance):
    """Return the errors of failed runs."""
    return [
        (entry.user_message, str(getattr(entry.dagster_event.event_specific_data, "error", "")))
        for run in instance.get_runs()
        for kind in (dg.DagsterEventType.RUN_FAILURE, dg.DagsterEventType.STEP_FAILURE)
        for entry in instance.all_logs(run.run_id, of_type=kind)
    ]


def timeless(lake):
    """Return the contents of a lake without the times of checks."""
    return {name: rows.drop("checked_at", strict=False) for name, rows in contents_of(lake).items()}


@pytest.mark.long
def test_a_cancelled_run_ends_and_its_worker_accepts_another(cluster, instance):
    cluster.wait_for_workers()
    make_partitions(instance, {MAIN: [MAIN]})
    with failing(cluster.client, "find", times=None, blockConnection=True, blockTimeMS=60_000):
        run = cluster.launch(instance, REFRESH_COLLECTION, MAIN)
        begun = dg.DagsterEventType.STEP_START
        wait_until(lambda: instance.all_logs(run, of_type=begun), 120, cluster.said)
        assert instance.run_launcher.terminate(run)
        # Dagster's launcher for Celery does not note that somebody asked for the end.
        assert cluster.wait_for_run(instance, run) == "FAILURE"
    runs = [cluster.launch(instance, REFRESH_COLLECTION, MAIN) for _ in WORKERS]
    assert "SUCCESS" in [cluster.wait_for_run(instance, run) for run in runs]


@pytest.mark.long
def test_whatever_goes_wrong_the_tables_are_those_of_one_process(tmp_path, monkeypatch):
    """A worker is killed during a run, the broker is killed, the store does not answer."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    services = ("code", *WORKERS)
    sessions = max(2, DOCUMENTS // DOCUMENTS_A_SESSION)
    variables = {
        "AIND_ETL_SENSOR_INTERVAL_SECONDS": "5",
        "AIND_ETL_PARTITION_DOCUMENTS": PARTITION_DOCUMENTS,
    }
    with started(folder, services, sessions=sessions, **variables) as cluster:
        for name, value in cluster.environment().items():
            monkeypatch.setenv(name, value)
        cluster.containers.wait_for_health("code")
        cluster.wait_for_workers()
        with dg.DagsterInstance.get() as instance:
            cluster.start("daemon")
            killed = kill_a_worker(cluster, instance)
            lose_the_broker(cluster)
            lose_the_store(cluster, instance)
            wait_until(
                lambda: is_settled(cluster, instance),
                AN_HOUR,
                lambda: explanation(cluster, instance),
            )
            [failure] = instance.all_logs(killed, of_type=dg.DagsterEventType.RUN_FAILURE)
            assert "was killed" in failure.dagster_event.message
        names = sorted(cluster.client["analysis"].list_collection_names())
        assert_same(timeless(cluster.lake), timeless(loaded_alone(names, tmp_path / "alone")))
        assert list(verify_warehouse(cluster.lake, load_settings().warehouse_path)) == []


def kill_a_worker(cluster, instance):
    """Kill a worker that has written a part of a partition, and start another."""

    def half_done():
        runs = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return next(
            (
                (run.run_id, worker)
                for run in runs
                if run.tags.get(PARTITION, "").startswith(MAIN)
                and (worker := cluster.worker_of(instance, run.run_id))
                and cluster.lake.storage.files(f"documents/collection={MAIN}", ".parquet")
            ),
            None,
        )

    run, worker = wait_until(half_done, AN_HOUR, lambda: explanation(cluster, instance))
    cluster.end(worker, signal.SIGKILL)
    cluster.start(worker)
    return run


def lose_the_broker(cluster):
    """Kill the broker, and restart it after ten seconds."""
    cluster.broker.end(signal.SIGKILL)
    time.sleep(10)
    cluster.broker.start()


def lose_the_store(cluster, instance):
    """Make the store refuse requests for longer than they are retried."""
    asked = len(cluster.store.requests)
    cluster.store.faults = lambda _path, _times: error(503, "ServiceUnavailable")
    wait_until(
        lambda: len(cluster.store.requests) > asked + 5, 600, lambda: explanation(cluster, instance)
    )
    time.sleep(30)
    cluster.store.faults = lambda _path, _times: None


def is_settled(cluster, instance):
    """Return whether lake and warehouse are up to date and no run is unfinished."""
    time.sleep(3)
    if instance.get_runs_count(dg.RunsFilter(statuses=list(UNFINISHED))):
        return False
    etl = Etl(load_settings())
    with etl.open_source() as source:
        arrivals = find_stale_collections(
            source,
            etl.lake,
            etl.settings.choose,
            most_documents=etl.settings.partition_documents,
            within=timedelta(minutes=1),
        )
    return not arrivals.stale and is_current(etl.lake, etl.settings.warehouse_path)


def explanation(cluster, instance):
    """Return the states of runs and the output of the processes."""
    runs = [f"{run.job_name} {run.tags.get(PARTITION)} {run.status}" for run in instance.get_runs()]
    return "\n".join([cluster.said(), *runs])
