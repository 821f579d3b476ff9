"""Drivers and libraries with which BI tools and catalogues open the warehouse and the lake."""

import csv
import json
import shutil
import subprocess
from io import StringIO

import pandas as pd
import pyarrow.dataset as ds
import pytest
from environments import environment
from frictionless import FrictionlessException, Package

from aind_etl.client.data_package import data_package, write_data_package
from aind_etl.client.export import export
from aind_etl.contract import tables
from aind_etl.contract.ddl import describe
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.sql_files import Kind, read_sql_files

pytestmark = pytest.mark.slow

# Superset's driver, with the SQLAlchemy that Superset pins: with newer ones the driver queries
# catalogues that DuckDB does not have.
PACKAGES = ["duckdb-engine==0.17.0", "duckdb==1.3.2", "sqlalchemy==1.4.54", "pytz"]

SUPERSET = """
import json, sys
from sqlalchemy import create_engine, inspect, text
engine = create_engine("duckdb:///" + sys.argv[1], connect_args={"read_only": True})
inspector = inspect(engine)
names = inspector.get_table_names() + inspector.get_view_names()
columns = {name: inspector.get_columns(name) for name in names}
with engine.connect() as connection:
    print(json.dumps({
        "columns": {name: [one["name"] for one in columns[name]] for name in names},
        "comments": {one["name"]: one["comment"] for one in columns["analyses"]},
        "counts": {
            name: connection.execute(text(f'SELECT count(*) FROM "{name}"')).scalar()
            for name in names
        },
        "filtered": connection.execute(
            text("SELECT count(*) FROM latest_analyses WHERE subject_id = :subject"),
            {"subject": "652324"},
        ).scalar(),
    }))
"""
R = """
rates <- read.csv(commandArgs(trailingOnly = TRUE)[1])
one <- subset(rates, parameter == "learn_rate_rew" & agent_alias == "QLearning_L2F1_CK1_softmax")
cat(nrow(rates), nrow(one), sprintf("%.9f", mean(one$value)), class(rates$session_number), "\\n")
"""


def answer(python, script, path):
    ran = subprocess.run(
        [python, "-W", "ignore", "-c", script, str(path)], stdout=subprocess.PIPE, check=True
    )
    return json.loads(ran.stdout)


def test_supersets_driver_lists_and_reads_every_table_and_view(built, tmp_path):
    python = environment(tmp_path / "superset", PACKAGES)
    found = answer(python, SUPERSET, built.warehouse)
    made = [file.name for kind in (Kind.VIEW, Kind.MART) for file in read_sql_files(kind)]
    with connect(built.warehouse) as connection:
        for name in [*made, *(table.name for table in (tables.ANALYSES, tables.FIT_PARAMETERS))]:
            described = connection.execute(f'DESCRIBE "{name}"').fetchall()
            assert found["columns"][name] == [row[0] for row in described]
            ((n_rows,),) = connection.execute(f'SELECT count(*) FROM "{name}"').fetchall()
            assert found["counts"][name] == n_rows
        (expected,) = connection.execute(
            "SELECT count(*) FROM latest_analyses WHERE subject_id = '652324'"
        ).fetchone()
    assert found["filtered"] == expected > 0
    assert found["comments"]["subject_id"] == describe(
        next(column for column in tables.ANALYSES.columns if column.name == "subject_id")
    )


def test_frictionless_accepts_the_data_package(sample_lake):
    path = write_data_package(sample_lake)
    package = Package.from_descriptor(str(path))
    assert [fault.message for fault in Package.metadata_validate(package.to_descriptor())] == []
    described = json.loads(path.read_text(encoding="utf-8"))["resources"]
    assert [one.title for one in package.resources] == [one["title"] for one in described]


def test_frictionless_rejects_a_wrong_data_package(sample_lake):
    package = data_package(sample_lake)
    package["resources"][0]["schema"]["fields"][0]["type"] = "varchar"
    with pytest.raises(FrictionlessException, match='type "varchar" is not supported'):
        list(Package.metadata_validate(package))


def test_arrow_opens_a_table_of_the_lake_as_one_dataset(built):
    # R's arrow::open_dataset and Python's pyarrow.dataset share a C++ library.
    root = built.lake.storage.root
    data = ds.dataset(root / "analyses", partitioning="hive")
    assert data.count_rows() == built.lake.tables.count_rows(tables.ANALYSES)
    month = data.to_table(filter=ds.field("session_month") == "2026-03", columns=["session_key"])
    assert set(month["session_key"].to_pylist()) == {"652324_2026-03-10_15-33-11"}


def test_pandas_reads_the_keys_of_the_path_as_categories(built):
    frame = pd.read_parquet(built.lake.storage.root / "analyses")
    assert len(frame) == built.lake.tables.count_rows(tables.ANALYSES)
    added = ["collection", "session_month"]
    assert set(frame.columns) == {*tables.ANALYSES.column_names, *added}
    assert [frame[name].dtype for name in added] == ["category"] * 2
    assert (frame["collection"].astype(str) == frame["source_collection"]).all()


def test_r_reads_the_csv_files(built, tmp_path):
    rscript = shutil.which("Rscript")
    if rscript is None or subprocess.run([rscript, "--version"], check=False).returncode:
        pytest.skip("there is no Rscript; Debian's package is called r-base-core")
    export(built.warehouse, tmp_path, "csv", ["parameter_trajectories"])
    path = tmp_path / "parameter_trajectories.csv"
    script = tmp_path / "read.R"
    script.write_text(R)
    ran = subprocess.run([rscript, script, path], capture_output=True, text=True, check=False)
    assert not ran.returncode, ran.stderr
    rows = list(csv.DictReader(StringIO(path.read_text())))
    values = [
        float(row["value"])
        for row in rows
        if row["parameter"] == "learn_rate_rew"
        and row["agent_alias"] == "QLearning_L2F1_CK1_softmax"
    ]
    n_rows, n_values, mean, kind = ran.stdout.split()
    assert (int(n_rows), int(n_values), kind) == (len(rows), len(values), "integer")
    assert float(mean) == pytest.approx(sum(values) / len(values), abs=1e-8)
