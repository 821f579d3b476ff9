"""The lake on an object store: conditional writes, leases, and whole runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from textwrap import dedent

import polars as pl
import pytest
import s3fs
from click.testing import Result
from object_store import Send, counted, new_prefix, requests_go_through
from places import content
from typer.testing import CliRunner
from worlds import MAIN, NOON, assert_same, load, loaded_lake, read_dump, tables_of, write_dump

from aind_etl.cli.app import app
from aind_etl.client.verify import verify_warehouse
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import shards
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.lake.resharding import reshard
from aind_etl.lake.storage import locks
from aind_etl.lake.storage import object_store as object_storage
from aind_etl.lake.storage.object_store import ObjectStorage
from aind_etl.orchestration.metadata import partition_metadata
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
    """Return the address of a lake of the sample world, which no test may change."""
    address = new_prefix()
    loaded_lake(sample_dump, address)
    return address


# --- files ------------------------------------------------------------------------------------


def test_a_file_is_fetched_to_the_disk(storage, tmp_path):
    storage.write(NAME, content(b"one"))
    storage.fetch(NAME, tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]


@pytest.mark.parametrize("size", [5, 11_000_000])
def test_a_local_file_appears_whole_with_its_metadata(storage, tmp_path, monkeypatch, size):
    monkeypatch.setattr(object_storage, "_PART_BYTES", 5 << 20)
    source = tmp_path / "source"
    source.write_bytes(os.urandom(size))
    sent: list[tuple[str, dict[str, object]]] = []
    send = storage._store.call_s3

    def note(name: str, **options: object) -> object:
        sent.append((name, options))
        return send(name, **options)

    monkeypatch.setattr(storage._store, "call_s3", note)
    metadata = {"built-at": "Zürich, at noon"}
    assert storage.put_file(NAME, source, metadata, replacing=None)
    assert [name for name, _ in sent].count("upload_part") == (3 if size > 5 else 0)
    # The tests' endpoint checks the condition of a plain request only.
    assert sent[-1][1]["IfNoneMatch"] == "*"
    assert storage.read(NAME) == source.read_bytes()
    facts = storage.facts(NAME)
    assert facts is not None
    assert (facts.size, facts.metadata) == (size, metadata)
    assert storage.put_file(NAME, source, {}, replacing=facts)


def test_the_parts_of_a_file_that_cannot_be_sent_are_removed(storage, tmp_path, monkeypatch):
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
def test_a_write_whose_answer_was_lost_is_recognized_when_it_is_sent_again(storage, before):
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


# --- files that two processes change --------------------------------------------------------------


@pytest.mark.parametrize("before", [None, b"old"])
def test_of_two_simultaneous_updates_one_wins_and_the_other_is_refused(storage, before):
    if before is not None:
        storage.write("state", content(before))

    def overtaken(found: bytes | None) -> bytes:
        assert found == before
        storage.update("state", lambda _: b"the other's")
        return b"mine"

    with pytest.raises(DataError, match="written by another run at the same time"):
        storage.update("state", overtaken)
    assert storage.read("state") == b"the other's"


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_file_that_another_process_has_just_written_is_not_overwritten(
    storage, before, monkeypatch
):
    if before is not None:
        storage.write(NAME, content(before))
    another = ObjectStorage(str(storage.root))
    # This is called last before the request is sent.
    monkeypatch.setattr(
        storage, "_check_leases", lambda: another.write(NAME, content(b"the other's"))
    )
    with pytest.raises(DataError, match="was written by another run at the same time"):
        storage.write(NAME, content(b"late"))
    assert storage.read(NAME) == b"the other's"


# --- locks ------------------------------------------------------------------------------------


def test_the_lock_of_a_killed_process_is_free_when_its_lease_ends(storage, monkeypatch):
    program = dedent(f"""
        import os, signal
        from aind_etl.lake.storage.object_store import ObjectStorage
        with ObjectStorage({str(storage.root)!r}).lock("a", "it"):
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="A run that was killed keeps its lock"):
        storage.lock("a", "it").__enter__()
    monkeypatch.setattr(locks, "CLOCKS_DIFFER_SECONDS", -locks.LEASE_SECONDS)
    with storage.lock("a", "it"):
        pass
    assert storage.files("", "") == {}


def test_a_lock_is_renewed_for_as_long_as_it_is_held(storage, monkeypatch):
    monkeypatch.setattr(locks, "LEASE_SECONDS", 4.0)
    monkeypatch.setattr(locks, "CLOCKS_DIFFER_SECONDS", 0.0)
    with storage.lock("a", "it"):
        first = storage.files("_locks", "")
        while storage.files("_locks", "") == first:
            pass
        storage.write(NAME, content(b"still mine"))


