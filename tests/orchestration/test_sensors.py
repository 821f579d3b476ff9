"""Sensors and schedules, on real instances with real runs."""

import shutil
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice

import dagster as dg
import polars as pl
import pytest
from mongod import mongod_or_skip
from pymongo import MongoClient
from worlds import read_dump, rows_of

from aind_etl.changelog.passes import Pass
from aind_etl.changelog.staleness import find_stale_collections
from aind_etl.contract import tables
from aind_etl.orchestration import sensors
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import PUBLISH, REFRESH_COLLECTION, SESSIONS
from aind_etl.orchestration.lost_runs import command_tags
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.run_requests import ATTEMPT_TAG, BATCH_TAG, pause_after
from aind_etl.orchestration.sensors import (
    FULL_PASS_OVERDUE,
    evaluate_lake,
    evaluate_session_table,
    evaluate_source,
)
from aind_etl.orchestration.steps import run_lock
from aind_etl.sample.calendar import plan_sessions
from aind_etl.sample.session_table import SessionTable
from aind_etl.sample.sessions import simulate_sessions
from aind_etl.settings import load_settings
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse

ONE = "dynamic-foraging-analysis"
OTHER = "dynamic-foraging-nm"
UP_TO_DATE = "The lake is up to date with the source."
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
SUCCESS, FAILURE = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """Return a client of a MongoDB server."""
    with (
        mongod_or_skip(tmp_path_factory.mktemp("mongod")) as port,
        MongoClient("127.0.0.1", port) as client,
    ):
        yield client


@pytest.fixture
def database(client, sample_dump):
    """Return a database with two collections, which a test may change."""
    return fill(client, sample_dump)


def fill(client, sample_dump):
    database = client["analysis"]
    client.drop_database("analysis")
    for name in (ONE, OTHER):
        database[name].insert_many(read_dump(sample_dump, name))
    return database


def etl_on(client, lake):
    host, port = client.address
    return Etl(load_settings(source=f"mongodb://{host}:{port}/analysis", lake=lake))


@cache
def job(name):
    return build_defs().resolve_job_def(name)


@pytest.fixture(scope="module")
def loaded(client, sample_dump, tmp_path_factory):
    """Return a lake that runs have loaded completely, which no test may change."""
    folder = tmp_path_factory.mktemp("loaded")
    fill(client, sample_dump)
    etl = etl_on(client, folder / "lake")
    with dg.DagsterInstance.ephemeral(tempdir=str(folder)) as instance:
        refresh_all(etl, instance)
        assert look(etl, instance) == UP_TO_DATE
    return folder / "lake"


@pytest.fixture
def etl(database, tmp_path):
    """Return the resource with an empty lake."""
    return etl_on(database.client, tmp_path / "lake")


@pytest.fixture
def etl_loaded(database, loaded, tmp_path):
    """Return the resource with a lake that is up to date with the source."""
    return etl_on(database.client, shutil.copytree(loaded, tmp_path / "lake"))


@pytest.fixture
def instance(tmp_path):
    settings = {"run_retries": {"enabled": True, "max_retries": 2}}
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path), settings=settings) as instance:
        yield instance


def now():
    return datetime.now(UTC)


