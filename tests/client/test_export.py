"""Exports have the rows of the warehouse, in the types of the program that opens them."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime

import duckdb
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner
from worlds import LAKE_TABLES

import aind_etl.client.export
from aind_etl.cli.app import app
from aind_etl.client.data_package import data_package, write_data_package
from aind_etl.client.export import export
from aind_etl.contract import TABLES, tables
from aind_etl.errors import ConfigurationError
from aind_etl.lake import Lake
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.sql_files import Kind, read_sql_files

MARTS = [file.name for file in read_sql_files(Kind.MART)]
# Its columns are lists.
MARTS.remove("mle_fits")


@pytest.fixture(scope="module")
def workbook(built, tmp_path_factory):
    """Return the workbook of the sample world, opened."""
    path = tmp_path_factory.mktemp("workbook") / "analyses.xlsx"
    export(built.warehouse, path, "xlsx", (*MARTS, "analyses"))
    return openpyxl.load_workbook(path)


def of_warehouse(built, table):
    with connect(built.warehouse) as connection:
        relation = connection.execute(f'FROM "{table}"')
        return [column[0] for column in relation.description], relation.fetchall()


def for_excel(value):
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None)
    return datetime(value.year, value.month, value.day) if isinstance(value, date) else value  # noqa: DTZ001 - as openpyxl gives dates


@pytest.mark.parametrize("table", [*MARTS, "analyses"])
def test_a_sheet_has_the_rows_of_its_table(built, workbook, table):
    names, rows = of_warehouse(built, table)
    header, *cells = workbook[table].iter_rows(values_only=True)
    assert list(header) == names
    assert len(cells) == len(rows)
    for row, expected in zip(cells, rows, strict=True):
        for cell, value in zip(row, expected, strict=True):
            if isinstance(value, datetime):
                assert abs((cell - for_excel(value)).total_seconds()) < 0.001
            else:
                assert cell == (
                    pytest.approx(value) if isinstance(value, float) else for_excel(value)
                )


def test_sheets_have_a_frozen_header_filters_and_readable_columns(workbook):
    sheet = workbook["model_comparison"]
    assert sheet.freeze_panes == "A2"
    assert sheet.auto_filter.ref == f"A1:AG{sheet.max_row}"
    assert sheet.column_dimensions["A"].width > len("652324_2026-04-15_15-19-47")
    assert sheet["E2"].is_date is False
    assert sheet["D2"].is_date is True


def test_the_first_sheet_describes_the_others(workbook):
    assert workbook.sheetnames == ["contents", *MARTS, "analyses"]
    text = [
        [cell for cell in row if cell is not None]
        for row in workbook["contents"].iter_rows(values_only=True)
    ]
    assert "Warehouse built 2" in text[1][0]
    assert "UTC" in text[1][0]
    comments = {file.name: file.comment for file in read_sql_files(Kind.MART)}
    for name, n_rows, comment in text[4:]:
        assert n_rows == workbook[name].max_row - 1
        assert comment == comments.get(name, tables.ANALYSES.description)


def test_rows_that_do_not_fit_a_sheet_are_reported(built, tmp_path, monkeypatch):
    monkeypatch.setattr(aind_etl.client.export, "SHEET_ROWS", 11)
    path = tmp_path / "short.xlsx"
    (written,) = export(built.warehouse, path, "xlsx", ["fit_coverage"])
    ((n_rows,),) = connect(built.warehouse).execute("SELECT count(*) FROM fit_coverage").fetchall()
    assert (written.rows, written.left_out) == (10, n_rows - 10)
    opened = openpyxl.load_workbook(path)
    assert opened["fit_coverage"].max_row == 11
    assert f"THE LAST {n_rows - 10}" in opened["contents"]["C5"].value
    result = CliRunner().invoke(
        app, ["export", str(path), "--table", "fit_coverage", "--warehouse", str(built.warehouse)]
    )
    assert f"the last {n_rows - 10} rows were left out" in result.stderr


def test_strings_infinities_and_long_names_survive_excel(built, tmp_path):
    warehouse = shutil.copy(built.warehouse, tmp_path / "warehouse.duckdb")
    long = "a_mart_whose_name_is_longer_than_excel_takes"
    with duckdb.connect(warehouse) as connection:
        for name in (long, f"{long}_too"):
            connection.execute(
                f"CREATE TABLE {name} AS SELECT '=1+1' AS formula, 'https://a.b' AS link, "
                "'inf'::DOUBLE AS infinite, 'nan'::DOUBLE AS none, [1, 2] AS list, "
                "TIME '08:39:12' AS at, repeat('x', 40000) AS long, TRUE AS yes"
            )
    export(warehouse, tmp_path / "odd.xlsx", "xlsx", [long, f"{long}_too"])
    opened = openpyxl.load_workbook(tmp_path / "odd.xlsx")
    assert opened.sheetnames == ["contents", long[:31], f"{long[:29]}~2"]
    formula, link, *rest = opened[long[:31]][2]
    assert (formula.value, formula.data_type) == ("=1+1", "s")
    assert link.hyperlink is None
    assert [cell.value for cell in rest][:3] == ["inf", "nan", "[1,2]"]
    assert str(rest[3].value) == "08:39:12"
    assert len(rest[4].value) == 32_767
    assert rest[5].value is True


@pytest.mark.parametrize("export_format", ["csv", "arrow", "parquet"])
def test_files_have_the_rows_of_their_tables(built, tmp_path, export_format):
    written = export(built.warehouse, tmp_path / "out", export_format)
    assert [one.name for one in written] == MARTS
    read = {"csv": pd.read_csv, "arrow": pd.read_feather, "parquet": pd.read_parquet}
    for one in written:
        names, rows = of_warehouse(built, one.name)
        frame = read[export_format](tmp_path / "out" / f"{one.name}.{export_format}")
        assert list(frame.columns) == names
        assert len(frame) == len(rows) == one.rows
        numbers = frame.select_dtypes("number").columns
        expected = pd.DataFrame(rows, columns=names)[numbers].apply(pd.to_numeric)
        pd.testing.assert_frame_equal(
            frame[numbers], expected, check_dtype=False, check_exact=False
        )


def test_arrow_and_parquet_keep_lists_maps_and_times(built, tmp_path):
    for export_format in ("arrow", "parquet"):
        export(built.warehouse, tmp_path, export_format, ["mle_fitting"])
    with pa.OSFile(str(tmp_path / "mle_fitting.arrow")) as file:
        arrow = pa.ipc.open_file(file).read_all()
    parquet = pq.read_table(tmp_path / "mle_fitting.parquet")
    assert arrow.schema.field("params").type == pa.map_(pa.string(), pa.float64())
    assert arrow.schema.field("analysis_time").type == pa.timestamp("us", tz="UTC")
    # A view has no order, and two collections may hold records of one id.
    assert sorted(arrow.to_pylist(), key=repr) == sorted(parquet.to_pylist(), key=repr)


def test_an_export_that_fails_leaves_the_existing_file(built, tmp_path, monkeypatch):
    path = tmp_path / "analyses.xlsx"
    path.write_text("yesterday's")
    with pytest.raises(
        ConfigurationError, match=r"no table .best_model. in the warehouse; .*best_models"
    ):
        export(built.warehouse, path, "xlsx", ["best_model"])
    monkeypatch.setattr(
        aind_etl.client.export, "_write_contents", lambda *_: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        export(built.warehouse, path, "xlsx")
    assert path.read_text() == "yesterday's"
    assert [one.name for one in tmp_path.iterdir()] == ["analyses.xlsx"]
    with pytest.raises(ConfigurationError, match="a workbook is one file"):
        export(built.warehouse, tmp_path, "xlsx")
    with pytest.raises(ConfigurationError, match="written to a folder"):
        export(built.warehouse, path, "csv")


@pytest.mark.parametrize("export_format", ["csv", "arrow", "parquet", "xlsx"])
def test_an_export_to_a_full_disk_is_explained(built, tmp_path, export_format):
    target = tmp_path / "export" / ("tables.xlsx" if export_format == "xlsx" else "tables")
    # A file can have no more bytes than these, as if the disk were full.
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from aind_etl.cli import main; main()"
    )
    arguments = ["export", str(target), "--format", export_format, "--table", "analyses"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--warehouse", str(built.warehouse)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "its permissions and the free space" in " ".join(done.stderr.split())
    assert [path for path in (tmp_path / "export").rglob("*") if path.is_file()] == []


def test_the_command_takes_both_spellings_and_refuses_contradictions(built, tmp_path):
    def run(*arguments):
        return CliRunner().invoke(app, ["export", *arguments, "--warehouse", str(built.warehouse)])

    for number, spelling in enumerate((["--xlsx"], ["--format", "xlsx"], [])):
        path = tmp_path / f"{number}.xlsx"
        result = run(str(path), *spelling, "--table", "best_models")
        assert result.exit_code == 0, result.output
        assert openpyxl.load_workbook(path).sheetnames == ["contents", "best_models"]
    assert isinstance(run(str(tmp_path / "x"), "--xlsx", "-f", "csv").exception, ConfigurationError)
    assert "does not imply a format" in str(run(str(tmp_path / "x")).exception)


def test_the_data_package_names_every_file_and_column_of_the_lake(sample_lake):
    path = write_data_package(sample_lake)
    package = json.loads(path.read_text(encoding="utf-8"))
    described = {one["title"]: one for one in package["resources"]}
    assert described.keys() == {
        table.name for table in LAKE_TABLES if sample_lake.tables.files(table)
    }
    everything = set()
    for name, resource in described.items():
        paths = resource["path"] if isinstance(resource["path"], list) else [resource["path"]]
        everything.update(path.parent / one for one in paths)
        names = [field["name"] for field in resource["schema"]["fields"]]
        for one in paths:
            assert pq.read_schema(path.parent / one).names == names, name
        assert set(resource["schema"]["primaryKey"]) <= set(names)
        assert all(field["description"] for field in resource["schema"]["fields"])
    assert everything == set(path.parent.rglob("*.parquet"))


def test_every_type_of_the_contract_has_a_type_of_the_standard():
    types = aind_etl.client.data_package._TYPES
    assert {column.type for table in TABLES for column in table.columns} <= types.keys()
    standard = {"string", "boolean", "integer", "number", "date", "time", "datetime"}
    assert set(types.values()) <= standard


def test_an_empty_lake_is_not_described(tmp_path):
    with pytest.raises(ConfigurationError, match="is empty"):
        data_package(Lake(tmp_path))
