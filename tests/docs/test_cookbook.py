"""The cookbook shows what the sample's warehouse returns; the examples in CONTRIBUTING work."""

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from commands import execute
from renew_cookbook import COOKBOOK, queries, renewed
from worlds import SMALL

import aind_etl.warehouse.sql_files
from aind_etl.bundle import bundled
from aind_etl.client.export import export
from aind_etl.warehouse.build import build_warehouse
from aind_etl.warehouse.connection import connect

CLONE = Path(__file__).parents[2]
RECIPES = COOKBOOK.read_text(encoding="utf-8").split("\n## ")[1:]
CONTRIBUTING = (CLONE / "CONTRIBUTING.md").read_text(encoding="utf-8")
MART = re.search(r"```sql\n(.*?)```", CONTRIBUTING, re.DOTALL)[1]
COLUMN = re.search(r"```python\n(.*?)```", CONTRIBUTING, re.DOTALL)[1]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=[one.splitlines()[0] for one in RECIPES])
def test_a_recipe_returns_what_it_shows(sample_warehouse, recipe):
    assert list(queries(recipe)), "a question without SQL"
    assert "```text" in recipe
    assert renewed(recipe, sample_warehouse) == recipe, "make docs renews it"


def test_there_are_twenty_questions():
    assert [one.split(".", maxsplit=1)[0] for one in RECIPES] == [str(n) for n in range(1, 21)]


def test_a_mart_is_added_as_a_file(built, tmp_path, monkeypatch):
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


@pytest.mark.slow
def test_a_column_is_added_in_the_contract(sample_dump, tmp_path):
    for name in ("aind_etl", "sql", "dagster_home"):
        shutil.copytree(CLONE / name, tmp_path / name)
    contract = tmp_path / "aind_etl" / "contract" / "columns.py"
    text = contract.read_text()
    before = '    integer("n_iterations",'
    assert text.count(before) == 1
    contract.write_text(text.replace(before, f"{COLUMN}{before}"))
    command = [sys.executable, "-c", "from aind_etl.cli import main; main()"]
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "AIND_ETL_LAKE": str(tmp_path / "lake"),
    }
    run = ["run", "--no-results", "--source", str(sample_dump), "--collection", SMALL]
    asked = ["sql", "SELECT count(*) AS n FROM analyses WHERE n_optimizer_restarts IS NULL"]
    for arguments in (run, asked):
        done = execute(*command, *arguments, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 0
