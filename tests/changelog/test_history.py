"""What a record said when, and rebuilding the tables from the change log."""

import shutil

import orjson
import pytest
from polars.testing import assert_frame_equal
from worlds import MAIN, Clock, load, tables_of

from aind_etl.changelog.history import Change, record_history
from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake


@pytest.fixture
def dump(sample_dump, tmp_path):
    """Return a dump of the sample's main collection that a test may change."""
    folder = tmp_path / "dump"
    folder.mkdir()
    shutil.copy(sample_dump / f"{MAIN}.jsonl", folder)
    return folder


def edit_first(dump, **changes):
    """Change the first document of the dump, or drop it, and return its id."""
    path = dump / f"{MAIN}.jsonl"
    first, *others = path.read_bytes().splitlines()
    document = orjson.loads(first)
    document.update(changes)
    path.write_bytes(b"\n".join([orjson.dumps(document), *others]))
    return document["_id"]


def test_a_record_has_a_version_for_each_content_and_each_deletion(dump, lake):
    clock = Clock()
    record_id = edit_first(dump, status="success")
    load(dump, lake, now=clock)
    clock.move(days=1)
    edit_first(dump, status="failed. disk full", attempts=[1, {"host": "a"}])
    load(dump, lake, now=clock)
    path = dump / f"{MAIN}.jsonl"
    kept = path.read_bytes()
    path.write_bytes(b"\n".join(kept.splitlines()[1:]))
    load(dump, lake, now=clock)
    path.write_bytes(kept)
    load(dump, lake, now=clock)

    versions = record_history(lake, MAIN, record_id)

    assert [one.operation for one in versions] == ["upsert", "upsert", "delete", "upsert"]
    assert versions[0].changes == ()
    assert versions[1].changes == (
        Change("attempts[0]", None, "1"),
        Change("attempts[1].host", None, '"a"'),
        Change("status", '"success"', '"failed. disk full"'),
    )
    assert versions[1].extracted_at > versions[0].extracted_at
    assert versions[2].content_hash is None
    assert versions[3].changes == ()


def test_an_unknown_record_is_an_error(built):
    with pytest.raises(DataError, match="never held a record 'no such id'"):
        record_history(built.lake, MAIN, "no such id")


def test_rebuilt_tables_are_the_same(built, tmp_path):
    lake = Lake(shutil.copytree(built.lake.storage.root, tmp_path / "lake"))
    before = tables_of(lake)
    for folder in ("analyses", "attributes", "cross_validation"):
        shutil.rmtree(lake.storage.path(folder))
    for collection in lake.collections():
        refresh_analyses(lake, collection, rebuild=True)
    for name, rows in tables_of(lake).items():
        assert_frame_equal(rows, before[name])


def test_a_damaged_log_file_is_an_error_that_says_what_to_do(dump, lake):
    load(dump, lake)
    damaged = lake.tables.files(tables.DOCUMENTS)[0]
    damaged.write_bytes(damaged.read_bytes()[:-50])
    for ask in (
        lambda: load(dump, lake),
        lambda: record_history(lake, MAIN, "x"),
        lambda: refresh_analyses(lake, MAIN, rebuild=True),
    ):
        with pytest.raises(DataError, match="run --pass full") as raised:
            ask()
        assert str(damaged) in str(raised.value)
        assert "rebuild" not in str(raised.value)


def test_rebuilding_correct_tables_writes_no_file(built, tmp_path):
    lake = Lake(shutil.copytree(built.lake.storage.root, tmp_path / "lake"))
    reports = [refresh_analyses(lake, name, rebuild=True) for name in lake.collections()]
    assert sum(report.flattened for report in reports) > 0
    assert sum(report.partitions_written for report in reports) == 0
