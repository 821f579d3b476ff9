"""Runs of the command ``aind-etl run``, of which no code location knows.

Here belongs how they are told from others, and how it is noticed that their process was killed:
they hold a lock on their lake for as long as they live. Where that lock is free, on whichever
machine one looks, none of them lives.
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager

import dagster as dg
from dagster._core.storage.tags import MAX_RETRIES_TAG

from aind_etl.errors import DataError
from aind_etl.lake import Lake

COMMAND_TAG = "aind_etl/command_on"
"""Tag of a run of the command: its lake."""
IN_FLIGHT = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""How a run may stand that is not over."""


def command_lock(lake: Lake) -> AbstractContextManager[None]:
    """Hold the lock of the one command that may run on a lake.

    Raises
    ------
    DataError
        Another one holds it.
    """
    return lake.storage.lock("run", f"the lake {lake}")


def command_tags(lake: Lake) -> dict[str, str]:
    """Return the tags of a run of the command."""
    # The daemon cannot start again what no code location has started.
    return {COMMAND_TAG: str(lake), MAX_RETRIES_TAG: "0"}


def end_killed_commands(instance: dg.DagsterInstance, lake: Lake) -> list[str]:
    """Mark the runs of commands that were killed as failed, and return their ids."""
    # Looked for before the lock is tried: a command that begins in between is not among them.
    unfinished = _unfinished(instance, lake)
    if not unfinished:
        return []
    try:
        with command_lock(lake):
            # One that has come to its end meanwhile is not among those any more.
            still = {run.run_id for run in _unfinished(instance, lake)}
            return _end(instance, [run for run in unfinished if run.run_id in still])
    except DataError:
        return []  # The command lives.


def end_earlier_commands(instance: dg.DagsterInstance, lake: Lake) -> list[str]:
    """Do the same where the caller holds the lock, and has begun no run yet."""
    return _end(instance, _unfinished(instance, lake))


def _unfinished(instance: dg.DagsterInstance, lake: Lake) -> list[dg.DagsterRun]:
    return list(
        instance.get_runs(dg.RunsFilter(tags={COMMAND_TAG: str(lake)}, statuses=list(IN_FLIGHT)))
    )


def _end(instance: dg.DagsterInstance, runs: Iterable[dg.DagsterRun]) -> list[str]:
    ended = []
    for run in runs:
        instance.report_run_failed(
            run, "The process of 'aind-etl run' was killed. What it had written stays; run again."
        )
        ended.append(run.run_id)
    return ended
