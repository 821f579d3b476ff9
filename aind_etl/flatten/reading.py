"""Taking a document apart as the contract says.

The contract's paths are compiled to a tree once. A document is then walked once along it: a
value at a path of the contract is checked and taken, a value anywhere else becomes an
attribute. Here nothing is computed from the values; see :mod:`aind_etl.flatten.deriving`.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import orjson

from aind_etl.contract import ANALYSIS_TABLES, Column, DataType
from aind_etl.contract.columns import LEFT_IN_DOCUMENTS, PROCESS
from aind_etl.sources.canonical import UNREADABLE_PREFIX, explain_unreadable

Scalar: TypeAlias = str | int | float | bool
"""A value that is neither nothing, nor an object, nor a list."""


class Rejection(Exception):  # noqa: N818 - a verdict on a document, not an error of the program
    """A document cannot be flattened.

    Parameters
    ----------
    reason
        A short code.
    path
        Where in the document the trouble is.
    message
        What was found and what was expected.
    """

    def __init__(self, reason: str, path: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.path = path
        self.message = message


Attribute: TypeAlias = tuple[str, str, Scalar]
"""Section, path and value of a scalar that no column of the contract holds."""


@dataclass(slots=True)
class Process:
    """One analysis process of a document, taken apart.

    Attributes
    ----------
    index
        Its position in the document.
    values
        What stood at each path of the contract: a scalar, a list for ``[]``, an object for ``*``.
    attributes
        What stood elsewhere.
    agent_options
        The agent's keyword arguments in the specification, which are attributes as well.
    overruled
        For the attributes, by position, that are there only because they differ from the value
        at a path of the contract: that path.
    """

    index: int
    values: dict[str, Any] = field(default_factory=dict)
    attributes: list[Attribute] = field(default_factory=list)
    agent_options: dict[str, Any] | None = None
    overruled: dict[int, str] = field(default_factory=dict)


class _Leaf(NamedTuple):
    """A path of the contract, in the tree of paths."""

    path: str
    kind: str  # what is expected, in words
    types: frozenset[type]
    integers: DataType | None = None  # the type of whole numbers expected, if any
    shape: str = ""  # "" for a scalar, "[]" for a list, "*" for an object
    inner: "dict[str, _Node] | None" = None  # the tree of each object, for a list of objects


_Node: TypeAlias = "_Leaf | dict[str, _Node] | None"
"""What the contract knows at a key: a leaf, more keys, or None for what is left where it is."""

_NONE = frozenset({type(None)})

_PROCESSES = PROCESS.removesuffix("[]")
_Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Beginnings of paths, and the section of the attributes below each."""
_PROTOTYPE_SECTIONS: _Sections = (
    ("analysis_spec.analysis_args.", "parameters"),
    ("analysis_results.", "outputs"),
)
_MESSAGE_LENGTH = 80
LONGEST_LIST = DataType.SMALLINT.integer_range[1]
"""Entries of the longest list whose positions fit the contract."""


def read_document(record_id: str, text: str) -> tuple[str, list[Process]]:
    """Take a document apart.

    Parameters
    ----------
    record_id
        Its record id.
    text
        Its canonical JSON.

    Returns
    -------
    pipeline_format : str
        ``prototype`` or ``framework``.
    processes : list[Process]
        Its analysis processes; at least one.

    Raises
    ------
    Rejection
        It is of neither format, has no process, or a value has a type the contract does not
        allow.
    """
    document = _parse(record_id, text)
    if "processing" in document or document.get("object_type") == "Metadata":
        return "framework", _read_framework(document)
    if "analysis_spec" in document or "nwb_name" in document:
        return "prototype", [_read_prototype(document)]
    raise Rejection(
        "unknown_format",
        "",
        "The document is of neither format: a prototype document has 'analysis_spec' and "
        f"'nwb_name', a framework document 'processing'; this one has {_shorten(list(document))}.",
    )


def too_long(path: str, length: int) -> Rejection:
    """Return the verdict on a list with more entries than the contract has positions."""
    return Rejection(
        "wrong_value",
        path,
        f"The list at '{path}' has {length:,} entries; expected at most {LONGEST_LIST:,}.",
    )


