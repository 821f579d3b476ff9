"""Detection of runs whose process was killed, which are then marked as failed.

Every step holds a lock, which the operating system releases when its process ends (in an object
store, a lease expires after a minute). A started run that holds no lock and has written no event
for a while has lost its process. This works for every launcher: processes, Celery workers and pods.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg

from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.orchestration.runs import updated_at
from aind_etl.orchestration.steps import run_lock

COMMAND_TAG = "aind_etl/command_on"
"""The tag with the lake of a run of ``aind-etl run``."""

_LOST = (
    "The process of this run was killed: it holds no lock, and has written no event for a while. "
    "What it wrote is complete; the next run continues from there."
)
_LONGEST_RETRY_PAUSE = timedelta(minutes=15)


def command_tags(lake: Lake) -> dict[str, str]:
    """Return the tags of a run of ``aind-etl run``."""
    # Dagster's daemon can restart only runs that a code location has started.
    return {COMMAND_TAG: str(lake), "dagster/max_retries": "0"}


def fail_lost_runs(
    instance: dg.DagsterInstance,
    lake: Lake,
    *,
    now: datetime,
    silent_for: timedelta,
    tags: Mapping[str, str] | None = None,
) -> list[str]:
    """Mark runs that have lost their process as failed, and return their ids.

    A run without a lock is lost if its last event is older than ``silent_for``, which must be
    longer than the pause between two steps. Only runs with the given tags are checked.
    """
    started = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags=tags)
    lost = []
    for record in instance.get_run_records(started):
        run = record.dagster_run
        is_elsewhere = run.tags.get(COMMAND_TAG, str(lake)) != str(lake)
        if is_elsewhere or now - _silent_since(instance, record) < silent_for:
            continue
        # A run whose lock a process holds is alive.
        with suppress(DataError), run_lock(lake, run):
            present = instance.get_run_by_id(run.run_id)
            if present is not None and not present.is_finished:
                instance.report_run_failed(run, _LOST)
                lost.append(run.run_id)
    return lost


def _silent_since(instance: dg.DagsterInstance, record: dg.RunRecord) -> datetime:
    """Return the time of a run's last event, or the end of its pause before a retry."""
    run_id = record.dagster_run.run_id
    events = instance.get_records_for_run(run_id, limit=1, ascending=False).records
    if not events:
        return updated_at(record)
    moment = datetime.fromtimestamp(events[0].timestamp, UTC)
    event = events[0].event_log_entry.dagster_event
    if event is not None and event.event_type is dg.DagsterEventType.STEP_UP_FOR_RETRY:
        return moment + _LONGEST_RETRY_PAUSE
    return moment
