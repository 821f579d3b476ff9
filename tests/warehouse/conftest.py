"""A small lake, for tests that build a warehouse of their own."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import SMALL, Built, loaded_lake

from aind_etl.bundle import bundled
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse


@pytest.fixture(scope="session")
def small(sample_dump: Path, made_once: Callable[..., Path]) -> Built:
    """Return dump, lake and warehouse of the sample's smallest collection, not to be changed."""

    def make(folder: Path) -> None:
        (folder / "dump").mkdir(parents=True)
        shutil.copy(sample_dump / f"{SMALL}.jsonl", folder / "dump")
        lake = loaded_lake(folder / "dump", folder / "lake")
        build_warehouse(lake, folder / "warehouse.duckdb")

    folder = made_once("small", make)
    return Built(folder / "dump", Lake(folder / "lake"), folder / "warehouse.duckdb")


@pytest.fixture
def sql_folder(tmp_path: Path) -> Path:
    """Return a copy of ``sql/`` that may be changed."""
    return Path(shutil.copytree(bundled("sql"), tmp_path / "sql"))


@pytest.fixture
def dump(small: Built, tmp_path: Path) -> Path:
    """Return the small collection's dump, for a test to change."""
    return Path(shutil.copytree(small.source, tmp_path / "dump"))


@pytest.fixture
def lake(small: Built, tmp_path: Path) -> Lake:
    """Return a lake with the small collection, for a test to change."""
    # Other processes may build from it, and hold its locks.
    without_locks = shutil.ignore_patterns("_locks")
    return Lake(shutil.copytree(str(small.lake), tmp_path / "lake", ignore=without_locks))
