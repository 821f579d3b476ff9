"""Statements that run two at a time."""

import time
from threading import Barrier

import duckdb
import pytest

from aind_etl.warehouse import contents
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.parallel import run_parallel


@pytest.fixture
def connection(tmp_path):
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"ATTACH '{tmp_path / 'other.duckdb'}' AS other")
        connection.execute("USE other")
        yield connection


def test_steps_run_at_the_same_time_on_the_current_database(connection):
    both_run = Barrier(2, timeout=30)

    def make(table):
        def step(cursor):
            both_run.wait()
            cursor.execute(f"CREATE TABLE {table} AS SELECT 1 AS n")
            return table

        return step

    assert run_parallel(connection, {"a": make("a"), "b": make("b")}) == {"a": "a", "b": "b"}
    assert connection.sql("SELECT a.n + b.n FROM other.a, other.b").fetchall() == [(2,)]


def test_a_step_begins_when_all_that_it_reads_have_ended(connection):
    ended = []

    def step(name, seconds):
        def run(_cursor):
            time.sleep(seconds)
            ended.append(name)
            return tuple(ended)

        return run

    steps = {"last": step("last", 0), "slow": step("slow", 0.1), "quick": step("quick", 0)}
    begun = []
    results = run_parallel(connection, steps, {"last": {"slow", "quick"}}, begun.append)
    assert begun[-1] == "last"
    assert set(results["last"]) == {"slow", "quick", "last"}


def test_an_error_is_raised_and_nothing_is_begun_after_it(connection):
    begun = []
    steps = {
        "wrong": lambda cursor: cursor.execute("FROM nowhere"),
        "next": lambda cursor: cursor.execute("SELECT 1"),
    }
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        run_parallel(connection, steps, {"next": {"wrong"}}, begun.append)
    assert begun == ["wrong"]


def test_an_error_interrupts_the_other_step(connection):
    def fail(_cursor):
        time.sleep(0.3)
        raise ValueError("wrong")

    steps = {
        "long": lambda cursor: cursor.execute("SELECT sum(hash(range)) FROM range(1000000000000)"),
        "wrong": fail,
    }
    began = time.monotonic()
    with pytest.raises(ValueError, match="wrong"):
        run_parallel(connection, steps)
    assert time.monotonic() - began < 30


def test_times_are_in_utc_whatever_the_time_zone_of_the_machine(connection):
    connection.execute("SET GLOBAL TimeZone = 'America/Los_Angeles'")
    query = "SELECT strftime('2026-01-01 00:00:00+00'::TIMESTAMPTZ, '%d %H')"
    step = {"one": lambda cursor: cursor.execute(query).fetchone()}
    assert run_parallel(connection, step) == {"one": ("01 00",)}


def test_one_statement_at_a_time_can_be_asked_for(connection):
    running = []

    def step(_cursor):
        running.append(True)
        assert len(running) == 1
        time.sleep(0.02)
        running.pop()

    run_parallel(connection, dict.fromkeys("abcd", step), at_a_time=1)


def test_a_large_warehouse_is_built_one_statement_at_a_time(built, tmp_path, monkeypatch):
    at_a_time = []

    def spy(*arguments, **options):
        at_a_time.append(options["at_a_time"])
        return run_parallel(*arguments, **options)

    monkeypatch.setattr(contents, "run_parallel", spy)
    build_warehouse(built.lake, tmp_path / "small.duckdb")
    monkeypatch.setattr(contents, "_MOST_ANALYSES_IN_PARALLEL", 10)
    build_warehouse(built.lake, tmp_path / "large.duckdb")
    assert at_a_time == [2, 2, 1, 1]
