"""The analyses with a result folder, and the removal of rows whose analysis is gone."""

from collections.abc import Sequence

import polars as pl

from aind_etl.contract import Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten.derived import session_month
from aind_etl.lake import Lake

KEY = list(tables.RECORD_KEY)


def scan_analyses(lake: Lake, collection: str) -> pl.LazyFrame:
    """Return the analyses of a collection with ``location`` and ``session_month``.

    The other columns are the key, ``outcome``, ``n_trials``, ``content_hash`` and ``changed_at``.
    """
    return lake.tables.scan(tables.ANALYSES, collection).select(
        *KEY,
        "outcome",
        "n_trials",
        "content_hash",
        "changed_at",
        location=pl.col("result_location").str.strip_chars_end("/"),
        session_month=session_month(pl.col("session_date")),
    )


def remove_gone(
    lake: Lake, collection: str, records: pl.DataFrame, index: Table, others: Sequence[Table]
) -> int:
    """Remove the rows of records that are gone or moved to another month; return their number.

    ``records`` are those that exist, with ``session_month``. ``index`` holds every record that has
    rows in ``others``, and is therefore written last.
    """
    removed = 0
    for month in lake.tables.months(index, collection):
        present = lake.tables.read_partition(index, collection, month).select("record_id").unique()
        gone = present.join(records.filter(session_month=month), on="record_id", how="anti")
        if gone.height:
            removed += gone.height
            with lake.tables_lock(collection):
                for table in (*others, index):
                    nothing = pl.DataFrame(schema=polars_schema(table))
                    lake.tables.replace_rows(table, collection, month, without=gone, rows=nothing)
    return removed
