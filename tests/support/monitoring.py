"""A look of Dagster's monitoring at the runs, as the daemon takes one, at any moment."""

import logging
from types import SimpleNamespace
from unittest import mock

import dagster as dg
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration


def monitor(instance: dg.DagsterInstance, at: float) -> list[dg.DagsterRunStatus]:
    """Look at the runs once, at a moment; return how they stand."""
    context = SimpleNamespace(instance=instance, create_request_context=lambda: None)
    with mock.patch("time.time", return_value=at):
        problems = list(execute_run_monitoring_iteration(context, logging.getLogger("test")))
    assert not any(problems)
    return [run.status for run in instance.get_runs()]
