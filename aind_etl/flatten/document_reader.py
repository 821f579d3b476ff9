"""Parsing a document along the paths of the contract.

The contract's paths are compiled to a tree once, and a document is walked along it once. A value
at a path of the contract is converted to the type of its column, or rejected if it does not fit;
a value anywhere else becomes an attribute. This module derives nothing from the values; see
:mod:`aind_etl.flatten.derived`.
"""

import math
import re
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import orjson

from aind_etl.contract import ANALYSIS_TABLES, DataType
from aind_etl.flatten.paths import (
    CONTAINERS,
    NONE,
    NUMBERS,
    PROCESSES,
    PROTOTYPE_SECTIONS,
    Leaf,
    Node,
    Sections,
    process_tree,
    section_of,
    step,
    tree,
)
from aind_etl.sources.canonical import UNREADABLE_PREFIX, canonical_json, explain_unreadable

Scalar: TypeAlias = str | int | float | bool
"""A value that is neither nothing, nor an object, nor a list."""


class Rejection(Exception):  # noqa: N818 - a verdict on a document, not an error of the program
    """A document has no row in `analyses`: it is no document of either format.

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


class RejectedValue(NamedTuple):
    """A value that does not fit its column, which is NULL instead.

    Attributes
    ----------
    path
        Where the value is in the document.
    reason
        A short code: ``wrong_type``, ``wrong_value``, ``lengths_differ`` or ``unnamed_bounds``.
    value
        The value's JSON, at most :data:`LONGEST_VALUE` characters of it.
    expected
        What fits, in words.
    """

    path: str
    reason: str
    value: str
    expected: str


@dataclass(slots=True)
class Process:
    """One analysis process of a document, parsed.

    Attributes
    ----------
    index
        Its position in the document.
    values
        The value at each path of the contract: a scalar, a list for ``[]``, an object for ``*``.
    attributes
        The values at other paths.
    agent_options
        The agent's keyword arguments in the specification, which are attributes as well.
    overruled
        For the attributes, by position, that are there only because they differ from the value
        at a path of the contract: that path.
    rejected
        What does not fit its column.
    unconverted
        The lists in ``values`` whose entries were converted or rejected, as the document has them.
    """

    index: int
    values: dict[str, Any] = field(default_factory=dict)
    attributes: list[Attribute] = field(default_factory=list)
    agent_options: dict[str, Any] | None = None
    overruled: dict[int, str] = field(default_factory=dict)
    rejected: list[RejectedValue] = field(default_factory=list)
    unconverted: dict[str, list[Any]] = field(default_factory=dict)

    def reject(self, path: str, value: object, reason: str, expected: str) -> None:
        """Record a value that does not fit its column."""
        self.rejected.append(
            RejectedValue(path, reason, canonical_json(value)[:LONGEST_VALUE], expected)
        )


_MESSAGE_LENGTH = 80
_JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")
LARGEST_EXACT = 2**53
"""The largest number up to which every integer is a float of its own."""
LONGEST_VALUE = 1_000
"""Characters kept of a rejected value's JSON."""
LONGEST_LIST = DataType.SMALLINT.integer_range[1]
"""Entries of the longest list whose positions fit the contract."""


