"""Runs whose process was killed: they are found, and marked as failed.

Every step holds a lock, which the system releases however its process ends (an object store's lease
runs out after a minute). A run that is unfinished in Dagster, has written no event for a while and
holds no lock has lost its process. This does not depend on how runs are launched, so it works the
same for processes, Celery workers and pods.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta

import dagster as dg

from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.orchestration.steps import run_lock

COMMAND_TAG = "aind_etl/command_on"
"""Tag of a run of ``aind-etl run``: its lake."""
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""The states of a run that is not finished."""

_LOST = (
    "The process of this run was killed: it holds no lock, and has written no event for a while. "
    "What it wrote is complete; the next run continues from there."
)
_LONGEST_RETRY_PAUSE = timedelta(minutes=15)


def command_lock(lake: Lake) -> AbstractContextManager[None]:
    """Hold the lock of the one command that may run on a lake.

    Raises
    ------
    DataError
        Another command holds it.
    """
    return lake.storage.lock("run", f"the lake {lake}")


def command_tags(lake: Lake) -> dict[str, str]:
    """Return the tags of a run of the command."""
    # Dagster's daemon cannot restart a run that no code location has started.
    return {COMMAND_TAG: str(lake), "dagster/max_retries": "0"}


def fail_lost_runs(
    instance: dg.DagsterInstance,
    lake: Lake,
    *,
    now: datetime,
    silent_for: timedelta,
    tags: Mapping[str, str] | None = None,
) -> list[str]:
    """Mark the runs that lost their process as failed, and return their ids.

    Parameters
    ----------
    instance, lake
        The runs, and the lake they work on.
    now
        The present time.
    silent_for
        How long a run that holds no lock may write no event. It must be longer than the pause
        between two steps.
    tags
        The tags of the runs to check; all runs where none are given.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=tags)
    lost = []
    for record in instance.get_run_records(started):
        run = record.dagster_run
        is_elsewhere = run.tags.get(COMMAND_TAG, str(lake)) != str(lake)
        if is_elsewhere or now - _silent_since(instance, record) < silent_for:
            continue
        try:
            with run_lock(lake, run):
                present = instance.get_run_by_id(run.run_id)
                if present is not None and not present.is_finished:
                    instance.report_run_failed(run, _LOST)
                    lost.append(run.run_id)
        except DataError:
            continue  # A process holds it: the run is alive.
    return lost


def _silent_since(instance: dg.DagsterInstance, record: dg.RunRecord) -> datetime:
    """Return since when a run should have written an event."""
    run_id = record.dagster_run.run_id
    events = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    if not events:
        return record.update_timestamp.replace(tzinfo=UTC)
    moment = datetime.fromtimestamp(events[0].timestamp, UTC)
    event = events[0].event_log_entry.dagster_event
    if event is not None and event.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY:
        return moment + _LONGEST_RETRY_PAUSE
    return moment
