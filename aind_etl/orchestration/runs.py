"""Runs on record: their names, their states, and the last one that failed."""

import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

PARTITION_TAG = "dagster/partition"
"""Dagster's tag for the partition of a run."""
UNFINISHED = (
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
)
"""The states of a run that has not finished."""

_CHECKED_RUNS = 20


def run_name(run: dg.DagsterRun) -> str:
    """Return the job of a run and its partition, such as ``refresh_collection of x``."""
    partition = run.tags.get(PARTITION_TAG)
    return f"{run.job_name} of {partition}" if partition else run.job_name


def updated_at(record: dg.RunRecord) -> datetime:
    """Return when a run last changed."""
    return record.update_timestamp.replace(tzinfo=UTC)


def last_failed_run(home: Path) -> str:
    """Return the name and time of the last run that failed without a later success.

    It is a phrase that ends in a comma, and empty if the Dagster instance has no such run.
    """
    os.environ["DAGSTER_HOME"] = str(home.absolute())
    with dg.DagsterInstance.get() as instance:
        failed = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])
        for record in instance.get_run_records(failed, limit=_CHECKED_RUNS):
            run = record.dagster_run
            partition = run.tags.get(PARTITION_TAG)
            later_success = dg.RunsFilter(
                job_name=run.job_name,
                tags={PARTITION_TAG: partition} if partition else {},
                statuses=[dg.DagsterRunStatus.SUCCESS],
                created_after=record.create_timestamp,
            )
            if not instance.get_run_records(later_success, limit=1):
                created = record.create_timestamp.astimezone(UTC)
                return f"{run_name(run)}, {created:%Y-%m-%d %H:%M} UTC,"
    return ""
