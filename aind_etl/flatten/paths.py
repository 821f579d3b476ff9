"""The contract's paths as a tree, along which documents are read."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

import orjson

from aind_etl.contract import ANALYSIS_TABLES, FORMATS, Column, DataType
from aind_etl.contract.columns import FIT, LEFT_IN_DOCUMENTS, PROCESS
from aind_etl.flatten.conversion import json_types


class Leaf(NamedTuple):
    """A path of the contract, with what is expected there."""

    path: str
    data_type: DataType
    stored_types: frozenset[type]  # of the values that need no conversion
    container: type | None = None  # list for "[]", dict for "*"
    inner: "dict[str, Node] | None" = None  # the tree of each object of a list of objects


Node: TypeAlias = "Leaf | dict[str, Node] | None"
"""What is at a key: a leaf, more keys, or None for values that are left in the document."""

PROCESSES = PROCESS.removesuffix("[]")
Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Prefixes of paths, and the section of the attributes below each."""
PROTOTYPE_SECTIONS: Sections = (
    ("analysis_spec.analysis_args.", "parameters"),
    ("analysis_results.", "outputs"),
)


def framework_sections(place: str) -> Sections:
    """Return the sections of the attributes of the process at ``place``, a path with its dot."""
    return (f"{place}code.parameters.", "parameters"), (f"{place}output_parameters.", "outputs")


def section_of(place: str, sections: Sections) -> tuple[str, str]:
    """Return the section of the attributes below ``place``, and the prefix of their paths."""
    for prefix, section in sections:
        if place.startswith(prefix):
            return section, place.removeprefix(prefix)
    return "record", place


def path_key(key: str) -> str:
    """Return a key as paths contain it: quoted if it could be taken for several keys."""
    return orjson.dumps(key).decode() if "." in key or "[" in key else key


def paths_read(pipeline_format: str) -> Iterator[tuple[str, Column]]:
    """Yield every path that the contract reads in documents of a format, with its column."""
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            for path in column.origins[pipeline_format].paths:
                yield path, column


def _add_path(tree: dict[str, Node], path: str, column: Column) -> None:
    *parents, last = path.split(".")
    # An integer is checked for the range of its column.
    stored_types = frozenset() if column.type.is_integer else json_types(column.type)
    leaf = Leaf(path, column.type, stored_types)
    if last == "*":
        *parents, last = parents
        leaf = leaf._replace(container=dict)
    elif last.endswith("[]"):
        leaf = leaf._replace(container=list)
    elif parents and parents[-1].endswith("[]") and ".".join(parents) != PROCESS:
        leaf = leaf._replace(container=list, inner={last: leaf})
        *parents, last = parents
    _descend(tree, parents)[last.removesuffix("[]")] = leaf


def _descend(tree: dict[str, Node], keys: Iterable[str]) -> dict[str, Node]:
    """Return the inner node at ``keys``, created if it is missing."""
    for key in keys:
        inner = tree.setdefault(key, {})
        assert isinstance(inner, dict), f"{key} is both a value and an object"  # noqa: S101
        tree = inner
    return tree


def _tree(pipeline_format: str) -> dict[str, Node]:
    tree: dict[str, Node] = {}
    for path, column in paths_read(pipeline_format):
        _add_path(tree, path, column)
    for path in LEFT_IN_DOCUMENTS:
        *parents, last = f"{FIT[pipeline_format]}.{path}".split(".")
        _descend(tree, parents)[last] = None
    tree["_id"] = None  # The record id is derived from it, whatever its type.
    if pipeline_format == "framework":
        # The entries of this list are read one by one, along a tree of their own.
        _descend(tree, ["processing"])["data_processes"] = None
    return tree


TREES = {name: _tree(name) for name in FORMATS}
"""The contract's paths of each format as nested keys."""

PROCESS_TREE = _descend(TREES["framework"], PROCESS.split("."))
"""The tree of one entry of a framework document's processes."""

ALTERNATIVES = {
    name: [
        paths
        for table in ANALYSIS_TABLES
        for column in table.columns
        if len(paths := column.origins[name].paths) > 1
    ]
    for name in FORMATS
}
"""The paths of the columns that have several in a format."""
