"""The file operations below the lake, on an object store: whole files, conditions, leases."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import BinaryIO

import duckdb
import polars as pl
import pytest
import s3fs
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_store import Send, counted, new_prefix, requests_go_through
from typer.testing import CliRunner
from worlds import (
    MAIN,
    NOON,
    Built,
    assert_same,
    load,
    loaded_lake,
    read_dump,
    tables_of,
    write_dump,
)

from aind_etl.cli.app import app
from aind_etl.client.verify import verify_warehouse
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import shards
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.resharding import reshard
from aind_etl.lake.storage import leases
from aind_etl.lake.storage import object_store as object_storage
from aind_etl.lake.storage.object_store import ObjectStorage
from aind_etl.orchestration.metadata import Timer, partition_metadata
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

pytestmark = pytest.mark.slow

NAME = "analyses/collection=a/part.parquet"


@pytest.fixture
def url(endpoint: str) -> str:
    return new_prefix()


@pytest.fixture
def storage(url: str) -> ObjectStorage:
    return ObjectStorage(url)


@pytest.fixture(scope="module")
def lake_url(sample_dump: Path, endpoint: str) -> str:
    """Return where a lake of the sample world lies, which no test may change."""
    address = new_prefix()
    loaded_lake(sample_dump, address)
    return address


def content(text: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(text)

    return write


# --- files ------------------------------------------------------------------------------------


def test_what_was_written_is_read_and_listed(storage: ObjectStorage) -> None:
    assert storage.write(NAME, content(b"one"))
    assert storage.write("analyses/other.parquet", content(b"two"))
    assert storage.write("analyses/note.txt", content(b"three"))
    assert storage.read(NAME) == b"one"
    assert storage.files("analyses", ".parquet") == [NAME, "analyses/other.parquet"]
    assert storage.files("nowhere", ".parquet") == []


def test_a_file_that_is_not_there_reads_as_none_and_has_no_mark(storage: ObjectStorage) -> None:
    assert storage.read(NAME) is None
    assert storage.marks("analyses", "") == {}


def test_the_same_content_leaves_the_file_alone(storage: ObjectStorage) -> None:
    storage.write(NAME, content(b"same"))
    before = s3fs.S3FileSystem().info(storage.path(NAME))
    assert not storage.write(NAME, content(b"same"))
    assert s3fs.S3FileSystem().info(storage.path(NAME), refresh=True) == before


def test_the_mark_changes_with_the_content(storage: ObjectStorage) -> None:
    storage.write(NAME, content(b"one"))
    one = storage.marks("analyses", "")
    storage.write(NAME, content(b"two"))
    two = storage.marks("analyses", "")
    assert two.keys() == one.keys() == {NAME}
    assert two != one


def test_a_write_that_fails_leaves_the_old_file(storage: ObjectStorage) -> None:
    storage.write(NAME, content(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        storage.write(NAME, fail)
    assert storage.read(NAME) == b"old"


def test_a_file_that_may_not_be_replaced_is_left_and_named(storage: ObjectStorage) -> None:
    assert storage.write(NAME, content(b"first"), replace=False)
    with pytest.raises(DataError, match=r"part\.parquet was written by another run"):
        storage.write(NAME, content(b"second"), replace=False)
    assert storage.read(NAME) == b"first"


def test_a_removed_file_is_gone(storage: ObjectStorage) -> None:
    storage.write(NAME, content(b"one"))
    assert storage.remove(NAME)
    assert not storage.remove(NAME)
    assert storage.files("analyses", "") == []


def test_a_file_is_fetched_to_the_disk(storage: ObjectStorage, tmp_path: Path) -> None:
    storage.write(NAME, content(b"one"))
    storage.fetch(NAME, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


def test_what_was_written_is_read_by_polars_and_duckdb(storage: ObjectStorage) -> None:
    rows = pl.DataFrame({"record_id": ["a", "b"]})
    storage.write(NAME, rows.write_parquet)  # type: ignore[arg-type]
    assert pl.scan_parquet(str(storage.path(NAME))).select("record_id").collect().equals(rows)
    with duckdb.connect() as connection:
        connection.register_filesystem(s3fs.S3FileSystem())
        found = connection.sql(f"SELECT record_id FROM read_parquet('{storage.path(NAME)}')")
        assert found.fetchall() == [("a",), ("b",)]


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.binary(max_size=3))), max_size=8
    ),
)
def test_files_are_as_the_last_write_or_removal_left_them(
    endpoint: str, steps: list[tuple[str, bytes | None]]
) -> None:
    storage = ObjectStorage(new_prefix())
    expected: dict[str, bytes] = {}
    for name, text in steps:
        if text is None:
            assert storage.remove(name) == (expected.pop(name, None) is not None)
        else:
            assert storage.write(name, content(text)) == (expected.get(name) != text)
            expected[name] = text
    assert {name: storage.read(name) for name in storage.files("", "")} == expected


@pytest.mark.parametrize("size", [5, 11_000_000])
def test_a_file_of_the_disk_appears_whole_with_what_is_told_of_it(
    storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(object_storage, "_PART_BYTES", 5 << 20)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    sent: list[tuple[str, dict[str, object]]] = []
    send = storage._store.call_s3

    def note(name: str, **options: object) -> object:
        sent.append((name, options))
        return send(name, **options)

    monkeypatch.setattr(storage._store, "call_s3", note)
    told = {"built-at": "Zürich, at noon"}
    assert storage.put_file(NAME, source, told, replacing=None)
    assert [name for name, _ in sent].count("upload_part") == (3 if size > 5 else 0)
    # The endpoint of the tests heeds the condition of a plain request only.
    assert sent[-1][1]["IfNoneMatch"] == "*"
    assert storage.read(NAME) == source.read_bytes()
    facts = storage.facts(NAME)
    assert facts is not None
    assert (facts.size, facts.metadata) == (size, told)
    assert storage.put_file(NAME, source, {}, replacing=facts)


def test_the_parts_of_a_file_that_cannot_be_sent_are_thrown_away(
    storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def second_part_fails(name: str, send: Send) -> object:
        if name == "upload_part" and requests["upload_part"] == 1:
            raise OSError("no more")
        requests[name] += 1
        return await send()

    monkeypatch.setattr(object_storage, "_PART_BYTES", 5 << 20)
    requests: Counter[str] = Counter()
    source = tmp_path / "source"
    source.write_bytes(bytes(11_000_000))
    with requests_go_through(second_part_fails), pytest.raises(DataError, match="no more"):
        storage.put_file(NAME, source, {}, replacing=None)
    assert requests["abort_multipart_upload"] == 1
    assert storage.read(NAME) is None


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_write_whose_answer_was_lost_is_known_as_one_s_own(
    storage: ObjectStorage, before: bytes | None
) -> None:
    async def twice(name: str, send: Send) -> object:
        if name == "put_object":
            await send()
        return await send()

    if before is not None:
        storage.write("state", content(before))
    with requests_go_through(twice):
        storage.update("state", lambda _: b"new")
        storage.write(NAME, content(b"batch"), replace=False)
    assert (storage.read("state"), storage.read(NAME)) == (b"new", b"batch")


# --- small files that two may change -----------------------------------------------------------


def test_an_update_sees_what_stood_there(storage: ObjectStorage) -> None:
    storage.update("state", lambda before: (before or b"") + b"1")
    storage.update("state", lambda before: (before or b"") + b"2")
    assert storage.read("state") == b"12"


@pytest.mark.parametrize("before", [None, b"old"])
def test_of_two_updates_at_once_one_wins_and_the_other_is_refused(
    storage: ObjectStorage, before: bytes | None
) -> None:
    if before is not None:
        storage.write("state", content(before))

    def overtaken(found: bytes | None) -> bytes:
        assert found == before
        storage.update("state", lambda _: b"the other's")
        return b"mine"

    with pytest.raises(DataError, match="changed by another run at the same time"):
        storage.update("state", overtaken)
    assert storage.read("state") == b"the other's"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_that_another_wrote_a_moment_ago_is_not_overwritten(
    storage: ObjectStorage, before: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if before is not None:
        storage.write(NAME, content(before))
    another = ObjectStorage(str(storage.root))
    # The last thing that is done before the request is sent.
    monkeypatch.setattr(
        storage, "_check_leases", lambda: another.write(NAME, content(b"the other's"))
    )
    with pytest.raises(DataError, match="was written by another run at the same time"):
        storage.write(NAME, content(b"late"))
    assert storage.read(NAME) == b"the other's"


# --- locks ------------------------------------------------------------------------------------


def test_whoever_finds_a_lock_taken_is_told_by_whom(storage: ObjectStorage) -> None:
    with (
        storage.lock("a", "the collection 'a'"),
        pytest.raises(DataError, match=f"writing the collection 'a' .*process {os.getpid()} on"),
        ObjectStorage(str(storage.root)).lock("a", "the collection 'a'"),
    ):
        pass


def test_a_lock_is_free_afterwards_and_leaves_nothing(storage: ObjectStorage) -> None:
    with storage.lock("a", "it"), storage.lock("b", "another"):
        pass
    with storage.lock("a", "it"):
        pass
    assert storage.files("", "") == []


def test_whoever_waits_gets_the_lock_when_it_is_free(storage: ObjectStorage) -> None:
    order = []
    taken = threading.Event()

    def first() -> None:
        with storage.lock("a", "it"):
            taken.set()
            order.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    taken.wait()
    with storage.lock("a", "it", wait_seconds=60):
        order.append("second")
    thread.join()
    assert order == ["first", "second"]


def test_of_many_that_try_at_once_one_gets_the_lock(storage: ObjectStorage) -> None:
    gate, done = threading.Barrier(6), threading.Barrier(6)
    got = []

    def race() -> None:
        gate.wait()
        try:
            with ObjectStorage(str(storage.root)).lock("a", "it"):
                got.append(1)
                done.wait()
        except DataError:
            done.wait()

    racers = [threading.Thread(target=race) for _ in range(6)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert got == [1]


def test_the_lock_of_a_killed_process_is_free_when_its_lease_has_ended(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = dedent(f"""
        import os, signal
        from aind_etl.lake.storage.object_store import ObjectStorage
        with ObjectStorage({str(storage.root)!r}).lock("a", "it"):
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    assert (
        subprocess.run([sys.executable, "-c", program], check=False).returncode == -signal.SIGKILL
    )
    with pytest.raises(DataError, match="A run that was killed keeps its lock"):
        storage.lock("a", "it").__enter__()
    monkeypatch.setattr(leases, "CLOCKS_DIFFER_SECONDS", -leases.LEASE_SECONDS)
    with storage.lock("a", "it"):
        pass


