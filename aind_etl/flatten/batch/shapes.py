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

    ``columns`` has the segment of each of :data:`COLUMNS`. ``entries`` has a row per attribute and
    per entry of the other columns of lists: the ``column`` of its value, its ``section`` and
    ``path`` (for one of :data:`MAPS`, its name), its ``segment``, its position among the numbers of
    the segment (``element``), and the segment of a value from which it must differ to be an
    attribute (``conflicting``).
    """

    pipeline_format: str
    index: int
    columns: Positions
    entries: pl.DataFrame


@dataclass(frozen=True, slots=True)
class Shape:
    """What documents of one shape have in common.

    ``constants`` are the segments that are the same in all documents, and ``constant_hashes`` are
    hashes of them with their quotation marks. ``numbers`` has the segments with numbers by their
    affixes, and how many numbers there must be, -1 for any number of them, in shape (2, n);
    ``ignored`` likewise those whose values have neither column nor attribute.
    """

    processes: list[ProcessShape]
    constants: Positions
    constant_hashes: np.ndarray[Any, np.dtype[np.uint64]]
    numbers: dict[Affixes, Positions]
    ignored: dict[Affixes, Positions]
