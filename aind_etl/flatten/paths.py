"""Paths of the contract as a tree, and the types that a value may have."""

from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple, TypeAlias

import orjson

from aind_etl.contract import ANALYSIS_TABLES, Column, DataType
from aind_etl.contract.columns import FIT, LEFT_IN_DOCUMENTS, PROCESS


class Leaf(NamedTuple):
    """A path of the contract, in the tree of paths."""

    path: str
    data_type: DataType
    expected: str  # in words
    types: frozenset[type]  # that need no conversion
    shape: str = ""  # "" for a scalar, "[]" for a list, "*" for an object
    inner: "dict[str, Node] | None" = None  # the tree of each object, for a list of objects


Node: TypeAlias = "Leaf | dict[str, Node] | None"
"""What the contract knows at a key: a leaf, more keys, or None for what is left where it is."""

NONE = frozenset({type(None)})
NUMBERS = frozenset({int, float})
CONTAINERS: dict[type, str] = {dict: "an object", list: "a list"}

PROCESSES = PROCESS.removesuffix("[]")
Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Beginnings of paths, and the section of the attributes below each."""
PROTOTYPE_SECTIONS: Sections = (
    ("analysis_spec.analysis_args.", "parameters"),
    ("analysis_results.", "outputs"),
)


def section_of(place: str, sections: Sections) -> tuple[str, str]:
    """Return the section that attributes below ``place`` belong to, and their paths' beginning."""
    for prefix, section in sections:
        if place.startswith(prefix):
            return section, place.removeprefix(prefix)
    return "record", place


def step(key: str) -> str:
    """Return a key as paths show it: quoted where it could be taken for several steps."""
    return orjson.dumps(key).decode() if "." in key or "[" in key else key


@cache
def tree(pipeline_format: str) -> dict[str, Node]:
    """Return the contract's paths of a format as nested keys."""
    tree: dict[str, Node] = {}
    for path, column in paths_read(pipeline_format):
        _plant(tree, path, column)
    for path in LEFT_IN_DOCUMENTS:
        *way, last = f"{FIT[pipeline_format]}.{path}".split(".")
        descend(tree, way)[last] = None
    tree["_id"] = None  # The record id is derived from it, whatever its type.
    if pipeline_format == "framework":
        # The entries of this list are walked one by one, along a tree of their own.
        descend(tree, ["processing"])["data_processes"] = None
    return tree


@cache
def process_tree() -> dict[str, Node]:
    """Return the tree of one entry of a framework document's processes."""
    return descend(tree("framework"), PROCESS.split("."))


def _plant(tree: dict[str, Node], path: str, column: Column) -> None:
    """Add one path of the contract to a tree."""
    *way, last = path.split(".")
    leaf = Leaf(path, column.type, expected_of(column.type), types_of(column.type))
    if last == "*":
        *way, last = way
        leaf = leaf._replace(shape="*")
    elif last.endswith("[]"):
        last = last.removesuffix("[]")
        leaf = leaf._replace(shape="[]")
    elif way and way[-1].endswith("[]") and ".".join(way) != PROCESS:
        inner: dict[str, Node] = {last: leaf}
        *way, last = way
        last = last.removesuffix("[]")
        leaf = leaf._replace(shape="[]", inner=inner)
    descend(tree, way)[last] = leaf


def expected_of(data_type: DataType) -> str:
    """Return what fits a column of a type, in words."""
    if data_type.is_integer:
        smallest, largest = data_type.integer_range
        return f"an integer between {smallest} and {largest}"
    return {
        DataType.DOUBLE: "a number",
        DataType.BOOLEAN: "true or false",
        DataType.DATE: "a date as YYYY-MM-DD",
        DataType.TIMESTAMPTZ: "a time in ISO 8601, such as 2025-01-31T12:00:00Z",
    }.get(data_type, "a text")


def types_of(data_type: DataType) -> frozenset[type]:
    """Return the Python types of JSON values that a column type may be read from."""
    if data_type.is_integer or data_type is DataType.DOUBLE:
        return NUMBERS
    return frozenset({bool if data_type is DataType.BOOLEAN else str})


def descend(tree: dict[str, Node], way: Iterable[str]) -> dict[str, Node]:
    """Return the inner node at the end of a way, created where it is missing."""
    for key in way:
        inner = tree.setdefault(key, {})
        assert isinstance(inner, dict), f"{key} is both a value and an object"  # noqa: S101
        tree = inner
    return tree


def paths_read(pipeline_format: str) -> Iterator[tuple[str, Column]]:
    """Yield every path the contract reads in documents of a format, with its column."""
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            for path in column.origins[pipeline_format].paths:
                yield path, column
