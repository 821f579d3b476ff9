"""Values derived from those of a document: sessions, outcomes, times, agents."""

from datetime import UTC, date, datetime, time, timedelta, timezone

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aind_etl.flatten import derived
from aind_etl.sample.agents import CATALOGUE


def derive(expression, **values):
    """Return an expression's value for one row of texts."""
    schema = {name: pl.Date if name == "session_date" else pl.String for name in values}
    row = pl.DataFrame({name: [value] for name, value in values.items()}, schema=schema)
    return row.select(expression).item()


def derive_all(expression, texts):
    """Return an expression's values for a column ``text``."""
    return pl.DataFrame({"text": texts}).select(expression).to_series().to_list()


def key_of(nwb_name, subject_id=None, session_date=None):
    columns = {"nwb_name": nwb_name, "subject_id": subject_id, "session_date": session_date}
    return derive(derived.session_key(*map(pl.col, columns)), **columns)


def moment_of(text):
    return derive(derived.moment(pl.col("text")), text=text)


# --- sessions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nwb_name", "expected"),
    [
        ("721403_2024-08-09_08-39-12.nwb", "721403_2024-08-09_08-39-12"),
        ("721403_2024-08-09_08-39-12", "721403_2024-08-09_08-39-12"),
        ("behavior_754280_2024-11-14_11-06-24.nwb", "754280_2024-11-14_11-06-24"),
        ("behavior_754280_2024-11-14_11-06-24", "754280_2024-11-14_11-06-24"),
        ("multiplane-ophys_754280_2024-11-14_11-06-24.nwb", "754280_2024-11-14_11-06-24"),
        ("685641_2023-10-04.nwb", "685641_2023-10-04"),
        ("FIP_685641_foraging_test.nwb", None),
        ("685641_2023-10-04_extra.nwb", None),
        ("", None),
        (None, None),
    ],
)
def test_the_session_key_is_the_nwb_name_without_prefix_and_suffix(nwb_name, expected):
    assert key_of(nwb_name) == expected


@pytest.mark.parametrize("nwb_name", [None, "FIP_685641_foraging_test.nwb"])
def test_without_a_usable_nwb_name_the_session_key_is_subject_and_day(nwb_name):
    assert key_of(nwb_name, "685641", date(2023, 10, 4)) == "685641_2023-10-04"
    assert key_of(nwb_name, "685641", None) is None
    assert key_of(nwb_name, None, date(2023, 10, 4)) is None


def test_the_nwb_name_takes_precedence_over_subject_and_day():
    found = key_of("721403_2024-08-09_08-39-12.nwb", "1", date(2000, 1, 1))
    assert found == "721403_2024-08-09_08-39-12"


SESSIONS = st.tuples(
    st.from_regex(r"[0-9]{6}", fullmatch=True),
    st.datetimes(
        min_value=datetime.fromisoformat("2000-01-01"),
        max_value=datetime.fromisoformat("2099-12-31"),
    ),
    st.sampled_from(["", "behavior_", "ecephys_", "behavior-videos_"]),
    st.sampled_from(["", ".nwb"]),
)


@settings(max_examples=10)
@given(st.lists(SESSIONS, min_size=1))
def test_every_spelling_of_an_nwb_name_gives_the_same_session_key(sessions):
    keys = [f"{subject}_{began:%Y-%m-%d_%H-%M-%S}" for subject, began, _, _ in sessions]
    names = [
        f"{prefix}{key}{suffix}" for key, (_, _, prefix, suffix) in zip(keys, sessions, strict=True)
    ]
    nothing = pl.lit(None, pl.Date)
    key = derived.session_key(pl.col("text"), nothing.cast(pl.String), nothing)
    assert derive_all(key, names) == keys
    clocks = [began.time().replace(microsecond=0) for _, began, _, _ in sessions]
    assert derive_all(derived.session_time(pl.col("text")), names) == clocks


