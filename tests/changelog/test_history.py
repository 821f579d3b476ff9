"""The history of a record, and rebuilding the tables from the change log."""

import pytest
from worlds import MAIN, Clock, extract, load, read_dump, write_dump

from aind_etl.changelog.history import Change, record_history
from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.flatten.refresh import refresh_analyses


@pytest.fixture
def dump(sample_dump, tmp_path):
    """Return a dump with a few documents of the sample that a test may change."""
    write_dump(tmp_path / "dump", read_dump(sample_dump)[:10])
    return tmp_path / "dump"


def test_a_record_has_a_version_for_each_content_and_each_deletion(dump, lake):
    clock = Clock()
    first, *others = read_dump(dump)
    first["status"] = "success"
    write_dump(dump, [first, *others])
    extract(dump, lake, now=clock)
    clock.move(days=1)
    first |= {"status": "failed. disk full", "attempts": [1, {"host": "a"}]}
    for documents in ([first, *others], others, [first, *others]):
        write_dump(dump, documents)
        extract(dump, lake, now=clock)

    versions = record_history(lake, MAIN, first["_id"])

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


def test_an_unknown_record_is_an_error(dump, lake):
    extract(dump, lake)
    with pytest.raises(DataError, match="never held a record 'no such id'"):
        record_history(lake, MAIN, "no such id")
    with pytest.raises(DataError, match="There is no collection 'unknown'"):
        record_history(lake, "unknown", "no such id")


def test_correct_tables_are_not_rewritten_when_they_are_rebuilt_from_the_log(sample_lake):
    reports = [
        refresh_analyses(sample_lake, name, rebuild=True) for name in sample_lake.collections()
    ]
    assert sum(report.flattened for report in reports) > 0
    assert sum(report.partitions_written for report in reports) == 0


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
