"""Parsing one document along the paths of the contract.

A value at a path of the contract is converted to the type of its column, or rejected if it does not
fit; a value anywhere else becomes an attribute. Nothing is derived from the values here; see
:mod:`aind_etl.flatten.derived`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

import orjson

from aind_etl.contract import DataType
from aind_etl.contract.columns import AGENT_OPTIONS
from aind_etl.flatten.conversion import Scalar, convert, expected_values, json_types
from aind_etl.flatten.paths import ALTERNATIVES, PROCESS_TREE, PROCESSES, TREES, Leaf, Node
from aind_etl.sources.canonical import UNREADABLE_PREFIX, canonical_json, explain_unreadable

LONGEST_VALUE = 1_000
"""Characters kept of a rejected value's JSON."""
LONGEST_LIST = DataType.SMALLINT.integer_range[1]
"""Entries of the longest list whose positions fit their column."""
_MESSAGE_LENGTH = 80
Sections: TypeAlias = tuple[tuple[str, str], ...]
"""Prefixes of paths, and the section of the attributes below each."""
_PROTOTYPE_SECTIONS: Sections = (
    ("analysis_spec.analysis_args.", "parameters"),
    ("analysis_results.", "outputs"),
)
_NULL = frozenset({type(None)})


@dataclass(eq=False)
class Rejection(Exception):  # noqa: N818 - a verdict on a document, not an error of the program
    """A document has no row in `analyses`: the reason as a short code, and the path in question."""

    reason: str
    message: str
    path: str | None = None


Attribute: TypeAlias = tuple[str, str, Scalar]
"""Section, path and value of a scalar that has no column in the contract."""


class RejectedValue(NamedTuple):
    """A value that does not fit its column, which is NULL instead.

    The reason is ``wrong_type``, ``wrong_value``, ``lengths_differ`` or ``unnamed_bounds``; the
    value is JSON, at most :data:`LONGEST_VALUE` characters of it.
    """

    path: str
    reason: str
    value: str
    expected: str


@dataclass(slots=True)
class Process:
    """One parsed analysis process of a document.

    Attributes
    ----------
    index
        Its position in the document.
    values
        The value at each path of the contract: a scalar, a list for ``[]``, an object for ``*``.
    attributes
        The values at other paths.
    conflicting
        Attributes that exist because they differ from the value that their column has: position
        in ``attributes``, and path of that value.
    unconverted
        The lists in ``values`` whose entries were converted or rejected, as in the document.
    """

    index: int
    sections: Sections
    values: dict[str, Any] = field(default_factory=dict)
    attributes: list[Attribute] = field(default_factory=list)
    conflicting: dict[int, str] = field(default_factory=dict)
    rejected: list[RejectedValue] = field(default_factory=list)
    unconverted: dict[str, list[Any]] = field(default_factory=dict)

    def reject(self, path: str, value: object, reason: str, expected: str) -> None:
        """Record a value that does not fit its column."""
        self.rejected.append(
            RejectedValue(path, reason, canonical_json(value)[:LONGEST_VALUE], expected)
        )


def read_document(record_id: str, text: str) -> tuple[str, list[Process]]:
    """Return the format of a document, from its canonical JSON, and its processes, at least one.

    Raises
    ------
    Rejection
        It is not a JSON object with an ``_id``, is of neither format, or has no process.
    """
    document = _parse(record_id, text)
    if "processing" in document or document.get("object_type") == "Metadata":
        return "framework", _read_framework(document)
    if "analysis_spec" in document or "nwb_name" in document:
        process = Process(0, _PROTOTYPE_SECTIONS)
        _read_object(document, TREES["prototype"], "", process)
        _keep_conflicting("prototype", process)
        return "prototype", [process]
    raise Rejection(
        "unknown_format",
        "The document is of neither format: a prototype document has 'analysis_spec' and "
        f"'nwb_name', a framework document 'processing'; this one has {_shorten(list(document))}.",
    )


def agent_options(
    text: str, pipeline_format: str, indices: Iterable[int]
) -> Iterator[dict[str, Any]]:
    """Yield the agent's keyword arguments of the processes at ``indices`` of a document.

    They are empty if the process has none, or something other than an object in their place.
    """
    document = _parse("", text)
    for index in indices:
        value: Any = document
        for key in AGENT_OPTIONS[pipeline_format].split("."):
            value = value.get(key.removesuffix("[]")) if isinstance(value, dict) else None
            if key.endswith("[]"):
                value = value[index]
        yield value if isinstance(value, dict) else {}


