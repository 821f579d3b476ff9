"""The sensors: what is noticed without a hand, and what is asked for then.

- ``newly_finished_analyses`` asks for a pass over each collection that the lake is behind of, or
  that was not read in full for longer than a day, or whose last run failed.
- ``session_table_unread`` asks for the session table where it was never read, or not for a day.
- ``arrivals_are_in`` asks for a publication when the last run that brings something in has ended,
  and ``lake_ahead_of_warehouse`` where that was missed or the publication failed.
- ``failure_alerts`` tells people of runs and ticks that failed, and of a source that is away.

What they compare is the lake, the source and the runs on record. A cursor holds nothing that
would be missed: it, the names of the sensors and Dagster's whole storage may be lost.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import dagster as dg

from aind_etl.changelog.passes import Pass
from aind_etl.changelog.staleness import StaleCollection, find_stale_collections, overdue_full_pass
from aind_etl.errors import AindEtlError
from aind_etl.lake import Lake
from aind_etl.orchestration.alerts import SECONDS_BETWEEN_LOOKS, send_alerts
from aind_etl.orchestration.jobs import (
    pass_config,
    publish_warehouse,
    refresh_collection,
    refresh_sessions,
)
from aind_etl.orchestration.lost_runs import UNFINISHED, fail_lost_runs
from aind_etl.orchestration.partitions import (
    COLLECTIONS,
    new_and_stale,
    partition_key,
    partition_of,
    planned_partitions,
)
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import Settings
from aind_etl.sources.kinds import kind_of
from aind_etl.warehouse.build import is_current
from aind_etl.warehouse.info import read_info

BATCH_TAG = "aind_etl/batch"
"""Tag of a run: the same for every attempt to bring the same content in."""
ATTEMPT_TAG = "aind_etl/attempt"
"""Tag of a run: which attempt it is, from the second on."""
REASON_TAG = "aind_etl/reason"
"""Tag of a run: why it was asked for."""

ANSWER_WITHIN = timedelta(seconds=30)
"""How long a look at all collections may take; Dagster gives a tick 60 seconds."""
FULL_PASS_OVERDUE = timedelta(days=1, hours=2)
"""Age of the last full pass from which on a night was missed."""
PUBLISH_AT_LEAST_EVERY = timedelta(minutes=5)
"""How old the warehouse may become while collections keep arriving."""

SECONDS_BETWEEN_LOOKS_AT_RUNS = 2
"""How often Dagster looks for runs that have ended."""

_SECONDS_BETWEEN_LOOKS_AT_LAKE = 30
_ARRIVALS = (refresh_collection.name, refresh_sessions.name)
_SECONDS_BETWEEN_LOOKS_AT_SESSIONS = 60
_NOTED_EVERY = timedelta(minutes=5)
_FIRST_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=2)
_MOST_DOUBLINGS = 20
_LOST_AFTER_TICKS = 4
# Longer than a process takes to load the code and begin its first step.
_LOST_AFTER_LEAST_SECONDS = 30
_LOST_AFTER_SECONDS = 240
_REASON_LENGTH = 200
_PARTITION_TAG = "dagster/partition"


def pause_after(attempts: int) -> timedelta:
    """Return how long to wait after a number of attempts that failed: twice as long each time."""
    doublings = min(attempts, _MOST_DOUBLINGS) - 1
    return min(_FIRST_PAUSE * (1 << doublings), _LONGEST_PAUSE)


def all_sensors(settings: Settings) -> Sequence[dg.SensorDefinition]:
    """Return every sensor."""
    interval = seconds_between_looks(settings)

    @dg.sensor(
        name="newly_finished_analyses",
        job=refresh_collection,
        minimum_interval_seconds=interval,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a pass over each collection that the lake is behind of.",
    )
    def newly_finished_analyses(
        context: dg.SensorEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> dg.SensorResult | dg.SkipReason:
        return evaluate_source(context, etl, datetime.now(UTC))

    @dg.sensor(
        name="session_table_unread",
        job=refresh_sessions,
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS_AT_SESSIONS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for the session table where it was never read, or not for a day.",
    )
    def session_table_unread(
        context: dg.SensorEvaluationContext,
    ) -> dg.RunRequest | dg.SkipReason:
        return evaluate_session_table(context.instance, datetime.now(UTC))

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        name="arrivals_are_in",
        monitored_jobs=[refresh_collection, refresh_sessions],
        request_job=publish_warehouse,
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS_AT_RUNS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a publication when the last run that brings something in has ended.",
    )
    def arrivals_are_in(
        context: dg.RunStatusSensorContext, etl: dg.ResourceParam[Etl]
    ) -> dg.RunRequest | dg.SkipReason:
        return evaluate_lake(context.instance, etl, datetime.now(UTC))

    @dg.sensor(
        name="lake_ahead_of_warehouse",
        job=publish_warehouse,
        minimum_interval_seconds=_SECONDS_BETWEEN_LOOKS_AT_LAKE,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Asks for a publication that no run has asked for, or that has failed.",
    )
    def lake_ahead_of_warehouse(
        context: dg.SensorEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> dg.RunRequest | dg.SkipReason:
        now = datetime.now(UTC)
        if _has_just_ended(context.instance, now):
            return dg.SkipReason("A run has just ended; arrivals_are_in asks for what it brought.")
        return evaluate_lake(context.instance, etl, now)

    @dg.sensor(
        name="failure_alerts",
        minimum_interval_seconds=SECONDS_BETWEEN_LOOKS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Tells AIND_ETL_ALERT_WEBHOOK_URL of runs and ticks that failed.",
    )
    def failure_alerts(
        context: dg.SensorEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> dg.SkipReason:
        return dg.SkipReason(send_alerts(context, etl.settings, datetime.now(UTC)))

    return [
        newly_finished_analyses,
        session_table_unread,
        arrivals_are_in,
        lake_ahead_of_warehouse,
        failure_alerts,
    ]


def seconds_between_looks(settings: Settings) -> int:
    """Return how often the source is asked for what is new."""
    return settings.sensor_interval_seconds or kind_of(settings.source).seconds_between_looks


def evaluate_source(
    context: dg.SensorEvaluationContext, etl: Etl, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    """Return the passes that the source gives reason for, or why there are none.

    For each partition that the lake is behind of, or whose last run failed: a run in flight →
    nothing; none yet → a run; the last attempt at this content ended → the next attempt, after a
    pause that grows.
    """
    lake = etl.lake
    interval = etl.settings.sensor_interval_seconds
    silence = interval * _LOST_AFTER_TICKS if interval else _LOST_AFTER_SECONDS
    lost_after = timedelta(seconds=max(silence, _LOST_AFTER_LEAST_SECONDS))
    fail_lost_runs(context.instance, lake, now=now, silent_for=lost_after)
    try:
        with etl.open_source() as source:
            arrivals = find_stale_collections(
                source,
                lake,
                etl.settings.choose,
                most_documents=etl.settings.partition_documents,
                within=ANSWER_WITHIN,
            )
    except AindEtlError as error:
        _note_source(lake, now, str(error))
        return dg.SkipReason(str(error))
    _note_source(lake, now, "")
    behind = {_key(one): (one, Pass.NEW) for one in arrivals.behind}
    planned = planned_partitions(lake, arrivals.present)
    for collection in arrivals.present:
        for overdue in overdue_full_pass(lake, collection, now, FULL_PASS_OVERDUE):
            # A shard that is about to be divided is read in full by the new shards.
            if _key(overdue) in planned[collection]:
                behind[_key(overdue)] = (overdue, Pass.FULL)
    for one in _failed_partitions(context.instance, now):
        if _key(one) in planned.get(one.collection, ()):
            behind.setdefault(_key(one), (one, Pass.NEW))
    busy = _partitions_in_flight(context.instance)
    requests: list[dg.RunRequest] = []
    notes = [f"{name}: {problem}" for name, problem in arrivals.unanswered.items()]
    for key, (one, pass_kind) in sorted(behind.items()):
        if key in busy:
            notes.append(f"{key}: a run is in flight")
            continue
        attempt, wait = _next_attempt(context.instance, one, now)
        if wait > timedelta(0):
            minutes = wait.total_seconds() / 60
            notes.append(f"{key}: attempt {attempt} follows in {minutes:.0f} min")
            continue
        requests.append(_pass_request(one, pass_kind, attempt))
    if not requests:
        return dg.SkipReason("; ".join(notes) or "The lake is up to date with the source.")
    for note in notes:
        context.log.info(note)
    # Only those requested: a collection that could not be checked becomes a partition later.
    asked = {partition_of(str(request.partition_key))[0] for request in requests}
    new, stale = new_and_stale(context.instance, {name: planned[name] for name in asked})
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = [
        *([COLLECTIONS.build_add_request(new)] if new else []),
        *([COLLECTIONS.build_delete_request(stale)] if stale else []),
    ]
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=changes)


def _note_source(lake: Lake, now: datetime, error: str) -> None:
    """Write down whether the source answered; not every time that it still does."""
    health = lake.source_health()
    if error:
        since = health.failing_since or now
        lake.update_source_health({"failing_since": since, "error": error})
    elif health.failing_since or not health.reached_at or now - health.reached_at > _NOTED_EVERY:
        lake.update_source_health({"reached_at": now, "failing_since": None, "error": ""})


def evaluate_session_table(
    instance: dg.DagsterInstance, now: datetime
) -> dg.RunRequest | dg.SkipReason:
    """Return a run that reads the session table, or why there is none."""
    records = instance.get_run_records(dg.RunsFilter(job_name=refresh_sessions.name), limit=1)
    for record in records:
        if record.dagster_run.status in UNFINISHED:
            return dg.SkipReason("A run is in flight.")
        is_failed = record.dagster_run.status is dg.DagsterRunStatus.FAILURE
        wait = _moment(record) + (_LONGEST_PAUSE if is_failed else FULL_PASS_OVERDUE) - now
        if wait > timedelta(0):
            return dg.SkipReason(
                f"It was last asked for within a day; again in {wait.total_seconds() / 60:.0f} min."
            )
    return dg.RunRequest(run_key=f"session-table:{now.isoformat(timespec='minutes')}")


def evaluate_lake(
    instance: dg.DagsterInstance, etl: Etl, now: datetime
) -> dg.RunRequest | dg.SkipReason:
    """Return a publication where the lake gives reason for one, or why there is none."""
    lake = etl.lake
    reason = _why_not_publish(instance, etl, now)
    if reason is not None:
        return dg.SkipReason(reason)
    # The same as long as nothing comes to the lake: a publication that failed is tried again, but
    # not every minute, and at once when there is something else to publish.
    states = [lake.state(name).model_dump(mode="json") for name in lake.collections()]
    identity = sha256(json.dumps(states).encode()).hexdigest()[:16]
    one = StaleCollection("warehouse", identity, "the lake has what the warehouse has not")
    attempt, wait = _next_attempt(instance, one, now)
    if wait > timedelta(0):
        return dg.SkipReason(
            f"Attempt {attempt} to publish follows in {wait.total_seconds() / 60:.0f} min."
        )
    return dg.RunRequest(run_key=_run_key(one, attempt), tags=_tags(one, attempt))


def _has_just_ended(instance: dg.DagsterInstance, now: datetime) -> bool:
    """Return whether a run succeeded so recently that the other sensor may not have seen it."""
    ended = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.SUCCESS],
            updated_after=now - timedelta(seconds=_SECONDS_BETWEEN_LOOKS_AT_LAKE),
        )
    )
    return any(record.dagster_run.job_name in _ARRIVALS for record in ended)


def _why_not_publish(instance: dg.DagsterInstance, etl: Etl, now: datetime) -> str | None:
    lake, path = etl.lake, etl.settings.warehouse_path
    try:
        if not lake.collections():
            return "There is nothing in the lake yet."
        if is_current(lake, path):
            return "The warehouse is up to date with the lake."
    except AindEtlError as error:
        return str(error)
    publishing = dg.RunsFilter(job_name=publish_warehouse.name, statuses=list(UNFINISHED))
    if instance.get_run_records(publishing, limit=1):
        return "A publication is in flight."
    busy = _partitions_in_flight(instance)
    built = read_info(path).get("built_at")
    if busy and built and now - datetime.fromisoformat(built) < PUBLISH_AT_LEAST_EVERY:
        return f"Waiting for {', '.join(sorted(busy))} to be published with the rest."
    return None


def _pass_request(one: StaleCollection, pass_kind: Pass, attempt: int) -> dg.RunRequest:
    return dg.RunRequest(
        run_key=_run_key(one, attempt),
        partition_key=_key(one),
        run_config=pass_config(pass_kind),
        tags=_tags(one, attempt),
    )


def _run_key(one: StaleCollection, attempt: int) -> str:
    # Dagster remembers a key for ever, of failed runs too: each attempt has its own.
    return f"{_key(one)}:{one.identity}:{attempt}"


def _key(one: StaleCollection) -> str:
    return partition_key(one.collection, one.shard)


def _tags(one: StaleCollection, attempt: int) -> dict[str, str]:
    # The list of runs shows every tag: the first attempt needs none.
    return {BATCH_TAG: one.identity, REASON_TAG: one.reason[:_REASON_LENGTH]} | (
        {ATTEMPT_TAG: str(attempt)} if attempt > 1 else {}
    )


def _partitions_in_flight(instance: dg.DagsterInstance) -> set[str]:
    """Return the partitions that a run is under way or queued for."""
    records = instance.get_run_records(dg.RunsFilter(statuses=list(UNFINISHED)))
    tags: Iterable[str | None] = (record.dagster_run.tags.get(_PARTITION_TAG) for record in records)
    return {tag for tag in tags if tag is not None}


def _failed_partitions(instance: dg.DagsterInstance, now: datetime) -> Iterator[StaleCollection]:
    """Yield the partitions whose last run failed.

    The lake tells whether their documents are in, but not whether their result folders were looked
    at. What failed longer ago is made up for by the night.
    """
    job = refresh_collection.name
    failed = instance.get_run_records(
        dg.RunsFilter(
            job_name=job,
            statuses=[dg.DagsterRunStatus.FAILURE],
            created_after=now - FULL_PASS_OVERDUE,
        )
    )
    for key in {record.dagster_run.tags.get(_PARTITION_TAG) for record in failed} - {None}:
        [last] = instance.get_run_records(
            dg.RunsFilter(job_name=job, tags={_PARTITION_TAG: str(key)}), limit=1
        )
        run = last.dagster_run
        if run.status is dg.DagsterRunStatus.FAILURE:
            collection, shard = partition_of(str(key))
            identity = run.tags.get(BATCH_TAG, run.run_id)
            yield StaleCollection(collection, identity, "its last run failed", shard)


def _next_attempt(
    instance: dg.DagsterInstance, one: StaleCollection, now: datetime
) -> tuple[int, timedelta]:
    """Return the number of the next attempt at a content, and how long to wait before it.

    That the last attempt succeeded changes nothing: the lake says that the content is not in.
    """
    records = instance.get_run_records(dg.RunsFilter(tags={BATCH_TAG: one.identity}))
    if not records:
        return 1, timedelta(0)
    attempts = max(int(record.dagster_run.tags.get(ATTEMPT_TAG, "1")) for record in records)
    ended = max(
        datetime.fromtimestamp(record.end_time, UTC) if record.end_time else _moment(record)
        for record in records
    )
    return attempts + 1, ended + pause_after(attempts) - now


def _moment(record: dg.RunRecord) -> datetime:
    return record.update_timestamp.replace(tzinfo=UTC)
