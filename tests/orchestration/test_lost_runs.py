"""Runs that lost their process are marked as failed."""

import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from textwrap import dedent

import dagster as dg
import pytest
from containers import wait_until

from aind_etl.lake import Lake
from aind_etl.orchestration.lost_runs import COMMAND_TAG, fail_lost_runs
from aind_etl.orchestration.steps import run_lock

SILENT = timedelta(minutes=2)
STARTED, FAILURE = dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.FAILURE
PROCESS = """
    import sys, time
    import dagster as dg
    from aind_etl.orchestration.resources import Etl
    from aind_etl.orchestration.steps import step
    from aind_etl.settings import load_settings

    @dg.op
    @step
    def sleeps(etl: dg.ResourceParam[Etl]):
        print("asleep", flush=True)
        time.sleep(600)
        yield dg.Output(None)

    @dg.job(resource_defs={"etl": dg.ResourceDefinition.hardcoded_resource(
        Etl(load_settings(lake=sys.argv[1]))
    )})
    def night():
        sleeps()

    with dg.DagsterInstance.local_temp(sys.argv[2]) as instance:
        night.execute_in_process(instance=instance)
"""


@pytest.fixture
def instance(new_history):
    with dg.DagsterInstance.local_temp(str(new_history)) as instance:
        yield instance


@pytest.fixture
def sleeper(lake, instance, new_history):
    """Return a process in the middle of a step of a run."""
    command = [sys.executable, "-c", dedent(PROCESS), str(lake), str(new_history)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as one:
        assert one.stdout.readline() == b"asleep\n"
        wait_until(lambda: instance.get_runs_count() == 1, 60, lambda: "no run")
        yield one
        one.kill()


def statuses(instance):
    return [run.status for run in instance.get_runs()]


def look(instance, lake, *, minutes, **more):
    at = datetime.now(UTC) + timedelta(minutes=minutes)
    return fail_lost_runs(instance, lake, now=at, silent_for=SILENT, **more)


def started_run(instance, **tags):
    job = dg.GraphDefinition("empty").to_job()
    return instance.create_run_for_job(job, status=STARTED, tags=tags)


def test_a_run_whose_process_was_killed_is_marked_as_failed_once(sleeper, instance, lake):
    assert look(instance, lake, minutes=60) == [], "a step may take any time"
    sleeper.send_signal(signal.SIGKILL)
    sleeper.wait()
    assert look(instance, lake, minutes=1) == [], "its last event is recent"
    [lost] = look(instance, lake, minutes=3)
    assert statuses(instance) == [FAILURE]
    [event] = instance.all_logs(lost, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "was killed" in event.dagster_event.message
    assert look(instance, lake, minutes=9) == [], "it is marked once"


def test_a_run_with_a_recent_event_is_alive(instance, lake):
    run = started_run(instance)
    instance.report_engine_event("a batch was written", run)
    assert look(instance, lake, minutes=1) == []
    assert look(instance, lake, minutes=3) == [run.run_id]


def test_a_run_is_alive_while_another_run_of_its_job_and_partition_is(instance, lake):
    run = started_run(instance)
    with run_lock(lake, run):
        assert look(instance, lake, minutes=60) == []
    assert look(instance, lake, minutes=60) == [run.run_id]


def test_a_run_that_waits_for_a_retry_is_alive(instance, lake):
    @dg.op(retry_policy=dg.RetryPolicy(max_retries=1, delay=0))
    def fails():
        raise RuntimeError

    @dg.job
    def retried():
        fails()

    done = retried.execute_in_process(instance=instance, raise_on_error=False)
    kinds = [event.event_type for event in done.all_events]
    assert dg.DagsterEventType.STEP_UP_FOR_RETRY in kinds
    run = started_run(instance)
    for event in done.all_events:
        if event.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY:
            instance.report_dagster_event(event, run_id=run.run_id)
    assert look(instance, lake, minutes=14) == []
    assert look(instance, lake, minutes=18) == [run.run_id]


def test_a_command_on_another_lake_is_ignored(instance, lake, tmp_path):
    started_run(instance, **{COMMAND_TAG: str(Lake(tmp_path / "another"))})
    assert look(instance, lake, minutes=60) == []
    mine = started_run(instance, **{COMMAND_TAG: str(lake)})
    assert look(instance, lake, minutes=60, tags={COMMAND_TAG: str(lake)}) == [mine.run_id]
