"""Dagster's page and daemon on this machine, for ``aind-etl dev``."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import IO

import dagster as dg

_POLL_SECONDS = 2.0
_ENDING_SECONDS = 30.0
_RECORD = re.compile(r"^(\x1b\[\d+m)*\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\S*")
_MATTERS = re.compile(r" - (WARNING|ERROR|CRITICAL) - ")
_WORDS = {
    dg.DagsterRunStatus.STARTED: "started",
    dg.DagsterRunStatus.SUCCESS: "succeeded",
    dg.DagsterRunStatus.FAILURE: "failed; the page shows why",
    dg.DagsterRunStatus.CANCELED: "canceled",
}


def serve(
    port: int, environment: Mapping[str, str], say: Callable[[str], None], *, verbose: bool
) -> int:
    """Serve the page until it is interrupted.

    Parameters
    ----------
    port
        Port of the page.
    environment
        The environment of Dagster's processes.
    say
        Receives each run that starts or ends, and the warnings and errors of Dagster.
    verbose
        Whether Dagster's whole output is printed as it comes instead.

    Returns
    -------
    int
        0 after an interrupt, else the exit code of Dagster.
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
        is_ending = threading.Event()
        if process.stdout is not None:
            arguments = (process.stdout, say, is_ending)
            threading.Thread(target=_filter, args=arguments, daemon=True).start()
        try:
            with dg.DagsterInstance.get() as instance:
                runs = _Runs(instance)
                while process.poll() is None:
                    with suppress(subprocess.TimeoutExpired):
                        process.wait(_POLL_SECONDS)
                    if not verbose:
                        runs.report(say)
        except KeyboardInterrupt:
            is_ending.set()
            _end(process)
            return 0
        return process.returncode


def _end(process: "subprocess.Popen[str]") -> None:
    """Let Dagster end; a terminal has interrupted it already."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_ENDING_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _filter(output: IO[str], say: Callable[[str], None], is_ending: threading.Event) -> None:
    """Pass on the records of warnings and errors, each with the lines that belong to it.

    What Dagster says of an interrupt is not passed on.
    """
    matters = True
    with suppress(ValueError):  # The output was closed.
        for line in output:
            if _RECORD.match(line):
                matters = bool(_MATTERS.search(line))
            if matters and line.strip() and not is_ending.is_set():
                say(line.rstrip())


class _Runs:
    """Tells which runs started or ended since the last time it was asked."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self._instance = instance
        self._since = datetime.now(UTC)
        self._told: set[tuple[str, dg.DagsterRunStatus]] = set()

    def report(self, say: Callable[[str], None]) -> None:
        """Say what happened."""
        records = self._instance.get_run_records(
            dg.RunsFilter(updated_after=self._since), ascending=True
        )
        for record in records:
            run = record.dagster_run
            known = (run.run_id, run.status)
            if run.status in _WORDS and known not in self._told:
                self._told.add(known)
                of = run.tags.get("dagster/partition")
                name = f"{run.job_name} of {of}" if of else run.job_name
                say(f"{datetime.now().astimezone():%H:%M:%S} {name}: {_WORDS[run.status]}")