def test_nothing_is_written_after_a_lock_was_lost(storage):
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


def test_a_missing_bucket_is_named(endpoint):
    with pytest.raises(DataError, match=r"s3://nowhere/lake cannot write .*Check that the bucket"):
        ObjectStorage("s3://nowhere/lake").write(NAME, content(b"one"))


def test_a_store_that_does_not_answer_is_named(url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match="Check the endpoint"):
        ObjectStorage(url).read(NAME)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("wrong", ["s3://", "s3:///", "nothing-such://bucket/lake"])
def test_an_address_that_names_no_store_is_refused(wrong):
    with pytest.raises(ConfigurationError, match=r"names no bucket|cannot be opened here"):
        ObjectStorage(wrong)


# --- a lake -------------------------------------------------------------------------------------


def test_a_lake_on_an_object_store_equals_one_on_a_disk(built, lake_url):
    lake = Lake(lake_url)
    assert_same(tables_of(lake), tables_of(built.lake))
    assert {name: lake.state(name) for name in lake.collections()} == {
        name: built.lake.state(name) for name in built.lake.collections()
    }


def test_a_warehouse_built_from_it_agrees_with_it(built, lake_url, tmp_path):
    lake = Lake(lake_url)
    report = build_warehouse(lake, tmp_path / "warehouse.duckdb")
    with connect(built.warehouse) as connection:
        found = connection.execute(
            "SELECT table_name, estimated_size FROM duckdb_tables() WHERE NOT internal"
        )
        expected = dict(found.fetchall())
    assert report.rows == {name: expected[name] for name in report.rows}
    errors = [one for one in verify_warehouse(lake, report.location) if not one.is_warning]
    assert errors == []
    assert not build_warehouse(lake, report.location).published


def test_a_second_load_writes_nothing(sample_dump, lake_url):
    lake = Lake(lake_url)
    before = lake.storage.files("", ".parquet")
    load(sample_dump, lake)
    assert lake.storage.files("", ".parquet") == before


def test_a_run_requests_the_row_count_of_each_file_of_its_shard_once(sample_dump, url, tmp_path):
    write_dump(tmp_path, [one for one in read_dump(sample_dump) if "processing" in one][:12])
    lake = loaded_lake(tmp_path, url)
    reshard(lake, MAIN, 2)
    table = tables.INPUT_ASSETS
    files = {str(file) for file in lake.tables.files(table)}
    for shard in map(lake.for_shard, shards(2)):
        own = shard.tables.files(table, MAIN)
        assert 0 < len(own) < len(files)
        with counted() as requests:
            found = partition_metadata(shard, table, MAIN)
        # A preview also reads one of them.
        assert requests["get_object"] <= len(own) + 3
        assert requests["head_object"] <= 3
        assert found["dagster/partition_row_count"] == shard.tables.count_rows(table, MAIN)


def test_a_lake_is_read_and_written_without_a_local_copy(sample_dump, url, tmp_path):
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


def test_two_writers_that_both_escaped_the_lock_write_one_batch(url):
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


def test_the_command_runs_on_an_object_store_and_refuses_a_second_run(url, tmp_path, monkeypatch):
    def on_machine(name: str) -> dict[str, str]:
        folder = tmp_path / name
        return {"AIND_ETL_LAKE": url, "XDG_CACHE_HOME": str(folder / "cache")}

    def run_here(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    # Each machine keeps the history of runs in its default place.
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
    # Its lease lasts for longer than the other run takes to find it.
    there.send_signal(signal.SIGSTOP)
    for name, value in on_machine("here").items():
        monkeypatch.setenv(name, value)
    refused = run_here(*run, "sample:?sessions=2").exception
    there.send_signal(signal.SIGCONT)
    holder = f"process {there.pid} on {socket.gethostname()}"
    assert isinstance(refused, DataError)
    assert f"Another run is writing the lake {url} ({holder})" in str(refused)
    output, _ = there.communicate()
    assert there.returncode == 0
    assert f"Lake       {url}\nWarehouse  {url}/warehouse.duckdb" in output
    assert {path.name for path in (tmp_path / "there").iterdir()} == {"cache"}
    assert storage.exists("report.html")
    # On any machine, the lake and the warehouse are those of the first run.
    verified = run_here("verify", "--source", "sample:?sessions=1").output
    assert "Source, lake and warehouse agree." in verified
    status = run_here("status").output
    assert f"Warehouse {url}/warehouse.duckdb, built" in status
    (copy,) = (tmp_path / "here").rglob("warehouse.duckdb")
    assert f"Its copy on this machine is {copy}" in status
