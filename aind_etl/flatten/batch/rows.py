"""The rows of the documents of a batch that match a shape."""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa

from aind_etl.flatten.batch.segments import Flags, Segments
from aind_etl.flatten.batch.shapes import (
    NONE,
    NUMBER_LISTS,
    SCALARS,
    TRUE,
    Positions,
    ProcessShape,
    Shape,
)
from aind_etl.flatten.batch.values import Values
from aind_etl.flatten.columns import (
    FITTED_NAMES,
    MAPS,
    PARALLEL_LISTS,
    list_types,
)
from aind_etl.flatten.document_reader import LONGEST_LIST

_NO_SEGMENTS: Positions = np.empty(0, np.int64)
_INTEGERS = {name: data_type for name, data_type in SCALARS.items() if data_type.is_integer()}


class _Block(NamedTuple):
    """One process of each document of a shape.

    Attributes
    ----------
    pipeline_format
        The format of the documents.
    process
        Where the values of the process are.
    documents
        Positions of the documents in the batch.
    first
        Positions of their first segments, shape (n, 1).
    """

    pipeline_format: str
    process: ProcessShape
    documents: Positions
    first: Positions

    def in_batch(self, segments: Positions) -> Positions:
        """Return the positions in the batch of segments of the shape, negative ones as they are.

        Shape (n documents, n segments).
        """
        return np.where(segments < 0, segments, self.first + segments)


