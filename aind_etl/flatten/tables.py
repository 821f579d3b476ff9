"""From documents to rows of `analyses`, its children, and what is rejected.

Documents are parsed one by one, so that a bad one does not affect its neighbours; from then on
all work is by columns. :func:`flatten_documents` is the one public function.
"""

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

import polars as pl

from aind_etl.contract import FORMATS, DataType, Table, tables
from aind_etl.contract.schemas import polars_schema
from aind_etl.flatten import derived as deriving
from aind_etl.flatten.batch_reader import ShapeReader
from aind_etl.flatten.columns import BOUNDS, FITTED_NAMES, FOLD_MEASURES, REJECTED, Gathered
from aind_etl.flatten.document_reader import LONGEST_VALUE, Rejection, read_document
from aind_etl.flatten.paths import expected_of
from aind_etl.sources.canonical import canonical_json

_ROW = ("row", *tables.RECORD_KEY, "session_month")
# A bound is reached where a value lies no farther from it than this share of the range.
_BOUND_TOLERANCE = 1e-6
# Remembers the shapes of documents from batch to batch.
_SHAPES = ShapeReader()
_PARSERS = {DataType.DATE: deriving.day, DataType.TIMESTAMPTZ: deriving.moment}
# Columns that are read as texts and mean a day or a moment.
_DATED = {
    column.name: _PARSERS[column.type]
    for column in tables.ANALYSES.columns
    if column.type in _PARSERS and column.is_read
}


@dataclass(frozen=True, slots=True)
class Flattened:
    """The rows that a batch of documents results in.

    Attributes
    ----------
    rows
        For each analysis table, by name, its rows: its columns and ``session_month``.
    rejected
        Rows of `rejected_documents`.
    rejected_values
        Rows of `rejected_values`.
    """

    rows: dict[str, pl.DataFrame]
    rejected: pl.DataFrame
    rejected_values: pl.DataFrame


def flatten_documents(collection: str, documents: pl.DataFrame, unknown_month: str) -> Flattened:
    """Flatten a batch of documents.

    Parameters
    ----------
    collection
        The collection they stand in.
    documents
        Columns ``record_id``, ``document`` (canonical JSON), ``content_hash``, ``first_seen_at``
        and ``changed_at``, one row per document.
    unknown_month
        The month to file rows under that have no session date.

    Returns
    -------
    Flattened
        Every document is either in ``rows["analyses"]``, once per process, or in ``rejected``.
    """
    processes, attributes, rejected_values, rejections = _parse(documents)
    rejected_values = pl.concat([rejected_values, *_undated(processes)])
    origins = documents.drop("document").with_row_index("number")
    origins = origins.with_columns(source_collection=pl.lit(collection))
    analyses = _derive(
        processes.with_columns(
            parse(pl.col(name)).alias(name) for name, parse in _DATED.items()
        ).join(origins, on="number", how="inner", maintain_order="left"),
        unknown_month,
    )
    attributes = attributes.join(analyses.select(_ROW), on="row", how="inner")
    analyses = _counted(analyses, n_attributes=attributes, n_rejected_values=rejected_values)
    frames = {
        tables.ANALYSES: analyses,
        tables.FIT_PARAMETERS: _fit_parameters(analyses),
        tables.CROSS_VALIDATION: _cross_validation(analyses),
        tables.INPUT_ASSETS: _input_assets(analyses),
        tables.ATTRIBUTES: attributes,
    }
    return Flattened(
        {table.name: _conform(table, frame) for table, frame in frames.items()},
        _rejected(origins, rejections),
        rejected_values.join(
            analyses.rename({"changed_at": "extracted_at"}),
            on="row",
            how="inner",
            maintain_order="left",
        ).select(polars_schema(tables.REJECTED_VALUES).names()),
    )


