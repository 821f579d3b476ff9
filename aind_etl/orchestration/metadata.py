"""What the page shows of an asset: columns, lineage, counts, previews, pictures.

All of it follows from the contract or is read from what was made; nothing is worked out here.
"""

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from io import BytesIO
from time import monotonic
from typing import TYPE_CHECKING, Any

import dagster as dg
import duckdb
import numpy as np

from aind_etl.contract import Table, tables
from aind_etl.contract.ddl import describe, quote_identifier
from aind_etl.contract.id_ranges import UNSHARDED
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.paths import table_folder
from aind_etl.text import markdown_table

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    from aind_etl.lake.storage.protocol import Location
    from aind_etl.results import Figure

_log = logging.getLogger(__name__)
OWNERS = ("team:scientific-computing",)

_PREVIEW_ROWS = 5
_PREVIEW_COLUMNS = 8
_NEWEST = (
    "session_key",
    "analysis_name",
    "agent_alias",
    "outcome",
    "n_trials",
    "log_likelihood",
    "finished_at",
)
_PICTURED_DAYS = 60
_LEGEND_LENGTH = 40


class Timer:
    """Measures how long the work on an asset takes, from when it is made."""

    def __init__(self) -> None:
        self._began = monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since it was made."""
        return round(monotonic() - self._began, 3)


def freshness() -> dg.FreshnessPolicy:
    """Return how old an asset may become: the nightly pass materialises each again."""
    return dg.FreshnessPolicy.time_window(
        fail_window=timedelta(hours=36), warn_window=timedelta(hours=26)
    )


def column_schema(table: Table) -> dg.TableSchema:
    """Return a table's columns with types, descriptions and constraints."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.type.value,
                describe(column),
                dg.TableColumnConstraints(nullable=not column.required),
            )
            for column in table.columns
        ]
    )


def column_lineage(table: Table) -> dg.TableColumnLineage:
    """Return from which columns of the change log a table's columns follow."""
    log = dg.AssetKey(tables.DOCUMENTS.name)
    return dg.TableColumnLineage(
        {
            column.name: [dg.TableColumnDep(asset_key=log, column_name=column.source)]
            for column in table.columns
        }
    )


def table_metadata(table: Table) -> Mapping[str, dg.MetadataValue]:
    """Return what is known of a table before it is made."""
    metadata: dict[str, dg.MetadataValue] = {
        "dagster/column_schema": dg.MetadataValue.table_schema(column_schema(table))
    }
    if table is not tables.DOCUMENTS:
        metadata["dagster/column_lineage"] = dg.MetadataValue.column_lineage(column_lineage(table))
    return metadata


def partition_metadata(
    lake: Lake, table: Table, collection: str, watch: Timer
) -> Mapping[str, Any]:
    """Return what a run reports of one collection's shard of a table."""
    files = lake.tables.files(table, collection)
    # Each of several shards would ask the files of all of them.
    is_whole = lake.shard == UNSHARDED
    try:
        rows = lake.tables.rows_by_file(table, None if is_whole else collection)
    except DataError:
        # A damaged file of another collection is for that collection's run.
        is_whole = False
        rows = lake.tables.rows_by_file(table, collection)
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": sum(rows[file] for file in files if file in rows),
        "dagster/uri": uri(lake.storage.path(table.name)),
        "bytes": lake.tables.size_bytes(table, collection),
        "seconds": watch.seconds,
    }
    if is_whole:
        metadata["dagster/row_count"] = sum(rows.values())
    try:
        preview = _preview(lake, table, collection)
    except Exception:  # noqa: BLE001 - whatever it is, it is logged
        # A picture for people must not keep the data from being written.
        _log.exception("No preview of %s of %s", table.name, collection)
        preview = ""
    if preview:
        metadata["preview"] = dg.MetadataValue.md(preview)
    newest = _newest_finished(lake, collection) if table is tables.ANALYSES else None
    if newest is not None:
        metadata["newest finished"] = dg.MetadataValue.timestamp(newest)
    return metadata


def data_version(lake: Lake, table: Table, collection: str) -> dg.DataVersion:
    """Return a version of one collection's rows of a table that differs whenever they may.

    Downstream assets then stay up to date when a run writes nothing.
    """
    marks = sorted(lake.storage.marks(table_folder(table, collection), ".parquet").items())
    return dg.DataVersion(sha256(repr(marks).encode()).hexdigest()[:16])


def view_column_schema(connection: duckdb.DuckDBPyConnection, name: str) -> dg.TableSchema:
    """Return the columns of a view or mart as the warehouse has them."""
    columns = connection.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [name],
    ).fetchall()
    return dg.TableSchema(columns=[dg.TableColumn(*column) for column in columns])