class Rows:
    """One row per process of the documents that match a shape, and one per attribute."""

    def __init__(
        self, segments: Segments, values: Values, matched: list[tuple[Shape, Positions]]
    ) -> None:
        self._segments = segments
        self._values = values
        self._blocks = [
            _Block(shape.pipeline_format, process, valid, segments.first[valid][:, None])
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
        processes = self._processes().with_row_index("row")
        attributes = self._attributes()
        rejected = processes.filter(_has_rejected_values())["number"].unique()
        processes = processes.filter(~pl.col("number").is_in(rejected.implode()))
        if len(rejected):
            kept = processes.select("row").with_row_index("new_row")
            attributes = attributes.join(kept, on="row").drop("row").rename({"new_row": "row"})
        return (
            processes.drop("row").with_columns(
                pl.col(name).cast(data_type) for name, data_type in _INTEGERS.items()
            ),
            attributes.select(
                "row", "section", "path", "value_text", "value_number", "value_boolean"
            ),
        )

    def _processes(self) -> pl.DataFrame:
        blocks = self._blocks
        scalars = np.concatenate([block.in_batch(block.process.scalars) for block in blocks])
        number_lists = np.concatenate(
            [block.in_batch(block.process.number_lists) for block in blocks]
        )
        sizes = [len(block.documents) for block in blocks]
        formats = pl.Series([block.pipeline_format for block in blocks])
        lists = {name: self._number_list(number_lists[:, n]) for n, name in enumerate(NUMBER_LISTS)}
        lists |= {name: self._strings(name) for name in (FITTED_NAMES, "url")}
        for name in MAPS:
            lists[f"{name}_name"], lists[name] = self._map(name)
        return pl.DataFrame(
            [
                pl.Series("number", np.concatenate([b.documents for b in blocks]), pl.UInt32),
                pl.Series(
                    "process_index",
                    np.repeat([block.process.index for block in blocks], sizes),
                    pl.Int16,
                ),
                formats.gather(np.repeat(np.arange(len(sizes)), sizes)).alias("pipeline_format"),
                *(
                    self._scalar(scalars[:, n], data_type).alias(name)
                    for n, (name, data_type) in enumerate(SCALARS.items())
                ),
                *(lists[name].alias(f"{name}_list") for name in list_types()),
            ]
        )

    def _scalar(self, segments: Positions, data_type: pl.DataType) -> pl.Series:
        if (segments == NONE).all():
            return pl.repeat(None, len(segments), dtype=data_type, eager=True)
        if data_type == pl.String:
            return self._segments.strings(segments)
        if data_type == pl.Boolean:
            return pl.Series(segments == TRUE).set(pl.Series(segments == NONE), None)
        return pl.Series(self._values.singles(segments), nan_to_null=True)

    def _number_list(self, segments: Positions) -> pl.Series:
        lengths, values = self._values.lists(segments)
        return _lists(lengths, pl.Series(values, nan_to_null=True), segments == NONE)

    def _strings(self, name: str) -> pl.Series:
        lengths, segments, is_missing = self._entries(name)
        return _lists(lengths, self._segments.strings(segments), is_missing)

    def _map(self, name: str) -> tuple[pl.Series, pl.Series]:
        """Return the names and the values of a column of :data:`MAPS`."""
        lengths, segments, is_missing = self._entries(name)
        values = pl.Series(self._values.singles(segments), nan_to_null=True, dtype=pl.Float64)
        known: list[str] = []
        codes = []
        for block in self._blocks:
            names = block.process.lists[name].names if name in block.process.lists else ()
            in_shape = np.arange(len(known), len(known) + len(names))
            codes.append(np.tile(in_shape, len(block.documents)))
            known.extend(names)
        names_of_values = pl.Series(known, dtype=pl.String).gather(np.concatenate(codes))
        return (
            _lists(lengths, names_of_values, is_missing),
            _lists(lengths, values, is_missing),
        )

    def _entries(self, name: str) -> tuple[Positions, Positions, Flags]:
        """Return the entries of a column whose entries have a segment each.

        Returns
        -------
        lengths, segments, is_missing
            The length of each list, the segments of all entries, and which lists are missing.
        """
        lengths, segments, is_missing = [], [], []
        for block in self._blocks:
            column = block.process.lists.get(name)
            entries = _NO_SEGMENTS if column is None else column.segments
            lengths.append(np.full(len(block.documents), len(entries)))
            segments.append(block.in_batch(entries).ravel())
            is_missing.append(np.full(len(block.documents), column is None))
        return np.concatenate(lengths), np.concatenate(segments), np.concatenate(is_missing)

    def _attributes(self) -> pl.DataFrame:
        shapes = pl.concat([block.process.attributes for block in self._blocks])
        heights = [block.process.attributes.height for block in self._blocks]
        rows = pl.DataFrame(
            {
                "block": np.repeat(
                    np.arange(len(self._blocks)), [len(block.documents) for block in self._blocks]
                ),
                "first": np.concatenate([block.first.ravel() for block in self._blocks]),
            }
        ).with_row_index("row")
        found = rows.join(
            shapes.with_columns(block=np.repeat(np.arange(len(heights)), heights)), on="block"
        )
        segment, conflicting = (
            pl.when(pl.col(name) < 0).then(name).otherwise(pl.col(name) + pl.col("first"))
            for name in ("segment", "conflicting")
        )
        found = found.with_columns(segment=segment, conflicting=conflicting)
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
            of_column = self._attribute_values(column, first[others], np.full(len(others), NONE))
            is_attribute[others] = (values.gather(others) != of_column).to_numpy()
            parts.append(part.with_columns(values.alias(column)).filter(pl.Series(is_attribute)))
        return pl.concat(parts, how="diagonal")

    def _attribute_values(self, column: str, segments: Positions, elements: Positions) -> pl.Series:
        if column == "value_text":
            return self._segments.strings(segments)
        if column == "value_boolean":
            return pl.Series(segments == TRUE)
        values = self._values.singles(segments)
        in_lists = np.flatnonzero(elements >= 0)
        values[in_lists] = self._values.elements(segments[in_lists], elements[in_lists])
        return pl.Series(values)


def _has_rejected_values() -> pl.Expr:
    """Return whether a process has values that fit neither each other nor their columns."""
    is_wrong = pl.any_horizontal(
        *(pl.col(f"{name}_list").list.len() > LONGEST_LIST for name in list_types()),
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


def _lists(lengths: Positions, values: pl.Series, is_missing: Flags) -> pl.Series:
    """Return a column of lists.

    Parameters
    ----------
    lengths
        The length of each list, shape (n,).
    values
        The entries of all lists.
    is_missing
        Which lists are NULL, shape (n,).
    """
    ends = np.concatenate([[0], np.cumsum(lengths)])
    # Of numpy's arrays, pyarrow would make these with pandas, which is slow to import.
    return pl.Series(
        pa.LargeListArray.from_arrays(
            pl.Series(ends, dtype=pl.Int64).to_arrow(),
            values.to_arrow(),
            mask=pl.Series(is_missing).to_arrow(),
        )
    )
