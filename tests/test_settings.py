"""The settings: from the command line, else the environment, else the defaults."""

from pathlib import Path

import pytest
from typer.main import get_command

from aind_etl.cli.app import app
from aind_etl.errors import ConfigurationError
from aind_etl.settings import OPTIONS, Settings, load_settings

SECRET = "mongodb://reader:s3cret@db.example/analysis"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AIND_ETL_{name.upper()}", raising=False)


def test_without_any_choice_the_sample_is_loaded_to_a_lake_in_the_working_folder():
    settings = load_settings()
    assert settings.source == "sample:"
    assert settings.lake == Path("lake")
    assert settings.warehouse_path == Path("lake/warehouse.duckdb")
    assert settings.collections == ()
    assert (settings.look_back_days, settings.max_deleted_share) == (1.0, 0.2)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("source", "/some/dump", "/some/dump"),
        ("lake", "/data/lake", Path("/data/lake")),
        ("lake", "~/lake", Path.home() / "lake"),
        ("warehouse", "/data/w.duckdb", Path("/data/w.duckdb")),
        ("warehouse", "s3://bucket/w.duckdb", "s3://bucket/w.duckdb"),
        ("collections", "one", ("one",)),
        ("collections", " one, two ,,three ", ("one", "two", "three")),
        ("collections", "", ()),
        ("include", "fits-*, nm", ("fits-*", "nm")),
        ("exclude", "*-test", ("*-test",)),
        ("connections", "2", 2),
        ("requests_per_second", "0.5", 0.5),
        ("shard_documents", "1000", 1000),
        ("look_back_days", "0.5", 0.5),
        ("max_deleted_share", "1", 1.0),
    ],
)
def test_every_setting_can_be_set_in_the_environment(monkeypatch, name, text, expected):
    monkeypatch.setenv(f"AIND_ETL_{name.upper()}", text)
    assert getattr(load_settings(), name) == expected


@pytest.mark.parametrize("lake", ["s3://bucket/lake", "s3://bucket/lake/"])
def test_the_warehouse_lies_in_the_lake_wherever_that_is(lake):
    assert load_settings(lake=lake).warehouse_path == "s3://bucket/lake/warehouse.duckdb"
    assert load_settings(lake=lake, warehouse="w.duckdb").warehouse_path == Path("w.duckdb")


def test_what_is_given_counts_more_than_the_environment(monkeypatch):
    monkeypatch.setenv("AIND_ETL_LAKE", "/from/the/environment")
    monkeypatch.setenv("AIND_ETL_COLLECTIONS", "theirs")
    given = load_settings(lake=Path("/given"), collections=("mine", "yours"))
    assert (given.lake, given.collections) == (Path("/given"), ("mine", "yours"))
    not_given = load_settings(lake=None, collections=())
    assert (not_given.lake, not_given.collections) == (Path("/from/the/environment"), ("theirs",))


def test_the_warehouse_stands_in_the_lake_unless_it_is_named():
    assert load_settings(lake=Path("/l")).warehouse_path == Path("/l/warehouse.duckdb")
    named = load_settings(lake=Path("/l"), warehouse=Path("/w.duckdb"))
    assert named.warehouse_path == Path("/w.duckdb")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("max_deleted_share", "abc"),
        ("max_deleted_share", "1.5"),
        ("max_deleted_share", "-0.1"),
        ("max_deleted_share", "nan"),
        ("connections", "0"),
        ("requests_per_second", "0"),
        ("shard_documents", "-1"),
        ("look_back_days", "a week"),
        ("look_back_days", "-1"),
        ("look_back_days", "inf"),
        ("look_back_days", "nan"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_setting_and_any_option(
    monkeypatch, name, text
):
    monkeypatch.setenv(f"AIND_ETL_{name.upper()}", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    option = " (--max-deleted-share)" if name == "max_deleted_share" else ""
    assert f"AIND_ETL_{name.upper()}{option} is '{text}': " in message
    assert "\n" not in message


def test_an_option_that_a_message_names_is_one_of_the_command():
    command = get_command(app).commands["run"]
    taken = {text for parameter in command.params for text in parameter.opts}
    assert set(OPTIONS.values()) <= taken
    assert set(OPTIONS) <= set(Settings.model_fields)


def test_other_variables_with_the_prefix_do_no_harm(monkeypatch):
    monkeypatch.setenv("AIND_ETL_REAL_RECORDS", "/somewhere")
    assert load_settings().source == "sample:"


def test_no_setting_shows_a_password(monkeypatch):
    monkeypatch.setenv("AIND_ETL_SOURCE", SECRET)
    settings = load_settings()
    assert settings.source == SECRET
    for shown in (repr(settings), str(settings), f"{settings}"):
        assert "s3cret" not in shown


def test_collections_are_chosen_out_of_those_there_are():
    assert load_settings().choose({"b", "a"}) == ["a", "b"]
    assert load_settings(collections=("b",)).choose({"b", "a"}) == ["b"]
    assert load_settings().choose([]) == []


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ["fits-a", "fits-b", "nm"]),
        ({"include": ("fits-*",)}, ["fits-a", "fits-b"]),
        ({"exclude": ("*-b", "n?")}, ["fits-a"]),
        ({"include": ("fits-*", "nm"), "exclude": ("*-a",)}, ["fits-b", "nm"]),
        ({"collections": ("nm",), "exclude": ("*",)}, ["nm"]),
        ({"include": ("other",)}, []),
    ],
)
def test_patterns_choose_collections_unless_they_are_named(given, chosen):
    assert load_settings(**given).choose({"nm", "fits-b", "fits-a"}) == chosen


def test_a_collection_that_is_not_there_is_named_beside_those_that_are():
    with pytest.raises(ConfigurationError, match="no collection 'c'; there are 'a', 'b'"):
        load_settings(collections=("a", "c")).choose({"b", "a"})