def read_document(record_id: str, text: str) -> tuple[str, list[Process]]:
    """Parse a document.

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
        It is no JSON object with an ``_id``, is of neither format, or has no process.
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
    """Return a document with extended JSON replaced by the values it encodes."""
    if isinstance(value, list):
        return [_unwrap(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        if key in {"$numberDouble", "$numberDecimal"} and isinstance(inner, str):
            try:
                return int(inner) if _INTEGER.fullmatch(inner) else float(inner)
            except ValueError:
                return inner
        if key in {"$oid", "$date", "$symbol", "$uuid"} and isinstance(inner, str):
            return inner.removesuffix("Z") if key == "$date" else inner
    return {key: _unwrap(inner) for key, inner in value.items()}


def _read_prototype(document: dict[str, Any]) -> Process:
    process = Process(0)
    _take(document, tree("prototype"), "", process, PROTOTYPE_SECTIONS)
    _keep_overruled("prototype", process, PROTOTYPE_SECTIONS)
    process.agent_options = _agent_options(document, "analysis_spec", "analysis_args")
    return process


def _read_framework(document: dict[str, Any]) -> list[Process]:
    processing = document.get("processing")
    entries = processing.get("data_processes") if isinstance(processing, dict) else None
    if not isinstance(entries, list) or not any(isinstance(entry, dict) for entry in entries):
        raise Rejection(
            "no_process",
            PROCESSES,
            f"A framework document has at least one object in '{PROCESSES}'; this one has "
            f"{_shorten(entries)}.",
        )
    record = Process(0)
    _take(document, tree("framework"), "", record, ())
    processes = []
    for index, entry in enumerate(entries[:LONGEST_LIST]):
        if not isinstance(entry, dict):
            record.reject(f"{PROCESSES}[{index}]", entry, "wrong_type", "an object")
            continue
        process = Process(index, values=dict(record.values))
        _take_process(entry, process)
        processes.append(process)
    if len(entries) > LONGEST_LIST:
        record.reject(
            PROCESSES, entries[LONGEST_LIST:], "wrong_value", f"at most {LONGEST_LIST:,} entries"
        )
    processes[0].attributes.extend(record.attributes)
    processes[0].rejected.extend(record.rejected)
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
    _take(entry, process_tree(), place, process, sections)
    _keep_overruled("framework", process, sections)
    process.agent_options = _agent_options(entry, "code", "parameters")


@cache
def _process_place(index: int) -> tuple[str, Sections]:
    """Return the path of a process in its document, and its sections."""
    place = f"{PROCESSES}[{index}]."
    return place, (
        (f"{place}code.parameters.", "parameters"),
        (f"{place}output_parameters.", "outputs"),
    )


def _keep_overruled(pipeline_format: str, process: Process, sections: Sections) -> None:
    """Keep as attributes the values of second places that differ from those of the first."""
    for first, *others in _alternatives(pipeline_format):
        for other in others:
            if process.values.get(first) is None or other not in process.values:
                continue
            value = process.values.pop(other)
            if value != process.values[first]:
                place, _, key = other.replace("[]", f"[{process.index}]", 1).rpartition(".")
                section, base = section_of(f"{place}.", sections)
                process.overruled[len(process.attributes)] = first
                _keep(value, section, base + key, process.attributes)


@cache
def _alternatives(pipeline_format: str) -> tuple[tuple[str, ...], ...]:
    """Return the paths of the columns that have several in a format."""
    return tuple(
        paths
        for table in ANALYSIS_TABLES
        for column in table.columns
        if len(paths := column.origins[pipeline_format].paths) > 1
    )


def _agent_options(section: Any, *way: str) -> dict[str, Any] | None:  # noqa: ANN401
    """Return the agent's keyword arguments in the specification that ``way`` leads to."""
    for key in (*way, "agent_kwargs"):
        section = section.get(key) if isinstance(section, dict) else None
    return section if isinstance(section, dict) else None


def _take(
    section: dict[str, Any],
    tree: dict[str, Node],
    place: str,
    process: Process,
    sections: Sections,
) -> None:
    """Add the values of one object to those of a process, its attributes or its rejections."""
    values = process.values
    kept_in, base = section_of(place, sections)
    for key, value in section.items():
        if value is None:
            continue
        if key not in tree:
            _keep(value, kept_in, base + step(key), process.attributes)
            continue
        node = tree[key]
        if node is None:
            continue
        if isinstance(node, dict):
            if isinstance(value, dict):
                _take(value, node, f"{place}{key}.", process, sections)
            else:
                process.reject(place + key, value, "wrong_type", "an object")
            continue
        # The commonest case, without a call.
        if node.shape == "" and not node.data_type.is_integer and type(value) in node.types:
            values[node.path] = value
            continue
        fitting = _fitting(value, node, place + key, process, sections)
        if fitting is not None:
            values[node.path] = fitting


