"""Failure alerts: posted once to a server, with a link and without secrets."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import GrpcServerCodeLocationOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    ScheduleInstigatorData,
    TickData,
    TickStatus,
)
from dagster._utils.error import SerializableErrorInfo

from aind_etl.bundle import bundled
from aind_etl.lake import Lake
from aind_etl.orchestration.alerts import SECONDS_BETWEEN_MESSAGES, Failure, message, send_alerts
from aind_etl.settings import load_settings

SECRET = "s3cret-part"


@pytest.fixture
def room():
    """Return a server that keeps posted messages, and answers with ``status``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            """Keep a message."""
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.posted.append(json.loads(body))
            self.send_response(self.server.status)
            self.end_headers()

        def log_message(self, *_):
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.posted, server.status = [], 200
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def settings(room, tmp_path):
    return load_settings(
        lake=tmp_path / "lake",
        source=f"mongodb://reader:{SECRET}@db.example/analysis",
        alert_webhook_url=f"http://127.0.0.1:{room.server_port}/{SECRET}-hook",
        dagster_url="https://dagster.example/",
    )


@pytest.fixture(scope="module")
def instance(tmp_path_factory):
    """Return an instance for all tests: each reports only failures after its first tick."""
    without_logs = yaml.safe_load(bundled("dagster.yaml").read_text())["compute_logs"]
    folder = str(tmp_path_factory.mktemp("instance"))
    with dg.DagsterInstance.local_temp(folder, {"compute_logs": without_logs}) as instance:
        yield instance


class AlertSensor:
    """The sensor, tick by tick, with its cursor."""

    def __init__(self, instance, settings, cursor=None):
        self._instance, self.settings = instance, settings
        self._cursor = cursor

    def __call__(self, ahead=0.0):
        """Return the result of a tick that many seconds from now."""
        moment = datetime.now(UTC) + timedelta(seconds=ahead)
        with dg.build_sensor_context(instance=self._instance, cursor=self._cursor) as context:
            result = send_alerts(context, self.settings, moment)
            self._cursor = context.cursor
        return result


@pytest.fixture
def tick(instance, settings):
    tick = AlertSensor(instance, settings)
    assert tick() == "Alerts are sent for failures from now on."
    return tick


def fail(instance, error="The source does not answer.", **tags):
    @dg.op
    def read():
        raise ValueError(error)

    @dg.job(name="refresh_collection")
    def job():
        read()

    return job.execute_in_process(
        instance=instance,
        raise_on_error=False,
        tags=tags,
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    ).run_id


def test_a_failed_run_is_reported_once_with_its_error_and_a_link(instance, tick, room):
    run = fail(instance, **{"dagster/partition": "a-collection"})
    assert tick(1) == "Reported 1 failures."
    (posted,) = room.posted
    assert posted["text"].splitlines() == [
        "aind-etl: refresh_collection of a-collection failed",
        "",
        "refresh_collection of a-collection: ValueError: The source does not answer.",
        f"https://dagster.example/runs/{run}",
    ]
    assert tick(SECONDS_BETWEEN_MESSAGES + 5) == "Nothing has failed."
    assert len(room.posted) == 1


def test_an_unreadable_source_is_reported_once_and_so_is_its_return(instance, settings, room):
    tick = AlertSensor(instance, settings)
    tick()
    lake = Lake(settings.lake)
    began = datetime.now(UTC)
    lake.update_source_health({"failing_since": began, "error": f"No answer to {SECRET}."})
    assert tick(14 * 60) == "Nothing has failed."
    assert tick(15 * 60 + 1) == "Reported 1 failures."
    assert tick(40 * 60) == "Nothing has failed."
    lake.update_source_health({"failing_since": None})
    assert tick(50 * 60) == "Reported 1 failures."
    assert tick(60 * 60) == "Nothing has failed."
    titles = [one["text"].splitlines()[0] for one in room.posted]
    assert titles == ["aind-etl: the source failed", "aind-etl: the source is back"]
    assert "It has not been read since" in room.posted[0]["text"]
    assert SECRET not in json.dumps(room.posted)