def paths_read(pipeline_format: str) -> Iterator[tuple[str, Column]]:
    """Yield every path the contract reads in documents of a format, with its column."""
    for table in ANALYSIS_TABLES:
        for column in table.columns:
            for path in column.origin(pipeline_format).paths:
                yield path, column


def _parse(record_id: str, text: str) -> dict[str, Any]:
    value = orjson.loads(text)
    if isinstance(value, str) and record_id.startswith(UNREADABLE_PREFIX):
        raise Rejection(
            "not_json",
            "",
            f"The source holds something that is no JSON document ({explain_unreadable(value)}): "
            f"{_shorten(value)}. Mend it in the source.",
        )
    if not isinstance(value, dict):
        raise Rejection(
            "not_an_object", "", f"A document is a JSON object; this is {_shorten(value)}."
        )
    if value.get("_id") is None:
        raise Rejection(
            "missing_id",
            "_id",
            f"A document has an '_id'; this one has {_shorten(list(value))}. Mend it in the "
            "source.",
        )
    # Only documents with something that plain JSON lacks carry keys that begin with a dollar.
    return _unwrap(value) if '{"$' in text else value


def _unwrap(value: Any) -> Any:  # noqa: ANN401 - any JSON in, any value out
    """Return a document with extended JSON replaced by the values it stands for."""
    if isinstance(value, list):
        return [_unwrap(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        if key in {"$numberDouble", "$numberDecimal"} and isinstance(inner, str):
            try:
                return float(inner)
            except ValueError:
                return inner
        if key in {"$oid", "$date", "$symbol", "$uuid"} and isinstance(inner, str):
            return inner.removesuffix("Z") if key == "$date" else inner
    return {key: _unwrap(inner) for key, inner in value.items()}


def _read_prototype(document: dict[str, Any]) -> Process:
    process = Process(0)
    _take(document, _tree("prototype"), "", process, _PROTOTYPE_SECTIONS)
    _keep_overruled("prototype", process, _PROTOTYPE_SECTIONS)
    specification = document.get("analysis_spec") or {}
    process.agent_options = _agent_options(specification.get("analysis_args"))
    return process


def _read_framework(document: dict[str, Any]) -> list[Process]:
    processing = document.get("processing")
    entries = processing.get("data_processes") if isinstance(processing, dict) else None
    if not isinstance(entries, list) or not entries:
        raise Rejection(
            "no_process",
            _PROCESSES,
            f"A framework document has at least one entry in '{_PROCESSES}'; this one has "
            f"{_shorten(entries)}.",
        )
    if len(entries) > LONGEST_LIST:
        raise too_long(_PROCESSES, len(entries))
    record = Process(0)
    _take(document, _tree("framework"), "", record, ())
    processes = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _wrong_type(f"{_PROCESSES}[{index}]", entry, "an object")
        process = Process(index, values=dict(record.values))
        _take_process(entry, process)
        processes.append(process)
    processes[0].attributes.extend(record.attributes)
    return processes


def _take_process(entry: dict[str, Any], process: Process) -> None:
    """Take the values of one entry of a framework document's processes."""
    outputs = entry.get("output_parameters")
    if isinstance(outputs, list):
        # Early code wrote a list: empty, or of the one object.
        if len(outputs) == 1 and isinstance(outputs[0], dict):
            entry = {**entry, "output_parameters": outputs[0]}
        else:
            entry = {**entry, "output_parameters": None}
            _keep(outputs, "outputs", "", process.attributes)
    place, sections = _process_place(process.index)
    _take(entry, _process_tree(), place, process, sections)
    _keep_overruled("framework", process, sections)
    code = entry.get("code") or {}
    process.agent_options = _agent_options(code.get("parameters"))


@cache
def _process_place(index: int) -> tuple[str, _Sections]:
    """Return where a process stands in its document, and the sections below it."""
    place = f"{_PROCESSES}[{index}]."
    return place, (
        (f"{place}code.parameters.", "parameters"),
        (f"{place}output_parameters.", "outputs"),
    )


def _keep_overruled(pipeline_format: str, process: Process, sections: _Sections) -> None:
    """Keep as attributes the values of second places that differ from those of the first."""
    for first, *others in _alternatives(pipeline_format):
        for other in others:
            if process.values.get(first) is None or other not in process.values:
                continue
            value = process.values.pop(other)
            if value != process.values[first]:
                place, _, key = other.replace("[]", f"[{process.index}]", 1).rpartition(".")
                section, base = _section_of(f"{place}.", sections)
                process.overruled[len(process.attributes)] = first
                _keep(value, section, base + key, process.attributes)


@cache
def _alternatives(pipeline_format: str) -> tuple[tuple[str, ...], ...]:
    """Return the paths of the columns that have several in a format."""
    return tuple(
        paths
        for table in ANALYSIS_TABLES
        for column in table.columns
        if len(paths := column.origin(pipeline_format).paths) > 1
    )


def _agent_options(arguments: dict[str, Any] | None) -> dict[str, Any] | None:
    options = (arguments or {}).get("agent_kwargs")
    return options if isinstance(options, dict) else None


def _take(
    section: dict[str, Any],
    tree: dict[str, _Node],
    place: str,
    process: Process,
    sections: _Sections,
) -> None:
    """Take the values of one object: to ``process.values`` or to its attributes."""
    values = process.values
    kept_in, base = _section_of(place, sections)
    for key, value in section.items():
        if value is None:
            continue
        if key not in tree:
            _keep(value, kept_in, base + _step(key), process.attributes)
            continue
        node = tree[key]
        if node is None:
            continue
        if isinstance(node, dict):
            if not isinstance(value, dict):
                raise _wrong_type(place + key, value, "an object")
            _take(value, node, f"{place}{key}.", process, sections)
        elif node.shape == "" and node.integers is None and type(value) in node.types:
            values[node.path] = value  # The commonest case, without a call.
        elif node.inner is not None:
            values[node.path] = _taken_from_entries(value, node, place + key, process, sections)
        else:
            values[node.path] = _checked(value, node, place + key)


def _checked(value: Any, leaf: _Leaf, place: str) -> Any:  # noqa: ANN401
    """Return a value of the contract if it is what its column expects."""
    if leaf.shape == "":
        return _checked_scalar(value, leaf, place)
    if leaf.shape == "*":
        if not isinstance(value, dict):
            raise _wrong_type(place, value, "an object")
        for name, inner in value.items():
            if inner is not None and type(inner) not in leaf.types:
                raise _wrong_type(f"{place}.{name}", inner, leaf.kind)
        return value
    if not isinstance(value, list):
        raise _wrong_type(place, value, "a list")
    if not set(map(type, value)) <= leaf.types | _NONE:
        for index, inner in enumerate(value):
            if inner is not None and type(inner) not in leaf.types:
                raise _wrong_type(f"{place}[{index}]", inner, leaf.kind)
    return value


def _checked_scalar(value: Any, leaf: _Leaf, place: str) -> Scalar:  # noqa: ANN401
    if type(value) not in leaf.types:
        raise _wrong_type(place, value, leaf.kind)
    if leaf.integers is None:
        return value  # type: ignore[no-any-return]
    smallest, largest = leaf.integers.integer_range
    if not smallest <= value <= largest or int(value) != value:
        raise Rejection(
            "wrong_value",
            place,
            f"At '{place}' stands {_shorten(value)}; expected a whole number from {smallest} to "
            f"{largest}.",
        )
    return int(value)


def _taken_from_entries(
    entries: Any,  # noqa: ANN401
    leaf: _Leaf,
    place: str,
    process: Process,
    sections: _Sections,
) -> list[Scalar | None]:
    """Return the one value the contract takes from each object of a list."""
    if not isinstance(entries, list):
        raise _wrong_type(place, entries, "a list")
    taken: list[Scalar | None] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise _wrong_type(f"{place}[{index}]", entry, "an object")
        inner = Process(process.index)
        _take(entry, leaf.inner or {}, f"{place}[{index}].", inner, sections)
        taken.append(inner.values.get(leaf.path))
        process.attributes.extend(inner.attributes)
    return taken


def _section_of(place: str, sections: _Sections) -> tuple[str, str]:
    """Return the section that attributes below ``place`` belong to, and their paths' beginning."""
    for prefix, section in sections:
        if place.startswith(prefix):
            return section, place.removeprefix(prefix)
    return "record", place


def _keep(value: Any, section: str, path: str, kept: list[Attribute]) -> None:  # noqa: ANN401
    """Add the scalars at and below a place that the contract does not know."""
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            _keep(inner, section, f"{path}.{_step(key)}", kept)
    elif kind is list:
        for index, inner in enumerate(value):
            _keep(inner, section, f"{path}[{index}]", kept)
    elif value is not None:
        kept.append((section, path, value))


def _step(key: str) -> str:
    """Return a key as paths show it: quoted where it could be taken for several steps."""
    return orjson.dumps(key).decode() if "." in key or "[" in key else key


@cache
def _tree(pipeline_format: str) -> dict[str, _Node]:
    """Return the contract's paths of a format as nested keys."""
    tree: dict[str, _Node] = {}
    for path, column in paths_read(pipeline_format):
        _plant(tree, path, column)
    fit = (
        "analysis_results"
        if pipeline_format == "prototype"
        else f"{PROCESS}.output_parameters.fitting_results"
    )
    for path in LEFT_IN_DOCUMENTS:
        *way, last = f"{fit}.{path}".split(".")
        _descend(tree, way)[last] = None
    tree["_id"] = None  # The record id is made of it, whatever its type.
    if pipeline_format == "framework":
        # The entries of this list are walked one by one, along a tree of their own.
        _descend(tree, ["processing"])["data_processes"] = None
    return tree


@cache
def _process_tree() -> dict[str, _Node]:
    """Return the tree of one entry of a framework document's processes."""
    return _descend(_tree("framework"), PROCESS.split("."))


def _plant(tree: dict[str, _Node], path: str, column: Column) -> None:
    """Add one path of the contract to a tree."""
    *way, last = path.split(".")
    kind, types = _expected(column.type)
    leaf = _Leaf(path, kind, types, column.type if column.type.is_integer else None)
    if last == "*":
        *way, last = way
        leaf = leaf._replace(shape="*")
    elif last.endswith("[]"):
        last = last.removesuffix("[]")
        leaf = leaf._replace(shape="[]")
    elif way and way[-1].endswith("[]") and ".".join(way) != PROCESS:
        inner: dict[str, _Node] = {last: leaf}
        *way, last = way
        last = last.removesuffix("[]")
        leaf = leaf._replace(shape="[]", inner=inner)
    _descend(tree, way)[last] = leaf


def _expected(data_type: DataType) -> tuple[str, frozenset[type]]:
    """Return what a document holds for a type of the contract, in words and as JSON's types."""
    if data_type.is_integer:
        return "a whole number", frozenset({int, float})
    if data_type is DataType.DOUBLE:
        return "a number", frozenset({int, float})
    if data_type is DataType.BOOLEAN:
        return "true or false", frozenset({bool})
    return "a text", frozenset({str})


def _descend(tree: dict[str, _Node], way: Iterable[str]) -> dict[str, _Node]:
    for key in way:
        inner = tree.setdefault(key, {})
        assert isinstance(inner, dict), f"{key} is both a value and an object"  # noqa: S101
        tree = inner
    return tree


def _wrong_type(place: str, value: object, expected: str) -> Rejection:
    return Rejection(
        "wrong_type",
        place,
        f"At '{place}' stands {_shorten(value)}; expected {expected}.",
    )


def _shorten(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    # JSON has no word for a number that is not finite.
    quoted = repr(value) if isinstance(value, str | float) else orjson.dumps(value).decode()
    return quoted if len(quoted) <= _MESSAGE_LENGTH else quoted[:_MESSAGE_LENGTH] + "…"
