"""From documents to rows of `analyses`, its child tables, and what is rejected."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import polars as pl

from aind_etl.contract import DataType, Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten import derived
from aind_etl.flatten.batch import BatchReader
from aind_etl.flatten.columns import (
    BOUNDS,
    FITTED_NAMES,
    FOLD_MEASURES,
    LISTS,
    PARALLEL_LISTS,
    REJECTED,
    ProcessColumns,
)
from aind_etl.flatten.conversion import expected_values
from aind_etl.flatten.document_reader import LONGEST_VALUE, Rejection, agent_options, read_document
from aind_etl.flatten.paths import columns_read
from aind_etl.sources.canonical import canonical_json

# A value is at a bound if it is within this share of the range from it.
_BOUND_TOLERANCE = 1e-6
# Remembers the shapes of documents from batch to batch.
_BATCH_READER = BatchReader()
_PARSERS = {DataType.DATE: derived.day, DataType.TIMESTAMPTZ: derived.moment}
# Columns that are read as texts and hold a date or a time.
_DATED = [column for column in columns_read(tables.ANALYSES) if column.type in _PARSERS]


Flattened: TypeAlias = dict[str, pl.DataFrame]
"""The rows of each of the flattened tables, by its name.

Those of the analysis tables have ``session_month`` in addition to the table's columns.
"""


def flatten_documents(collection: str, documents: pl.DataFrame) -> Flattened:
    """Flatten a batch of documents.

    Parameters
    ----------
    collection
        Their collection.
    documents
        Columns ``record_id``, ``document`` (canonical JSON), ``content_hash``, ``first_seen_at``
        and ``changed_at``, one row per document.

    Returns
    -------
    Flattened
        Every document is either in `analyses`, once per process, or in `rejected_documents`.
    """
    processes, attributes, rejected_values, rejected_documents = _parse(documents)
    processes = processes.join(
        _derived_aliases(processes, documents), on="row", how="left", maintain_order="left"
    )
    dated = processes.with_columns(
        _PARSERS[column.type](pl.col(column.name)).alias(column.name) for column in _DATED
    )
    rejected_values = pl.concat([rejected_values, _undated(processes, dated)])
    origins = documents.drop("document").with_row_index("number")
    origins = origins.with_columns(source_collection=pl.lit(collection))
    analyses = _derive(dated.join(origins, on="number", how="inner", maintain_order="left"))
    analyses = analyses.with_columns(
        n_attributes=np.bincount(attributes["row"], minlength=analyses.height),
        n_rejected_values=np.bincount(rejected_values["row"], minlength=analyses.height),
    )
    children = {
        tables.FIT_PARAMETERS: _fit_parameters(analyses),
        tables.CROSS_VALIDATION: _listed(analyses, *FOLD_MEASURES).rename({"position": "fold"}),
        tables.INPUT_ASSETS: _listed(analyses, "url"),
        tables.ATTRIBUTES: attributes,
    }
    keys = analyses.select("row", *tables.RECORD_KEY, "session_month")
    rows = {
        table.name: _conform(table, child.join(keys, on="row")) for table, child in children.items()
    }
    return rows | {
        "analyses": _conform(tables.ANALYSES, analyses),
        "rejected_documents": _rejected_rows(
            tables.REJECTED_DOCUMENTS, rejected_documents, origins
        ),
        "rejected_values": _rejected_rows(tables.REJECTED_VALUES, rejected_values, analyses),
    }


def _parse(
    documents: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return processes, their attributes and rejected values by ``row``, and rejected documents."""
    processes, attributes = _BATCH_READER.read(documents["document"])
    rest = ProcessColumns(first_row=processes.height)
    rejected: list[tuple[int, str, str | None, str]] = []
    unparsed = documents.select(pl.row_index("number"), "record_id", "document").filter(
        ~pl.col("number").is_in(processes["number"].implode())
    )
    with _without_garbage_collection():
        for number, record_id, text in unparsed.iter_rows():
            try:
                rest.add(number, *read_document(record_id, text))
            except Rejection as error:
                rejected.append((number, error.reason, error.path, error.message))
    processes = pl.concat([processes, rest.frame()])
    return (
        processes.with_columns(_padded_lists()).with_row_index("row"),
        pl.concat([attributes, rest.attributes()]),
        rest.rejected_values(),
        pl.DataFrame(
            rejected,
            schema={"number": pl.UInt32} | dict.fromkeys(("reason", "path", "message"), pl.String),
            orient="row",
        ),
    )


def _padded_lists() -> Iterator[pl.Expr]:
    """Yield the parallel lists, in which one that is missing beside others is a list of NULLs."""
    for names in PARALLEL_LISTS:
        length = pl.coalesce(pl.col(f"{name}_list").list.len() for name in names)
        for name in names:
            nulls = pl.lit(None, LISTS[name]).repeat_by(length)
            yield pl.coalesce(f"{name}_list", nulls)


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles, which takes a fifth of the time: parsed values have none."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _derived_aliases(processes: pl.DataFrame, documents: pl.DataFrame) -> pl.DataFrame:
    """Return the alias of the agents that documents do not name, by the ``row`` of the process."""
    unnamed = (
        processes.filter(pl.col("agent_alias").is_null(), pl.col("agent_class").is_not_null())
        .group_by("number", "pipeline_format")
        .agg("row", "process_index", "agent_class")
    )
    texts = documents["document"].gather(unnamed["number"])
    aliases = [
        list(map(derived.agent_alias, classes, agent_options(text, pipeline_format, indices)))
        for text, (pipeline_format, indices, classes) in zip(
            texts, unnamed.drop("number", "row").iter_rows(), strict=True
        )
    ]
    return unnamed.select(
        "row", derived_alias=pl.Series(aliases, dtype=pl.List(pl.String))
    ).explode("row", "derived_alias")


