"""Exports for other programs: workbooks, CSV, Arrow and parquet files.

The rows of one query are written by :mod:`aind_etl.client.query`; the lake's own files are
described by :mod:`aind_etl.client.data_package`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import duckdb

from aind_etl.client.query import NESTED, explained, for_spreadsheets
from aind_etl.contract.ddl import quote_identifier, quote_text
from aind_etl.errors import ConfigurationError
from aind_etl.settings import WarehouseLocation
from aind_etl.warehouse.connection import connect
from aind_etl.warehouse.info import read_info
from aind_etl.warehouse.sql_files import Kind, read_sql_files

if TYPE_CHECKING:
    import xlsxwriter
    import xlsxwriter.format
    import xlsxwriter.worksheet

ExportFormat = Literal["xlsx", "csv", "arrow", "parquet"]

SHEET_ROWS = 1_048_576
"""The rows of an Excel sheet, the header among them."""
_SHEET_NAME_CHARACTERS = 31
_CELL_CHARACTERS = 32_767
_CONTENTS = "contents"
_WIDTHS = (8, 48)
_ROWS_MEASURED = 200
_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported table.

    Attributes
    ----------
    name
        The table, view or mart.
    rows
        Rows written.
    left_out
        Rows that did not fit a sheet of Excel.
    path
        The file they were written to.
    """

    name: str
    rows: int
    left_out: int
    path: Path


