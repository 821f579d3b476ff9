"""The tables are the same, however many shards a collection has and however often that changes."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import Places
from worlds import (
    MAIN,
    Clock,
    assert_same,
    contents_of,
    extract,
    load,
    loaded_lake,
    read_dump,
    refresh,
    tables_of,
    write_dump,
)

from aind_etl.changelog.passes import Pass
from aind_etl.client.verify import verify_collection, verify_tables
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import MOST_RANGES, UNSHARDED, Shard, shards
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.paths import COLLECTION_TABLES
from aind_etl.lake.resharding import plan_shards, reshard, reshard_as_planned, wanted_shards
from aind_etl.orchestration.partitions import partition_key, partition_of
from aind_etl.sources.dump import DumpSource
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

COMMAND = Path(sys.executable).with_name("aind-etl")
OTHER_ID = {"_id": 7, "nwb_name": "not a string"}


@pytest.fixture(scope="module")
def few(sample_dump: Path) -> list[dict[str, Any]]:
    """Return documents that fill each of a few shards, and one with a number as id."""
    return [*read_dump(sample_dump)[:24], OTHER_ID]


@pytest.fixture(scope="module")
def dump(few: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dump of the documents, which no test may change."""
    folder = tmp_path_factory.mktemp("dump")
    write_dump(folder, few)
    return folder


@pytest.fixture(scope="module")
def whole(dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of the documents in one shard, which no test may change."""
    return loaded_lake(dump, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def divided(whole: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Return a lake of the documents in four shards, which no test may change."""
    lake = copy_of(whole, tmp_path_factory.mktemp("divided") / "lake")
    reshard(lake, MAIN, 4)
    return lake


def copy_of(lake: Lake, folder: Path) -> Lake:
    return Lake(shutil.copytree(lake.storage.root, folder))


def seen(lake: Lake) -> dict[str, pl.DataFrame]:
    """Return the tables of a lake; of the batches, which each shard numbers, only the order."""
    found = tables_of(lake)
    log = found[tables.DOCUMENTS.name].sort("source_collection", "record_id", "batch_id")
    return found | {tables.DOCUMENTS.name: log.drop("batch_id")}


def layouts(lake: Lake) -> set[int]:
    """Return the number of shards of each layout that has files."""
    return {of for _, of in lake.all_files(MAIN)}


# --- how many -----------------------------------------------------------------------------------


@given(
    documents=st.integers(0, 10**8),
    present=st.sampled_from([1, 2, 3, 4, 8, 16]),
    most=st.integers(1, 10**6),
)
def test_the_wanted_number_of_shards_fits_the_documents_and_is_stable(documents, present, most):
    of = wanted_shards(documents, present, most)
    assert documents <= of * most or of * 2 > MOST_RANGES
    assert wanted_shards(documents, of, most) == of
    # One document more does not reshard it, and then back.
    again = wanted_shards(documents + 1, of, most)
    assert wanted_shards(documents, again, most) == again


def test_an_unknown_number_of_documents_changes_no_plan(lake):
    assert plan_shards(lake, MAIN, 30, most_documents=10) == 4
    assert plan_shards(lake, MAIN, None, most_documents=1) == 4
    assert lake.layout(MAIN).shards == 1


@given(name=st.text(min_size=1) | st.sampled_from(["a/1-of-4", "a/1-of-1", "/", "1-of-2"]))
def test_the_key_of_a_partition_gives_collection_and_shard_for_any_name(name):
    for shard in (UNSHARDED, Shard(2, 4), Shard(3, 16)):
        assert partition_of(partition_key(name, shard)) == (name, shard)


# --- the same tables ----------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("divide"), st.sampled_from([1, 2, 3, 4, 16])),
        st.tuples(st.just("add"), st.integers(0, 24)),
        st.tuples(st.just("change"), st.integers(0, 24)),
        st.tuples(st.just("remove"), st.integers(0, 24)),
        st.tuples(st.just("pass"), st.sampled_from(list(Pass))),
        st.tuples(st.just("flatten"), st.none()),
    ),
    min_size=4,
    max_size=14,
)


@pytest.mark.slow
@settings(max_examples=8)
@given(steps=STEPS)
def test_a_history_gives_the_same_tables_with_and_without_resharding(few, tmp_path_factory, steps):
    folder = tmp_path_factory.mktemp("history")
    divided, plain, clock = Lake(folder / "divided"), Lake(folder / "plain"), Clock()
    there = dict(enumerate(few[:12]))
    dump = folder / "dump"
    for step, what in [*steps, ("pass", Pass.FULL), ("flatten", None)]:
        clock.move(hours=30)
        if step == "divide":
            reshard(divided, MAIN, what)
        elif step == "add":
            there.setdefault(what, few[what])
        elif step == "change" and what in there:
            there[what] = there[what] | {"changed": clock().isoformat()}
        elif step == "remove":
            there.pop(what, None)
        write_dump(dump, there.values())
        for lake in (divided, plain):
            if step == "pass":
                extract(dump, lake, what, now=clock)
            elif step == "flatten":
                refresh(lake)
        assert_same(seen(divided), seen(plain))


