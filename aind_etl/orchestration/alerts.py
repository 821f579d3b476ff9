"""Failure alerts: one message to a chat room for everything that failed since the last one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import unquote, urlsplit

import dagster as dg
import httpx

from aind_etl.lake import Lake
from aind_etl.settings import Settings

SECONDS_BETWEEN_LOOKS = 60
SECONDS_BETWEEN_MESSAGES = 300
"""What fails within this time of a message waits for the next one."""
SOURCE_AWAY = timedelta(minutes=15)
"""How long a source must be unreadable before an alert is sent."""

_SHOWN = 10
_TEXT_LENGTH = 600
_TIMEOUT_SECONDS = 10
_WILL_RETRY_TAG = "dagster/will_retry"


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that failed.

    Attributes
    ----------
    what
        What, for people: a job with its collection, a sensor, a schedule.
    error
        The error, in one or a few lines.
    link
        Where the page shows it.
    verb
        What it did.
    """

    what: str
    error: str
    link: str
    verb: str = "failed"


def send_alerts(context: dg.SensorEvaluationContext, settings: Settings, now: datetime) -> str:
    """Send what failed since the last message, if it is time, and return what was done.

    The cursor says since when to look, and when a message was last sent. It moves only once a
    message was accepted; without a cursor, alerts start with the failures from then on.
    """
    url = settings.alert_webhook_url
    if url is None:
        context.update_cursor("")
        return "AIND_ETL_ALERT_WEBHOOK_URL is not set: no alerts are sent."
    try:
        cursor = json.loads(context.cursor or "")
        since = datetime.fromisoformat(cursor["since"])
        sent = datetime.fromisoformat(cursor["sent"]) if cursor["sent"] else None
    except (ValueError, KeyError, TypeError):
        context.update_cursor(json.dumps({"since": now.isoformat(), "sent": None}))
        return "Alerts are sent for failures from now on."
    if sent is not None and now - sent < timedelta(seconds=SECONDS_BETWEEN_MESSAGES):
        return "A message was sent a moment ago; what fails now waits for the next."
    lake = Lake(settings.lake)
    news = _source_news(lake, settings, now)
    failures = [
        *news,
        *_failed_runs(context.instance, settings, since, now),
        *_failed_ticks(context.instance, settings, since, now),
    ]
    if not failures:
        context.update_cursor(json.dumps({"since": now.isoformat(), "sent": None}))
        return "Nothing has failed."
    problem = _post(url.get_secret_value(), failures)
    if problem is not None:
        return f"{problem}; it is tried again."
    if news:
        lake.update_source_health({"is_alerted": news[0].verb == "failed"})
    context.update_cursor(json.dumps({"since": now.isoformat(), "sent": now.isoformat()}))
    return f"Told of {len(failures):,} failures."


def message(failures: Sequence[Failure], *, slack: bool) -> dict[str, object]:
    """Return the JSON to post.

    Slack takes ``text`` alone and refuses cards. Teams takes the card; its older connectors, and
    most else that takes webhooks, the text.
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
    """Post a message, and return what went wrong, without the address: it is a secret."""
    slack = (urlsplit(url).hostname or "").endswith("slack.com")
    try:
        answer = httpx.post(url, json=message(failures, slack=slack), timeout=_TIMEOUT_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return f"The webhook could not be reached ({type(error).__name__})"
    return None if answer.is_success else f"The webhook answered with {answer.status_code}"


def _source_news(lake: Lake, settings: Settings, now: datetime) -> list[Failure]:
    """Return that the source has been away for a while, or is back; each is said once."""
    health = lake.source_health()
    link = f"{settings.dagster_url}/automation"
    if health.failing_since is None:
        if not health.is_alerted:
            return []
        return [Failure("the source", "It can be read again.", link, verb="is back")]
    if health.is_alerted or now - health.failing_since < SOURCE_AWAY:
        return []
    since = f"{health.failing_since:%Y-%m-%d %H:%M} UTC"
    error = _shown(f"It has not been read since {since}. {health.error}", settings)
    return [Failure("the source", error, link)]


def _failed_runs(
    instance: dg.DagsterInstance, settings: Settings, since: datetime, now: datetime
) -> list[Failure]:
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE], updated_after=since, updated_before=now
        ),
        ascending=True,
    )
    failures = []
    for record in records:
        run = record.dagster_run
        if run.tags.get(_WILL_RETRY_TAG) == "true":
            continue
        partition = run.tags.get("dagster/partition")
        failures.append(
            Failure(
                f"{run.job_name} of {partition}" if partition else run.job_name,
                _shown(_error_of(instance, run.run_id), settings),
                f"{settings.dagster_url}/runs/{run.run_id}",
            )
        )
    return failures


def _error_of(instance: dg.DagsterInstance, run_id: str) -> str:
    """Return the innermost error of a run's first step that failed."""
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
    return "The process of the run ended without a word."


def _failed_ticks(
    instance: dg.DagsterInstance, settings: Settings, since: datetime, now: datetime
) -> list[Failure]:
    failures = []
    for state in instance.all_instigator_state():
        ticks = instance.get_ticks(
            state.instigator_origin_id,
            state.selector_id,
            after=since.timestamp(),
            before=now.timestamp(),
        )
        failed = [tick for tick in ticks if tick.status.value == dg.DagsterRunStatus.FAILURE.value]
        for tick in failed[:1]:
            error = tick.error
            failures.append(
                Failure(
                    f"{state.instigator_type.value.lower()} {state.name}",
                    _shown(error.message.strip() if error else "no error was kept", settings),
                    f"{settings.dagster_url}/automation",
                )
            )
    return failures


def _shown(error: str, settings: Settings) -> str:
    """Return an error without secrets, as long as a message bears."""
    for secret in _secrets(settings):
        error = error.replace(secret, "…")
    return error if len(error) <= _TEXT_LENGTH else f"{error[: _TEXT_LENGTH - 1]}…"


def _secrets(settings: Settings) -> list[str]:
    """Return what must never be shown: errors say none of it, but defects might."""
    found = [secret.get_secret_value() for secret in settings.secrets]
    for address in [settings.source, *found]:
        try:
            password = urlsplit(address).password
        except ValueError:
            found.append(address)
            continue
        if password:
            found += [address, password, unquote(password)]
    return sorted(filter(None, found), key=len, reverse=True)
