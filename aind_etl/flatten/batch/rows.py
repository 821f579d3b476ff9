"""The rows of the documents of a batch that match a shape."""

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import polars as pl

from aind_etl.flatten.batch.shapes import COLUMNS, Positions, ProcessShape
from aind_etl.flatten.batch.values import Values
from aind_etl.flatten.columns import (
    ATTRIBUTES,
    FITTED_NAMES,
    LISTS,
    MAPS,
    ORIGINS,
    PARALLEL_LISTS,
    SCALARS,
)
from aind_etl.flatten.document_reader import LONGEST_LIST

Blocks: TypeAlias = list[tuple[ProcessShape, Positions]]
"""Processes of shapes, and the documents that have them."""
_INTEGERS = {name: data_type for name, data_type in SCALARS.items() if data_type.is_integer()}


def read_rows(
    blocks: Blocks, first: Positions, values: Values
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return processes and attributes as :class:`~..columns.ProcessColumns` does.

    Documents with values that the document reader would reject are left out. ``first`` are the
    positions of the documents' first segments.
    """
    rows = pl.DataFrame(
        {
            "number": [pl.Series(documents) for _, documents in blocks],
            "process_index": [process.index for process, _ in blocks],
            "pipeline_format": [process.pipeline_format for process, _ in blocks],
        }
    )
    rows = rows.with_row_index("block").explode("number").with_row_index("row")
    rows = rows.with_columns(first=first[rows["number"].to_numpy()])
    sizes = [process.entries.height for process, _ in blocks]
    entries = pl.concat([process.entries for process, _ in blocks])
    entries = entries.with_columns(block=np.repeat(np.arange(len(blocks), dtype=np.uint32), sizes))
    processes = rows.with_columns(_columns(blocks, first, values))
    for lists in _lists(entries, rows, values):
        processes = processes.join(lists, on="row", how="left", maintain_order="left")
    attributes = _attributes(entries, rows, values)
    rejected = processes.filter(_has_rejected_values())["number"].unique()
    processes = processes.filter(~pl.col("number").is_in(rejected.implode()))
    if len(rejected):
        kept = processes.select("row").with_row_index("new_row")
        attributes = attributes.join(kept, on="row").drop("row").rename({"new_row": "row"})
    schema = pl.Schema(ORIGINS | SCALARS)
    processes = processes.select(*schema, *(f"{name}_list" for name in LISTS)).cast(schema)
    return processes, attributes.select(*ATTRIBUTES)


def _columns(blocks: Blocks, first: Positions, values: Values) -> Iterator[pl.Series]:
    """Yield the columns whose value is in one segment."""
    in_batch = np.concatenate(
        [
            np.where((columns := process.columns) < 0, columns, first[documents][:, None] + columns)
            for process, documents in blocks
        ]
    )
    for (name, data_type), segments in zip(COLUMNS.items(), in_batch.T, strict=True):
        yield values.series(segments, data_type).alias(name)


def _in_batch(entries: pl.DataFrame, rows: pl.DataFrame, column: str) -> pl.DataFrame:
    """Return the entries of a column for each row, with the positions of segments in the batch."""
    return (
        rows.select("row", "block", "first")
        .join(entries.filter(column=column), on="block", maintain_order="left_right")
        .with_columns(
            pl.when(pl.col(name) < 0)
            .then(name)
            .otherwise(pl.col(name) + pl.col("first"))
            .alias(name)
            for name in ("segment", "conflicting")
        )
    )


def _lists(entries: pl.DataFrame, rows: pl.DataFrame, values: Values) -> Iterator[pl.DataFrame]:
    """Yield the columns of lists whose entries have a segment each, by ``row``."""
    for column in (FITTED_NAMES, "url", *MAPS):
        found = _in_batch(entries, rows, column)
        lists = {f"{column}_list": values.series(found["segment"].to_numpy(), LISTS[column])}
        if column in MAPS:
            lists[f"{column}_name_list"] = found["path"]
        yield found.select("row", **lists).group_by("row", maintain_order=True).agg(pl.all())


def _attributes(entries: pl.DataFrame, rows: pl.DataFrame, values: Values) -> pl.DataFrame:
    parts = []
    for column in ("value_text", "value_number", "value_boolean"):
        part = _in_batch(entries, rows, column)
        segments, elements, conflicting = (
            part[name].to_numpy() for name in ("segment", "element", "conflicting")
        )
        found = values.series(segments, ATTRIBUTES[column], elements)
        # A conflicting value is an attribute only if it differs from that of the column.
        of_column = values.series(conflicting, ATTRIBUTES[column])
        parts.append(part.with_columns(found.alias(column)).filter(found.ne_missing(of_column)))
    return pl.concat(parts, how="diagonal")


def _has_rejected_values() -> pl.Expr:
    """Return whether a process has values that fit neither each other nor their columns."""
    is_wrong = pl.any_horizontal(
        *(pl.col(f"{name}_list").list.len() > LONGEST_LIST for name in LISTS),
        *(
            pl.col(name).cast(data_type, strict=False).ne_missing(pl.col(name))
            for name, data_type in _INTEGERS.items()
        ),
    )
    names = pl.col(f"{FITTED_NAMES}_list")
    is_wrong |= names.list.n_unique() != names.list.len()
    for parallel in PARALLEL_LISTS:
        lengths = [pl.col(f"{name}_list").list.len() for name in parallel]
        is_wrong |= pl.min_horizontal(lengths) != pl.max_horizontal(lengths)
    return is_wrong
