"""Paths of documents that the warehouse knows, and the columns that hold their values."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import orjson

from aind_etl.contract import ANALYSIS_TABLES, Column, Table, tables
from aind_etl.contract.columns import LEFT_IN_DOCUMENTS, PROCESS, in_fit
from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

PROCESSES = PROCESS.removesuffix("[]")
FORMATS = ("prototype", "framework")
KEY = ("source_collection", "record_id", "process_index")


SECTIONS = {
    ("prototype", "parameters"): "analysis_spec.analysis_args",
    ("prototype", "outputs"): "analysis_results",
    ("framework", "parameters"): f"{PROCESSES}.code.parameters",
    ("framework", "outputs"): f"{PROCESSES}.output_parameters",
}
STEP = re.compile(r'\.?(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<bare>[^.\[]+))|(?P<position>\[\d+\])')

ATTRIBUTE_PATHS = (
    "SELECT DISTINCT pipeline_format, section, path FROM attributes "
    "JOIN analyses USING (source_collection, record_id, process_index)"
)
"""The query for the paths of `attributes`, which :class:`KnownPaths` takes."""
PARAMETER_NAMES = "SELECT DISTINCT parameter FROM fit_parameters"
"""The query for the names of agents' parameters, which :class:`KnownPaths` takes."""


@dataclass(frozen=True, slots=True)
class ValueColumn:
    """Where in the warehouse the values at a path of one format stand."""

    pipeline_format: str
    table: Table
    column: Column
    is_exact: bool
    parameter: str | None = None


@dataclass(frozen=True)
class KnownPaths:
    """The paths at which documents of a warehouse have values.

    Parameters
    ----------
    attributes
        Format, section and path, as :data:`ATTRIBUTE_PATHS` finds them.
    parameters
        Names of agents' parameters, as :data:`PARAMETER_NAMES` finds them.
    has_rejected_values
        Whether any value of a document did not fit its column: of such records, columns are not
        believed.
    """

    attributes: Sequence[tuple[str, str, str]]
    parameters: Sequence[str]
    has_rejected_values: bool = False
    _attributes_at: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict, init=False)
    _leaves: set[str] = field(default_factory=set, init=False)
    _branches: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        for pipeline_format, section, path in self.attributes:
            place, is_reachable = document_path(pipeline_format, section, path)
            found = self._attributes_at.setdefault(place, [])
            if is_reachable:
                found.append((pipeline_format, section, path))
        self._leaves.update(self._attributes_at, is_left_in_document())
        for path in contract_columns():
            branch = path.removesuffix("*")
            self._leaves.update([path] if branch == path else map(branch.__add__, self.parameters))
        for leaf in self._leaves:
            steps_of_leaf = leaf.split(".")
            self._branches.update(
                ".".join(steps_of_leaf[:length]) for length in range(1, len(steps_of_leaf))
            )

    def attributes_at(self, path: str) -> list[tuple[str, str, str]]:
        """Return the attributes at a path of a document: format, section and path of each."""
        return self._attributes_at.get(path, [])

    def require(self, path: str) -> None:
        """Raise an error for a path at which no document has a value.

        Raises
        ------
        ArgumentError
            There is none.
        """
        plain = without_positions(path)
        known = (self._leaves, self._branches)
        if any(path in names or plain in names for names in known):
            return
        below = self._leaves if self.has_rejected_values else is_left_in_document()
        if any(plain.startswith(f"{one}.") for one in below):
            return
        raise ArgumentError(
            f"No document of the warehouse has a value at the filter's path '{path}'. "
            f"{suggest(path, self._leaves)}"
        )


def without_positions(path: str) -> str:
    """Return the columns of the contract by the path of their values."""
    return ".".join(step for step in path.split(".") if not step.isdecimal())


@cache
def contract_columns() -> dict[str, tuple[ValueColumn, ...]]:
    """Return where the values at the contract's paths stand; of ``*``, at the path before it."""
    places: dict[str, list[ValueColumn]] = {}
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            if column.name in KEY and (column.name != "record_id" or table is not tables.ANALYSES):
                continue
            for pipeline_format in FORMATS:
                origin = column.origin(pipeline_format)
                is_list = origin.paths and origin.paths[0].endswith("[]")
                # The origin says that the value is derived from more than this path.
                is_exact = len(origin.paths) == 1 and (not origin.note or bool(is_list))
                for path in origin.paths:
                    place = ValueColumn(pipeline_format, table, column, is_exact)
                    places.setdefault(path.replace("[]", ""), []).append(place)
    return {path: tuple(found) for path, found in places.items()}


def columns_of(path: str) -> Iterable[ValueColumn]:
    """Return where the values at a path stand."""
    branch, _, name = path.rpartition(".")
    yield from contract_columns().get(path, ())
    for place in contract_columns().get(f"{branch}.*", ()):
        yield replace(place, parameter=name)


def columns_below(path: str) -> Iterable[ValueColumn]:
    """Return where the values below a path stand, as far as the contract says."""
    for other, places in contract_columns().items():
        if other.startswith(f"{path}."):
            yield from places


@cache
def is_left_in_document() -> frozenset[str]:
    """Return the paths whose values are in no table."""
    origins = [in_fit(path) for path in LEFT_IN_DOCUMENTS]
    return frozenset(
        origin.paths[0].replace("[]", "")
        for both in origins
        for origin in (both["prototype"], both["framework"])
    )


def document_path(pipeline_format: str, section: str, path: str) -> tuple[str, bool]:
    """Return the path in a document of what an attribute's section and path name.

    Returns
    -------
    path : str
        The dotted path without positions.
    is_reachable : bool
        Whether the path leads there: it goes on through a list, but not through a list in a
        list, and not past a key with a dot in it.
    """
    steps: list[str] = []
    is_reachable = True
    was_position = False
    for match in STEP.finditer(path):
        is_position = bool(match["position"])
        is_reachable &= not (is_position and was_position)
        was_position = is_position
        if match["quoted"] is not None:
            steps.append(orjson.loads(match["quoted"]))
            is_reachable &= "." not in steps[-1]
        elif match["bare"]:
            steps.append(match["bare"])
    base = SECTIONS.get((pipeline_format, section))
    return ".".join([base, *steps] if base else steps), is_reachable