def _parse(record_id: str, text: str) -> dict[str, Any]:
    value = orjson.loads(text)
    if isinstance(value, str) and record_id.startswith(UNREADABLE_PREFIX):
        raise Rejection(
            "not_json",
            f"The document is not valid JSON ({explain_unreadable(value)}): {_shorten(value)}. "
            "Correct it in the source.",
        )
    if not isinstance(value, dict):
        raise Rejection(
            "not_an_object", f"A document is a JSON object; this one is {_shorten(value)}."
        )
    if value.get("_id") is None:
        raise Rejection(
            "missing_id",
            f"A document has an '_id'; this one has {_shorten(list(value))}. Correct it in the "
            "source.",
            "_id",
        )
    # Only documents with a type that plain JSON lacks have keys that begin with a dollar sign.
    return _unwrap(value) if '{"$' in text else value


def _unwrap(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Replace extended JSON by the values that it encodes."""
    if isinstance(value, list):
        return [_unwrap(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        key, inner = next(iter(value.items()))
        if key in {"$numberDouble", "$numberDecimal"} and isinstance(inner, str):
            try:
                return int(inner) if re.fullmatch(r"-?[0-9]+", inner) else float(inner)
            except ValueError:
                return inner
        if key in {"$oid", "$date", "$symbol", "$uuid"} and isinstance(inner, str):
            return inner.removesuffix("Z") if key == "$date" else inner
    return {key: _unwrap(inner) for key, inner in value.items()}


def _read_framework(document: dict[str, Any]) -> list[Process]:
    processing = document.get("processing")
    entries = processing.get("data_processes") if isinstance(processing, dict) else None
    if not isinstance(entries, list) or not any(isinstance(entry, dict) for entry in entries):
        raise Rejection(
            "no_process",
            f"A framework document has at least one object in '{PROCESSES}'; this one has "
            f"{_shorten(entries)}.",
            PROCESSES,
        )
    record = Process(0, ())
    _read_object(document, TREES["framework"], "", record)
    processes = []
    for index, entry in enumerate(entries[:LONGEST_LIST]):
        if isinstance(entry, dict):
            processes.append(_read_process(entry, index, record.values))
        else:
            record.reject(f"{PROCESSES}[{index}]", entry, "wrong_type", "an object")
    if len(entries) > LONGEST_LIST:
        record.reject(
            PROCESSES, entries[LONGEST_LIST:], "wrong_value", f"at most {LONGEST_LIST:,} entries"
        )
    processes[0].attributes.extend(record.attributes)
    processes[0].rejected.extend(record.rejected)
    return processes


def _read_process(entry: dict[str, Any], index: int, record_values: dict[str, Any]) -> Process:
    """Read one entry of a framework document's processes."""
    place = f"{PROCESSES}[{index}]."
    sections = (
        (f"{place}code.parameters.", "parameters"),
        (f"{place}output_parameters.", "outputs"),
    )
    process = Process(index, sections, dict(record_values))
    outputs = entry.get("output_parameters")
    if isinstance(outputs, list):
        # Early versions of the framework wrote a list: empty, or with one object.
        if len(outputs) == 1 and isinstance(outputs[0], dict):
            entry = {**entry, "output_parameters": outputs[0]}
        else:
            entry = {**entry, "output_parameters": None}
            _add_attributes(outputs, "outputs", "", process.attributes)
    _read_object(entry, PROCESS_TREE, place, process)
    _keep_conflicting("framework", process)
    return process


def _keep_conflicting(pipeline_format: str, process: Process) -> None:
    """Make attributes of the values that differ from the one that their column has."""
    for first, *others in ALTERNATIVES[pipeline_format]:
        for other in others:
            if process.values.get(first) is None or other not in process.values:
                continue
            value = process.values.pop(other)
            if value != process.values[first]:
                parent, _, key = other.replace("[]", f"[{process.index}]", 1).rpartition(".")
                section, base = _section_of(f"{parent}.", process.sections)
                process.conflicting[len(process.attributes)] = first
                _add_attributes(value, section, base + key, process.attributes)


def _section_of(place: str, sections: Sections) -> tuple[str, str]:
    """Return the section of the attributes below ``place``, and the prefix of their paths."""
    for prefix, section in sections:
        if place.startswith(prefix):
            return section, place.removeprefix(prefix)
    return "record", place


def _read_object(
    section: dict[str, Any], tree: dict[str, Node], place: str, process: Process
) -> None:
    """Add the values of an object, whose path is ``place``, to a process."""
    values = process.values
    attributes_section, base = _section_of(place, process.sections)
    for key, value in section.items():
        if value is None:
            continue
        if key not in tree:
            _add_attributes(value, attributes_section, base + _path_key(key), process.attributes)
            continue
        node = tree[key]
        if node is None:
            continue
        if isinstance(node, dict):
            if isinstance(value, dict):
                _read_object(value, node, f"{place}{key}.", process)
            else:
                process.reject(place + key, value, "wrong_type", "an object")
            continue
        # The most common case, without a call.
        if node.container is None and type(value) in node.stored_types:
            values[node.path] = value
            continue
        fitting = _read_value(value, node, place + key, process)
        if fitting is not None:
            values[node.path] = fitting


def _read_value(value: Any, leaf: Leaf, place: str, process: Process) -> Any:  # noqa: ANN401
    """Return a value as its column stores it; reject it and return None if it does not fit.

    An entry of a list or an object that does not fit is rejected by itself, and None.
    """
    if leaf.container is None:
        return _read_scalar(value, leaf, place, process)
    if leaf.container is dict and isinstance(value, dict):
        return {
            name: _read_scalar(entry, leaf, f"{place}.{_path_key(name)}", process)
            for name, entry in value.items()
        }
    if leaf.container is list and isinstance(value, list):
        if leaf.inner is not None:
            return _read_entries(value, leaf, leaf.inner, place, process)
        if set(map(type, value)) <= leaf.stored_types | _NULL:
            return value
        process.unconverted[leaf.path] = value
        return [
            _read_scalar(entry, leaf, f"{place}[{index}]", process)
            for index, entry in enumerate(value)
        ]
    expected = "an object" if leaf.container is dict else "a list"
    process.reject(place, value, "wrong_type", expected)
    return None


def _read_scalar(value: Any, leaf: Leaf, place: str, process: Process) -> Scalar | None:  # noqa: ANN401
    if value is None:
        return None
    converted = convert(value, leaf.data_type)
    if converted is None:
        is_of_type = type(value) in json_types(leaf.data_type)
        reason = "wrong_value" if is_of_type else "wrong_type"
        process.reject(place, value, reason, expected_values(leaf.data_type))
    return converted


def _read_entries(
    entries: list[Any], leaf: Leaf, tree: dict[str, Node], place: str, process: Process
) -> list[Scalar | None]:
    """Return the one value that the contract reads from each object of a list."""
    found: list[Scalar | None] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            _read_object(entry, tree, f"{place}[{index}].", process)
        else:
            process.reject(f"{place}[{index}]", entry, "wrong_type", "an object")
        found.append(process.values.pop(leaf.path, None))
    return found


def _add_attributes(
    value: Any,  # noqa: ANN401
    section: str,
    path: str,
    attributes: list[Attribute],
) -> None:
    """Add the scalars at and below a path that the contract does not have."""
    kind = type(value)
    if kind is dict:
        for key, inner in value.items():
            _add_attributes(inner, section, f"{path}.{_path_key(key)}", attributes)
    elif kind is list:
        for index, inner in enumerate(value):
            _add_attributes(inner, section, f"{path}[{index}]", attributes)
    elif value is not None:
        attributes.append((section, path, value))


def _path_key(key: str) -> str:
    """Return a key as paths contain it: quoted if it could be taken for several keys."""
    return orjson.dumps(key).decode() if "." in key or "[" in key else key


def _shorten(value: object) -> str:
    """Return a value's JSON for a message, cut if it is long."""
    quoted = canonical_json(value)
    return quoted if len(quoted) <= _MESSAGE_LENGTH else quoted[:_MESSAGE_LENGTH] + "…"
