"""Fixtures of many tests: the sample world as a dump, as a lake and as a warehouse."""

import gc
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import object_store
import pytest
from filelock import FileLock
from hypothesis import settings
from places import OnDisk, OnStore, Places
from worlds import Built, flatten_otherwise, load

import aind_etl.flatten.refresh
from aind_etl.lake import Lake
from aind_etl.lake.storage import locks
from aind_etl.results import open_result_store, refresh_result_files, refresh_trials
from aind_etl.sample import write_world
from aind_etl.sessions import refresh_sessions
from aind_etl.settings import load_settings
from aind_etl.warehouse.build import build_warehouse

# How fast a test is depends on the machine.
settings.register_profile("unhurried", settings.default, deadline=None)
settings.load_profile("unhurried")


def pytest_unconfigure() -> None:
    """Remove Hypothesis' callbacks, which would keep DuckDB's types alive at exit."""
    gc.callbacks.clear()


@pytest.fixture(scope="session", autouse=True)
def _nowhere_but_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tests that name no store of result folders from reading the public one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIND_ETL_RESULTS_ROOT", str(tmp_path_factory.mktemp("no-results")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_fsync() -> Iterator[None]:
    """Do not wait for the disk: tests kill processes, never the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that returns a folder, which one worker fills for all."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            made = shared / f"{name}.made"
            if not made.exists():
                make(folder)
                made.touch()
        return folder

    return folder_of


@pytest.fixture(scope="session")
def sample_world(made_once: Callable[..., Path]) -> Path:
    """Return the folder of the default sample world with its result folders, not to be changed."""
    write = partial(write_world, sessions=24, seed=0, shared_figures=True)
    return made_once("sample-world", write)


@pytest.fixture(scope="session")
def sample_dump(made_once: Callable[..., Path]) -> Path:
    """Return the folder of the default sample world, which no test may change."""
    return made_once("sample-dump", partial(write_world, sessions=24, seed=0, results=False))


@pytest.fixture(scope="session")
def built(sample_dump: Path, made_once: Callable[..., Path]) -> Built:
    """Return the lake and the warehouse of the sample world, which no test may change."""

    def make(folder: Path) -> None:
        lake = Lake(folder / "lake")
        load(sample_dump, lake)
        build_warehouse(lake, folder / "warehouse.duckdb")

    folder = made_once("built", make)
    return Built(sample_dump, Lake(folder / "lake"), folder / "warehouse.duckdb")


@pytest.fixture(scope="session")
def world(sample_world: Path, made_once: Callable[..., Path]) -> Path:
    """Return a folder with the sample's dump, its result folders, its lake and its warehouse."""

    def make(folder: Path) -> None:
        shutil.copytree(sample_world, folder)
        lake = Lake(folder / "lake")
        settings = load_settings(results_root=str(folder / "results"))
        load(folder, lake)
        with open_result_store(settings) as store:
            for collection in lake.collections():
                refresh_result_files(lake, store, collection)
                refresh_trials(lake, store, collection)
            refresh_sessions(lake, store, location=settings.session_table_location)
        build_warehouse(lake, folder / "warehouse.duckdb")

    return made_once("world", make)


@pytest.fixture
def sample_lake(built: Built, tmp_path: Path) -> Lake:
    """Return a lake with the sample world."""
    return Lake(shutil.copytree(built.lake.storage.root, tmp_path / "sample-lake"))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Return an empty lake."""
    return Lake(tmp_path / "lake")


@pytest.fixture
def load_as_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, Lake], None]:
    """Return a function that loads a source as an earlier version of the code would have."""

    def load_as_before(source: Path, lake: Lake) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(aind_etl.flatten.refresh, "flattener_version", lambda: "earlier")
            patch.setattr(aind_etl.flatten.refresh, "flatten_documents", flatten_otherwise)
            load(source, lake)

    return load_as_before


@pytest.fixture(scope="session")
def _endpoint_address() -> Iterator[str]:
    with object_store.object_store() as address:
        yield address


@pytest.fixture(scope="module")
def endpoint(_endpoint_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of an S3 endpoint, which the environment names too."""
    with object_store.asked_at(_endpoint_address, tmp_path_factory.mktemp("cache")):
        yield _endpoint_address


@pytest.fixture
def quick_folder() -> Iterator[Path]:
    """Yield a folder, in memory if possible, for tests that write thousands of files."""
    memory = Path("/dev/shm")
    # A container has 64 MB of it by default.
    is_usable = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    with TemporaryDirectory(dir=memory if is_usable else None) as folder:
        yield Path(folder)


@pytest.fixture(params=["disk", "object store"])
def places(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Places:
    """Return places for lakes of each kind in turn: the guarantees of a lake hold on both."""
    if request.param == "disk":
        return OnDisk(request.getfixturevalue("quick_folder"))
    request.getfixturevalue("endpoint")
    # The lease of a process that a test has killed can be taken over at once.
    monkeypatch.setattr(locks, "CLOCKS_DIFFER_SECONDS", -locks.LEASE_SECONDS)
    return OnStore()


@pytest.fixture(scope="session")
def real_records() -> Path:
    """Return the folder of real records that ``AIND_ETL_REAL_RECORDS`` names."""
    named = os.environ.get("AIND_ETL_REAL_RECORDS")
    if not named:
        pytest.skip("AIND_ETL_REAL_RECORDS names no folder of real records")
    return Path(named)


@pytest.fixture(scope="session")
def _made_history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the empty databases of a Dagster instance."""
    # Imported here: most tests need no Dagster.
    import dagster as dg

    folder = tmp_path_factory.mktemp("history")
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        instance.get_runs()
        instance.all_instigator_state()
        instance.all_asset_keys()
    return folder


@pytest.fixture
def new_history(_made_history: Path, tmp_path: Path) -> Iterator[Path]:
    """Yield a folder of a Dagster instance with its databases: creating them takes seconds."""
    from sqlalchemy import Engine, event

    def skip_fsync(connection: Any, _record: object) -> None:
        # Dagster commits hundreds of times per run, and nobody needs this history after a crash.
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", skip_fsync)
    yield shutil.copytree(_made_history, tmp_path / "history-of-runs")
    event.remove(Engine, "connect", skip_fsync)