def _parse(
    documents: pl.DataFrame,
) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, dict[int, Rejection]]:
    """Parse documents.

    Returns
    -------
    processes, attributes, rejected_values
        One row each; the last two with the ``row`` of their process.
    rejections
        The documents without any process, by number.
    """
    together = _SHAPES.take(documents["document"])
    gathered = {name: Gathered(name) for name in FORMATS}
    rejections: dict[int, Rejection] = {}
    left = documents.select("record_id", "document")[together.left]
    with _without_garbage_collection():
        for number, (record_id, text) in zip(together.left, left.iter_rows(), strict=True):
            try:
                pipeline_format, processes = read_document(record_id, text)
                gathered[pipeline_format].add(number, processes)
            except Rejection as rejection:
                rejections[number] = rejection
            except RecursionError:
                rejections[number] = Rejection(
                    "nested_too_deeply",
                    "",
                    "The document is nested too deeply to be read. Mend it in the source.",
                )
    parts = gathered.values()
    frames = [together.frame, *(part.frame() for part in parts)]
    begins = list(accumulate((frame.height for frame in frames[:-1]), initial=0))
    return (
        pl.concat(frames).with_row_index("row"),
        _numbered([together.attributes, *(part.attributes() for part in parts)], begins),
        _numbered([part.rejected_values() for part in parts], begins[1:]),
        rejections,
    )


def _numbered(parts: list[pl.DataFrame], begins: list[int]) -> pl.DataFrame:
    """Return parts as one, in which ``row`` counts from where the part's processes begin."""
    return pl.concat(
        part.with_columns(pl.col("row") + begin) for part, begin in zip(parts, begins, strict=True)
    )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Pause the search for cycles: millions of new values hold none, and it costs a fifth."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _undated(processes: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the texts that should be dates or times and are none, as rejected values."""
    for name, parse in _DATED.items():
        column = next(column for column in tables.ANALYSES.columns if column.name == name)
        unfit = processes.filter(parse(pl.col(name)).is_null() & pl.col(name).is_not_null())
        yield pl.DataFrame(
            [
                (
                    row,
                    column.origins[pipeline_format].paths[0].replace("[]", f"[{index}]", 1),
                    "wrong_value",
                    canonical_json(text)[:LONGEST_VALUE],
                    expected_of(column.type),
                )
                for row, index, pipeline_format, text in unfit.select(
                    "row", "process_index", "pipeline_format", name
                ).iter_rows()
            ],
            schema={"row": pl.UInt32(), **REJECTED},
            orient="row",
        )


def _counted(analyses: pl.DataFrame, **parts: pl.DataFrame) -> pl.DataFrame:
    """Add the numbers of rows that other frames have per row of `analyses`."""
    for name, part in parts.items():
        analyses = analyses.join(
            part.group_by("row").len(name), on="row", how="left", maintain_order="left"
        ).with_columns(pl.col(name).fill_null(0))
    return analyses


def _derive(read: pl.DataFrame, unknown_month: str) -> pl.DataFrame:
    """Add the columns of `analyses` that follow from others, but for the count of attributes."""
    nwb_name, date = pl.col("nwb_name"), pl.col("session_date")
    took = (pl.col("finished_at") - pl.col("started_at")).dt.total_microseconds() / 1e6
    statistics = {}
    for measure in FOLD_MEASURES:
        folds = pl.col(f"{measure}_list")
        statistics[f"{measure}_mean"] = folds.list.mean()
        statistics[f"{measure}_std"] = folds.list.std(ddof=0)
    numbers = [
        column.name
        for column in tables.ANALYSES.columns
        if column.type is DataType.DOUBLE and column.name in read.columns
    ]
    # What is not a number is no value.
    return read.with_columns(pl.col(numbers).fill_nan(None)).with_columns(
        **statistics,
        session_time=deriving.session_time(nwb_name),
        session_key=deriving.session_key(nwb_name, pl.col("subject_id"), date),
        session_month=deriving.session_month(date, unknown_month),
        outcome=deriving.outcome(pl.col("status")),
        duration_seconds=pl.coalesce("duration_seconds", took),
        result_url=deriving.s3_to_https(pl.col("result_location")),
        agent_alias=pl.coalesce("agent_alias", "derived_alias"),
        cv_folds=pl.col(f"{FOLD_MEASURES[0]}_list").list.len(),
        input_asset_url=pl.col("url_list").list.last(),
    )


