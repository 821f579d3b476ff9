"""Snapshots of a warehouse: kept, listed, read, and never overwritten."""

import shutil
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from worlds import SMALL, load, read_dump, write_dump

from aind_etl import Warehouse
from aind_etl.errors import ConfigurationError
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.snapshots import find_snapshot, list_snapshots, take_snapshot


@pytest.fixture
def warehouse(lake, places):
    """Return the published warehouse of the lake, on a disk and on an object store in turn."""
    root = places.new().storage.root
    location = root / "warehouse.duckdb" if isinstance(root, Path) else f"{root}/warehouse.duckdb"
    build_warehouse(lake, location)
    return location


def analyses(location, snapshot=None):
    found = Warehouse(location, snapshot=snapshot).sql("SELECT count(*) FROM analyses")
    return int(found.item())


def publish_fewer(lake, warehouse, dump):
    """Publish a warehouse with fewer documents."""
    write_dump(dump, read_dump(dump, SMALL)[:5], SMALL)
    load(dump, lake)
    build_warehouse(lake, warehouse)


def test_a_snapshot_stays_the_same_while_the_warehouse_changes(lake, warehouse, dump):
    before = analyses(warehouse)
    began = datetime.now(UTC) - timedelta(seconds=2)
    taken = take_snapshot(warehouse, "paper-2026")
    assert began <= taken.taken_at <= datetime.now(UTC) + timedelta(seconds=2)
    publish_fewer(lake, warehouse, dump)
    assert analyses(warehouse) < before
    assert analyses(warehouse, "paper-2026") == before
    (listed,) = list_snapshots(warehouse)
    assert listed == taken
    assert listed.facts["lake"] == str(lake)
    assert "DuckDB" in listed.facts["built_by"]
    assert datetime.fromisoformat(listed.facts["built_at"]) <= listed.taken_at
    assert listed.size_bytes > 1_000_000
    # Publishing leaves it alone.
    build_warehouse(lake, warehouse)
    assert [one.name for one in list_snapshots(warehouse)] == ["paper-2026"]


def test_a_snapshot_is_never_overwritten(lake, warehouse, dump):
    take_snapshot(warehouse, "paper")
    before = analyses(warehouse, "paper")
    publish_fewer(lake, warehouse, dump)
    with pytest.raises(ConfigurationError, match="The snapshot 'paper' already exists"):
        take_snapshot(warehouse, "paper")
    assert analyses(warehouse, "paper") == before
    take_snapshot(warehouse, "revised")
    assert [one.name for one in list_snapshots(warehouse)] == ["paper", "revised"]
    assert analyses(warehouse, "revised") < before


def test_a_snapshot_on_a_disk_is_read_only(small, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    shutil.copy(small.warehouse, path)
    location = take_snapshot(path, "kept").location
    assert isinstance(location, Path)
    assert stat.S_IMODE(location.stat().st_mode) == 0o444
    assert [one.name for one in location.parent.iterdir()] == ["kept.duckdb"]


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", "a b", "x" * 101])
def test_an_invalid_name_is_refused(small, name):
    with pytest.raises(ConfigurationError, match="expected letters, digits"):
        take_snapshot(small.warehouse, name)


def test_a_missing_snapshot_or_warehouse_is_explained(small, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    with pytest.raises(ConfigurationError, match="There is no warehouse at"):
        take_snapshot(path, "kept")
    assert list_snapshots(path) == []
    shutil.copy(small.warehouse, path)
    with pytest.raises(ConfigurationError, match="Take one with 'aind-etl snapshot NAME'"):
        find_snapshot(path, "kept")
    take_snapshot(path, "kept")
    with pytest.raises(ConfigurationError, match="Did you mean 'kept'"):
        Warehouse(path, snapshot="kep")