def look(etl, instance, at=None, cursor=None, name="newly_finished_analyses"):
    """Return the requests of a tick by partition, or the reason for none."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor, sensor_name=name)
    with context:
        found = evaluate_source(context, etl, at or now())
    if isinstance(found, dg.SkipReason):
        return found.skip_message
    for request in found.dynamic_partitions_requests:
        if isinstance(request, dg.AddDynamicPartitionsRequest):
            instance.add_dynamic_partitions("collections", request.partition_keys)
        else:
            for key in request.partition_keys:
                instance.delete_dynamic_partition("collections", key)
    return {request.partition_key: request for request in found.run_requests}


def look_to_publish(etl, instance, at=None):
    with dg.build_sensor_context(instance=instance) as context:
        found = evaluate_lake(context.instance, etl, at or now())
    return found.skip_message if isinstance(found, dg.SkipReason) else found


def look_at_lake(etl, instance):
    """Return the request of ``lake_ahead_of_warehouse``, or the reason for none."""
    sensor = build_defs(etl).resolve_sensor_def("lake_ahead_of_warehouse")
    with dg.build_sensor_context(instance=instance, resources={"etl": etl}) as context:
        found = sensor.evaluate_tick(context)
    return found.skip_message or found.run_requests[0]


def requested_job(request):
    return job(REFRESH_COLLECTION if request.partition_key else PUBLISH)


def execute(etl, instance, request):
    """Execute a requested run, and return its status."""
    result = requested_job(request).execute_in_process(
        instance=instance,
        run_config=dict(request.run_config) | QUIET,
        partition_key=request.partition_key,
        tags=request.tags,
        resources={"etl": etl},
        raise_on_error=False,
    )
    return result.dagster_run.status


def record(instance, request, status):
    """Record a requested run with a status."""
    tags = dict(request.tags)
    if request.partition_key:
        tags["dagster/partition"] = request.partition_key
    return instance.create_run_for_job(requested_job(request), status=status, tags=tags)


def refresh_all(etl, instance):
    for request in look(etl, instance).values():
        assert execute(etl, instance, request) is SUCCESS


# --- the source ---------------------------------------------------------------------------------


def test_new_collections_are_requested_and_become_partitions(etl, instance):
    requests = look(etl, instance)
    assert requests.keys() == {ONE, OTHER}
    assert set(instance.get_dynamic_partitions("collections")) == {ONE, OTHER}
    assert {request.tags.get(ATTEMPT_TAG) for request in requests.values()} == {None}
    assert len({request.run_key for request in requests.values()}) == 2


@pytest.mark.parametrize("name", [ONE, "a-new-project"])
def test_a_new_document_causes_one_request_for_its_collection_only(
    etl_loaded, instance, database, name
):
    assert look(etl_loaded, instance) == UP_TO_DATE
    database[name].insert_one({"_id": "new", "nwb_name": "1_2025-01-01.nwb"})
    requests = look(etl_loaded, instance)
    assert requests.keys() == {name}
    assert instance.get_dynamic_partitions("collections") == [name]
    assert execute(etl_loaded, instance, requests[name]) is SUCCESS
    assert "new" in etl_loaded.lake.change_log(name).live_documents()["record_id"]
    assert look(etl_loaded, instance) == UP_TO_DATE


def test_a_collection_that_grew_too_large_is_requested_in_shards_once(
    etl_loaded, instance, database
):
    instance.add_dynamic_partitions("collections", [ONE, OTHER])
    before = rows_of(etl_loaded.lake, tables.ANALYSES, ONE)
    most = database[ONE].count_documents({}) // 2 + 1
    etl = with_settings(etl_loaded, partition_documents=most)
    assert look(etl, instance) == UP_TO_DATE, "nothing is resharded without a new document"
    database[ONE].insert_one({"_id": "new", "nwb_name": "1_2025-01-01.nwb"})
    requests = look(etl, instance)
    shards = {f"{ONE}/1-of-2", f"{ONE}/2-of-2"}
    assert requests.keys() == shards
    assert set(instance.get_dynamic_partitions("collections")) == {*shards, OTHER}
    assert {request.tags["aind_etl/reason"] for request in requests.values()} == {
        "to be divided into 2 shards"
    }
    for request in requests.values():
        assert execute(etl, instance, request) is SUCCESS
    after = rows_of(etl.lake, tables.ANALYSES, ONE)
    assert after.filter(pl.col("record_id") != "new").equals(before)
    assert look(etl, instance) == UP_TO_DATE
    # From now on each shard is read on its own, at night as well.
    day_after = look(etl, instance, now() + FULL_PASS_OVERDUE + timedelta(hours=1))
    assert day_after.keys() == {*shards, OTHER}


@pytest.mark.parametrize("name", ["NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_a_collection_with_a_run_in_flight_is_not_requested(etl, instance, name):
    status = dg.DagsterRunStatus[name]
    requests = look(etl, instance)
    record(instance, requests[ONE], status)
    assert look(etl, instance).keys() == {OTHER}
    record(instance, requests[OTHER], status)
    assert look(etl, instance) == f"{ONE}: a run is in flight; {OTHER}: a run is in flight"


@pytest.mark.parametrize("status", [FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_failed_run_is_requested_again_after_growing_pauses(etl, instance, status):
    moment = now()
    keys = set()
    for attempt in range(1, 4):
        request = look(etl, instance, moment)[ONE]
        assert request.tags.get(ATTEMPT_TAG, "1") == str(attempt)
        keys.add(request.run_key)
        record(instance, request, status)
        pause = pause_after(attempt)
        early = look(etl, instance, now() + pause - timedelta(seconds=20))
        assert ONE not in early
        moment = now() + pause + timedelta(seconds=20)
    assert len(keys) == 3, "Dagster ignores a request whose key was used before"


def test_a_run_that_failed_after_loading_its_documents_is_requested_again(etl_loaded, instance):
    """For example because the store of the result folders did not answer."""
    record(instance, dg.RunRequest(partition_key=ONE), FAILURE)
    request = look(etl_loaded, instance)[ONE]
    assert ATTEMPT_TAG not in request.tags
    record(instance, request, FAILURE)
    assert look(etl_loaded, instance) == f"{ONE}: attempt 2 follows in 1 min"
    request = look(etl_loaded, instance, now() + timedelta(minutes=2))[ONE]
    assert execute(etl_loaded, instance, request) is SUCCESS
    assert look(etl_loaded, instance) == UP_TO_DATE


def command_run(instance, lake):
    return instance.create_run_for_job(
        job(REFRESH_COLLECTION),
        status=dg.DagsterRunStatus.STARTED,
        tags=command_tags(lake) | {"dagster/partition": ONE},
    )


def test_a_run_of_a_killed_command_fails_and_blocks_nothing(etl, instance):
    killed = command_run(instance, etl.lake)
    look(etl, instance)
    assert instance.get_run_by_id(killed.run_id).status is dg.DagsterRunStatus.STARTED
    look(etl, instance, now() + timedelta(minutes=5))
    ended = instance.get_run_by_id(killed.run_id)
    assert ended.status is FAILURE
    assert ended.tags["dagster/will_retry"] == "false", "no code location could start it"
    assert look(etl, instance).keys() == {ONE, OTHER}


def test_a_run_of_a_live_command_is_in_flight(etl, instance):
    living = command_run(instance, etl.lake)
    with run_lock(etl.lake, living):
        assert look(etl, instance, now() + timedelta(days=1)).keys() == {OTHER}
    assert instance.get_run_by_id(living.run_id).status is dg.DagsterRunStatus.STARTED


def test_pauses_grow_from_a_minute_to_two_hours():
    minutes = [pause_after(attempts).total_seconds() / 60 for attempts in (1, 2, 3, 7, 8, 10**9)]
    assert minutes == [1, 2, 4, 64, 120, 120]


def test_new_content_is_requested_at_once(etl, instance, database):
    record(instance, look(etl, instance)[ONE], FAILURE)
    assert ONE not in look(etl, instance)
    database[ONE].insert_one({"_id": "1"})
    assert ATTEMPT_TAG not in look(etl, instance)[ONE].tags


def test_content_that_the_lake_lacks_is_requested_though_its_run_succeeded(etl, instance):
    """For example because the lake was restored from a backup, or removed."""
    record(instance, look(etl, instance)[ONE], SUCCESS)
    assert ONE not in look(etl, instance)
    later = look(etl, instance, now() + timedelta(minutes=2))
    assert later[ONE].tags[ATTEMPT_TAG] == "2"


def test_only_new_content_is_requested_after_the_loss_of_storage_cursor_and_name(
    etl_loaded, instance, database
):
    """The instance knows none of the runs that loaded the lake."""
    assert instance.get_run_records() == []
    assert look(etl_loaded, instance, cursor="an old cursor") == UP_TO_DATE
    assert look(etl_loaded, instance, cursor=None) == UP_TO_DATE
    assert look(etl_loaded, instance, name="renamed") == UP_TO_DATE
    database[ONE].insert_one({"_id": "1"})
    requests = look(etl_loaded, instance, cursor="an old cursor")
    assert requests.keys() == {ONE}
    assert ATTEMPT_TAG not in requests[ONE].tags


def test_a_renamed_sensor_knows_the_earlier_requests(etl, instance):
    requests = look(etl, instance, name="former")
    record(instance, requests[ONE], dg.DagsterRunStatus.STARTED)
    record(instance, requests[OTHER], FAILURE)
    assert look(etl, instance) == f"{ONE}: a run is in flight; {OTHER}: attempt 2 follows in 1 min"
    later = look(etl, instance, now() + timedelta(minutes=2))
    assert later.keys() == {OTHER}
    assert later[OTHER].run_key != requests[OTHER].run_key


def test_a_deleted_collection_with_a_run_in_flight_stays_a_partition(
    etl_loaded, instance, database
):
    database[ONE].insert_one({"_id": "1"})
    record(instance, look(etl_loaded, instance)[ONE], dg.DagsterRunStatus.STARTED)
    database.drop_collection(ONE)
    look(etl_loaded, instance)
    assert ONE in instance.get_dynamic_partitions("collections")


@pytest.mark.parametrize("change", [{"flattened_through": 0}, {"flattener": "earlier"}])
def test_documents_not_flattened_or_by_earlier_code_are_requested(etl_loaded, instance, change):
    """For example because the code location was killed between two steps, or updated."""
    etl_loaded.lake.update_state(ONE, change)
    requests = look(etl_loaded, instance)
    assert requests.keys() == {ONE}
    assert execute(etl_loaded, instance, requests[ONE]) is SUCCESS
    assert look(etl_loaded, instance) == UP_TO_DATE


def with_settings(etl, **changes):
    return replace(etl, settings=etl.settings.model_copy(update=changes))


def test_an_unreachable_source_is_a_skip_and_the_lake_records_since_when(
    etl_loaded, instance, tmp_path
):
    begin = now() + timedelta(minutes=10)
    look(etl_loaded, instance, begin)
    lake = etl_loaded.lake
    assert lake.source_health().reached_at == begin
    url = "mongodb://127.0.0.1:9/analysis?serverSelectionTimeoutMS=200"
    away = with_settings(etl_loaded, source=url)
    for minutes in (1, 20):
        assert "127.0.0.1:9" in look(away, instance, begin + timedelta(minutes=minutes))
    health = lake.source_health()
    assert health.failing_since == begin + timedelta(minutes=1)
    assert "127.0.0.1:9" in health.error
    assert "127.0.0.1:9" in look(with_settings(away, lake=tmp_path / "empty"), instance)
    assert health.reached_at == begin
    for minutes in (21, 23):
        look(etl_loaded, instance, begin + timedelta(minutes=minutes))
        assert lake.source_health().failing_since is None
        look(away, instance, begin + timedelta(minutes=minutes + 1))


def test_the_session_table_is_requested_once_a_day_and_after_a_failure(instance):
    first = evaluate_session_table(instance, now())
    assert isinstance(first, dg.RunRequest)
    instance.create_run_for_job(job(SESSIONS), status=dg.DagsterRunStatus.STARTED)
    assert "in flight" in evaluate_session_table(instance, now()).skip_message
    run = instance.get_runs(limit=1)[0]
    instance.report_run_failed(run)
    assert "within the last day" in evaluate_session_table(instance, now()).skip_message
    later = now() + timedelta(hours=3)
    assert isinstance(evaluate_session_table(instance, later), dg.RunRequest)
    instance.create_run_for_job(job(SESSIONS), status=SUCCESS)
    assert "within the last day" in evaluate_session_table(instance, later).skip_message
    tomorrow = now() + timedelta(hours=27)
    assert isinstance(evaluate_session_table(instance, tomorrow), dg.RunRequest)


class SlowSource(DumpSource):
    """A dump of which one collection does not answer until it is released."""

    def __init__(self, folder):
        super().__init__(folder)
        self.released = threading.Event()

    def fingerprint(self, collection):
        """Return the fingerprint."""
        if collection == ONE:
            self.released.wait()
        return super().fingerprint(collection)


def test_a_collection_that_does_not_answer_delays_no_other(sample_dump, lake):
    source = SlowSource(sample_dump)
    try:
        found = find_stale_collections(
            source, lake, sorted, most_documents=1_000_000, within=timedelta(seconds=1)
        )
    finally:
        source.released.set()
    assert found.unanswered.keys() == {ONE}
    assert "did not answer within 1 seconds" in found.unanswered[ONE]
    assert {one.collection for one in found.stale} == set(found.present) - {ONE}


# --- the nights ---------------------------------------------------------------------------------


def test_a_missed_full_pass_is_requested(etl_loaded, instance):
    on_time = now() + FULL_PASS_OVERDUE - timedelta(hours=1)
    assert look(etl_loaded, instance, on_time) == UP_TO_DATE
    requests = look(etl_loaded, instance, now() + FULL_PASS_OVERDUE + timedelta(minutes=1))
    assert requests.keys() == {ONE, OTHER}
    config = requests[ONE].run_config["ops"]["documents"]["config"]
    assert config == {"pass_kind": Pass.FULL.value}
    assert execute(etl_loaded, instance, requests[ONE]) is SUCCESS
    assert etl_loaded.lake.state(ONE).last_full_pass_at is not None


def nightly_tick(etl, history):
    definitions = build_defs(etl)
    with (
        # Schedules, unlike sensors, need an instance on a disk.
        dg.DagsterInstance.local_temp(str(history)) as instance,
        dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=datetime(2026, 5, 2, 9, tzinfo=UTC),
            resources={"etl": etl},
            repository_def=definitions.get_repository_def(),
        ) as context,
    ):
        return definitions.resolve_schedule_def("nightly_full_pass").evaluate_tick(context)


@pytest.mark.slow
def test_each_night_every_collection_is_read_in_full_in_its_own_run(
    etl_loaded, instance, new_history
):
    tick = nightly_tick(etl_loaded, new_history)
    requests = {request.partition_key: request for request in tick.run_requests}
    assert requests.keys() == {ONE, OTHER}
    assert len({request.run_key for request in tick.run_requests}) == 2
    instance.add_dynamic_partitions("collections", list(requests))
    lake = etl_loaded.lake
    rows = lake.tables.scan(tables.DOCUMENTS, ONE).head(1).collect()
    for _ in range(10):
        lake.change_log(ONE).append(rows)
    build_warehouse(lake, etl_loaded.settings.warehouse_path)
    assert execute(etl_loaded, instance, requests[ONE]) is SUCCESS
    assert lake.state(ONE).last_full_pass_at is not None
    assert len(lake.change_log(ONE).files()) < 8, "the change log is compacted"
    assert isinstance(look_to_publish(etl_loaded, instance), dg.RunRequest), "and then published"


def test_a_night_without_a_lake_is_a_skip_with_the_reason(etl, new_history):
    tick = nightly_tick(etl, new_history)
    assert tick.skip_message == "There is no collection in the lake yet."


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("0 2 * * *", "America/Los_Angeles")),
        ({"nightly_at": "23:30", "time_zone": "Europe/Berlin"}, ("30 23 * * *", "Europe/Berlin")),
    ],
)
def test_the_nightly_schedules_start_at_two_unless_set_otherwise(tmp_path, given, expected):
    settings = load_settings(lake=tmp_path, **given)
    schedule = build_defs(Etl(settings)).resolve_schedule_def("nightly_full_pass")
    assert (schedule.cron_schedule, schedule.execution_timezone) == expected


def run_by_schedule(name, etl, instance):
    """Execute the run that a schedule requests."""
    definitions = build_defs(etl)
    schedule = definitions.resolve_schedule_def(name)
    with dg.build_schedule_context(
        instance=instance, scheduled_execution_time=datetime(2026, 5, 2, 19, tzinfo=UTC)
    ) as context:
        [request] = schedule.evaluate_tick(context).run_requests
    return definitions.resolve_job_def(schedule.job_name).execute_in_process(
        instance=instance,
        run_config=dict(request.run_config) | QUIET,
        tags=request.tags,
        raise_on_error=False,
    )


@pytest.mark.slow
def test_once_a_week_source_lake_and_warehouse_are_compared(etl_loaded, instance):
    build_warehouse(etl_loaded.lake, etl_loaded.settings.warehouse_path)
    assert run_by_schedule("weekly_verification", etl_loaded, instance).success
    (path, *_) = etl_loaded.lake.tables.files(tables.ANALYSES, ONE)
    rows = pl.read_parquet(path, hive_partitioning=False)
    rows.with_columns(n_trials=pl.lit(123_456, pl.Int32)).write_parquet(path)
    found = run_by_schedule("weekly_verification", etl_loaded, instance)
    assert found.dagster_run.status is FAILURE
    message = found.failure_data_for_node("compare_contents").error.cause.message
    assert "analyses" in message
    assert ONE in message


def test_each_night_the_session_table_is_read(etl, instance, tmp_path):
    table = SessionTable()
    for session in simulate_sessions(list(islice(plan_sessions(0), 3))):
        table.add(session)
    path = tmp_path / "results" / etl.settings.session_table_location.removeprefix("s3://")
    path.parent.mkdir(parents=True)
    table.in_database().to_parquet(path)
    etl = with_settings(etl, results_root=str(tmp_path / "results"))
    assert run_by_schedule("nightly_session_table", etl, instance).success
    assert etl.lake.tables.count_rows(tables.SESSIONS) == 3
    event = instance.get_latest_materialization_event(dg.AssetKey("sessions"))
    assert event.asset_materialization.metadata["dagster/row_count"].value == 3


def test_all_sensors_and_schedules_are_on_by_default(tmp_path):
    definitions = build_defs(Etl(load_settings(lake=tmp_path)))
    automation = (*definitions.sensors, *definitions.schedules)
    assert {one.name: one.default_status.value for one in automation} == dict.fromkeys(
        (
            *("newly_finished_analyses", "arrivals_are_in", "lake_ahead_of_warehouse"),
            *("failure_alerts", "session_table_unread"),
            *("nightly_full_pass", "nightly_session_table", "weekly_verification"),
        ),
        "RUNNING",
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"source": "mongodb://host/analysis"}, 10),
        ({"source": "https://host/v1/analysis"}, 60),
        ({"source": "https://host/v1/analysis", "sensor_interval_seconds": 5}, 5),
    ],
)
def test_the_interval_of_the_sensor_depends_on_the_kind_of_source(tmp_path, given, expected):
    definitions = build_defs(Etl(load_settings(lake=tmp_path, **given)))
    sensor = definitions.resolve_sensor_def("newly_finished_analyses")
    assert sensor.minimum_interval_seconds == expected
    assert sensors.CHECK_TIMEOUT.total_seconds() == 30


# --- the warehouse ------------------------------------------------------------------------------


@pytest.mark.slow
def test_collections_that_arrive_together_are_published_once(etl_loaded, instance, database):
    for name in (ONE, OTHER):
        database[name].insert_one({"_id": "new", "nwb_name": "1_2025-01-01.nwb"})
    build_warehouse(etl_loaded.lake, etl_loaded.settings.warehouse_path)
    assert look_to_publish(etl_loaded, instance) == "The warehouse is up to date with the lake."
    one, other = look(etl_loaded, instance).values()
    assert execute(etl_loaded, instance, one) is SUCCESS
    in_flight = record(instance, other, dg.DagsterRunStatus.STARTED)
    reason = look_to_publish(etl_loaded, instance)
    assert reason == f"Waiting for {other.partition_key} to be published with the rest."
    assert "arrivals_are_in requests" in look_at_lake(etl_loaded, instance)
    later = now() + sensors.PUBLISH_AT_LEAST_EVERY + timedelta(seconds=1)
    assert isinstance(look_to_publish(etl_loaded, instance, later), dg.RunRequest), (
        "collections that keep arriving must not keep the rest from being published"
    )
    instance.delete_run(in_flight.run_id)
    assert execute(etl_loaded, instance, other) is SUCCESS
    request = look_to_publish(etl_loaded, instance)
    assert execute(etl_loaded, instance, request) is SUCCESS
    assert look_to_publish(etl_loaded, instance) == "The warehouse is up to date with the lake."


def test_a_failed_publication_is_retried_but_not_while_one_is_in_flight(etl_loaded, instance):
    request = look_to_publish(etl_loaded, instance)
    run = record(instance, request, dg.DagsterRunStatus.STARTED)
    assert look_to_publish(etl_loaded, instance) == "A publication is in flight."
    instance.delete_run(run.run_id)
    record(instance, request, FAILURE)
    assert look_to_publish(etl_loaded, instance) == "Attempt 2 to publish follows in 1 min."
    again = look_to_publish(etl_loaded, instance, now() + timedelta(minutes=2))
    assert (again.tags[ATTEMPT_TAG], again.tags[BATCH_TAG]) == ("2", request.tags[BATCH_TAG])
    assert again.run_key != request.run_key


def test_an_empty_lake_is_not_published(etl, instance):
    assert look_to_publish(etl, instance) == "The lake is empty."
