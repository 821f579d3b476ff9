"""Runs whose process has died are missed: a real code location, killed under a real run."""

import json
import runpy
import signal
import subprocess
import sys
import textwrap
import time

import dagster as dg
import pytest
from containers import end_group, free_port, wait_until
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from monitoring import monitor

from aind_etl.orchestration.launcher import WatchfulRunLauncher

CODE = """
    import time
    import dagster as dg

    @dg.op
    def sleeps():
        time.sleep(600)

    @dg.job(executor_def=dg.in_process_executor)
    def night():
        sleeps()

    defs = dg.Definitions(jobs=[night])
"""


@pytest.fixture
def instance(new_history):
    """Return an instance whose runs, in vain, are waited for five minutes."""
    ours = {
        "module": "aind_etl.orchestration.launcher",
        "class": "WatchfulRunLauncher",
        "config": {"patience_seconds": 300},
    }
    overrides = {"run_launcher": ours, "run_monitoring": {"enabled": True}}
    with dg.DagsterInstance.local_temp(str(new_history), overrides) as instance:
        yield instance


@pytest.fixture
def location(tmp_path):
    location = Location(tmp_path)
    location.start()
    yield location
    location.kill()


class Location:
    """A code location with one job, which does not end."""

    def __init__(self, folder):
        self._file = folder / "location.py"
        self._file.write_text(textwrap.dedent(CODE))
        self._log = folder / "location.log"
        self._port = free_port()
        self._client = DagsterGrpcClient(host="127.0.0.1", port=self._port)
        self.processes = []

    def start(self):
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "dagster", "api", "grpc", "--python-file", self._file]
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self._port)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)

        def answers():
            assert process.poll() is None, self._log.read_text()
            return self._client.health_check_query() == "SERVING"

        wait_until(answers, 120, self._log.read_text)

    def kill(self):
        """Kill it together with its runs."""
        while self.processes:
            end_group(self.processes.pop(), signal.SIGKILL)

    def launch(self, instance):
        """Start a run, and return it once it is under way."""
        origin = GrpcServerCodeLocationOrigin("127.0.0.1", self._port, location_name="nights")
        run = instance.create_run_for_job(
            runpy.run_path(str(self._file))["night"],
            remote_job_origin=RemoteRepositoryOrigin(origin, "__repository__").get_job_origin(
                "night"
            ),
        )
        WatchfulRunLauncher.launch_run_from_grpc_client(instance, run, self._client)

        def under_way():
            found = instance.get_run_by_id(run.run_id)
            return found if found.status is dg.DagsterRunStatus.STARTED else None

        return wait_until(under_way, 120, self._log.read_text)


STARTED, FAILURE = [dg.DagsterRunStatus.STARTED], [dg.DagsterRunStatus.FAILURE]


@pytest.mark.slow
def test_a_run_is_missed_once_its_code_location_was_killed_under_it(instance, location):
    location.launch(instance)
    now = time.time()
    assert monitor(instance, now) == STARTED
    assert monitor(instance, now + 3600) == STARTED, "a run may take as long as it takes"
    location.kill()
    assert monitor(instance, now + 4000) == STARTED, "one look is not enough"
    assert monitor(instance, now + 4299) == STARTED
    location.start()
    assert monitor(instance, now + 4301) == FAILURE, "the new one does not know the run"


@pytest.mark.slow
def test_a_run_is_missed_where_nobody_takes_the_place_of_its_code_location(instance, location):
    run = location.launch(instance)
    location.kill()
    now = time.time() + 1000
    assert monitor(instance, now) == STARTED
    assert monitor(instance, now + 301) == FAILURE
    [event] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "NOT_FOUND" in event.dagster_event.message


def test_a_run_that_writes_events_lives(instance):
    """As one whose code location has loaded its code anew, and does not know it any more."""
    nobody = json.dumps({"host": "127.0.0.1", "port": free_port()})
    run = instance.create_run_for_job(
        dg.GraphDefinition("empty").to_job(),
        status=dg.DagsterRunStatus.STARTED,
        tags={GRPC_INFO_TAG: nobody},
    )
    now = time.time()
    assert monitor(instance, now - 1000) == STARTED
    instance.report_engine_event("a batch was written", run)
    assert monitor(instance, now + 290) == STARTED
    assert monitor(instance, now + 400) == FAILURE


def test_a_run_of_the_command_line_is_left_alone(instance):
    """It belongs to no code location; nobody can be asked."""
    instance.create_run_for_job(
        dg.GraphDefinition("empty").to_job(), status=dg.DagsterRunStatus.STARTED
    )
    now = time.time()
    assert monitor(instance, now) == STARTED
    assert monitor(instance, now + 3600) == STARTED
