"""The contract's paths as a tree, along which documents are read."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias

from aind_etl.contract import ANALYSIS_TABLES, FORMATS, Column, DataType, Table, tables
from aind_etl.contract.columns import FIT, KEY, LEFT_IN_DOCUMENTS, PROCESS
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


def columns_read(*of_tables: Table) -> list[Column]:
    """Return the columns of tables that are read from documents, but for the key."""
    return [
        column
        for table in of_tables
        for column in table.columns
        if column.is_read and column not in KEY
    ]


def paths_read(pipeline_format: str) -> Iterator[tuple[str, Column]]:
    """Yield every path that the contract reads in documents of a format, with its column."""
    for column in columns_read(*ANALYSIS_TABLES):
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
    left = [f"{FIT[pipeline_format]}.{path}" for path in LEFT_IN_DOCUMENTS]
    # The record id is derived from '_id', whatever its type. Processes are read one by one, along a
    # tree of their own.
    for path in (*left, "_id", PROCESSES):
        *parents, last = path.split(".")
        _descend(tree, parents)[last] = None
    return tree


TREES = {name: _tree(name) for name in FORMATS}
"""The contract's paths of each format as nested keys."""

PROCESS_TREE = _descend(TREES["framework"], PROCESS.split("."))
"""The tree of one entry of a framework document's processes."""

SCALAR_PATHS = {
    name: {column.name: column.origins[name].paths for column in columns_read(tables.ANALYSES)}
    for name in FORMATS
}
"""The paths of each column of `analyses` that is read, by format."""

ALTERNATIVES = {
    name: [paths for paths in SCALAR_PATHS[name].values() if len(paths) > 1] for name in FORMATS
}
"""The paths of the columns that have several in a format."""