def _fit_parameters(analyses: pl.DataFrame) -> pl.DataFrame:
    def entries(names: str, values: str, label: str) -> pl.DataFrame:
        listed = analyses.select("row", parameter=names, **{label: pl.col(values)})
        return listed.explode("parameter", label).drop_nulls("parameter")

    bounds = (
        analyses.select("row", f"{FITTED_NAMES}_list", *(f"{name}_list" for name in BOUNDS))
        .rename(lambda name: name.removesuffix("_list"))
        .explode(FITTED_NAMES, *BOUNDS)
        .drop_nulls(FITTED_NAMES)
        .unique(["row", FITTED_NAMES], keep="any")
        .with_columns(is_named=pl.lit(value=True))
    )
    unpolished = entries(
        "value_without_polishing_name_list",
        "value_without_polishing_list",
        "value_without_polishing",
    )
    lower, upper, value = pl.col("lower_bound"), pl.col("upper_bound"), pl.col("value")
    tolerance = _BOUND_TOLERANCE * (upper - lower)
    # Without a finite range there is nothing to measure a distance by: only equality counts.
    tolerance = pl.when(tolerance.is_finite()).then(tolerance).otherwise(0.0)
    return (
        entries("value_name_list", "value_list", "value")
        .join(bounds, on=["row", FITTED_NAMES], how="full", coalesce=True)
        .join(unpolished, on=["row", FITTED_NAMES], how="full", coalesce=True)
        .join(
            analyses.select(*_ROW, names_fitted=pl.col(f"{FITTED_NAMES}_list").is_not_null()),
            on="row",
        )
        .with_columns(
            # Without a list of the fitted ones, it is unknown which were.
            is_fitted=pl.when("names_fitted").then(pl.col("is_named").fill_null(value=False)),
            at_bound=((value - lower).abs() <= tolerance) | ((upper - value).abs() <= tolerance),
        )
    )


def _cross_validation(analyses: pl.DataFrame) -> pl.DataFrame:
    lists = [f"{measure}_list" for measure in FOLD_MEASURES]
    return (
        analyses.select(*_ROW, *lists, fold=pl.int_ranges(pl.col(lists[0]).list.len()))
        .rename(lambda name: name.removesuffix("_list"))
        .explode("fold", *FOLD_MEASURES)
        .drop_nulls("fold")
    )


def _input_assets(analyses: pl.DataFrame) -> pl.DataFrame:
    return (
        analyses.select(
            *_ROW, url="url_list", position=pl.int_ranges(pl.col("url_list").list.len())
        )
        .explode("position", "url")
        .drop_nulls("position")
    )


def _rejected(origins: pl.DataFrame, rejections: Mapping[int, Rejection]) -> pl.DataFrame:
    verdicts = pl.DataFrame(
        [
            (number, rejection.reason, rejection.path or None, rejection.message)
            for number, rejection in sorted(rejections.items())
        ],
        schema={
            "number": pl.UInt32,
            "reason": pl.String,
            "path": pl.String,
            "message": pl.String,
        },
        orient="row",
    )
    rows = verdicts.join(origins, on="number", how="inner", maintain_order="left")
    return rows.rename({"changed_at": "extracted_at"}).select(
        polars_schema(tables.REJECTED_DOCUMENTS).names()
    )


def _conform(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """Return the table's columns, in its types, and the month to file the rows under."""
    schema = polars_schema(table)
    return frame.select(
        *(pl.col(name).cast(data_type) for name, data_type in schema.items()), "session_month"
    )
