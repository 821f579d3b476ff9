"""The settings: the command line, then the environment, then the defaults."""

from pathlib import Path

import pytest
from typer.main import get_command

from aind_etl.cli.app import app
from aind_etl.errors import ConfigurationError
from aind_etl.settings import OPTIONS, Settings, load_settings, unknown_variables

SECRET = "mongodb://reader:s3cret@db.example/analysis"


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch):
    for name in Settings.model_fields:
        monkeypatch.delenv(f"AIND_ETL_{name.upper()}", raising=False)


def test_by_default_the_sample_is_loaded_to_a_lake_in_the_working_folder():
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


@pytest.mark.parametrize(
    ("lake", "warehouse"),
    [
        ("s3://bucket/lake", "s3://bucket/lake/warehouse.duckdb"),
        ("s3://bucket/lake/", "s3://bucket/lake/warehouse.duckdb"),
        (Path("/l"), Path("/l/warehouse.duckdb")),
    ],
)
def test_the_warehouse_is_in_the_lake_unless_it_is_named(lake, warehouse):
    assert load_settings(lake=lake).warehouse_path == warehouse
    assert load_settings(lake=lake, warehouse="w.duckdb").warehouse_path == Path("w.duckdb")


def test_given_values_take_precedence_over_the_environment(monkeypatch):
    monkeypatch.setenv("AIND_ETL_LAKE", "/from/the/environment")
    monkeypatch.setenv("AIND_ETL_COLLECTIONS", "theirs")
    given = load_settings(lake=Path("/given"), collections=("mine", "yours"))
    assert (given.lake, given.collections) == (Path("/given"), ("mine", "yours"))
    not_given = load_settings(lake=None, collections=())
    assert (not_given.lake, not_given.collections) == (Path("/from/the/environment"), ("theirs",))


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
        ("time_zone", "Seattle"),
    ],
)
def test_an_error_names_an_invalid_value_with_its_setting_and_option(monkeypatch, name, text):
    monkeypatch.setenv(f"AIND_ETL_{name.upper()}", text)
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    message = str(caught.value)
    option = " (--max-deleted-share)" if name == "max_deleted_share" else ""
    assert f"AIND_ETL_{name.upper()}{option} is '{text}': " in message
    assert "\n" not in message


def test_the_options_that_messages_name_exist():
    command = get_command(app).commands["run"]
    taken = {text for parameter in command.params for text in parameter.opts}
    assert set(OPTIONS.values()) <= taken
    assert set(OPTIONS) <= set(Settings.model_fields)


def test_an_unknown_variable_is_ignored_and_named_with_a_suggestion(monkeypatch):
    monkeypatch.setenv("AIND_ETL_REAL_RECORDS", "/somewhere")
    monkeypatch.setenv("AIND_ETL_SORCE", "x")
    assert load_settings().source == "sample:"
    unknown = unknown_variables([])
    assert "AIND_ETL_SOURCE" in unknown["AIND_ETL_SORCE"]
    assert "AIND_ETL_REAL_RECORDS" not in unknown


def test_settings_tracebacks_and_alerts_show_no_secret(monkeypatch):
    monkeypatch.setenv("AIND_ETL_SOURCE", SECRET)
    settings = load_settings(alert_webhook_url="https://hooks.example/T0/s3cret-2")
    assert settings.source == SECRET
    text = f"{SECRET} with s3cret at https://hooks.example/T0/s3cret-2"
    for shown in (settings.without_secrets(text), repr(settings), str(settings)):
        assert "s3cret" not in shown


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({}, ["fits-a", "fits-b", "nm"]),
        ({"include": ("fits-*",)}, ["fits-a", "fits-b"]),
        ({"exclude": ("*-b", "n?")}, ["fits-a"]),
        ({"include": ("fits-*", "nm"), "exclude": ("*-a",)}, ["fits-b", "nm"]),
        ({"collections": ("nm",), "exclude": ("*",)}, ["nm"]),
        ({"collections": ("nm", "fits-a")}, ["fits-a", "nm"]),
        ({"include": ("other",)}, []),
    ],
)
def test_names_or_else_patterns_choose_the_collections(given, chosen):
    assert load_settings(**given).choose({"nm", "fits-b", "fits-a"}) == chosen
    assert load_settings(include=("fits-*",)).choose([]) == []


def test_an_unknown_collection_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match="no collection 'c'; there are 'a', 'b'"):
        load_settings(collections=("a", "c")).choose({"b", "a"})