@dataclass(frozen=True, slots=True)
class _Described:
    """A table of the warehouse with its comment."""

    name: str
    comment: str
    n_rows: int


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
    warehouse
        The DuckDB file; it is opened for reading only.
    target
        The workbook for ``xlsx``; for the other formats a folder, where each table becomes a file.
        Existing files are replaced, each in one step.
    export_format
        ``xlsx`` has a sheet per table, and a first one that says what the others are; ``arrow`` is
        Arrow's file format, also called Feather.
    tables
        Tables, views or marts; the marts without nested columns where none are given.
    progress
        Called with the name of each table as it is begun.

    Returns
    -------
    list of Exported
        What was written, in order.

    Raises
    ------
    ConfigurationError
        There is no warehouse or no such table, the target is of the other kind, or cannot be
        written.
    """
    if export_format == "xlsx" and target.is_dir():
        raise ConfigurationError(
            f"{str(target)!r} is a folder, and a workbook is one file; name one, such as "
            f"{str(target / 'analyses.xlsx')!r}."
        )
    if export_format != "xlsx" and target.exists() and not target.is_dir():
        raise ConfigurationError(
            f"{str(target)!r} is a file; {export_format} files are written to a folder, one a "
            "table. Name a folder."
        )
    folder = target.parent if export_format == "xlsx" else target
    with connect(warehouse) as connection:
        described = _described(connection, tables)
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".export-") as aside:
            if export_format == "xlsx":
                return _write_workbook(
                    connection, read_info(warehouse), described, target, Path(aside), progress
                )
            try:
                return [
                    _write_file(connection, one, target, Path(aside), export_format, progress)
                    for one in described
                ]
            except duckdb.IOException as error:
                raise explained(error, writing=True) from None


def _described(connection: duckdb.DuckDBPyConnection, wanted: Sequence[str]) -> list[_Described]:
    comments = dict(
        connection.execute(
            "SELECT table_name, comment FROM duckdb_tables() UNION ALL "
            "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal"
        ).fetchall()
    )
    marts = [
        file.name
        for file in read_sql_files(Kind.MART)
        if file.name in comments and not _is_nested(connection, file.name)
    ]
    for name in wanted:
        if name not in comments:
            raise ConfigurationError(
                f"There is no table {name!r} in the warehouse; there are "
                f"{', '.join(sorted(comments))}."
            )
    return [
        _Described(name, comments[name] or "", _count(connection, name)) for name in wanted or marts
    ]


def _is_nested(connection: duckdb.DuckDBPyConnection, name: str) -> bool:
    """Return whether a table has lists, which few programs can show."""
    return any(kind.id in NESTED for kind in connection.table(name).types)


def _with_json(connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """Return the columns of a table in SQL, those that are nested as JSON."""
    relation = connection.table(name)
    columns = []
    for column, kind in zip(relation.columns, relation.types, strict=True):
        quoted = quote_identifier(column)
        columns.append(f"to_json({quoted}) AS {quoted}" if kind.id in NESTED else quoted)
    return ", ".join(columns)


def _count(connection: duckdb.DuckDBPyConnection, name: str) -> int:
    ((n_rows,),) = connection.execute(f"SELECT count(*) FROM {quote_identifier(name)}").fetchall()
    return int(n_rows)


def _write_file(  # noqa: PLR0913, PLR0917 - one call, for each table
    connection: duckdb.DuckDBPyConnection,
    table: _Described,
    folder: Path,
    aside: Path,
    export_format: ExportFormat,
    progress: Callable[[str], None],
) -> Exported:
    progress(table.name)
    name = f"{table.name}.{export_format}"
    if export_format == "arrow":
        _write_arrow(connection, table.name, aside / name)
    else:
        options = (
            "FORMAT csv, HEADER" if export_format == "csv" else ("FORMAT parquet, COMPRESSION zstd")
        )
        rows = f"(FROM {quote_identifier(table.name)})"
        if export_format == "csv":
            rows = for_spreadsheets(connection.table(table.name), rows)
        connection.execute(f"COPY {rows} TO {quote_text(str(aside / name))} ({options})").fetchall()
    (aside / name).replace(folder / name)
    return Exported(table.name, table.n_rows, 0, folder / name)


def _write_arrow(connection: duckdb.DuckDBPyConnection, table: str, path: Path) -> None:
    import pyarrow as pa  # noqa: PLC0415 - needed for this format only

    batches = connection.sql(f"FROM {quote_identifier(table)}").to_arrow_reader(_BATCH_ROWS)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches.schema) as writer:
        for batch in batches:
            writer.write_batch(batch)


def _write_workbook(  # noqa: PLR0913, PLR0917 - one call
    connection: duckdb.DuckDBPyConnection,
    info: dict[str, str],
    tables: Sequence[_Described],
    target: Path,
    aside: Path,
    progress: Callable[[str], None],
) -> list[Exported]:
    names = _sheet_names([table.name for table in tables])
    written = []
    with _workbook(aside / target.name) as workbook:
        contents = workbook.add_worksheet(_CONTENTS)
        for table in tables:
            progress(table.name)
            sheet = workbook.add_worksheet(names[table.name])
            rows = _write_sheet(connection, workbook, sheet, table)
            written.append(Exported(table.name, rows, table.n_rows - rows, target))
        _write_contents(workbook, contents, info, tables, written, names)
    (aside / target.name).replace(target)
    return written


@contextmanager
def _workbook(path: Path) -> Iterator["xlsxwriter.Workbook"]:
    import xlsxwriter  # noqa: PLC0415 - needed for this format only

    # Row by row to disk: memory does not grow with the table. Texts of documents stay texts.
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "tmpdir": str(path.parent),
    }
    packed = BytesIO()
    try:
        with xlsxwriter.Workbook(packed, options) as workbook:
            yield workbook
    except xlsxwriter.exceptions.FileCreateError as error:
        # It holds what the operating system said.
        raise ConfigurationError(
            f"The workbook {path.name!r} could not be written: {error}. Check the path, the rights "
            "to it and the free space; what was there before is as it was."
        ) from None
    # Written here: an archive on a full disk would print a traceback when it is thrown away.
    path.write_bytes(packed.getvalue())


def _write_sheet(
    connection: duckdb.DuckDBPyConnection,
    workbook: "xlsxwriter.Workbook",
    sheet: "xlsxwriter.worksheet.Worksheet",
    table: _Described,
) -> int:
    """Write a table's rows; return how many fitted."""
    relation = connection.execute(
        f"SELECT {_with_json(connection, table.name)} FROM {quote_identifier(table.name)}"
    )
    names = [column[0] for column in relation.description or ()]
    first = relation.fetchmany(_ROWS_MEASURED)
    formats = {
        datetime: workbook.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        date: workbook.add_format({"num_format": "yyyy-mm-dd"}),
        time: workbook.add_format({"num_format": "hh:mm:ss"}),
    }
    header = workbook.add_format({"bold": True, "bottom": 1, "valign": "top"})
    for place, name in enumerate(names):
        longest = max((len(str(row[place])) for row in first if row[place] is not None), default=0)
        sheet.set_column(place, place, min(max(len(name) + 3, longest + 1, _WIDTHS[0]), _WIDTHS[1]))
    sheet.freeze_panes(1, 0)
    sheet.write_row(0, 0, names, header)
    n_rows = 0
    while first and n_rows < SHEET_ROWS - 1:
        for row in first[: SHEET_ROWS - 1 - n_rows]:
            n_rows += 1
            for place, value in enumerate(row):
                _write_cell(sheet, n_rows, place, value, formats)
        first = relation.fetchmany(_BATCH_ROWS)
    sheet.autofilter(0, 0, n_rows, len(names) - 1)
    return n_rows


