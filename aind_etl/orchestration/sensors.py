"""The sensors, which request runs when the source, the lake or earlier runs require them.

``newly_finished_analyses`` requests a pass over each collection that is stale, that was not read
in full for more than a day, or whose last run failed. ``lake_ahead_of_warehouse`` requests a
publication that ``arrivals_are_in`` missed, or that failed.

The sensors compare the lake, the source and the runs on record. Their cursors and names, and all of
Dagster's storage, can be lost at any time.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256
from typing import TypeAlias

import dagster as dg

from aind_etl.changelog.passes import Pass
from aind_etl.changelog.staleness import StaleCollection, find_stale_collections, overdue_full_pass
from aind_etl.errors import AindEtlError
from aind_etl.lake import Lake
from aind_etl.orchestration import jobs
from aind_etl.orchestration.alerts import send_alerts
from aind_etl.orchestration.lost_runs import fail_lost_runs
from aind_etl.orchestration.partitions import (
    COLLECTIONS,
    new_and_stale,
    partition_of,
    planned_partitions,
)
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.run_requests import (
    LONGEST_PAUSE,
    failed_partitions,
    key_of,
    next_attempt,
    partitions_in_flight,
    run_request,
)
from aind_etl.orchestration.runs import UNFINISHED, updated_at
from aind_etl.settings import Settings
from aind_etl.sources.kinds import kind_of
from aind_etl.warehouse.build import is_current
from aind_etl.warehouse.info import read_info

CHECK_TIMEOUT = timedelta(seconds=30)
"""How long a check of all collections may take; Dagster allows a tick 60 seconds."""
FULL_PASS_OVERDUE = timedelta(days=1, hours=2)
"""The age from which a full pass is overdue, because a nightly one was missed."""
PUBLISH_AT_LEAST_EVERY = timedelta(minutes=5)
"""How old the warehouse may become while collections keep arriving."""

_LAKE_CHECK_SECONDS = 30
_HEALTH_RECORDED_EVERY = timedelta(minutes=5)
_LOST_AFTER_TICKS = 4
# Longer than a process takes to load the code and begin its first step.
_LOST_AFTER_LEAST_SECONDS = 30
_LOST_AFTER_SECONDS = 240

_Answer: TypeAlias = dg.RunRequest | dg.SkipReason

_ON = dg.DefaultSensorStatus.RUNNING
_sensor = partial(dg.sensor, default_status=_ON)


def all_sensors(settings: Settings) -> Sequence[dg.SensorDefinition]:
    """Return every sensor."""
    kind = kind_of(settings.source)

    @_sensor(
        job=jobs.refresh_collection,
        minimum_interval_seconds=settings.sensor_interval_seconds or kind.seconds_between_checks,
        description="Requests a pass over each collection of which the lake is out of date.",
    )
    def newly_finished_analyses(
        context: dg.SensorEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> dg.SensorResult | dg.SkipReason:
        return evaluate_source(context, etl, datetime.now(UTC))

    @_sensor(
        job=jobs.refresh_sessions,
        minimum_interval_seconds=60,
        description="Requests the session table if it was not read within a day.",
    )
    def session_table_unread(context: dg.SensorEvaluationContext) -> _Answer:
        return evaluate_session_table(context.instance, datetime.now(UTC))

    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.SUCCESS,
        monitored_jobs=[jobs.refresh_collection, jobs.refresh_sessions],
        request_job=jobs.publish_warehouse,
        minimum_interval_seconds=2,
        default_status=_ON,
        description="Requests a publication when the last run that loads data has ended.",
    )
    def arrivals_are_in(context: dg.RunStatusSensorContext, etl: dg.ResourceParam[Etl]) -> _Answer:
        return evaluate_lake(context.instance, etl, datetime.now(UTC))

    @_sensor(
        job=jobs.publish_warehouse,
        minimum_interval_seconds=_LAKE_CHECK_SECONDS,
        description="Requests a publication that no other sensor requested, or that failed.",
    )
    def lake_ahead_of_warehouse(
        context: dg.SensorEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> _Answer:
        now = datetime.now(UTC)
        if _has_just_ended(context.instance, now):
            return dg.SkipReason("A run has just ended; arrivals_are_in requests its publication.")
        return evaluate_lake(context.instance, etl, now)

    @_sensor(
        minimum_interval_seconds=60,
        description="Reports failed runs and ticks to AIND_ETL_ALERT_WEBHOOK_URL.",
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


def evaluate_source(
    context: dg.SensorEvaluationContext, etl: Etl, now: datetime
) -> dg.SensorResult | dg.SkipReason:
    """Return requests for passes over partitions that need one, or why there are none.

    A partition that a run is in flight for gets no request. Otherwise it gets one at once, or, if
    an earlier attempt to load the same content has ended, after a pause that grows.
    """
    lake, instance = etl.lake, context.instance
    fail_lost_runs(instance, lake, now=now, silent_for=_lost_after(etl.settings))
    try:
        with etl.open_source() as source:
            arrivals = find_stale_collections(
                source,
                lake,
                etl.settings.choose,
                most_documents=etl.settings.partition_documents,
                within=CHECK_TIMEOUT,
            )
    except AindEtlError as error:
        _record_health(lake, now, str(error))
        return dg.SkipReason(str(error))
    _record_health(lake, now, "")
    planned = planned_partitions(lake, arrivals.present)
    needed = _passes_needed(instance, lake, arrivals.stale, planned, now)
    requests, waiting = _pass_requests(instance, needed, now)
    notes = [f"{name}: {problem}" for name, problem in arrivals.unanswered.items()] + waiting
    if not requests:
        return dg.SkipReason("; ".join(notes) or "The lake is up to date with the source.")
    for note in notes:
        context.log.info(note)
    # Only the requested collections: one that could not be checked gets its partitions later.
    requested = {partition_of(str(request.partition_key))[0] for request in requests}
    add, delete = new_and_stale(instance, {name: planned[name] for name in requested})
    changes: list[dg.AddDynamicPartitionsRequest | dg.DeleteDynamicPartitionsRequest] = [
        *([COLLECTIONS.build_add_request(add)] if add else []),
        *([COLLECTIONS.build_delete_request(delete)] if delete else []),
    ]
    return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=changes)


def _lost_after(settings: Settings) -> timedelta:
    interval = settings.sensor_interval_seconds
    silence = interval * _LOST_AFTER_TICKS if interval else _LOST_AFTER_SECONDS
    return timedelta(seconds=max(silence, _LOST_AFTER_LEAST_SECONDS))


def _passes_needed(
    instance: dg.DagsterInstance,
    lake: Lake,
    stale: Iterable[StaleCollection],
    planned: Mapping[str, Sequence[str]],
    now: datetime,
) -> dict[str, tuple[StaleCollection, Pass]]:
    """Return the kind of pass that each partition needs, by key."""
    needed = {key_of(one): (one, Pass.NEW) for one in stale}
    for collection, keys in planned.items():
        for overdue in overdue_full_pass(lake, collection, now, FULL_PASS_OVERDUE):
            # A collection that is about to be resharded is read in full by its new shards.
            if key_of(overdue) in keys:
                needed[key_of(overdue)] = (overdue, Pass.FULL)
    # Older failures are made up for by the nightly pass.
    for failed in failed_partitions(instance, now - FULL_PASS_OVERDUE):
        if key_of(failed) in planned.get(failed.collection, ()):
            needed.setdefault(key_of(failed), (failed, Pass.NEW))
    return needed


def _pass_requests(
    instance: dg.DagsterInstance, needed: Mapping[str, tuple[StaleCollection, Pass]], now: datetime
) -> tuple[list[dg.RunRequest], list[str]]:
    """Return the requests for passes that can start now, and why the others must wait."""
    busy = partitions_in_flight(instance)
    requests, waiting = [], []
    for key, (stale, pass_kind) in sorted(needed.items()):
        if key in busy:
            waiting.append(f"{key}: a run is in flight")
            continue
        attempt, wait = next_attempt(instance, stale, now)
        if wait > timedelta(0):
            waiting.append(f"{key}: attempt {attempt} follows in {_minutes(wait)}")
            continue
        config = jobs.pass_config(pass_kind)
        requests.append(run_request(stale, attempt, partition_key=key, run_config=config))
    return requests, waiting


def _record_health(lake: Lake, now: datetime, error: str) -> None:
    """Record whether the source answered, but not each time that it still does."""
    health = lake.source_health()
    is_recent = health.reached_at and now - health.reached_at <= _HEALTH_RECORDED_EVERY
    if error:
        since = health.failing_since or now
        lake.update_source_health({"failing_since": since, "error": error})
    elif health.failing_since or not is_recent:
        lake.update_source_health({"reached_at": now, "failing_since": None, "error": ""})


def evaluate_session_table(instance: dg.DagsterInstance, now: datetime) -> _Answer:
    """Return a request to read the session table, or why there is none."""
    for record in instance.get_run_records(dg.RunsFilter(job_name=jobs.SESSIONS), limit=1):
        status = record.dagster_run.status
        if status in UNFINISHED:
            return dg.SkipReason("A run is in flight.")
        pause = LONGEST_PAUSE if status is dg.DagsterRunStatus.FAILURE else FULL_PASS_OVERDUE
        wait = updated_at(record) + pause - now
        if wait > timedelta(0):
            return dg.SkipReason(
                f"It was requested within the last day; next time in {_minutes(wait)}."
            )
    return dg.RunRequest(run_key=f"session-table:{now.isoformat(timespec='minutes')}")


def evaluate_lake(instance: dg.DagsterInstance, etl: Etl, now: datetime) -> _Answer:
    """Return a request for a publication if the lake requires one, or why there is none."""
    lake = etl.lake
    reason = _why_not_publish(instance, etl, now)
    if reason is not None:
        return dg.SkipReason(reason)
    # The identity stays the same until the lake changes: a failed publication is repeated with
    # growing pauses, but at once if there is something else to publish.
    states = [lake.state(name).model_dump(mode="json") for name in lake.collections()]
    identity = sha256(json.dumps(states).encode()).hexdigest()[:16]
    one = StaleCollection("warehouse", identity, "the lake is ahead of the warehouse")
    attempt, wait = next_attempt(instance, one, now)
    if wait > timedelta(0):
        return dg.SkipReason(f"Attempt {attempt} to publish follows in {_minutes(wait)}.")
    return run_request(one, attempt)


def _has_just_ended(instance: dg.DagsterInstance, now: datetime) -> bool:
    """Return whether a run succeeded so recently that ``arrivals_are_in`` may not know yet."""
    since = now - timedelta(seconds=_LAKE_CHECK_SECONDS)
    ended = instance.get_run_records(
        dg.RunsFilter(statuses=[dg.DagsterRunStatus.SUCCESS], updated_after=since)
    )
    loading = {jobs.REFRESH_COLLECTION, jobs.SESSIONS}
    return any(record.dagster_run.job_name in loading for record in ended)


def _why_not_publish(instance: dg.DagsterInstance, etl: Etl, now: datetime) -> str | None:
    lake, path = etl.lake, etl.settings.warehouse_path
    try:
        if not lake.collections():
            return "The lake is empty."
        if is_current(lake, path):
            return "The warehouse is up to date with the lake."
    except AindEtlError as error:
        return str(error)
    publishing = dg.RunsFilter(job_name=jobs.PUBLISH, statuses=list(UNFINISHED))
    if instance.get_run_records(publishing, limit=1):
        return "A publication is in flight."
    busy = partitions_in_flight(instance)
    built = read_info(path).get("built_at")
    if busy and built and now - datetime.fromisoformat(built) < PUBLISH_AT_LEAST_EVERY:
        return f"Waiting for {', '.join(sorted(busy))} to be published with the rest."
    return None


def _minutes(wait: timedelta) -> str:
    return f"{wait.total_seconds() / 60:.0f} min"