def test_every_record_is_in_the_files_of_its_shard_alone(divided):
    assert layouts(divided) == {4}
    for shard in shards(4):
        for table in COLLECTION_TABLES:
            rows = divided.for_shard(shard).tables.scan(table, MAIN).collect()
            if "record_id" in rows.columns:
                assert all(map(shard.ids.holds, rows["record_id"]))


@pytest.mark.slow
def test_a_shard_is_loaded_by_itself_in_any_order_and_again(few, dump, whole, tmp_path):
    lake = Lake(tmp_path / "lake")
    assert plan_shards(lake, MAIN, len(few), most_documents=4) == 8
    for shard in [*reversed(list(shards(8))), *shards(8)]:
        reshard_as_planned(lake.for_shard(shard), MAIN)
        assert lake.layout(MAIN).shards == 8
    load(dump, lake)
    assert_same(seen(lake), seen(whole))
    before = {path: path.stat().st_mtime_ns for path in lake.tables.files(tables.ANALYSES)}
    assert len(before) > len(whole.tables.files(tables.ANALYSES))
    load(dump, lake)
    assert {path: path.stat().st_mtime_ns for path in lake.tables.files(tables.ANALYSES)} == before


@pytest.mark.slow
def test_documents_still_to_be_flattened_are_flattened_in_the_new_shards(few, tmp_path):
    dump = tmp_path / "dump"
    write_dump(dump, few[:10])
    lake = loaded_lake(dump, tmp_path / "lake")
    write_dump(dump, few)
    extract(dump, lake)
    reshard(lake, MAIN, 2)
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    with connect(tmp_path / "warehouse.duckdb") as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (10,)
    reports = refresh(lake)
    # Only the new documents: the others are not flattened again.
    assert sum(one.flattened + one.rejected for one in reports.values()) == len(few) - 10
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    with connect(tmp_path / "warehouse.duckdb") as connection:
        assert connection.execute("SELECT count(*) FROM documents").fetchone() == (len(few),)


def test_documents_still_to_be_flattened_in_one_of_two_shards_are_flattened_in_one(few, tmp_path):
    dump, lake = tmp_path / "dump", Lake(tmp_path / "lake")
    reshard(lake, MAIN, 2)
    documents = [one for one in few if one["_id"] != OTHER_ID["_id"]]
    ahead, behind = (
        [one for one in documents if shard.ids.holds(one["_id"])] for shard in shards(2)
    )
    write_dump(dump, documents)
    load(dump, lake)
    # One shard has more batches, all flattened; a change in the other is still to be flattened.
    for change in range(3):
        write_dump(dump, [*({**one, "changed": change} for one in ahead), *behind])
        load(dump, lake)
    waiting = [{**one, "changed": "it waits"} for one in behind]
    write_dump(dump, [*({**one, "changed": 2} for one in ahead), *waiting])
    extract(dump, lake)
    reshard(lake, MAIN, 1)
    refresh(lake)
    assert_same(contents_of(lake), contents_of(loaded_lake(dump, tmp_path / "anew")))


def test_a_divided_collection_agrees_with_its_source_and_its_log(few, dump, divided, tmp_path):
    lake = copy_of(divided, tmp_path / "lake")
    compared, differences = verify_collection(DumpSource(dump), lake, MAIN, deep=True)
    assert (compared["source"], compared["lake"], differences) == (len(few), len(few), [])
    assert list(verify_tables(lake, MAIN)) == []
    # A difference is found, with its shard.
    path = str(lake.tables.files(tables.FIT_PARAMETERS, MAIN)[0])
    rows = pl.read_parquet(path)
    rows.with_columns(value=pl.col("value") + 1).write_parquet(path)
    (found,) = verify_tables(lake, MAIN)
    assert f"fit_parameters of {MAIN}/" in found.subject
    assert "-of-4" in found.subject


# --- interruptions ---------------------------------------------------------------------------


def interrupted(lake: Lake, of: int, places: Places, step: int) -> Iterator[Lake]:
    """Yield copies of a lake whose resharding was killed, each at another operation."""
    for killed_at in range(step, 10_000, step):
        copy = places.copy(Path(str(lake)))
        with places.killed_at(killed_at) as mortal:
            reshard(copy, MAIN, of)
        if not mortal.is_dead:
            return
        yield copy
        places.remove(copy)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "before_after_step"),
    [
        ("disk", (1, 2, 1)),
        ("disk", (2, 1, 1)),
        pytest.param("disk", (2, 3, 1), marks=pytest.mark.long),
        ("object store", (1, 2, 25)),
        pytest.param("object store", (1, 2, 1), marks=pytest.mark.long),
        pytest.param("object store", (2, 1, 1), marks=pytest.mark.long),
    ],
    indirect=["places"],
)
def test_resharding_killed_at_any_operation_loses_and_doubles_nothing(
    few, places, tmp_path, monkeypatch, before_after_step
):
    before, after, step = before_after_step
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write_dump(tmp_path / "dump", few[:2])
    lake = Lake(tmp_path / "lake")
    reshard(lake, MAIN, before)
    load(tmp_path / "dump", lake)
    expected = seen(lake)
    killed = 0
    for copy in interrupted(lake, after, places, step):
        killed += step
        assert_same(seen(copy), expected)
        of = copy.layout(MAIN).planned_shards
        reshard_as_planned(copy.for_shard(Shard(1, of)), MAIN)
        assert layouts(copy) == {of}
        load(tmp_path / "dump", copy)
        assert_same(seen(copy), expected)
    assert killed > 20


