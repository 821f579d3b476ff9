"""A warehouse that is one object of a store: published whole, read from a local copy."""

import logging
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from shutil import copyfile
from uuid import uuid4

import duckdb
import pytest
import s3fs
from object_store import (
    KilledError,
    MortalRequests,
    counted,
    new_prefix,
    objects_of,
    out_of_reach,
    requests_go_through,
)

from aind_etl import Warehouse
from aind_etl.client.status import warehouse_status
from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake import Lake
from aind_etl.lake.storage.object_store import ObjectStorage
from aind_etl.settings import parse_location
from aind_etl.warehouse import object_file
from aind_etl.warehouse.build import build_warehouse, is_current
from aind_etl.warehouse.connection import connect, opened
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.location import file_beside, locate_warehouse
from aind_etl.warehouse.publishing import publish_warehouse

WHICH = "SELECT value FROM warehouse_info WHERE name = 'version'"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that switches to the cache folder of another machine."""
    return lambda name: monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))


@pytest.fixture
def url(endpoint, machine):
    """Return the address of a warehouse that was not published yet."""
    machine("cache")
    return f"{new_prefix()}/warehouse.duckdb"


@pytest.fixture
def publish(tmp_path):
    """Return a function that publishes a tiny warehouse of some version."""

    def publish(url, version, **options):
        put(url, version, locate_warehouse(url).current(), tmp_path)

    return publish


def put(url, version, replacing, folder):
    """Publish a tiny warehouse of some version, replacing another."""
    facts = {"inputs": version, "built_at": "2026-05-01T12:00:00+00:00", "built_by": "a test"}
    building = folder / "building.duckdb"
    with duckdb.connect(building) as connection:
        connection.execute("CREATE TABLE warehouse_info (name VARCHAR, value VARCHAR)")
        rows = [*facts.items(), ("layout", "1"), ("version", version)]
        connection.executemany("INSERT INTO warehouse_info VALUES (?, ?)", rows)
    try:
        locate_warehouse(url).publish(building, facts, replacing=replacing)
    finally:
        building.unlink(missing_ok=True)


def version_read(url):
    """Return the version of the warehouse that a reader gets."""
    with opened(url) as connection:
        ((version,),) = connection.execute(WHICH).fetchall()
    return str(version)


def copies(cache):
    """Return the copies of warehouses in a cache folder."""
    return [path for path in cache.rglob("*") if path.is_file() and path.name[0] != "."]


@pytest.fixture
def _check_each_time(monkeypatch):
    monkeypatch.setattr(object_file, "_RECHECK_SECONDS", 0.0)


# --- published, and read by a copy ------------------------------------------------------------


def test_a_warehouse_is_one_object_and_readers_get_its_tables(small, url, tmp_path, machine):
    publication = publish_warehouse(small.lake, url, max_lost_share=0.0)
    report = publication.report
    assert report.published
    assert all(outcome.holds for outcome in publication.outcomes)
    objects = objects_of(url.rpartition("/")[0])
    assert list(objects) == ["warehouse.duckdb"]
    assert s3fs.S3FileSystem().size(url) == report.size_bytes
    machine("another")
    here, there = Warehouse(url), Warehouse(small.warehouse)
    for name in ("analyses", "best_models"):
        rows = there.table(name)
        assert here.table(name).sort(rows.columns).equals(rows.sort(rows.columns))
    assert not publish_warehouse(small.lake, url, max_lost_share=0.0).report.published
    path = here.sql("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").item()
    assert [Path(path)] == copies(tmp_path / "another")


def test_is_current_does_not_fetch_the_warehouse(small, url, tmp_path, machine):
    assert not is_current(small.lake, url)
    with connect(small.warehouse) as connection:
        facts = dict(connection.execute("FROM warehouse_info").fetchall())
    copyfile(small.warehouse, tmp_path / "building.duckdb")
    locate_warehouse(url).publish(tmp_path / "building.duckdb", facts, replacing=None)
    machine("another")
    with counted() as requests:
        assert is_current(small.lake, url)
        assert read_info(url) == facts
    assert set(requests) == {"head_object"}
    assert not copies(tmp_path / "another")


def test_the_publisher_does_not_fetch_it(url, publish):
    with counted() as requests:
        publish(url, "first")
        assert version_read(url) == "first"
    assert requests["get_object"] == 0
    assert requests["put_object"] == 1


@pytest.mark.usefixtures("_check_each_time")
def test_a_reader_sees_newer_warehouses_and_old_copies_are_removed(url, publish, tmp_path, machine):
    publish(url, "first")
    for version in ("second", "third"):
        machine("mine")
        warehouse = Warehouse(url)
        before = warehouse.sql(WHICH).item()
        held = connect(url)
        machine("another")
        publish(url, version)
        machine("mine")
        assert warehouse.sql(WHICH).item() == version
        # A connection keeps the file that it opened.
        assert held.execute(WHICH).fetchall() == [(before,)]
        held.close()
        assert len(copies(tmp_path / "mine")) == 1


def test_the_store_is_checked_once_per_query_or_interval(url, publish, monkeypatch, machine):
    publish(url, "first")
    machine("another")
    monkeypatch.setattr(object_file, "_RECHECK_SECONDS", 1000.0)
    with counted() as requests:
        for _ in range(20):
            version_read(url)
    assert requests == {"head_object": 2, "get_object": 1}, "once, and once after it was fetched"
    monkeypatch.setattr(object_file, "_RECHECK_SECONDS", 0.0)
    machine("a third")
    version_read(url)
    with counted() as requests:
        for _ in range(20):
            version_read(url)
    assert requests == {"head_object": 20}


def test_only_the_owner_can_read_a_copy(url, publish, tmp_path, machine):
    publish(url, "first")
    machine("another")
    version_read(url)
    for cache in (tmp_path / "cache", tmp_path / "another"):
        (copy,) = copies(cache)
        assert stat.S_IMODE(copy.stat().st_mode) == 0o600
        for folder in (copy.parent, copy.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("damage", [b"", b"another file of the same name"])
@pytest.mark.usefixtures("_check_each_time")
def test_a_damaged_copy_is_fetched_again(url, publish, damage):
    publish(url, "first")
    locate_warehouse(url).file().write_bytes(damage)
    assert version_read(url) == "first"


@pytest.mark.usefixtures("_check_each_time")
def test_a_warehouse_replaced_during_a_fetch_is_fetched_again(url, publish, monkeypatch, machine):
    publish(url, "first")
    fetch = ObjectStorage.fetch
    versions = iter(["second", "third"])

    def overtaken(self, name, target):
        fetch(self, name, target)
        if version := next(versions, None):
            machine("publisher")
            publish(url, version)
            machine("another")

    monkeypatch.setattr(ObjectStorage, "fetch", overtaken)
    machine("another")
    assert version_read(url) == "third"
    monkeypatch.setattr(ObjectStorage, "fetch", fetch)
    assert version_read(url) == "third"


@pytest.mark.usefixtures("_check_each_time")
def test_no_part_of_an_interrupted_fetch_is_read(url, publish, monkeypatch, tmp_path, machine):
    publish(url, "first")
    machine("another")
    assert version_read(url) == "first"
    machine("publisher")
    publish(url, "second")
    machine("another")

    def interrupted(_self, _name, target):
        target.write_bytes(b"half")
        raise DataError("The connection is cut.")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStorage, "fetch", interrupted)
        patch.setattr(object_file, "_RECHECK_AFTER_FAILURE_SECONDS", 0.0)
        assert version_read(url) == "first"
        machine("a third")
        with pytest.raises(ConfigurationError, match="The connection is cut"):
            version_read(url)
    assert copies(tmp_path / "a third") == []
    machine("another")
    assert version_read(url) == "second"


def test_many_readers_of_one_machine_fetch_it_once(url, publish, machine):
    publish(url, "first")
    machine("another")
    with counted() as requests:
        readers = [threading.Thread(target=version_read, args=[url]) for _ in range(8)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    assert requests["get_object"] == 1


READ = """\
import sys
from aind_etl.warehouse.location import locate_warehouse
print("ready", flush=True)
print(locate_warehouse(sys.argv[1]).file().stat().st_ino)
"""


def test_many_processes_of_one_machine_read_one_copy(url, publish, machine):
    publish(url, "first")
    machine("another")
    with subprocess.Popen(
        [sys.executable, "-c", READ, url], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        mine = locate_warehouse(url).file().stat().st_ino
        printed, _ = reader.communicate()
    assert printed == f"{mine}\n"


def test_files_of_a_killed_reader_are_removed(url, publish, machine):
    publish(url, "first")
    machine("another")
    folder = locate_warehouse(url).file().parent
    (folder / "warehouse.duckdb").unlink()
    left = folder / ".fetching-before"
    left.mkdir()
    (left / "warehouse.duckdb").write_bytes(b"half")
    assert version_read(url) == "first"
    assert not left.exists()


# --- a store that does not answer --------------------------------------------------------------


@pytest.mark.usefixtures("_check_each_time")
def test_without_the_store_the_copy_is_read_and_a_warning_names_its_age(url, publish, caplog):
    publish(url, "first")
    with out_of_reach(), caplog.at_level(logging.WARNING):
        assert version_read(url) == "first"
        assert version_read(url) == "first"
    (said,) = {record.message for record in caplog.records}
    assert f"The store of the warehouse {url} cannot find 'warehouse.duckdb'" in said
    assert "Reading the local copy, built" in said
    assert said.endswith("d ago.")
    assert len(caplog.records) == 1, "the store is not asked again at once"


def test_without_the_store_and_a_copy_the_error_says_so(url, publish, machine):
    publish(url, "first")
    machine("another")
    with out_of_reach():
        with pytest.raises(ConfigurationError, match=r"Check the endpoint .* no copy of the"):
            Warehouse(url).table("analyses")
        with pytest.raises(DataError, match="Check the endpoint"):
            locate_warehouse(url).exists()
        assert "no copy of the warehouse on this machine" in warehouse_status(url)


def test_a_warehouse_that_was_never_published_is_an_error(url):
    with pytest.raises(ConfigurationError, match=f"There is no warehouse at '{url}'. Build it"):
        connect(url)
    assert read_info(url) == {}
    assert "There is no warehouse at" in warehouse_status(url)


@pytest.mark.usefixtures("_check_each_time")
def test_a_warehouse_that_was_removed_is_not_read_from_its_copy(url, publish):
    publish(url, "first")
    s3fs.S3FileSystem().rm_file(url)
    with pytest.raises(ConfigurationError, match="There is no warehouse at"):
        connect(url)


@pytest.mark.parametrize("wrong", ["s3://warehouse.duckdb", "s3://bucket/lake/", "s3://"])
def test_an_address_that_names_no_object_is_refused(wrong):
    with pytest.raises(ConfigurationError, match="names no object"):
        locate_warehouse(parse_location(wrong))


def test_a_cache_folder_that_cannot_be_written_is_named(url, publish, tmp_path, machine):
    publish(url, "first")
    (tmp_path / "a file").write_text("no folder")
    machine("a file")
    with pytest.raises(ConfigurationError, match=r"a file.*Name a folder for caches"):
        connect(url)


# --- several publishers ------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "first"])
def test_a_second_publisher_does_not_overwrite_the_first(url, publish, tmp_path, before):
    if before is not None:
        publish(url, before)
    seen = locate_warehouse(url).current()
    publish(url, "of the first")
    with pytest.raises(DataError, match=r"was published by another run at the same time\. Nothing"):
        put(url, "of the second", seen, tmp_path)
    assert version_read(url) == "of the first"


def test_two_builds_do_not_publish_to_a_store_at_the_same_time(small, url):
    lake = Lake(url.rpartition("/")[0])
    with (
        lake.storage.lock("warehouse", f"the warehouse {url}"),
        pytest.raises(DataError, match=f"Another run is writing the warehouse {url}"),
    ):
        build_warehouse(Lake(str(lake)), url)


def test_a_build_that_was_overtaken_is_refused(small, url, publish):
    def overtaken(_):
        publish(url, "of another machine")

    with pytest.raises(DataError, match="was published by another run at the same time"):
        build_warehouse(small.lake, url, validate=overtaken)
    assert version_read(url) == "of another machine"
    assert not any(path.is_dir() for path in locate_warehouse(url).file().parent.iterdir())


def test_a_publication_whose_reply_was_lost_counts_as_ours(url, publish):
    async def twice(name, send):
        if name == "put_object":
            await send()
        return await send()

    with requests_go_through(twice):
        publish(url, "first")
        publish(url, "second")
    assert version_read(url) == "second"


@pytest.mark.parametrize("request_", [1, 2])
def test_a_killed_publisher_leaves_the_old_or_the_new_warehouse(url, publish, request_):
    publish(url, "first")
    requests = MortalRequests(request_)
    with requests.counted(), suppress(KilledError):
        publish(url, "second")
        # The next request.
        s3fs.S3FileSystem().pipe_file(f"{url}.more", b"")
    assert requests.is_dead
    is_sent = request_ == 2
    assert version_read(url) == ("second" if is_sent else "first")
    assert locate_warehouse(url).metadata()["inputs"] == version_read(url)
    publish(url, "third")
    assert version_read(url) == "third"


# --- a store that is no S3 ---------------------------------------------------------------------


@pytest.mark.usefixtures("_check_each_time")
def test_any_store_that_fsspec_opens_works(small, tmp_path, publish, machine):
    url = f"memory://{uuid4().hex}/warehouse.duckdb"
    machine("publisher")
    assert build_warehouse(small.lake, url).published
    machine("another")
    warehouse = Warehouse(url)
    assert warehouse.table("analyses").height == small.lake.tables.count_rows(tables.ANALYSES)
    assert is_current(small.lake, url)
    seen = locate_warehouse(url).current()
    publish(url, "second")
    assert warehouse.sql(WHICH).item() == "second"
    assert not is_current(small.lake, url)
    with pytest.raises(DataError, match="was published by another run at the same time"):
        put(url, "third", seen, tmp_path)


# --- files beside it ---------------------------------------------------------------------------


def test_a_page_beside_the_warehouse_is_served_as_html(url):
    with file_beside(url, "report.html") as (place, path):
        path.write_text("<p>a page</p>")
    assert place == f"{url.rpartition('/')[0]}/report.html"
    store = s3fs.S3FileSystem()
    assert store.cat_file(place) == b"<p>a page</p>"
    assert store.info(place)["ContentType"] == "text/html"