@pytest.mark.slow
def test_many_failures_become_one_message_and_later_ones_wait(instance, tick, room):
    fail(instance)
    for _ in range(11):
        run = instance.create_run_for_job(dg.GraphDefinition("empty").to_job())
        instance.report_run_failed(run)
    assert tick(1) == "Reported 12 failures."
    assert room.posted[0]["text"].endswith("… and 2 more")
    fail(instance)
    assert "wait for the next" in tick(2)
    assert len(room.posted) == 1


@pytest.mark.parametrize(
    "cursor",
    ["2024-01-01", "[]", '{"sent": null}', '{"since": "2024-01-01T00:00:00", "sent": "before"}'],
)
def test_an_unreadable_cursor_is_replaced(instance, settings, cursor):
    tick = AlertSensor(instance, settings, cursor)
    assert tick() == "Alerts are sent for failures from now on."
    assert tick(1) == "Nothing has failed."


def test_a_run_that_will_be_retried_is_not_reported(instance, tick, room):
    fail(instance, **{"dagster/will_retry": "true"})
    assert tick(1) == "Nothing has failed."
    assert room.posted == []


def test_no_secret_is_sent(instance, tick, room, settings):
    fail(instance, f"cannot open {settings.source} ({settings.alert_webhook_url})")
    fail(instance, settings.alert_webhook_url.get_secret_value())
    tick(1)
    assert SECRET not in json.dumps(room.posted)
    assert SECRET not in repr(settings)


def fail_tick(instance, kind, name, error):
    """Record a failed tick, as the daemon does; Dagster has no public way to do so."""
    location = GrpcServerCodeLocationOrigin("127.0.0.1", 1, location_name="aind_etl")
    origin = RemoteRepositoryOrigin(location, "__repository__").get_instigator_origin(name)
    data = ScheduleInstigatorData("0 2 * * *") if kind is InstigatorType.SCHEDULE else None
    state = InstigatorState(origin, kind, InstigatorStatus.DECLARED_IN_CODE, data)
    instance.add_instigator_state(state)
    instance.create_tick(
        TickData(
            state.instigator_origin_id,
            name,
            kind,
            TickStatus.FAILURE,
            datetime.now(UTC).timestamp(),
            selector_id=state.selector_id,
            error=SerializableErrorInfo(error, [], "AttributeError"),
        )
    )


def test_a_failed_tick_is_reported_once_with_its_error_and_a_link(instance, tick, room):
    fail_tick(instance, InstigatorType.SENSOR, "newly_finished_analyses", f"{SECRET}: a defect")
    fail_tick(instance, InstigatorType.SCHEDULE, "nightly_full_pass", "another defect")
    assert tick(1) == "Reported 2 failures."
    (posted,) = room.posted
    assert sorted(posted["text"].split("\n\n")[1:]) == [
        "schedule nightly_full_pass: another defect\nhttps://dagster.example/automation",
        "sensor newly_finished_analyses: …: a defect\nhttps://dagster.example/automation",
    ]
    assert tick(SECONDS_BETWEEN_MESSAGES + 5) == "Nothing has failed."


@pytest.mark.parametrize("status", [404, 500])
def test_a_message_that_was_not_accepted_is_sent_again(instance, tick, room, status):
    fail(instance)
    room.status = status
    assert tick(1) == f"The webhook answered with {status}; the next tick retries."
    room.status = 200
    assert tick(2) == "Reported 1 failures."


def test_the_address_of_an_unreachable_webhook_is_not_shown(instance, tick, room):
    fail(instance)
    tick.settings = load_settings(alert_webhook_url=f"http://127.0.0.1:9/{SECRET}")
    said = tick(1)
    assert said == "The webhook could not be reached (ConnectError); the next tick retries."


def test_without_a_webhook_nothing_is_sent(instance):
    tick = AlertSensor(instance, load_settings())
    assert tick().startswith("AIND_ETL_ALERT_WEBHOOK_URL is not set")


def test_slack_gets_text_and_teams_also_a_card():
    failures = [Failure("a job", "an error", "http://page/runs/1")]
    assert message(failures, slack=True).keys() == {"text"}
    card = message(failures, slack=False)["attachments"][0]
    assert card["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert [block["text"] for block in card["content"]["body"]] == [
        "aind-etl: a job failed",
        "a job: an error\nhttp://page/runs/1",
    ]
