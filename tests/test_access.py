"""Reading the warehouse from a notebook."""

import os
import shutil

import pytest

from aind_etl import Warehouse
from aind_etl.contract import tables
from aind_etl.errors import ConfigurationError


def test_a_table_comes_as_a_frame_with_all_its_rows(built):
    frame = Warehouse(built.warehouse).table("analyses")
    assert frame.height == built.lake.count_rows(tables.ANALYSES)
    assert frame.columns == list(tables.ANALYSES.column_names)


def test_a_query_comes_as_a_frame(built):
    frame = Warehouse(str(built.warehouse)).sql("SELECT count(*) AS n FROM best_models")
    assert frame.columns == ["n"]
    assert frame.item() > 0


def test_the_environment_names_the_warehouse(built, monkeypatch):
    monkeypatch.setenv("AIND_ETL_WAREHOUSE", str(built.warehouse))
    assert Warehouse().path == built.warehouse


def test_a_newly_published_file_is_seen_by_the_same_object(built, tmp_path):
    path = tmp_path / "warehouse.duckdb"
    warehouse = Warehouse(path)
    with pytest.raises(ConfigurationError, match="no warehouse"):
        warehouse.table("analyses")
    shutil.copy(built.warehouse, tmp_path / "new.duckdb")
    os.replace(tmp_path / "new.duckdb", path)  # noqa: PTH105 - as the publisher does
    assert warehouse.table("analyses").height > 0


@pytest.mark.parametrize(
    "query", ["SELECT nonsense FROM analyses", "FROM no_such_table", "SELEC 1"]
)
def test_a_mistake_in_a_query_is_explained(built, query):
    with pytest.raises(ConfigurationError, match="cannot be run"):
        Warehouse(built.warehouse).sql(query)


def test_nothing_can_be_written(built):
    with pytest.raises(ConfigurationError):
        Warehouse(built.warehouse).sql("DELETE FROM analyses")