@pytest.mark.parametrize(
    ("nwb_name", "expected"),
    [
        ("721403_2024-08-09_08-39-12.nwb", time(8, 39, 12)),
        ("685641_2023-10-04.nwb", None),
        ("721403_2024-08-09_99-99-99.nwb", None),
        (None, None),
    ],
)
def test_the_time_of_day_of_a_session_comes_from_the_nwb_name(nwb_name, expected):
    assert derive(derived.session_time(pl.col("nwb_name")), nwb_name=nwb_name) == expected


# --- outcomes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("success", "success"),
        (" Success ", "success"),
        ("skipped. valid trials < 50", "skipped"),
        ("Skipped", "skipped"),
        ("failed due to unhandled exception (see log)", "failed"),
        ("Error in fitting", "failed"),
        ("unsuccessful", "unknown"),
        ("running", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_outcome_is_derived_from_the_status(status, expected):
    assert derive(derived.outcome(pl.col("status")), status=status) == expected


# --- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-08T07:39:40.883131", datetime(2026, 1, 8, 7, 39, 40, 883_131, tzinfo=UTC)),
        ("2025-06-25T00:12:35", datetime(2025, 6, 25, 0, 12, 35, tzinfo=UTC)),
        ("2025-06-25 00:12:35", datetime(2025, 6, 25, 0, 12, 35, tzinfo=UTC)),
        ("2025-06-25T00:12:35Z", datetime(2025, 6, 25, 0, 12, 35, tzinfo=UTC)),
        ("2025-06-25T00:12:35+00:00", datetime(2025, 6, 25, 0, 12, 35, tzinfo=UTC)),
        ("2025-06-25T00:12:35-07:00", datetime(2025, 6, 25, 7, 12, 35, tzinfo=UTC)),
        ("2025-06-25T00:12:35.5+05:30", datetime(2025, 6, 24, 18, 42, 35, 500_000, tzinfo=UTC)),
        ("2025-06-25T00:12:35.123456789Z", datetime(2025, 6, 25, 0, 12, 35, 123_456, tzinfo=UTC)),
        ("2025-06-25", datetime(2025, 6, 25, tzinfo=UTC)),
    ],
)
def test_times_are_converted_to_utc_and_are_utc_without_a_zone(text, expected):
    assert moment_of(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2025-02-30T00:00:00", "2025-06-25T25:00:00", "25/06/2025", "1750810355"],
)
def test_other_texts_are_no_time(text):
    assert moment_of(text) is None


TIMES = st.datetimes(
    min_value=datetime.fromisoformat("1900-01-01"),
    max_value=datetime.fromisoformat("2200-01-01"),
    timezones=st.none()
    | st.integers(-14 * 60, 14 * 60).map(lambda m: timezone(timedelta(minutes=m))),
)


@settings(max_examples=10)
@given(st.lists(TIMES, min_size=1))
def test_every_time_that_python_writes_is_parsed(times):
    aware = [one if one.tzinfo else one.replace(tzinfo=UTC) for one in times]
    texts = [one.isoformat() for one in times]
    assert derive_all(derived.moment(pl.col("text")), texts) == aware


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-10-24", date(2024, 10, 24)),
        ("2024-10-24T17:38:06", date(2024, 10, 24)),
        ("2024-02-30", None),
        ("24.10.2024", None),
        ("2024-10-24x", None),
    ],
)
def test_a_day_is_read_from_an_iso_text(text, expected):
    assert derive(derived.day(pl.col("text")), text=text) == expected


# --- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://bucket/some/key", "https://bucket.s3.amazonaws.com/some/key"),
        ("s3://bucket", "https://bucket.s3.amazonaws.com/"),
        ("https://bucket.s3.amazonaws.com/key", None),
        ("/a/local/folder", None),
        (None, None),
    ],
)
def test_a_folder_in_s3_has_an_https_address(location, expected):
    assert derive(derived.s3_to_https(pl.col("location")), location=location) == expected


# --- agents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", CATALOGUE)
def test_the_alias_of_every_agent_of_the_catalogue_is_derived(alias):
    agent = CATALOGUE[alias]
    assert derived.agent_alias(agent.class_name, agent.keyword_arguments) == alias
