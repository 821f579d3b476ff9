"""Exports for other programs: workbooks, CSV, Arrow and parquet files.

The rows of one query are written by :mod:`aind_etl.client.query`; the lake's own files are
described by :mod:`aind_etl.client.data_package`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import duckdb

from aind_etl.client.query import NESTED, open_warehouse, write_rows
from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.sql_files import Kind, read_sql_files

if TYPE_CHECKING:
    import xlsxwriter
    import xlsxwriter.worksheet

ExportFormat = Literal["xlsx", "csv", "arrow", "parquet"]

SHEET_ROWS = 1_048_576
"""The rows of an Excel sheet, including the header."""
_SHEET_NAME_CHARACTERS = 31
_CELL_CHARACTERS = 32_767
_CONTENTS = "contents"
_WIDTHS = (8, 48)
_ROWS_MEASURED = 200
_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Exported:
    """A table in a file: how many rows were written, and how many did not fit an Excel sheet."""

    name: str
    rows: int
    left_out: int = 0


def export(
    warehouse: WarehouseLocation,
    target: Path,
    export_format: ExportFormat,
    tables: Sequence[str] = (),
    *,
    progress: Callable[[str], None] = lambda _table: None,
) -> list[Exported]:
    """Write tables of the warehouse for other programs.

    Parameters
    ----------
    target
        The workbook for ``xlsx``; for the other formats a folder, with one file per table.
        Existing files are replaced, each in one step.
    export_format
        ``xlsx`` has a sheet per table after a sheet of contents; ``arrow`` is Arrow's file format,
        also called Feather.
    tables
        Tables, views or marts; by default the marts without nested columns.
    progress
        Called with the name of each table before it is written.

    Raises
    ------
    ConfigurationError
        There is no warehouse or no such table, or the target is of the other kind or cannot be
        written.
    """
    if export_format == "xlsx" and target.is_dir():
        raise ConfigurationError(
            f"{str(target)!r} is a folder, and a workbook is one file; name one, such as "
            f"{str(target / 'analyses.xlsx')!r}."
        )
    if export_format != "xlsx" and target.exists() and not target.is_dir():
        raise ConfigurationError(
            f"{str(target)!r} is a file; {export_format} files are written to a folder, one per "
            "table. Name a folder."
        )
    folder = target.parent if export_format == "xlsx" else target
    with open_warehouse(warehouse) as connection:
        chosen = _find_tables(connection, tables)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
            if export_format == "xlsx":
                path = Path(scratch) / target.name
                written = _write_workbook(connection, read_info(warehouse), chosen, path, progress)
                path.replace(target)
                return written
            written = []
            for name in chosen:
                progress(name)
                path = Path(scratch) / f"{name}.{export_format}"
                _write_file(connection, name, path, export_format)
                path.replace(target / path.name)
                written.append(Exported(name, _count_rows(connection, name)))
            return written


def relation_comments(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Return the comments of the tables, views and marts of a warehouse, by name."""
    return dict(
        connection.execute(
            "SELECT table_name, coalesce(comment, '') FROM duckdb_tables() UNION ALL "
            "SELECT view_name, coalesce(comment, '') FROM duckdb_views() WHERE NOT internal "
            "ORDER BY ALL"
        ).fetchall()
    )


