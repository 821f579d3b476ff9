"""The rows of the documents of a batch that match a shape."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import polars as pl

from aind_etl.flatten.batch.segments import Segments
from aind_etl.flatten.batch.shapes import NONE, NUMBER_LISTS, TRUE, Positions, ProcessShape, Shape
from aind_etl.flatten.batch.values import Values
from aind_etl.flatten.columns import (
    ATTRIBUTES,
    FITTED_NAMES,
    LISTS,
    MAPS,
    PARALLEL_LISTS,
    SCALARS,
    list_series,
)
from aind_etl.flatten.document_reader import LONGEST_LIST

_INTEGERS = {name: data_type for name, data_type in SCALARS.items() if data_type.is_integer()}


class _Block(NamedTuple):
    """The rows of one process of the documents of a shape."""

    pipeline_format: str
    process: ProcessShape
    documents: Positions


class Rows:
    """One row per process of the documents that match a shape, and one per attribute."""

    def __init__(
        self, segments: Segments, values: Values, matched: list[tuple[Shape, Positions]]
    ) -> None:
        self._segments = segments
        self._values = values
        self._blocks = [
            _Block(shape.pipeline_format, process, valid)
            for shape, documents in matched
            if (valid := documents[values.is_valid[documents]]).size
            for process in shape.processes
        ]

    def __bool__(self) -> bool:
        """Return whether there are rows."""
        return bool(self._blocks)

    def frames(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Return the processes and the attributes, as :class:`~..columns.ProcessColumns` does.

        Documents with values that the document reader would reject are left out.
        """
        blocks = self._blocks
        sizes = [len(block.documents) for block in blocks]
        documents = np.concatenate([block.documents for block in blocks])
        formats = pl.Series([block.pipeline_format for block in blocks])
        block_numbers = np.repeat(np.arange(len(blocks)), sizes)
        rows = pl.DataFrame(
            {
                "number": pl.Series(documents, dtype=pl.UInt32),
                "process_index": np.repeat([block.process.index for block in blocks], sizes),
                "pipeline_format": formats.gather(block_numbers),
                "block": block_numbers,
                "first": self._segments.first[documents],
            },
            schema_overrides={"process_index": pl.Int16},
        ).with_row_index("row")
        processes = rows.with_columns(*self._scalars(), *self._number_lists())
        for lists in self._lists_of_entries(rows):
            processes = processes.join(lists, on="row", how="left", maintain_order="left")
        attributes = self._attributes(rows)
        rejected = processes.filter(_has_rejected_values())["number"].unique()
        processes = processes.filter(~pl.col("number").is_in(rejected.implode()))
        if len(rejected):
            kept = processes.select("row").with_row_index("new_row")
            attributes = attributes.join(kept, on="row").drop("row").rename({"new_row": "row"})
        return (
            processes.select(
                *("number", "process_index", "pipeline_format"),
                *(pl.col(name).cast(data_type) for name, data_type in SCALARS.items()),
                *(f"{name}_list" for name in LISTS),
            ),
            attributes.select(*ATTRIBUTES),
        )

    def _in_batch(self, segments: Iterable[Positions]) -> Positions:
        """Return the positions in the batch of the segments of each block, shape (rows, segments).

        Negative ones stay as they are.
        """
        return np.concatenate(
            [
                np.where(some < 0, some, self._segments.first[block.documents][:, None] + some)
                for some, block in zip(segments, self._blocks, strict=True)
            ]
        )

    def _scalars(self) -> Iterable[pl.Series]:
        scalars = self._in_batch(block.process.scalars for block in self._blocks)
        for (name, data_type), segments in zip(SCALARS.items(), scalars.T, strict=True):
            if (segments == NONE).all():
                values = pl.repeat(None, len(segments), dtype=data_type, eager=True)
            elif data_type == pl.String:
                values = self._segments.strings(segments)
            elif data_type == pl.Boolean:
                values = pl.Series(segments == TRUE).set(pl.Series(segments == NONE), None)
            else:
                values = pl.Series(self._values.numbers(segments), nan_to_null=True)
            yield values.alias(name)

    def _number_lists(self) -> Iterable[pl.Series]:
        number_lists = self._in_batch(block.process.number_lists for block in self._blocks)
        for name, segments in zip(NUMBER_LISTS, number_lists.T, strict=True):
            lengths, numbers = self._values.lists(segments)
            values = pl.Series(numbers, nan_to_null=True)
            yield list_series(f"{name}_list", lengths, values, pl.Series(segments == NONE))

    def _lists_of_entries(self, rows: pl.DataFrame) -> Iterable[pl.DataFrame]:
        """Yield the columns of lists whose entries have a segment each, by ``row``."""
        entries = _in_rows(rows, [block.process.entries for block in self._blocks])
        for column in (FITTED_NAMES, "url", *MAPS):
            found = entries.filter(column=column)
            segments = found["segment"].to_numpy()
            values = (
                pl.Series(self._values.numbers(segments), nan_to_null=True)
                if column in MAPS
                else self._segments.strings(segments)
            )
            lists = {f"{column}_list": values}
            if column in MAPS:
                lists[f"{column}_name_list"] = found["name"]
            yield found.select("row", **lists).group_by("row", maintain_order=True).agg(pl.all())

    def _attributes(self, rows: pl.DataFrame) -> pl.DataFrame:
        found = _in_rows(rows, [block.process.attributes for block in self._blocks])
        parts = []
        for column in ("value_text", "value_number", "value_boolean"):
            part = found.filter(column=column)
            segments, elements, first = (
                part[name].to_numpy() for name in ("segment", "element", "conflicting")
            )
            values = self._attribute_values(column, segments, elements)
            # A conflicting value is an attribute only if it differs from that of the column.
            is_attribute = first < 0
            others = np.flatnonzero(first >= 0)
            of_column = self._attribute_values(column, first[others], np.zeros_like(others))
            is_attribute[others] = (values.gather(others) != of_column).to_numpy()
            parts.append(part.with_columns(values.alias(column)).filter(pl.Series(is_attribute)))
        return pl.concat(parts, how="diagonal")

    def _attribute_values(self, column: str, segments: Positions, elements: Positions) -> pl.Series:
        if column == "value_text":
            return self._segments.strings(segments)
        if column == "value_boolean":
            return pl.Series(segments == TRUE)
        return pl.Series(self._values.numbers(segments, elements))


def _in_rows(rows: pl.DataFrame, of_blocks: list[pl.DataFrame]) -> pl.DataFrame:
    """Return what each block has, for each of its rows, with the positions in the batch."""
    numbers = np.repeat(np.arange(len(of_blocks)), [frame.height for frame in of_blocks])
    found = rows.select("row", "block", "first").join(
        pl.concat(of_blocks).with_columns(block=numbers), on="block", maintain_order="left_right"
    )
    positions = [name for name in ("segment", "conflicting") if name in found.columns]
    return found.with_columns(
        pl.when(pl.col(name) < 0).then(name).otherwise(pl.col(name) + pl.col("first")).alias(name)
        for name in positions
    )


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
