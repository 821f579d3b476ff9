"""Compaction: few small files, and every version exactly once."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_store import new_prefix
from places import Places
from worlds import MAIN, assert_same, contents_of, files_of, load, read_dump, tables_of, write_dump

import aind_etl.changelog.compaction
from aind_etl.changelog.compaction import compact_change_log
from aind_etl.changelog.history import record_history
from aind_etl.client.verify import verify_collection
from aind_etl.contract import tables
from aind_etl.errors import DataError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.parquet import write_parquet
from aind_etl.sources.dump import DumpSource

pytestmark = pytest.mark.slow

LONGER = int(os.environ.get("AIND_ETL_TEST_LONGER", "1"))
"""Multiplies the number of examples on an object store, where each takes long."""


def fill(lake: Lake, sizes: list[int], first: int = 0) -> None:
    """Append batches of these sizes; ids repeat, so that records have several versions."""
    number = first
    for size in sizes:
        lake.change_log(MAIN).append(
            pl.DataFrame(
                {
                    "record_id": [f"record {(number + n) % 7}" for n in range(size)],
                    "document": [f'{{"version":{number + n}}}' for n in range(size)],
                    "content_hash": [f"{number + n}" for n in range(size)],
                    "operation": ["upsert"] * size,
                }
            ).with_columns(extracted_at=pl.lit("2026-05-01").str.to_datetime(time_zone="UTC")),
        )
        number += size


def names(lake: Lake) -> list[str]:
    files = lake.storage.files(f"documents/collection={MAIN}", "")
    return sorted(Path(name).stem for name in files)


def versions(lake: Lake) -> pl.DataFrame:
    return lake.change_log(MAIN).versions().collect().sort("batch_id", "record_id")


def test_adjacent_small_files_are_merged(lake):
    fill(lake, [1, 2, 3, 4])
    before = versions(lake)
    compact_change_log(lake, MAIN, fewest_files=5)
    assert len(names(lake)) == 4
    compact_change_log(lake, MAIN, fewest_files=4)
    assert names(lake) == ["0000000001-0000000004"]
    assert versions(lake).equals(before)
    assert lake.change_log(MAIN).last_batch() == 4
    compact_change_log(lake, MAIN, fewest_files=2)
    assert names(lake) == ["0000000001-0000000004"]


def test_batches_follow_a_compacted_file(lake):
    fill(lake, [1, 2])
    compact_change_log(lake, MAIN, fewest_files=2)
    fill(lake, [3], first=3)
    assert names(lake) == ["0000000001-0000000002", "0000000003"]
    compact_change_log(lake, MAIN, fewest_files=2)
    assert names(lake) == ["0000000001-0000000003"]


def log_file(lake: Lake, stem: str) -> Path:
    return Path(lake.storage.path(f"documents/collection={MAIN}/{stem}.parquet"))


def test_batches_are_not_merged_across_a_missing_one(lake):
    fill(lake, [1, 2, 3, 4, 5, 6])
    log_file(lake, "0000000003").unlink()
    compact_change_log(lake, MAIN, fewest_files=2)
    assert names(lake) == ["0000000001-0000000002", "0000000004-0000000006"]
    assert lake.change_log(MAIN).missing_batches() == [3]


def joined_over_a_gap(lake: Lake, backup: Path) -> pl.DataFrame:
    """Write a compacted file without a batch that its name includes; return every version."""
    fill(lake, [1, 2, 3, 4, 5])
    every = versions(lake)
    shutil.copy(log_file(lake, "0000000002"), backup)
    log_file(lake, "0000000002").unlink()
    rows = versions(lake)
    for stem in names(lake):
        log_file(lake, stem).unlink()
    write_parquet(lake.storage, lake.change_log(MAIN).file_name(1, 5), tables.DOCUMENTS, [rows])
    return every


def test_a_restored_batch_is_read_beside_a_compacted_file_without_it(lake, tmp_path):
    every = joined_over_a_gap(lake, tmp_path / "backup")
    assert lake.change_log(MAIN).missing_batches() == [2]
    shutil.copy(tmp_path / "backup", log_file(lake, "0000000002"))
    assert lake.change_log(MAIN).missing_batches() == []
    for _ in range(2):
        compact_change_log(lake, MAIN, fewest_files=2)
        assert names(lake) == ["0000000001-0000000005", "0000000002"]
        assert versions(lake).equals(every)
    assert lake.change_log(MAIN).last_batch() == 5


def test_files_that_partly_overlap_are_an_error(lake, tmp_path):
    every = joined_over_a_gap(lake, tmp_path / "backup")
    first = every.filter(pl.col("batch_id") <= 2)
    write_parquet(lake.storage, lake.change_log(MAIN).file_name(1, 2), tables.DOCUMENTS, [first])
    with pytest.raises(DataError, match="both cannot count"):
        compact_change_log(lake, MAIN, fewest_files=2)
    assert names(lake) == ["0000000001-0000000002", "0000000001-0000000005"]


@pytest.mark.parametrize("damage", ["cut off", "another document"])
def test_files_are_kept_if_their_replacement_is_damaged(lake, damage):
    fill(lake, [1, 2, 3])
    before = {stem: log_file(lake, stem).read_bytes() for stem in names(lake)}
    rows = versions(lake)
    if damage == "another document":
        rows = rows.with_columns(document=pl.lit("{}"))
    name = lake.change_log(MAIN).file_name(1, 3)
    write_parquet(lake.storage, name, tables.DOCUMENTS, [rows])
    if damage == "cut off":
        spoil_column(log_file(lake, Path(name).stem), "document")
    with pytest.raises(DataError, match="0000000001-0000000003"):
        compact_change_log(lake, MAIN, fewest_files=2)
    for stem, content in before.items():
        assert log_file(lake, stem).read_bytes() == content


def spoil_column(path: Path, column: str) -> None:
    """Overwrite the bytes of one column of a parquet file; the others can still be read."""
    metadata = pq.read_metadata(path)
    content = bytearray(path.read_bytes())
    for group in range(metadata.num_row_groups):
        for number in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(number)
            if chunk.path_in_schema == column:
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                content[start : start + chunk.total_compressed_size] = (
                    b"\xff" * chunk.total_compressed_size
                )
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "name", [".fuse_hidden0001.parquet", "0000000002 (1).parquet", "copy.parquet"]
)
def test_foreign_files_in_the_log_are_ignored_and_reported(sample_dump, lake, tmp_path, name):
    write_dump(tmp_path / "dump", read_dump(sample_dump)[:20])
    load(tmp_path / "dump", lake)
    before = tables_of(lake)
    foreign = [
        lake.storage.path(f"documents/collection={MAIN}/{name}"),
        lake.storage.path(f"analyses/collection={MAIN}/session_month=1970-01/{name}"),
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        shutil.copy(lake.tables.files(tables.DOCUMENTS)[0], path)
    assert_same(tables_of(lake), before)
    load(tmp_path / "dump", lake)
    compact_change_log(lake, MAIN, fewest_files=2)
    assert all(path.exists() for path in foreign)
    _, differences = verify_collection(DumpSource(tmp_path / "dump"), lake, MAIN)
    assert [one.is_warning for one in differences] == [True, True]
    assert all(name in one.message for one in differences)


def test_large_files_are_not_rewritten(lake):
    fill(lake, [1, 1, 500, 1, 1, 1])
    large = lake.change_log(MAIN).files()[2].path
    before = (large.stat().st_ino, large.stat().st_mtime_ns)
    compact_change_log(lake, MAIN, fewest_files=2, large_bytes=large.stat().st_size)
    assert names(lake) == ["0000000001-0000000002", "0000000003", "0000000004-0000000006"]
    assert (large.stat().st_ino, large.stat().st_mtime_ns) == before


def test_versions_after_a_batch_are_the_same_in_a_compacted_file(lake):
    fill(lake, [2, 3, 1, 4])
    expected = {after: lake.change_log(MAIN).versions(after).collect() for after in range(5)}
    compact_change_log(lake, MAIN, fewest_files=2)
    for after, rows in expected.items():
        assert lake.change_log(MAIN).versions(after).collect().equals(rows)
        assert pl.concat([rows.clear(), *lake.change_log(MAIN).read_batches(after)]).equals(rows)


@settings(max_examples=30)
@given(
    sizes=st.lists(st.lists(st.integers(1, 60), max_size=6), min_size=1, max_size=5),
    fewest=st.integers(2, 4),
    large=st.integers(2000, 9000),
    group_rows=st.sampled_from([10, 100, 32_768]),
)
def test_no_version_is_lost_and_the_number_of_small_files_is_bounded(
    tmp_path_factory, sizes, fewest, large, group_rows
):
    lake = Lake(tmp_path_factory.mktemp("log"))
    with pytest.MonkeyPatch.context() as patch:
        # As if batches were large: a row group holds several, and a file several row groups.
        patch.setattr(aind_etl.changelog.compaction, "_ROW_GROUP_ROWS", group_rows)
        expect_all_versions(lake, sizes, fewest, large)


@settings(max_examples=2 * LONGER, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sizes=st.lists(st.lists(st.integers(1, 60), max_size=4), min_size=1, max_size=3),
    fewest=st.integers(2, 3),
    large=st.integers(2000, 9000),
)
def test_on_an_object_store_no_version_is_lost_either(endpoint, sizes, fewest, large):
    expect_all_versions(Lake(new_prefix()), sizes, fewest, large)


def expect_all_versions(lake: Lake, sizes: list[list[int]], fewest: int, large: int) -> None:
    """Append and compact in turn; check after each compaction that every version is there."""
    number = 0
    for some in sizes:
        fill(lake, some, first=number)
        number += sum(some)
        before = versions(lake)
        compact_change_log(lake, MAIN, fewest_files=fewest, large_bytes=large)
        assert versions(lake).equals(before)
        assert versions(lake)["batch_id"].max() == (lake.change_log(MAIN).last_batch() or None)
        is_small = [file.path.stat().st_size < large for file in lake.change_log(MAIN).files()]
        runs = "".join("s" if small else "L" for small in is_small).split("L")
        assert max(map(len, runs)) <= max(fewest - 1, 1)


@pytest.fixture
def many_batches(sample_dump: Path, tmp_path: Path) -> tuple[Lake, Path]:
    """Return a lake with nine batches, and its source."""
    documents = read_dump(sample_dump)
    lake, dump = Lake(tmp_path / "lake"), tmp_path / "dump"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aind_etl.changelog.passes.compact_change_log", lambda *_: None)
        for number in range(9):
            changed = documents[0] | {"status": f"version {number}"}
            write_dump(dump, [changed, *documents[1 : 2 + number]])
            load(dump, lake)
    return lake, dump


def test_a_run_compacts_the_log_and_the_tables_stay_the_same(many_batches):
    lake, dump = many_batches
    record = read_dump(dump)[0]["_id"]
    before, history = tables_of(lake), record_history(lake, MAIN, record)
    assert len(history) == 9
    load(dump, lake)
    assert names(lake) == ["0000000001-0000000009"]
    assert_same(tables_of(lake), before)
    assert record_history(lake, MAIN, record) == history
    files = files_of(lake.storage.root)
    load(dump, lake)
    assert files_of(lake.storage.root) == files
    refresh_analyses(lake, MAIN, rebuild=True)
    assert_same(tables_of(lake), before)


def test_versions_not_yet_flattened_are_flattened_after_a_compaction(many_batches, tmp_path):
    lake, _ = many_batches
    expected = contents_of(lake)
    for through in (0, 4, 8):
        copy = Lake(shutil.copytree(lake.storage.root, tmp_path / str(through)))
        copy.update_state(MAIN, {"flattened_through": through})
        compact_change_log(copy, MAIN)
        assert copy.state(MAIN).flattened_through == through
        refresh_analyses(copy, MAIN)
        assert_same(contents_of(copy), expected)
        assert copy.state(MAIN).flattened_through == copy.change_log(MAIN).last_batch() == 9


def interrupted(lake: Lake, places: Places, step: int) -> Iterator[Lake]:
    """Yield copies of a lake with a compaction killed at every ``step``-th operation."""
    for operation in range(1, 100, step):
        copy = places.copy(Path(str(lake)))
        with places.killed_at(operation) as mortal:
            compact_change_log(copy, MAIN)
        if not mortal.is_dead:
            return
        yield copy
        places.remove(copy)
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("places", "step"),
    [
        ("disk", 1),
        ("object store", 6),
        pytest.param("object store", 1, marks=pytest.mark.long),
    ],
    indirect=["places"],
)
def test_a_killed_compaction_neither_loses_nor_repeats_versions(many_batches, places, step):
    lake, dump = many_batches
    expected, log = tables_of(lake), versions(lake)
    killed = 0
    for copy in interrupted(lake, places, step):
        killed += step
        assert versions(copy).equals(log)
        assert copy.tables.count_rows(tables.DOCUMENTS) == log.height
        assert copy.change_log(MAIN).last_batch() == 9
        folder = str(copy.storage.path(f"documents/collection={MAIN}/*.parquet"))
        # Readers that glob may see a version twice, and never miss one.
        seen = pl.read_parquet(folder, hive_partitioning=False).unique().sort("batch_id")
        assert seen.height == log.height
        load(dump, copy)
        assert_same(tables_of(copy), expected)
        assert names(copy) == ["0000000001-0000000009"]
    assert killed > 8