def test_a_lock_is_renewed_for_as_long_as_it_is_held(
    storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.4)
    monkeypatch.setattr(leases, "CLOCKS_DIFFER_SECONDS", 0.0)
    with storage.lock("a", "it"):
        first = storage.marks("_locks", "")
        while storage.marks("_locks", "") == first:
            pass
        storage.write(NAME, content(b"still mine"))


def test_nothing_is_written_any_more_when_a_lock_was_lost(storage: ObjectStorage) -> None:
    with storage.lock("a", "it"):
        (lease,) = object_storage._HELD[str(storage.root)]
        lease._valid_until = 0.0
        for write in (
            lambda: storage.write(NAME, content(b"too late")),
            lambda: storage.update(NAME, lambda _: b"too late"),
            lambda: storage.remove(NAME),
        ):
            with pytest.raises(DataError, match="could not be renewed in time"):
                write()
    assert storage.read(NAME) is None


# --- what the store answers ---------------------------------------------------------------------


def test_a_bucket_that_does_not_exist_is_named(endpoint: str) -> None:
    with pytest.raises(DataError, match=r"s3://nowhere/lake cannot write .*Check that the bucket"):
        ObjectStorage("s3://nowhere/lake").write(NAME, content(b"one"))


def test_a_store_out_of_reach_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="Check the endpoint"):
        ObjectStorage(url).read(NAME)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("wrong", ["s3://", "s3:///", "nothing-such://bucket/lake"])