def _find_tables(connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> Sequence[str]:
    comments = relation_comments(connection)
    for name in wanted:
        if name not in comments:
            raise ConfigurationError(
                f"There is no table {name!r} in the warehouse; there are {', '.join(comments)}."
            )
    # Few programs can show nested columns.
    return wanted or [
        file.name
        for file in read_sql_files(Kind.MART)
        if file.name in comments
        and not any(kind.id in NESTED for kind in connection.table(file.name).types)
    ]


def _count_rows(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    ((n_rows,),) = connection.table(table).count("*").fetchall()
    return int(n_rows)


def _write_file(
    connection: duckdb.DuckDBPyConnection,
    table: str,
    path: Path,
    export_format: Literal["csv", "arrow", "parquet"],
) -> None:
    relation = connection.table(table)
    if export_format != "arrow":
        write_rows(connection, relation, quote_identifier(table), path, export_format)
        return
    import pyarrow as pa  # noqa: PLC0415 - needed for this format only

    batches = relation.to_arrow_reader(_BATCH_ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_workbook(
    connection: duckdb.DuckDBPyConnection,
    info: dict[str, str],
    tables: Sequence[str],
    path: Path,
    progress: Callable[[str], None],
) -> list[Exported]:
    import xlsxwriter  # noqa: PLC0415 - needed for this format only

    options = {
        # Row by row to disk: memory does not grow with the table.
        "constant_memory": True,
        "tmpdir": str(path.parent),
        # Excel has no time zones. The times are UTC, as the first sheet says.
        "remove_timezone": True,
    }
    packed = BytesIO()
    lines = []
    try:
        with xlsxwriter.Workbook(packed, options) as workbook:
            contents = workbook.add_worksheet(_CONTENTS)
            for table, name in zip(tables, _sheet_names(tables), strict=True):
                progress(table)
                sheet = workbook.add_worksheet(name)
                n_rows = _write_sheet(connection, workbook, sheet, table)
                left_out = _count_rows(connection, table) - n_rows
                lines.append((name, Exported(table, n_rows, left_out)))
            _write_contents(workbook, contents, info, relation_comments(connection), lines)
    except xlsxwriter.exceptions.FileCreateError as error:
        raise ConfigurationError(
            f"The workbook {path.name!r} could not be written: {error}. Check the path, its "
            "permissions and the free space; an existing file is left unchanged."
        ) from None
    # Not written by xlsxwriter: on a full disk, its archive prints a traceback when it is deleted.
    path.write_bytes(packed.getvalue())
    return [table for _, table in lines]


def _write_sheet(
    connection: duckdb.DuckDBPyConnection,
    workbook: "xlsxwriter.Workbook",
    sheet: "xlsxwriter.worksheet.Worksheet",
    table: str,
) -> int:
    """Write a table's rows; return how many fitted."""
    relation = connection.table(table)
    columns = [
        f"to_json({quoted}) AS {quoted}" if kind.id in NESTED else quoted
        for name, kind in zip(relation.columns, relation.types, strict=True)
        for quoted in [quote_identifier(name)]
    ]
    result = connection.execute(f"SELECT {', '.join(columns)} FROM {quote_identifier(table)}")
    batch = result.fetchmany(_ROWS_MEASURED)
    _write_header(workbook, sheet, relation.columns, batch)
    formats = {
        datetime: workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        date: workbook.add_format({"num_format": "yyyy-mm-dd"}),
        time: workbook.add_format({"num_format": "hh:mm:ss"}),
    }
    n_rows = 0
    while batch and n_rows < SHEET_ROWS - 1:
        for row in batch[: SHEET_ROWS - 1 - n_rows]:
            n_rows += 1
            for column, value in enumerate(map(_cell_value, row)):
                if isinstance(value, str):
                    sheet.write_string(n_rows, column, value)
                elif value is not None:
                    sheet.write(n_rows, column, value, formats.get(type(value)))
        batch = result.fetchmany(_BATCH_ROWS)
    sheet.autofilter(0, 0, n_rows, len(columns) - 1)
    return n_rows


def _write_header(
    workbook: "xlsxwriter.Workbook",
    sheet: "xlsxwriter.worksheet.Worksheet",
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Write the names of the columns, and set their widths by the first rows."""
    bold = workbook.add_format({"bold": True, "bottom": 1, "valign": "top"})
    narrowest, widest = _WIDTHS
    for column, name in enumerate(names):
        values = [str(row[column]) for row in rows if row[column] is not None]
        width = max(len(name) + 3, *(len(value) + 1 for value in values), narrowest)
        sheet.set_column(column, column, min(width, widest))
        sheet.write_string(0, column, name, bold)
    sheet.freeze_panes(1, 0)


def _cell_value(value: Any) -> Any:  # noqa: ANN401 - any value of a table
    """Return a value as a cell can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        # Excel has no infinity. A string is visible, and is left out of sums.
        return str(value)
    if value is None or isinstance(value, bool | int | float | date | time):
        return value
    return str(value)[:_CELL_CHARACTERS]


def _write_contents(
    workbook: "xlsxwriter.Workbook",
    sheet: "xlsxwriter.worksheet.Worksheet",
    info: dict[str, str],
    comments: Mapping[str, str],
    lines: Sequence[tuple[str, Exported]],
) -> None:
    """Write the first sheet; a line is a sheet's name and its table."""
    bold = workbook.add_format({"bold": True})
    wrapped = workbook.add_format({"text_wrap": True, "valign": "top"})
    link = workbook.add_format({"font_color": "#0563C1", "underline": 1, "valign": "top"})
    number = workbook.add_format({"valign": "top", "num_format": "#,##0"})
    for column, width in enumerate((30, 12, 110)):
        sheet.set_column(column, column, width)
    sheet.write_string(0, 0, "Tables of the analysis warehouse", bold)
    sheet.write_string(
        1,
        0,
        f"Warehouse built {info.get('built_at', 'at an unknown time')} by "
        f"{info.get('built_by', 'aind-etl')}. All times are UTC; empty cells have no value.",
    )
    sheet.write_row(3, 0, ["sheet", "rows", "what a row is"], bold)
    for row, (name, table) in enumerate(lines, start=4):
        sheet.write_url(row, 0, f"internal:'{name}'!A1", link, table.name)
        sheet.write_number(row, 1, table.rows, number)
        warning = ""
        if table.left_out:
            warning = (
                f"THE LAST {table.left_out:,} OF {table.rows + table.left_out:,} ROWS ARE NOT "
                "HERE: a sheet of Excel ends at 1,048,576 rows. "
            )
        sheet.write_string(row, 2, warning + comments[table.name], wrapped)


def _sheet_names(tables: Sequence[str]) -> list[str]:
    """Return a sheet's name for each table: short enough for Excel, and unique."""
    names: list[str] = []
    for table in tables:
        name, number = table[:_SHEET_NAME_CHARACTERS], 1
        while name.lower() in {_CONTENTS, *map(str.lower, names)}:
            number += 1
            ending = f"~{number}"
            name = table[: _SHEET_NAME_CHARACTERS - len(ending)] + ending
        names.append(name)
    return names
