"""Shapes: what documents that differ only in their texts and numbers have in common.

Canonical JSON is cut at its quotation marks into *segments*: in turn a string, and the punctuation,
numbers and literals up to the next string. In documents of one shape, the position of a segment
determines where its values go.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import polars as pl

from aind_etl.flatten.columns import LISTS, MAPS, SCALARS

Positions: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
"""Positions of segments in their document, or of documents in their batch."""

NUMBER_LISTS = [name for name, inner in LISTS.items() if inner == pl.Float64 and name not in MAPS]
COLUMNS = SCALARS | {f"{name}_list": pl.List(pl.Float64) for name in NUMBER_LISTS}
"""The columns whose value is in one segment: scalars and lists of numbers."""

ENTRIES = {
    **dict.fromkeys(("column", "section", "path"), pl.String),
    **dict.fromkeys(("segment", "element", "conflicting"), pl.Int64),
}
"""Schema of :attr:`ProcessShape.entries`."""

NONE, EMPTY_LIST, FALSE, TRUE = -1, -2, -3, -4
"""Take the place of the position of a segment, for values that are the same in all documents."""


class Affixes(NamedTuple):
    """The punctuation of a segment before and after its values."""

    prefix: str
    suffix: str


@dataclass(frozen=True, slots=True)
class ProcessShape:
    """Where the values of one process are.

    Attributes
    ----------
    index
        The process's position in the document.
    columns
        The segment of each of :data:`COLUMNS`.
    entries
        One row per attribute, and per entry of the other columns of lists: ``column`` of its value,
        ``section`` and ``path`` (the name of an entry of one of :data:`MAPS`), ``segment``,
        ``element`` (its position among the numbers of the segment) and ``conflicting`` (the segment
        of a value from which it must differ to be an attribute, or :data:`NONE`).
    """

    pipeline_format: str
    index: int
    columns: Positions
    entries: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Shape:
    """What documents of one shape have in common.

    Attributes
    ----------
    constants, constant_hashes
        The segments that are the same in all documents; hashes of them with their quotation marks.
    numbers
        The segments with numbers, and how many there must be, -1 for any number of them; by their
        affixes. Shape (2, n).
    ignored
        The segments whose values have neither column nor attribute, likewise.
    """

    processes: list[ProcessShape]
    constants: Positions
    constant_hashes: np.ndarray[Any, np.dtype[np.uint64]]
    numbers: dict[Affixes, Positions]
    ignored: dict[Affixes, Positions]
