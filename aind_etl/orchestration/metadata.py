"""What the Dagster UI shows of assets: columns, lineage, counts, previews, pictures.

All of it follows from the contract or is read from the tables; nothing is computed here.
"""

import base64
import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from io import BytesIO
from time import monotonic
from typing import Any

import dagster as dg
import duckdb

from aind_etl.contract import Table, tables
from aind_etl.contract.ddl import describe, quote_identifier
from aind_etl.contract.id_ranges import UNSHARDED
from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.lake.paths import table_folder
from aind_etl.orchestration.resources import Etl
from aind_etl.text import markdown_table

OWNERS = ("team:scientific-computing",)
FRESHNESS = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(hours=36), warn_window=timedelta(hours=26)
)
"""How old an asset may become: the nightly pass materialises each again."""

_log = logging.getLogger(__name__)
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


def seconds_since(began: float) -> float:
    """Return the seconds since a time of :func:`time.monotonic`, to the millisecond."""
    return round(monotonic() - began, 3)


def table_spec(table: Table, **options: Any) -> dg.AssetSpec:  # noqa: ANN401 - Dagster's types
    """Return the specification of a table's asset, with further options of Dagster."""
    columns = [
        dg.TableColumn(
            column.name,
            column.type.value,
            describe(column),
            dg.TableColumnConstraints(nullable=not column.required),
        )
        for column in table.columns
    ]
    metadata: dict[str, Any] = {"dagster/column_schema": dg.TableSchema(columns)}
    if table is not tables.DOCUMENTS:
        log = dg.AssetKey(tables.DOCUMENTS.name)
        metadata["dagster/column_lineage"] = dg.TableColumnLineage(
            {column.name: [dg.TableColumnDep(log, column.source)] for column in table.columns}
        )
    return dg.AssetSpec(
        table.name, description=table.description, owners=OWNERS, metadata=metadata, **options
    )


def partition_metadata(lake: Lake, table: Table, collection: str) -> Mapping[str, Any]:
    """Return the metadata of a collection's rows of a table."""
    files = lake.tables.files(table, collection)
    # A sharded collection counts only its own rows; otherwise each shard would read every file.
    is_whole = lake.shard == UNSHARDED
    try:
        rows = lake.tables.rows_by_file(table, None if is_whole else collection)
    except DataError:
        # A damaged file of another collection is left to the run of that collection.
        is_whole = False
        rows = lake.tables.rows_by_file(table, collection)
    metadata: dict[str, Any] = {
        "dagster/partition_row_count": sum(rows[file] for file in files if file in rows),
        "dagster/uri": dg.MetadataValue.path(str(lake.storage.path(table.name))),
        "bytes": lake.tables.size_bytes(table, collection),
    }
    if is_whole:
        metadata["dagster/row_count"] = sum(rows.values())
    try:
        metadata |= _preview(lake, table, collection)
    except Exception:  # noqa: BLE001 - a preview must not fail the run
        # For example because a time is outside Python's calendar.
        _log.exception("No preview of %s of %s", table.name, collection)
    return metadata


def table_metadata(etl: Etl, table: Table, rows: int, began: float) -> Mapping[str, Any]:
    """Return the metadata of a table that is not partitioned."""
    return {
        "dagster/row_count": rows,
        "dagster/uri": dg.MetadataValue.path(str(etl.lake.storage.path(table.name))),
        "seconds": seconds_since(began),
    }


def data_version(lake: Lake, table: Table, collection: str) -> dg.DataVersion:
    """Return a version of a collection's rows that changes whenever their files do.

    A run that writes nothing thus leaves downstream assets up to date.
    """
    files = lake.storage.files(table_folder(table, collection), ".parquet")
    marks = [(name, file.mark) for name, file in files.items()]
    return dg.DataVersion(sha256(repr(marks).encode()).hexdigest()[:16])


