"""The cookbook's answers are what the sample's warehouse returns, and adding a mart is a file."""

import shutil
import sys
from pathlib import Path

import pytest

import aind_etl.warehouse.sql_files
from aind_etl.bundle import bundled
from aind_etl.client.export import export
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(DOCS))

from renew_cookbook import COOKBOOK, build_sample, queries, renewed  # noqa: E402 - a script of docs

RECIPES = COOKBOOK.read_text(encoding="utf-8").split("\n## ")[1:]
MART = """\
-- One row per subject: its newest fitted session and how many there are.
SELECT subject_id, max(session_date) AS newest_session, count(DISTINCT session_key) AS n_sessions
FROM model_comparison
GROUP BY subject_id
"""


@pytest.fixture(scope="module")
def sample_warehouse(tmp_path_factory):
    """Return the warehouse of the sample with its trials and sessions."""
    return build_sample(tmp_path_factory.mktemp("cookbook"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=[one.splitlines()[0] for one in RECIPES])
def test_a_recipe_returns_what_it_shows(sample_warehouse, recipe):
    assert list(queries(recipe)), "a question without SQL"
    assert "```text" in recipe
    assert renewed(recipe, sample_warehouse) == recipe, "make docs renews it"


def test_there_are_twenty_questions():
    assert [one.split(".", maxsplit=1)[0] for one in RECIPES] == [str(n) for n in range(1, 21)]


def test_adding_a_mart_is_adding_a_file(built, tmp_path, monkeypatch):
    from aind_etl.orchestration.assets import warehouse_asset

    folder = shutil.copytree(bundled("sql"), tmp_path / "sql")
    (folder / "marts" / "subjects_fitted.sql").write_text(MART)
    warehouse = tmp_path / "warehouse.duckdb"
    report = build_warehouse(built.lake, warehouse, sql_folder=folder)
    assert report.rows["subjects_fitted"] == 6
    with connect(warehouse) as connection:
        assert connection.execute(
            "SELECT comment FROM duckdb_tables() WHERE table_name = 'subjects_fitted'"
        ).fetchall() == [
            ("One row per subject: its newest fitted session and how many there are.",)
        ]

    monkeypatch.setattr(aind_etl.warehouse.sql_files, "bundled", lambda _name: folder)
    specs = {spec.key.to_user_string(): spec for spec in warehouse_asset().specs}
    added = specs["subjects_fitted"]
    assert added.description.startswith("One row per subject")
    assert [dep.asset_key.to_user_string() for dep in added.deps] == ["model_comparison"]
    assert "subjects_fitted" in {
        one.name for one in export(warehouse, tmp_path / "marts.xlsx", "xlsx")
    }