def test_of_runs_for_several_shards_that_start_together_one_reshards_and_all_continue(
    whole, tmp_path
):
    lake = copy_of(whole, tmp_path / "lake")
    plan_shards(lake, MAIN, 8, 2)
    all_see_it_whole = Barrier(4)

    def begin(shard: Shard) -> None:
        mine = lake.for_shard(shard)
        all_see_it_whole.wait()
        reshard_as_planned(mine, MAIN)
        with mine.lock(MAIN):
            pass

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(begin, shards(4)))
    assert layouts(lake) == {4}
    assert_same(seen(lake), seen(whole))


def test_a_run_for_a_shard_that_no_longer_exists_is_refused(divided):
    with pytest.raises(DataError, match="has 4 shards, and this run is for one of 1"):
        divided.lock(MAIN).__enter__()
    for stale in (divided, divided.for_shard(Shard(1, 2))):
        with pytest.raises(DataError, match="is to have 4 shards, and this run is for one of"):
            reshard_as_planned(stale, MAIN)
    second, third = (divided.for_shard(Shard(number, 4)) for number in (2, 3))
    with (
        second.lock(MAIN),
        third.lock(MAIN),
        pytest.raises(DataError, match=r"Another run is writing .* shard 2-of-4,"),
        second.lock(MAIN),
    ):
        pass


def test_who_locks_the_tables_of_the_whole_lake_locks_those_of_each_shard(divided):
    with divided.tables_lock(MAIN):
        for shard in shards(4):
            with pytest.raises(DataError, match="this process itself"):
                divided.for_shard(shard).tables_lock(MAIN).__enter__()


def test_a_lost_or_damaged_layout_is_derived_from_the_files(dump, divided, tmp_path):
    lake = copy_of(divided, tmp_path / "lake")
    path = lake.storage.path(f"_state/layout-of={MAIN}.json")
    for content in (None, b"", b"{}x", b'{"shards": 0}'):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        assert lake.layout(MAIN).shards == 4
        load(dump, lake)
        assert_same(seen(lake), seen(divided))


def test_a_lost_layout_is_an_error_if_resharding_was_interrupted(whole, tmp_path):
    lake = copy_of(whole, tmp_path / "lake")
    log = lake.tables.files(tables.DOCUMENTS)[0]
    log.with_name("1-of-2-0000000001.parquet").write_bytes(log.read_bytes())
    with pytest.raises(DataError, match=r"of 1 and of 2 shards.*Fetch it from a backup"):
        lake.layout(MAIN)


# --- runs ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_on_shards_gives_the_tables_of_a_run_on_whole_collections(tmp_path):
    whole, divided = Lake(tmp_path / "whole"), Lake(tmp_path / "shards")
    # As if the number of documents of a dump were known beforehand.
    assert plan_shards(divided, MAIN, 40, most_documents=10) == 4
    environment = dict(os.environ)
    del environment["AIND_ETL_RESULTS_ROOT"]
    for lake in (whole, divided):
        subprocess.run(
            [COMMAND, "run", "--source", "sample:?sessions=6", "--lake", str(lake)],
            cwd=tmp_path,
            env=environment | {"DAGSTER_HOME": str(tmp_path / "history")},
            check=True,
            capture_output=True,
        )
    assert layouts(divided) == {4}
    # Each run writes its own files of the sample.
    timed = ("extracted_at", "first_seen_at", "changed_at", "checked_at", "last_modified", "etag")
    compared = [
        {
            name: rows.drop(*timed, "batch_id", strict=False).sort(pl.all())
            for name, rows in tables_of(lake).items()
        }
        for lake in (whole, divided)
    ]
    assert compared[0][tables.TRIALS.name].height > 0
    assert compared[0][tables.UNCLAIMED_FOLDERS.name].height > 0
    assert_same(*compared)
    before = tables_of(divided)
    rebuilt = subprocess.run(
        [COMMAND, "rebuild", "--lake", "shards"], cwd=tmp_path, check=True, capture_output=True
    )
    assert f"{MAIN}/1-of-4" in rebuilt.stdout.decode() + rebuilt.stderr.decode()
    assert_same(tables_of(divided), before)