def test_an_address_that_names_no_store_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match=r"names no bucket|cannot be opened here"):
        ObjectStorage(wrong)


# --- a lake -------------------------------------------------------------------------------------


def test_a_lake_on_an_object_store_holds_what_one_on_a_disk_holds(
    built: Built, lake_url: str
) -> None:
    lake = Lake(lake_url)
    assert_same(tables_of(lake), tables_of(built.lake))
    assert {name: lake.state(name) for name in lake.collections()} == {
        name: built.lake.state(name) for name in built.lake.collections()
    }


def test_a_warehouse_is_built_from_it_and_agrees(
    built: Built, lake_url: str, tmp_path: Path
) -> None:
    lake = Lake(lake_url)
    report = build_warehouse(lake, tmp_path / "warehouse.duckdb")
    with connect(built.warehouse) as connection:
        expected = dict(
            connection.execute(
                "SELECT table_name, estimated_size FROM duckdb_tables() WHERE NOT internal"
            ).fetchall()
        )
    assert report.rows == {name: expected[name] for name in report.rows}
    errors = [one for one in verify_warehouse(lake, report.location) if not one.is_warning]
    assert errors == []
    assert not build_warehouse(lake, report.location).published


def test_a_second_load_writes_nothing(sample_dump: Path, lake_url: str) -> None:
    lake = Lake(lake_url)
    before = lake.storage.marks("", ".parquet")
    load(sample_dump, lake)
    assert lake.storage.marks("", ".parquet") == before


