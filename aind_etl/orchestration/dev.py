"""The Dagster UI and daemon on this machine, started by ``aind-etl dev``."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO, TypeAlias

import dagster as dg

from aind_etl.orchestration.runs import run_name

_Event: TypeAlias = tuple[str, dg.DagsterRunStatus]

_POLL_SECONDS = 2.0
_SHUTDOWN_SECONDS = 30.0
_LOG_RECORD = re.compile(r"^(\x1b\[\d+m)*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*")
_PROBLEM = re.compile(r" - (WARNING|ERROR|CRITICAL) - ")
_WORDS = {
    dg.DagsterRunStatus.STARTED: "started",
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed; the page shows why",
    dg.DagsterRunStatus.CANCELED: "canceled",
}


def serve(
    port: int, environment: Mapping[str, str], say: Callable[[str], None], *, verbose: bool
) -> int:
    """Serve the Dagster UI, and return its exit code, or 0 after an interrupt.

    ``say`` is called with the start and end of each run, and with Dagster's warnings and errors;
    if ``verbose``, Dagster's whole output is printed instead.
    """
    module = "aind_etl.orchestration.location"
    command = [sys.executable, "-m", "dagster", "dev", "-m", module, "--port", str(port)]
    if not verbose:
        command += ["--log-level", "warning"]
    os.environ["DAGSTER_HOME"] = environment["DAGSTER_HOME"]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(  # noqa: S603 - our own interpreter
        command,
        env=dict(environment),
        stdout=None if verbose else subprocess.PIPE,
        stderr=None if verbose else subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        is_stopping = threading.Event()
        if process.stdout is not None:
            arguments = (process.stdout, say, is_stopping)
            threading.Thread(target=_report_problems, args=arguments, daemon=True).start()
        try:
            with dg.DagsterInstance.get() as instance:
                since, reported = datetime.now(UTC), set[_Event]()
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
                    if not verbose:
                        _report_runs(instance, since, reported, say)
        except KeyboardInterrupt:
            is_stopping.set()
            _stop(process)
            return 0
        return process.returncode


def _stop(process: "subprocess.Popen[str]") -> None:
    """Interrupt Dagster, and kill it if it does not end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_SHUTDOWN_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _report_problems(
    output: IO[str], say: Callable[[str], None], is_stopping: threading.Event
) -> None:
    """Report log records of warnings and errors with all their lines, until Dagster is stopped."""
    is_problem = True
    with suppress(ValueError):  # The output was closed.
        for line in output:
            if _LOG_RECORD.match(line):
                is_problem = bool(_PROBLEM.search(line))
            if is_problem and line.strip() and not is_stopping.is_set():
                say(line.rstrip())


def _report_runs(
    instance: dg.DagsterInstance, since: datetime, reported: set[_Event], say: Callable[[str], None]
) -> None:
    """Report the runs that have started or ended, and add them to those that were reported."""
    updated = dg.RunsFilter(updated_after=since)
    for record in instance.get_run_records(updated, ascending=True):
        run = record.dagster_run
        event = (run.run_id, run.status)
        if run.status in _WORDS and event not in reported:
            reported.add(event)
            time = f"{datetime.now().astimezone():%H:%M:%S}"
            say(f"{time} {run_name(run)}: {_WORDS[run.status]}")
