"""The dashboard for Superset uses only tables and columns that the warehouse has."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aind_etl.warehouse.connection import connect

DASHBOARD = Path(__file__).parents[2] / "docs" / "superset"


def described(folder: str) -> list[dict[str, Any]]:
    return [
        yaml.safe_load(path.read_text()) for path in sorted(DASHBOARD.rglob(f"{folder}/**/*.yaml"))
    ]


def test_the_dashboards_tables_have_its_columns_in_its_types(built):
    (database,) = described("databases")
    query = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?"
    with connect(built.warehouse) as connection:
        for dataset in described("datasets"):
            assert dataset["database_uuid"] == database["uuid"]
            found = dict(connection.execute(query, [dataset["table_name"]]).fetchall())
            for column in dataset["columns"]:
                kind = found[column["column_name"]]
                assert kind.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ") == column["type"]


@pytest.mark.parametrize("chart", described("charts"), ids=lambda chart: chart["slice_name"])
def test_a_chart_returns_rows(built, chart):
    dataset = next(one for one in described("datasets") if one["uuid"] == chart["dataset_uuid"])
    params = chart["params"]
    lists = ("groupby", "groupbyRows", "groupbyColumns", "all_columns")
    groups = [name for key in lists for name in params.get(key, [])]
    groups += [params["x_axis"]] if "x_axis" in params else []
    measures = [one["sqlExpression"] for one in params.get("metrics", [])]
    conditions = [one["sqlExpression"] for one in params["adhoc_filters"]] or ["true"]
    query = (
        f"SELECT {', '.join([*groups, *measures])} FROM {dataset['table_name']} "
        f"WHERE {' AND '.join(conditions)}" + (" GROUP BY ALL" if measures else "")
    )
    with connect(built.warehouse) as connection:
        assert connection.execute(query).fetchall()


def test_the_dashboard_shows_every_chart_and_filters_by_existing_columns():
    (dashboard,) = described("dashboards")
    charts = {chart["uuid"]: chart["slice_name"] for chart in described("charts")}
    shown = {
        one["meta"]["uuid"]: one["meta"]["sliceName"]
        for one in dashboard["position"].values()
        if isinstance(one, dict) and one["type"] == "CHART"
    }
    assert shown == charts
    columns = {
        (dataset["uuid"], column["column_name"])
        for dataset in described("datasets")
        for column in dataset["columns"]
    }
    targets = [
        (target["datasetUuid"], target["column"]["name"])
        for one in dashboard["metadata"]["native_filter_configuration"]
        for target in one["targets"]
    ]
    assert len(targets) == 2
    assert set(targets) <= columns
