"""Failure alerts: one message to a chat room with everything that failed since the last one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import urlsplit

import dagster as dg
import httpx

from aind_etl.lake import Lake
from aind_etl.orchestration.runs import run_name
from aind_etl.settings import Settings

SECONDS_BETWEEN_MESSAGES = 300
"""Failures within this time after a message are reported by the next one."""

_SOURCE_AWAY = timedelta(minutes=15)
_SHOWN = 10
_TEXT_LENGTH = 600
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that failed."""

    what: str
    """The job with its collection, the sensor or the schedule."""
    error: str
    """The error, in one or a few lines."""
    link: str
    """The address of the Dagster UI that shows it."""
    verb: str = "failed"
    """What happened to it."""


def send_alerts(context: dg.SensorEvaluationContext, settings: Settings, now: datetime) -> str:
    """Send a message about new failures if one is due, and return what was done.

    The cursor holds the time up to which failures were reported, as ``sent`` too if a message
    reported them. It advances only after a message was accepted. Without a cursor, alerts start
    with failures from now on.
    """
    url = settings.alert_webhook_url
    if url is None:
        context.update_cursor("")
        return "AIND_ETL_ALERT_WEBHOOK_URL is not set: no alerts are sent."
    try:
        cursor = json.loads(context.cursor or "")
        since = datetime.fromisoformat(cursor["since"])
        is_waiting = cursor["sent"] and now - since < timedelta(seconds=SECONDS_BETWEEN_MESSAGES)
    except (ValueError, KeyError, TypeError):
        context.update_cursor(json.dumps({"since": now.isoformat(), "sent": None}))
        return "Alerts are sent for failures from now on."
    if is_waiting:
        return "A message was sent recently; new failures wait for the next one."
    lake = Lake(settings.lake)
    source_changes = _source_changes(lake, settings, now)
    failures = [
        *source_changes,
        *_failed_runs(context.instance, settings, since, now),
        *_failed_ticks(context.instance, settings, since, now),
    ]
    if not failures:
        context.update_cursor(json.dumps({"since": now.isoformat(), "sent": None}))
        return "Nothing has failed."
    problem = _post(url.get_secret_value(), failures)
    if problem is not None:
        return f"{problem}; the next tick retries."
    if source_changes:
        lake.update_source_health({"is_alerted": source_changes[0].verb == "failed"})
    context.update_cursor(json.dumps({"since": now.isoformat(), "sent": now.isoformat()}))
    return f"Reported {len(failures):,} failures."


def message(failures: Sequence[Failure], *, slack: bool) -> dict[str, object]:
    """Return the JSON to post.

    Slack accepts ``text`` alone and refuses cards. Teams reads the card; its older connectors and
    most other webhooks read the text.
    """
    title = (
        f"aind-etl: {failures[0].what} {failures[0].verb}"
        if len(failures) == 1
        else f"aind-etl: {len(failures):,} failures"
    )
    lines = [f"{one.what}: {one.error}\n{one.link}" for one in failures[:_SHOWN]]
    if len(failures) > _SHOWN:
        lines.append(f"… and {len(failures) - _SHOWN:,} more")
    text = "\n\n".join([title, *lines])
    if slack:
        return {"text": text}
    blocks = [{"type": "TextBlock", "text": title, "weight": "Bolder", "wrap": True}]
    blocks += [{"type": "TextBlock", "text": line, "wrap": True} for line in lines]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "text": text, "attachments": [attachment]}


def _post(url: str, failures: Sequence[Failure]) -> str | None:
    """Post a message, and return any problem, without the address, which is a secret."""
    slack = (urlsplit(url).hostname or "").endswith("slack.com")
    try:
        answer = httpx.post(url, json=message(failures, slack=slack), timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"The webhook could not be reached ({type(error).__name__})"
    return None if answer.is_success else f"The webhook answered with {answer.status_code}"


def _source_changes(lake: Lake, settings: Settings, now: datetime) -> list[Failure]:
    """Return that the source has become unreadable or readable; each is reported once."""
    health = lake.source_health()
    link = f"{settings.dagster_url}/automation"
    if health.failing_since is None:
        if not health.is_alerted:
            return []
        return [Failure("the source", "It can be read again.", link, verb="is back")]
    if health.is_alerted or now - health.failing_since < _SOURCE_AWAY:
        return []
    since = f"{health.failing_since:%Y-%m-%d %H:%M} UTC"
    error = _shown(f"It has not been read since {since}. {health.error}", settings)
    return [Failure("the source", error, link)]


def _failed_runs(
    instance: dg.DagsterInstance, settings: Settings, since: datetime, now: datetime
) -> Iterator[Failure]:
    failed = dg.RunsFilter(
        statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since, updated_before=now
    )
    for record in instance.get_run_records(failed, ascending=True):
        run = record.dagster_run
        if run.tags.get("dagster/will_retry") != "true":
            error = _shown(_error_of(instance, run.run_id), settings)
            yield Failure(run_name(run), error, f"{settings.dagster_url}/runs/{run.run_id}")


def _error_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the innermost error of a run's first failed step."""
    for kind in (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE):
        for entry in instance.all_logs(run_id, of_type=kind):
            event = entry.dagster_event
            data = event.event_specific_data if event else None
            error = getattr(data, "error", None)
            if error is not None:
                while error.cause is not None:
                    error = error.cause
                return str(error.message).strip()
            if event is not None and event.message:
                return event.message
    return "The process of the run ended without an error message."


def _failed_ticks(
    instance: dg.DagsterInstance, settings: Settings, since: datetime, now: datetime
) -> Iterator[Failure]:
    """Yield the last failed tick of each sensor and schedule."""
    after, before, page = since.timestamp(), now.timestamp(), f"{settings.dagster_url}/automation"
    for state in instance.all_instigator_state():
        origin, selector = state.instigator_origin_id, state.selector_id
        for tick in instance.get_ticks(origin, selector, after=after, before=before):
            if tick.status.value == dg.DagsterRunStatus.FAILURE.value:
                what = f"{state.instigator_type.value.lower()} {state.name}"
                error = tick.error.message.strip() if tick.error else "no error was kept"
                yield Failure(what, _shown(error, settings), page)
                break


def _shown(error: str, settings: Settings) -> str:
    """Return an error without secrets, cut off at the length that a message allows."""
    error = settings.without_secrets(error)
    return error if len(error) <= _TEXT_LENGTH else f"{error[: _TEXT_LENGTH - 1]}…"