def _write_cell(
    sheet: "xlsxwriter.worksheet.Worksheet",
    row: int,
    place: int,
    value: Any,  # noqa: ANN401 - any value of a table
    formats: dict[type, "xlsxwriter.format.Format"],
) -> None:
    if value is None:
        return
    if isinstance(value, bool):
        sheet.write_boolean(row, place, value)
    elif isinstance(value, (int, float)):
        # Excel knows no infinity: as a text it is seen, and left out of sums.
        if math.isfinite(value):
            sheet.write_number(row, place, value)
        else:
            sheet.write_string(row, place, str(value))
    elif isinstance(value, datetime):
        # Nor time zones: times are UTC, as the first sheet says.
        moment = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
        sheet.write_datetime(row, place, moment, formats[datetime])
    elif isinstance(value, (date, time)):
        sheet.write_datetime(row, place, value, formats[type(value)])
    else:
        sheet.write_string(row, place, str(value)[:_CELL_CHARACTERS])


def _write_contents(  # noqa: PLR0913, PLR0917 - one call
    workbook: "xlsxwriter.Workbook",
    sheet: "xlsxwriter.worksheet.Worksheet",
    info: dict[str, str],
    tables: Sequence[_Described],
    written: Sequence[Exported],
    names: dict[str, str],
) -> None:
    bold = workbook.add_format({"bold": True})
    wrapped = workbook.add_format({"text_wrap": True, "valign": "top"})
    link = workbook.add_format({"font_color": "#0563C1", "underline": 1, "valign": "top"})
    top = workbook.add_format({"valign": "top", "num_format": "#,##0"})
    sheet.set_column(0, 0, 30)
    sheet.set_column(1, 1, 12)
    sheet.set_column(2, 2, 110)
    sheet.write_string(0, 0, "Tables of the analysis warehouse", bold)
    sheet.write_string(
        1,
        0,
        f"Warehouse built {info.get('built_at', 'at an unknown time')} by "
        f"{info.get('built_by', 'aind-etl')}. All times are UTC; empty cells have no value.",
    )
    sheet.write_row(3, 0, ["sheet", "rows", "what a row is"], bold)
    for row, (table, done) in enumerate(zip(tables, written, strict=True), start=4):
        sheet.write_url(row, 0, f"internal:'{names[table.name]}'!A1", link, table.name)
        sheet.write_number(row, 1, done.rows, top)
        left_out = (
            f"THE LAST {done.left_out:,} OF {table.n_rows:,} ROWS ARE NOT HERE: a sheet of Excel "
            "ends at 1,048,576 rows. "
            if done.left_out
            else ""
        )
        sheet.write_string(row, 2, left_out + table.comment, wrapped)


def _sheet_names(tables: Sequence[str]) -> dict[str, str]:
    """Return a sheet's name for each table: short enough for Excel, and no two alike."""
    names: dict[str, str] = {}
    taken = {_CONTENTS}
    for table in tables:
        name, number = table[:_SHEET_NAME_CHARACTERS], 1
        while name.lower() in taken:
            number += 1
            ending = f"~{number}"
            name = table[: _SHEET_NAME_CHARACTERS - len(ending)] + ending
        taken.add(name.lower())
        names[table] = name
    return names
