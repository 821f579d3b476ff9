"""Values derived from those of a document: sessions, outcomes, times, agents.

All but :func:`agent_alias` are polars expressions, evaluated for a whole batch at once.
"""

from collections.abc import Mapping

import polars as pl

from aind_etl.lake.paths import UNKNOWN_MONTH

NWB_NAME = (
    r"^(?:[A-Za-z][A-Za-z-]*_)?([^_]+)_(\d{4}-\d{2}-\d{2})(?:_(\d{2}-\d{2}-\d{2}))?(?:\.nwb)?$"
)
"""Name of an NWB file: subject, day and optionally the time of day, with an optional prefix such as
``behavior_`` and an optional suffix. The SQL macro ``session_key`` has the same expression."""

_TIME = (
    r"^(?<day>\d{4}-\d{2}-\d{2})"
    r"(?:[T ](?<clock>\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?)\d*"
    r"\s*(?:Z|z|(?<sign>[+-])(?<hours>\d{2}):?(?<minutes>\d{2}))?)?$"
)
_DAY = r"^(\d{4}-\d{2}-\d{2})(?:[T ].*)?$"


def session_key(nwb_name: pl.Expr, subject_id: pl.Expr, session_date: pl.Expr) -> pl.Expr:
    """Return the identity of the behaviour session, ``<subject>_<date>[_<HH-MM-SS>]``.

    It is taken from the NWB name without prefix and suffix or, if that does not match
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
    """Return how an analysis ended, from its status.

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
    """Parse an ISO 8601 time; NULL for any other text.

    A text without a zone is UTC: no writer gives local times. Times outside the years 1 to 9999
    are NULL as well, because many readers do not support them.
    """
    parts = text.str.extract_groups(_TIME)
    clock = parts.struct.field("clock").fill_null("00:00:00")
    naive = pl.concat_str(parts.struct.field("day"), clock, separator=" ").str.to_datetime(
        "%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False
    )
    hours, minutes = (parts.struct.field(name).cast(pl.Int64) for name in ("hours", "minutes"))
    sign = pl.when(parts.struct.field("sign") == "-").then(-1).otherwise(1)
    time = naive - pl.duration(minutes=(sign * (60 * hours + minutes)).fill_null(0))
    return _in_calendar(time).dt.replace_time_zone("UTC")


def day(text: pl.Expr) -> pl.Expr:
    """Parse the date of an ISO 8601 text; NULL if there is none or it is before the year 1."""
    return _in_calendar(text.str.extract(_DAY, 1).str.to_date("%Y-%m-%d", strict=False))


def _in_calendar(time: pl.Expr) -> pl.Expr:
    return pl.when(time.dt.year().is_between(1, 9999)).then(time)


def session_month(session_date: pl.Expr) -> pl.Expr:
    """Return the month of the partition, ``YYYY-MM`` or ``unknown``."""
    return session_date.dt.to_string("%Y-%m").fill_null(UNKNOWN_MONTH)


def s3_to_https(location: pl.Expr) -> pl.Expr:
    """Return the ``https://`` address of an ``s3://bucket/key``; NULL for any other text."""
    return location.str.extract(r"^s3://[^/]+(?:/.*)?$", 0).str.replace(
        r"^s3://([^/]+)/?(.*)$", "https://${1}.s3.amazonaws.com/${2}"
    )


_CHOICE_KERNELS = {"none": "", "one_step": "_CK1", "full": "_CKfull"}
_ACTION_SELECTIONS = {"softmax": "_softmax", "epsilon-greedy": "_epsi"}
_STAY_OR_SWITCH = {"True": "WSLS", "False": "LossCounting"}


def agent_alias(agent_class: str, options: Mapping[str, object]) -> str | None:
    """Return the alias of an agent from its class and keyword arguments.

    The rule is the model library's: class, learning and forgetting rates, choice kernel, and
    action selection, in this order, each as Python writes it. None for an agent that the rule does
    not cover.
    """
    left = {key: str(value) for key, value in options.items()}
    try:
        kernel = _CHOICE_KERNELS[left.pop("choice_kernel")]
        match agent_class:
            case "ForagerQLearning":
                learning = left.pop("number_of_learning_rate")
                forgetting = left.pop("number_of_forget_rate")
                selection = _ACTION_SELECTIONS[left.pop("action_selection")]
                alias = f"QLearning_L{learning}F{forgetting}{kernel}{selection}"
            case "ForagerLossCounting":
                alias = _STAY_OR_SWITCH[left.pop("win_stay_lose_switch")] + kernel
            case "ForagerCompareThreshold":
                alias = f"ForagingCompareThreshold{kernel}"
            case _:
                return None
    except KeyError:
        return None
    return None if left else alias