def _undated(processes: pl.DataFrame, dated: pl.DataFrame) -> pl.DataFrame:
    """Return as rejected values the texts of `processes` that are no dates or times in `dated`."""
    rejected = []
    for column in _DATED:
        is_unfit = processes[column.name].is_not_null() & dated[column.name].is_null()
        unfit = processes.filter(is_unfit)
        names = ("row", "process_index", "pipeline_format", column.name)
        for row, index, pipeline_format, text in unfit.select(names).iter_rows():
            path = column.origins[pipeline_format].paths[0].replace("[]", f"[{index}]", 1)
            value = canonical_json(text)[:LONGEST_VALUE]
            rejected.append((row, path, "wrong_value", value, expected_values(column.type)))
    return pl.DataFrame(rejected, schema=REJECTED, orient="row")


def _derive(read: pl.DataFrame) -> pl.DataFrame:
    """Add the columns of `analyses` that are derived from others, except for the counts."""
    nwb_name, date = pl.col("nwb_name"), pl.col("session_date")
    # Not divided: polars divides a single row, but multiplies several rows by the reciprocal, which
    # differs in the last digit.
    took = (pl.col("finished_at") - pl.col("started_at")).dt.total_microseconds() * 1e-6
    folds = {measure: pl.col(f"{measure}_list").list for measure in FOLD_MEASURES}
    return read.with_columns(
        *(values.mean().alias(f"{measure}_mean") for measure, values in folds.items()),
        *(values.std(ddof=0).alias(f"{measure}_std") for measure, values in folds.items()),
        session_time=derived.session_time(nwb_name),
        session_key=derived.session_key(nwb_name, pl.col("subject_id"), date),
        session_month=derived.session_month(date),
        outcome=derived.outcome(pl.col("status")),
        duration_seconds=pl.coalesce("duration_seconds", took),
        result_url=derived.s3_to_https(pl.col("result_location")),
        agent_alias=pl.coalesce("agent_alias", "derived_alias"),
        cv_folds=pl.col(f"{FOLD_MEASURES[0]}_list").list.len(),
        input_asset_url=pl.col("url_list").list.last(),
    )


def _fit_parameters(analyses: pl.DataFrame) -> pl.DataFrame:
    def named(name: str) -> pl.DataFrame:
        return _listed(analyses, f"{name}_name", name).select("row", name, parameter=f"{name}_name")

    bounds = (
        _listed(analyses, FITTED_NAMES, *BOUNDS)
        .drop("position")
        .drop_nulls(FITTED_NAMES)
        .unique(["row", FITTED_NAMES], keep="any")
        .with_columns(is_named=pl.lit(value=True))
    )
    with_names = analyses.filter(pl.col(f"{FITTED_NAMES}_list").is_not_null())["row"]
    lower, upper, value = pl.col("lower_bound"), pl.col("upper_bound"), pl.col("value")
    tolerance = _BOUND_TOLERANCE * (upper - lower)
    # Without a finite range, only a value that equals a bound is at it.
    tolerance = pl.when(tolerance.is_finite()).then(tolerance).otherwise(0.0)
    return (
        named("value")
        .join(bounds, on=["row", FITTED_NAMES], how="full", coalesce=True)
        .join(named("value_without_polishing"), on=["row", FITTED_NAMES], how="full", coalesce=True)
        .with_columns(
            # Without a list of the fitted parameters, it is unknown which were fitted.
            is_fitted=pl.when(pl.col("row").is_in(with_names.implode())).then(
                pl.col("is_named").fill_null(value=False)
            ),
            at_bound=((value - lower).abs() <= tolerance) | ((upper - value).abs() <= tolerance),
        )
    )


def _listed(analyses: pl.DataFrame, *names: str) -> pl.DataFrame:
    """Return one row per entry of parallel lists, with the ``row`` of its analysis and position."""
    lists = [f"{name}_list" for name in names]
    return (
        analyses.select("row", *lists, position=pl.int_ranges(pl.col(lists[0]).list.len()))
        .rename(lambda name: name.removesuffix("_list"))
        .explode("position", *names)
        .drop_nulls("position")
    )


def _rejected_rows(table: Table, rejected: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    """Add to what is rejected the keys of its analyses, by ``row``, or documents, by ``number``."""
    on = "row" if "row" in rejected.columns else "number"
    rows = rejected.join(owners, on=on, how="inner", maintain_order="left")
    return rows.rename({"changed_at": "extracted_at"}).select(polars_schema(table).names())


def _conform(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the table's columns, in its types, and ``session_month``."""
    schema = polars_schema(table)
    return frame.select(*schema, "session_month").cast(schema)