def _fitting(
    value: Any,  # noqa: ANN401
    leaf: Leaf,
    place: str,
    process: Process,
    sections: Sections,
) -> Any:  # noqa: ANN401
    """Return what the contract reads of a value that is not null, None where it does not fit.

    Of a list or an object, an entry that does not fit is None. What does not fit is rejected.
    """
    if leaf.shape == "":
        return _scalar(value, leaf, place, process)
    expected = dict if leaf.shape == "*" else list
    if not isinstance(value, expected):
        process.reject(place, value, "wrong_type", CONTAINERS[expected])
        return None
    if leaf.inner is not None:
        return _values_of_entries(list(value), leaf, place, process, sections)
    if isinstance(value, dict):
        return {
            name: None if one is None else _scalar(one, leaf, f"{place}.{step(name)}", process)
            for name, one in value.items()
        }
    if set(map(type, value)) <= leaf.types | NONE:
        return value
    process.unconverted[leaf.path] = value
    return [
        None if one is None else _scalar(one, leaf, f"{place}[{index}]", process)
        for index, one in enumerate(value)
    ]


def _scalar(value: Any, leaf: Leaf, place: str, process: Process) -> Scalar | None:  # noqa: ANN401
    converted = _converted(value, leaf.data_type)
    if converted is None:
        reason = "wrong_value" if type(value) in leaf.types else "wrong_type"
        process.reject(place, value, reason, leaf.expected)
    return converted


def _converted(value: Any, data_type: DataType) -> Scalar | None:  # noqa: ANN401
    """Return a value in a column's type, None where the conversion would lose something."""
    if data_type is DataType.DOUBLE:
        return _number(value)
    if data_type.is_integer:
        return _integer(_number(value), data_type)
    if data_type is DataType.VARCHAR:
        return _text(value)
    if type(value) is (bool if data_type is DataType.BOOLEAN else str):
        return value
    return None


def _number(value: Any) -> float | None:  # noqa: ANN401
    if type(value) is str:
        value = float(value) if _JSON_NUMBER.fullmatch(value) else None
        return value if value is not None and math.isfinite(value) else None
    return value if type(value) in NUMBERS else None


def _integer(number: float | None, data_type: DataType) -> int | None:
    smallest, largest = data_type.integer_range
    if number is None or not smallest <= number <= largest or int(number) != number:
        return None
    return int(number)


def _text(value: Any) -> str | None:  # noqa: ANN401
    if type(value) is str:
        return value
    if type(value) is bool:
        return "true" if value else "false"
    is_integral = type(value) is int or (
        type(value) is float and abs(value) <= LARGEST_EXACT and value == int(value)
    )
    return str(int(value)) if is_integral else None


def _values_of_entries(
    entries: list[Any], leaf: Leaf, place: str, process: Process, sections: Sections
) -> list[Scalar | None]:
    """Return the one value that the contract reads from each object of a list."""
    taken: list[Scalar | None] = []
    for index, entry in enumerate(entries):
        inner = Process(process.index)
        if isinstance(entry, dict):
            _take(entry, leaf.inner or {}, f"{place}[{index}].", inner, sections)
        else:
            inner.reject(f"{place}[{index}]", entry, "wrong_type", "an object")
        taken.append(inner.values.get(leaf.path))
        process.attributes.extend(inner.attributes)
        process.rejected.extend(inner.rejected)
    return taken


def _keep(value: Any, section: str, path: str, kept: list[Attribute]) -> None:  # noqa: ANN401
    """Add the scalars at and below a place that the contract does not know."""
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            _keep(inner, section, f"{path}.{step(key)}", kept)
    elif kind is list:
        for index, inner in enumerate(value):
            _keep(inner, section, f"{path}[{index}]", kept)
    elif value is not None:
        kept.append((section, path, value))


def _shorten(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    quoted = canonical_json(value)
    return quoted if len(quoted) <= _MESSAGE_LENGTH else quoted[:_MESSAGE_LENGTH] + "…"