def view_preview(connection: duckdb.DuckDBPyConnection, name: str) -> dg.MetadataValue:
    """Return a few rows of a view or mart."""
    rows = connection.execute(
        f"SELECT * FROM {quote_identifier(name)} LIMIT {_PREVIEW_ROWS}"
    ).fetchall()
    names = [column[0] for column in connection.description or ()]
    return dg.MetadataValue.md(
        markdown_table(names[:_PREVIEW_COLUMNS], [row[:_PREVIEW_COLUMNS] for row in rows])
    )


def arrivals_picture(connection: duckdb.DuckDBPyConnection) -> dg.MetadataValue:
    """Return a picture of the documents that arrived on each of the last days there are."""
    with _axes("documents") as (axes, picture):
        for collection, days, arrived, _ in _by_collection(connection):
            axes.plot(days, arrived, marker="o", markersize=3, linewidth=1, label=collection)
    return picture[0]


def lag_picture(connection: duckdb.DuckDBPyConnection) -> dg.MetadataValue:
    """Return a picture of the median lag from an analysis' end to when it was first seen."""
    with _axes("hours, logarithmic") as (axes, picture):
        axes.set_yscale("log")
        for collection, days, _, lag in _by_collection(connection):
            axes.plot(days, lag, marker="o", markersize=3, linewidth=1, label=collection)
    return picture[0]


def figures_preview(figures: Sequence["Figure"]) -> dg.MetadataValue:
    """Return figures of analyses, small, under their names."""
    shown = [f"**{one.file_name}**\n\n{_as_image(one.preview)}" for one in figures if one.preview]
    return dg.MetadataValue.md("\n\n".join(shown))


def uri(path: "Location | str") -> dg.MetadataValue:
    """Return where something lies, as the page shows it."""
    return dg.MetadataValue.path(str(path))


def _preview(lake: Lake, table: Table, collection: str) -> str:
    rows = lake.tables.scan(table, collection)
    if table is tables.ANALYSES:
        rows = rows.select(_NEWEST).sort("finished_at", descending=True, nulls_last=True)
    elif table is tables.DOCUMENTS:
        rows = rows.select("record_id", "operation", "batch_id", "extracted_at", "document")
    else:
        key = [name for name in table.column_names if name != "source_collection"]
        rows = rows.select(key[:_PREVIEW_COLUMNS])
    shown = rows.head(_PREVIEW_ROWS).collect()
    return markdown_table(shown.columns, shown.iter_rows()) if shown.height else ""


def _newest_finished(lake: Lake, collection: str) -> datetime | None:
    """Return when the newest analysis ended; None where it is beyond Python's calendar."""
    newest = lake.tables.scan(tables.ANALYSES, collection).select("finished_at").collect().max()
    try:
        found = newest.item()
    except (OverflowError, ValueError):
        return None
    return found if isinstance(found, datetime) else None


def _by_collection(
    connection: duckdb.DuckDBPyConnection,
) -> Iterator[tuple[str, "npt.NDArray[np.datetime64]", list[int], list[float]]]:
    """Yield each collection with its days, arrivals and median lags."""
    found = connection.execute(
        "SELECT source_collection, list(day ORDER BY day), list(n_arrived ORDER BY day), "
        "list(greatest(median_lag_hours, 1 / 3600) ORDER BY day) FROM collection_freshness "
        f"WHERE day > (SELECT max(day) FROM collection_freshness) - {_PICTURED_DAYS} "
        "GROUP BY source_collection ORDER BY source_collection"
    ).fetchall()
    for collection, days, arrived, lag in found:
        yield collection, np.array(days, dtype="datetime64[D]"), arrived, lag


@contextmanager
def _axes(label: str) -> Iterator[tuple["Axes", list[dg.MetadataValue]]]:
    """Give axes to draw on, and a list that holds the picture afterwards."""
    # Imported here: nothing else waits for it.
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    picture: list[dg.MetadataValue] = []
    yield axes, picture
    locator = AutoDateLocator(minticks=1)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    )
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.lines:
        # Around a single day matplotlib would show years.
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x1 + 1)
        lines, names = axes.get_legend_handles_labels()
        axes.legend(
            lines,
            [
                name if len(name) <= _LEGEND_LENGTH else f"{name[:_LEGEND_LENGTH]}…"
                for name in names
            ],
            loc="center left",
            bbox_to_anchor=(1, 0.5),
            frameon=False,
            fontsize=7,
        )
    file = BytesIO()
    figure.savefig(file, format="png")
    picture.append(dg.MetadataValue.md(_as_image(file.getvalue())))


def _as_image(png: bytes) -> str:
    return f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"
