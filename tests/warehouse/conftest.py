"""A small lake, for tests that build a warehouse of their own."""

import shutil
from pathlib import Path

import pytest
from worlds import SMALL, Built, loaded_lake

from aind_etl.bundle import bundled
from aind_etl.lake import Lake
from aind_etl.warehouse.build import build_warehouse


@pytest.fixture(scope="session")
def small(sample_dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Return dump, lake and warehouse of the sample's smallest collection, not to be changed.

    Each process has its own, because tests build from the lake and a build locks it.
    """
    folder = tmp_path_factory.mktemp("small")
    (folder / "dump").mkdir()
    shutil.copy(sample_dump / f"{SMALL}.jsonl", folder / "dump")
    lake = loaded_lake(folder / "dump", folder / "lake")
    build_warehouse(lake, folder / "warehouse.duckdb")
    return Built(folder / "dump", lake, folder / "warehouse.duckdb")


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
    return Lake(shutil.copytree(str(small.lake), tmp_path / "lake"))
