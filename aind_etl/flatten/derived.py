"""What follows from the values taken from a document: sessions, outcomes, times, agents.

Each function says where its rule comes from. All but the naming of agents are polars
expressions, evaluated for a whole batch at once.
"""

from collections.abc import Mapping
from functools import cache

import polars as pl

NWB_NAME = (
    r"^(?:[A-Za-z][A-Za-z-]*_)?([^_]+)_(\d{4}-\d{2}-\d{2})(?:_(\d{2}-\d{2}-\d{2}))?(?:\.nwb)?$"
)
"""Name of an NWB file: an optional prefix such as ``behavior_``, the subject, the day, the time
of day where the writer gave one, and an optional suffix. The SQL macro ``session_key`` holds the
same expression."""

_TIME = (
    r"^(?<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<clock>\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?)\d*"
    r"\s*(?:Z|z|(?<sign>[+-])(?<hours>\d{2}):?(?<minutes>\d{2}))?)?$"
)
_DAY = r"^(\d{4}-\d{2}-\d{2})(?:[T ].*)?$"


def session_key(nwb_name: pl.Expr, subject_id: pl.Expr, session_date: pl.Expr) -> pl.Expr:
    """Return the identity of the behaviour session, ``<subject>_<date>[_<HH-MM-SS>]``.

    The parts come from the NWB name, whatever its prefix and suffix; where it does not match
    :data:`NWB_NAME`, from the subject and the day.
    """
    parts = (nwb_name.str.extract(NWB_NAME, group) for group in (1, 2, 3))
    named = pl.concat_str(*parts, separator="_", ignore_nulls=True)
    given = pl.concat_str(subject_id, session_date.dt.to_string("%Y-%m-%d"), separator="_")
    return pl.when(nwb_name.str.contains(NWB_NAME)).then(named).otherwise(given)


def session_time(nwb_name: pl.Expr) -> pl.Expr:
    """Return the time of day in an NWB name."""
    return nwb_name.str.extract(NWB_NAME, 3).str.to_time("%H-%M-%S", strict=False)


def outcome(status: pl.Expr) -> pl.Expr:
    """Return how an analysis ended, from its writer's words.

    Writers say ``success``, ``skipped. <why>``, and in older records texts such as ``failed due
    to unhandled exception``.
    """
    words = status.str.strip_chars().str.to_lowercase()
    return (
        pl.when(words == "success")
        .then(pl.lit("success"))
        .when(words.str.starts_with("skip"))
        .then(pl.lit("skipped"))
        .when(words.str.contains("fail|error|exception"))
        .then(pl.lit("failed"))
        .otherwise(pl.lit("unknown"))
    )


def moment(text: pl.Expr) -> pl.Expr:
    """Return the time that an ISO 8601 text gives, NULL where it gives none.

    A text without a zone is UTC: no writer gives local times. NULL as well outside the years 1 to
    9999 in UTC, beyond which many readers have no calendar.
    """
    parts = text.str.extract_groups(_TIME)
    clock = parts.struct.field("clock").fill_null("00:00:00")
    naive = pl.concat_str(parts.struct.field("day"), clock, separator=" ").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False
    )
    minutes = 60 * parts.struct.field("hours").cast(pl.Int64) + parts.struct.field("minutes").cast(
        pl.Int64
    )
    ahead = pl.when(parts.struct.field("sign") == "-").then(-minutes).otherwise(minutes)
    time = naive - pl.duration(minutes=ahead.fill_null(0))
    return _in_calendar(time).dt.replace_time_zone("UTC")


def day(text: pl.Expr) -> pl.Expr:
    """Return the date that an ISO 8601 text gives, NULL where it gives none after the year 0."""
    return _in_calendar(text.str.extract(_DAY, 1).str.to_date("%Y-%m-%d", strict=False))


def _in_calendar(time: pl.Expr) -> pl.Expr:
    return pl.when(time.dt.year().is_between(1, 9999)).then(time)


def session_month(session_date: pl.Expr, unknown: str) -> pl.Expr:
    """Return the month a row is filed under, ``YYYY-MM``, or ``unknown`` without a day."""
    return session_date.dt.to_string("%Y-%m").fill_null(unknown)


def s3_to_https(location: pl.Expr) -> pl.Expr:
    """Return the ``https://`` address of an ``s3://bucket/key``, NULL for any other text."""
    return location.str.extract(r"^s3://[^/]+(?:/.*)?$", 0).str.replace(
        r"^s3://([^/]+)/?(.*)$", "https://${1}.s3.amazonaws.com/${2}"
    )


def agent_alias(agent_class: str | None, options: Mapping[str, object] | None) -> str | None:
    """Return the alias of an agent from its class and keyword arguments.

    The rule is the model library's: class, learning and forgetting rates, choice kernel, and
    action selection, in this order. None for an agent that the rule does not cover: an alias is
    never guessed.
    """
    if agent_class is None or options is None:
        return None
    items = tuple(sorted((key, str(value)) for key, value in options.items()))
    return _agent_alias(agent_class, items)


_CHOICE_KERNELS = {"none": "", "one_step": "_CK1", "full": "_CKfull"}
_ACTION_SELECTIONS = {"softmax": "_softmax", "epsilon-greedy": "_epsi"}
_STAY_OR_SWITCH = {"True": "WSLS", "False": "LossCounting"}


@cache
def _agent_alias(agent_class: str, items: tuple[tuple[str, str], ...]) -> str | None:
    options = dict(items)
    try:
        kernel = _CHOICE_KERNELS[options.pop("choice_kernel")]
        match agent_class:
            case "ForagerQLearning":
                learning = options.pop("number_of_learning_rate")
                forgetting = options.pop("number_of_forget_rate")
                selection = _ACTION_SELECTIONS[options.pop("action_selection")]
                alias = f"QLearning_L{learning}F{forgetting}{kernel}{selection}"
            case "ForagerLossCounting":
                alias = _STAY_OR_SWITCH[options.pop("win_stay_lose_switch")] + kernel
            case "ForagerCompareThreshold":
                alias = f"ForagingCompareThreshold{kernel}"
            case _:
                return None
    except KeyError:
        return None
    return None if options else alias