def view_metadata(connection: duckdb.DuckDBPyConnection, name: str) -> dict[str, Any]:
    """Return the columns and the first rows of a view or mart in the warehouse."""
    columns = connection.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = ? "
        "ORDER BY column_index",
        [name],
    ).fetchall()
    names = [column[0] for column in columns[:_PREVIEW_COLUMNS]]
    rows = connection.execute(f"FROM {quote_identifier(name)} LIMIT {_PREVIEW_ROWS}").fetchall()
    return {
        "dagster/column_schema": dg.TableSchema([dg.TableColumn(*column) for column in columns]),
        "preview": dg.MetadataValue.md(
            markdown_table(names, [row[:_PREVIEW_COLUMNS] for row in rows])
        ),
    }


def freshness_pictures(connection: duckdb.DuckDBPyConnection) -> dict[str, dg.MetadataValue]:
    """Return pictures of the documents that arrived per day, and of their median lags in hours."""
    collections = connection.execute(
        "SELECT source_collection, list(day ORDER BY day), list(n_arrived ORDER BY day), "
        "list(greatest(median_lag_hours, 1 / 3600) ORDER BY day) FROM collection_freshness "
        f"WHERE day > (SELECT max(day) FROM collection_freshness) - {_PICTURED_DAYS} "
        "GROUP BY source_collection ORDER BY source_collection"
    ).fetchall()
    arrivals = [(name, days, arrived) for name, days, arrived, _ in collections]
    lags = [(name, days, lag) for name, days, _, lag in collections]
    return {
        "arrivals a day": _picture(arrivals, "documents"),
        "lag from finished to first seen": _picture(lags, "hours, logarithmic", scale="log"),
    }


def figures_preview(figures: Mapping[str, bytes]) -> dg.MetadataValue:
    """Return small PNGs, each with its file name."""
    shown = [f"**{name}**\n\n{_as_image(png)}" for name, png in figures.items()]
    return dg.MetadataValue.md("\n\n".join(shown))


def _preview(lake: Lake, table: Table, collection: str) -> dict[str, Any]:
    """Return some rows of a collection, and the end of its newest analysis."""
    rows = lake.tables.scan(table, collection)
    if table is tables.ANALYSES:
        rows = rows.select(_NEWEST).sort("finished_at", descending=True, nulls_last=True)
    elif table is tables.DOCUMENTS:
        rows = rows.select("record_id", "operation", "batch_id", "extracted_at", "document")
    else:
        key = [name for name in table.column_names if name != "source_collection"]
        rows = rows.select(key[:_PREVIEW_COLUMNS])
    shown = rows.head(_PREVIEW_ROWS).collect()
    if not shown.height:
        return {}
    found: dict[str, Any] = {
        "preview": dg.MetadataValue.md(markdown_table(shown.columns, shown.iter_rows()))
    }
    newest = shown["finished_at"].first() if table is tables.ANALYSES else None
    if isinstance(newest, datetime):
        found["newest finished"] = dg.MetadataValue.timestamp(newest)
    return found


def _picture(
    series: Sequence[tuple[str, list[Any], list[float]]], unit: str, *, scale: str = "linear"
) -> dg.MetadataValue:
    """Return a line plot over days, with one line per collection."""
    # Imported here because nothing else needs matplotlib.
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 2.8), dpi=100, layout="constrained")
    axes = figure.subplots()
    axes.set_yscale(scale)
    for name, days, values in series:
        label = name if len(name) <= _LEGEND_LENGTH else f"{name[:_LEGEND_LENGTH]}…"
        axes.plot(days, values, marker="o", markersize=3, linewidth=1, label=label)
    locator = AutoDateLocator(minticks=1)  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(
        ConciseDateFormatter(locator)  # type: ignore[no-untyped-call]
    )
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)
    if series:
        # Around a single day matplotlib would show years.
        axes.set_xlim(axes.dataLim.x0 - 1, axes.dataLim.x1 + 1)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=7)
    file = BytesIO()
    figure.savefig(file, format="png")
    return dg.MetadataValue.md(_as_image(file.getvalue()))


def _as_image(png: bytes) -> str:
    return f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"
