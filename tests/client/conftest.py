"""What several tests of the client need."""

from pathlib import Path

import pytest
from worlds import load

from aind_etl.lake import Lake
from aind_etl.results import open_result_store, refresh_result_files, refresh_trials
from aind_etl.sample import write_world
from aind_etl.sessions import refresh_sessions
from aind_etl.settings import load_settings
from aind_etl.warehouse.build import build_warehouse


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sample's dump, its result folders, and its warehouse."""
    folder = tmp_path_factory.mktemp("behavior")
    write_world(folder, sessions=24, seed=0, shared_figures=True)
    lake = Lake(folder / "lake")
    settings = load_settings(results_root=str(folder / "results"))
    load(folder, lake)
    with open_result_store(settings) as store:
        for collection in lake.collections():
            refresh_result_files(lake, store, collection)
            refresh_trials(lake, store, collection)
        refresh_sessions(lake, store, location=settings.session_table_location)
    build_warehouse(lake, folder / "warehouse.duckdb")
    return folder