def test_a_run_asks_each_file_of_its_own_part_once_how_many_rows_it_has(
    sample_dump: Path, url: str
) -> None:
    lake = Lake(url)
    load(sample_dump, lake)
    reshard(lake, MAIN, 2)
    table = tables.INPUT_ASSETS
    files = {str(file) for file in lake.tables.files(table)}
    for part in map(lake.for_shard, shards(2)):
        own = part.tables.files(table, MAIN)
        assert 0 < len(own) < len(files)
        with counted() as requests:
            found = partition_metadata(part, table, MAIN, Timer())
        # A preview reads one of them besides.
        assert requests["get_object"] <= len(own) + 3
        assert requests["head_object"] <= 3
        assert found["dagster/partition_row_count"] == part.tables.count_rows(table, MAIN)


def test_a_lake_is_read_and_written_without_a_copy_of_it_on_the_disk(
    sample_dump: Path, url: str, tmp_path: Path
) -> None:
    written: list[str] = []
    is_watched = True

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if is_watched and event == "open" and int(str(arguments[2])) & (os.O_WRONLY | os.O_RDWR):
            written.append(str(arguments[0]))

    dump, lake = tmp_path / "dump", Lake(url)
    first, *rest = read_dump(sample_dump)[:5]
    write_dump(dump, [first, *rest])
    sys.addaudithook(watch)  # For as long as the process lives, hence the flag.
    load(dump, lake)
    write_dump(dump, [first | {"status": "another"}, *rest])
    load(dump, lake)
    refresh_analyses(lake, MAIN, rebuild=True)
    build_warehouse(lake, tmp_path / "warehouse.duckdb")
    is_watched = False
    assert [path for path in written if "parquet" in path] == []
    assert lake.tables.count_rows(tables.DOCUMENTS) == 6


def test_of_two_writers_that_both_escaped_the_lock_one_batch_is_kept(url: str) -> None:
    versions = pl.DataFrame(
        {"record_id": ["r"], "document": ["{}"], "content_hash": ["h"], "operation": ["upsert"]}
    ).with_columns(extracted_at=pl.lit(NOON))
    one, other = Lake(url), Lake(url)
    one.change_log("a").append(versions)
    log = other.change_log("a")
    log.last_batch = lambda: 0  # type: ignore[method-assign] # as if just before
    with pytest.raises(DataError, match="written by another run at the same time"):
        log.append(versions)
    assert one.change_log("a").versions().collect().height == 1


def test_the_command_works_on_a_lake_on_an_object_store_and_of_two_runs_one_makes_way(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_machine(name: str) -> dict[str, str]:
        folder = tmp_path / name
        return {"AIND_ETL_LAKE": url, "XDG_CACHE_HOME": str(folder / "cache")}

    def run_here(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    # Each machine keeps the history of runs where it is kept by default.
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    run = ("run", "--no-results", "--source")
    (tmp_path / "there").mkdir()
    there = subprocess.Popen(
        [Path(sys.executable).with_name("aind-etl"), *run, "sample:?sessions=1"],
        env=os.environ | on_machine("there"),
        cwd=tmp_path / "there",
        stdout=subprocess.PIPE,
        text=True,
    )
    storage = ObjectStorage(url)
    while not storage.exists("_locks/run.lease"):
        assert there.poll() is None
        time.sleep(0.05)
    # Its lease holds for longer than the other takes to find it.
    there.send_signal(signal.SIGSTOP)
    for name, value in on_machine("here").items():
        monkeypatch.setenv(name, value)
    refused = run_here(*run, "sample:?sessions=2").exception
    there.send_signal(signal.SIGCONT)
    holder = f"process {there.pid} on {socket.gethostname()}"
    assert isinstance(refused, DataError)
    assert f"Another run is writing the lake {url} ({holder})" in str(refused)
    said, _ = there.communicate()
    assert there.returncode == 0
    assert f"Lake       {url}\nWarehouse  {url}/warehouse.duckdb" in said
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"cache"}
    assert storage.exists("report.html")
    # Whichever machine asks: the lake, and the warehouse made of it, are those of the first.
    assert (
        "Source, lake and warehouse agree."
        in run_here("verify", "--source", "sample:?sessions=1").output
    )
    status = run_here("status").output
    assert f"Warehouse {url}/warehouse.duckdb, built" in status
    (copy,) = (tmp_path / "here").rglob("warehouse.duckdb")
    assert f"Its copy on this machine is {copy}" in status
