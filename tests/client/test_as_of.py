"""The warehouse as of an earlier moment equals the one that was built then."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from worlds import ANY_SHARE, MAIN, NOON, Clock, assert_same, load, read_dump, write_dump

from aind_etl.changelog.compaction import compact_change_log
from aind_etl.client.as_of import build_as_of, parse_moment
from aind_etl.contract import TABLES, tables
from aind_etl.errors import ArgumentError, ConfigurationError
from aind_etl.results import open_result_store, refresh_result_files, refresh_trials
from aind_etl.settings import load_settings
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

LATER = NOON + timedelta(days=10)
# Only the last pass is recorded.
_NOT_RECORDED = ("last_new_pass_at", "last_full_pass_at")


def rows_of(warehouse: Path) -> dict[str, pl.DataFrame]:
    """Return every table and mart of a warehouse, sorted."""
    found = {}
    with connect(warehouse) as connection:
        names = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal "
            "AND table_name <> 'warehouse_info' AND database_name <> 'system'"
        ).fetchall()
        for (name,) in names:
            frame = connection.sql(f'FROM "{name}"').pl().drop(*_NOT_RECORDED, strict=False)
            order = [name for name, kind in frame.schema.items() if not kind.is_nested()]
            found[name] = frame.sort(order)
    assert {table.name for table in TABLES} <= found.keys()
    return found


def change_in_every_way(dump: Path) -> None:
    """Change, add and delete documents, and add a collection."""
    documents = read_dump(dump)
    changed = [one | {"status": "failed"} for one in documents[3:8]] + documents[8:]
    added = [documents[0] | {"_id": f"new {number}"} for number in range(3)]
    write_dump(dump, [*changed, *added])
    write_dump(dump, [documents[0]], "another")


@pytest.fixture
def dump(sample_dump: Path, tmp_path: Path) -> Path:
    """Return a dump to change: documents of both formats."""
    folder = tmp_path / "dump"
    write_dump(folder, read_dump(sample_dump)[::12])
    return folder


@pytest.mark.parametrize(
    "layout",
    [
        "as it is",
        pytest.param("compacted", marks=pytest.mark.slow),
        pytest.param("in shards", marks=pytest.mark.slow),
    ],
)
def test_the_warehouse_as_of_a_moment_equals_the_one_built_then(dump, lake, tmp_path, layout):
    if layout == "in shards":
        lake.update_layout(MAIN, {"shards": 4, "planned_shards": 4})
    clock = Clock()
    load(dump, lake, now=clock)
    # A second batch at the same moment was known as well.
    write_dump(dump, [*read_dump(dump), {"_id": "late", "status": "success"}])
    load(dump, lake, now=clock)
    build_warehouse(lake, tmp_path / "first.duckdb")
    first = rows_of(tmp_path / "first.duckdb")
    clock.moment = LATER
    change_in_every_way(dump)
    load(dump, lake, now=clock, limits=ANY_SHARE)
    if layout == "compacted":
        compact_change_log(lake, MAIN, fewest_files=2)
    build_warehouse(lake, tmp_path / "second.duckdb")
    report = build_as_of(lake, NOON + timedelta(days=1), tmp_path / "as-of.duckdb")
    assert_same(first, rows_of(tmp_path / "as-of.duckdb"))
    assert report.rows["analyses"] == first["analyses"].height
    build_as_of(lake, LATER, tmp_path / "now.duckdb")
    assert_same(rows_of(tmp_path / "second.duckdb"), rows_of(tmp_path / "now.duckdb"))


@pytest.mark.slow
def test_results_are_the_current_ones_for_analyses_known_then(world, sample_dump, lake, tmp_path):
    dump = shutil.copytree(sample_dump, tmp_path / "dump")
    documents = read_dump(dump)
    write_dump(dump, documents[:60])
    clock = Clock()
    load(dump, lake, now=clock)
    clock.moment = LATER
    write_dump(dump, documents)
    load(dump, lake, now=clock)
    with open_result_store(load_settings(results_root=str(world / "results"))) as store:
        for collection in lake.collections():
            refresh_result_files(lake, store, collection, now=clock)
            refresh_trials(lake, store, collection, now=clock)
    build_as_of(lake, NOON, tmp_path / "as-of.duckdb")
    with connect(tmp_path / "as-of.duckdb") as connection:
        of_past = connection.sql("SELECT DISTINCT record_id FROM trials").pl()["record_id"]
        orphans = connection.sql("FROM trials ANTI JOIN analyses USING (record_id)").fetchall()
        info = dict(connection.execute("FROM warehouse_info").fetchall())
        ((as_of,),) = connection.execute("SELECT as_of FROM warehouse_status").fetchall()
    now = lake.tables.scan(tables.TRIALS).select("record_id").unique().collect()["record_id"]
    assert 0 < len(of_past) < len(now)
    assert not orphans
    assert as_of == NOON
    assert info["as_of"] == NOON.isoformat()
    assert info["lake"] == str(lake)
    assert "are as of built_at" in info["results"]


def test_nothing_is_known_before_the_first_extraction(built, tmp_path):
    with pytest.raises(ConfigurationError, match="first filled at 2026-05-01T12:00:00"):
        build_as_of(built.lake, NOON - timedelta(seconds=1), tmp_path / "as-of.duckdb")
    assert not (tmp_path / "as-of.duckdb").exists()


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-06-01", datetime(2026, 6, 1, tzinfo=UTC)),
        ("2026-06-01T12:30:00", datetime(2026, 6, 1, 12, 30, tzinfo=UTC)),
        ("2026-06-01T12:30:00Z", datetime(2026, 6, 1, 12, 30, tzinfo=UTC)),
        ("2026-06-01T12:30:00-07:00", datetime(2026, 6, 1, 19, 30, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_day_or_a_time(text, moment):
    assert parse_moment(text) == moment


def test_a_text_that_is_not_a_moment_is_refused():
    with pytest.raises(ArgumentError, match="expected a day such as 2026-06-01"):
        parse_moment("June")
