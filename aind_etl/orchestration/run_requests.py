"""Run requests of the sensors: attempts, the pauses between them, and the runs in flight."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from aind_etl.changelog.staleness import StaleCollection
from aind_etl.orchestration.jobs import REFRESH_COLLECTION
from aind_etl.orchestration.partitions import partition_key, partition_of
from aind_etl.orchestration.runs import PARTITION_TAG, UNFINISHED, updated_at

BATCH_TAG = "aind_etl/batch"
"""The tag of a run that identifies the content it loads; all attempts at it share it."""
ATTEMPT_TAG = "aind_etl/attempt"
"""The tag with the number of an attempt, from the second on."""
REASON_TAG = "aind_etl/reason"
"""The tag with the reason for a run."""
LONGEST_PAUSE = timedelta(hours=2)
"""The longest pause between two attempts."""

_FIRST_PAUSE = timedelta(minutes=1)
_MOST_DOUBLINGS = 20
_REASON_LENGTH = 200


def pause_after(attempts: int) -> timedelta:
    """Return the pause after a number of failed attempts, which doubles each time."""
    doublings = min(attempts, _MOST_DOUBLINGS) - 1
    return min(_FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE)


def next_attempt(
    instance: dg.DagsterInstance, stale: StaleCollection, now: datetime
) -> tuple[int, timedelta]:
    """Return the number of the next attempt to load a content, and how long to wait before it.

    An earlier attempt counts even if it succeeded: the lake lacks the content all the same.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={BATCH_TAG: stale.identity}))
    if not records:
        return 1, timedelta(0)
    attempts = max(int(record.dagster_run.tags.get(ATTEMPT_TAG, "1")) for record in records)
    ended = max(
        datetime.fromtimestamp(record.end_time, UTC) if record.end_time else updated_at(record)
        for record in records
    )
    return attempts + 1, ended + pause_after(attempts) - now


def run_request(stale: StaleCollection, attempt: int, **options: Any) -> dg.RunRequest:  # noqa: ANN401 - Dagster's types
    """Return the request of an attempt, with further options of :class:`dagster.RunRequest`."""
    tags = {BATCH_TAG: stale.identity, REASON_TAG: stale.reason[:_REASON_LENGTH]}
    if attempt > 1:
        tags[ATTEMPT_TAG] = str(attempt)
    # Dagster ignores a request whose key was used before, even if that run failed.
    key = f"{key_of(stale)}:{stale.identity}:{attempt}"
    return dg.RunRequest(run_key=key, tags=tags, **options)


def key_of(stale: StaleCollection) -> str:
    """Return the key of the partition that is stale."""
    return partition_key(stale.collection, stale.shard)


def partitions_in_flight(instance: dg.DagsterInstance) -> set[str]:
    """Return the partitions with an unfinished run."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    tags = (record.dagster_run.tags.get(PARTITION_TAG) for record in records)
    return {tag for tag in tags if tag is not None}


def failed_partitions(instance: dg.DagsterInstance, since: datetime) -> Iterator[StaleCollection]:
    """Yield the partitions whose last run failed since a time.

    Their documents may be in the lake, but their result folders may not have been read.
    """
    failed = instance.get_run_records(
        dg.RunsFilter(
            job_name=REFRESH_COLLECTION, statuses=[dg.DagsterRunStatus.FAILURE], created_after=since
        )
    )
    for key in {record.dagster_run.tags.get(PARTITION_TAG) for record in failed} - {None}:
        of_partition = dg.RunsFilter(job_name=REFRESH_COLLECTION, tags={PARTITION_TAG: str(key)})
        [last] = instance.get_run_records(of_partition, limit=1)
        run = last.dagster_run
        if run.status is dg.DagsterRunStatus.FAILURE:
            collection, shard = partition_of(str(key))
            identity = run.tags.get(BATCH_TAG, run.run_id)
            yield StaleCollection(collection, identity, "its last run failed", shard)
