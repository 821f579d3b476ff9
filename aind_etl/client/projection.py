"""Projections: the part of a document that a MongoDB server would return."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from aind_etl.errors import ArgumentError

JsonDocument: TypeAlias = dict[str, Any]
_Tree: TypeAlias = dict[str, "_Tree | None"]

_ID = "_id"
_MISSING = object()


def parse_projection(
    projection: Mapping[str, Any] | None,
) -> Callable[[JsonDocument], JsonDocument]:
    """Return the function that applies a projection to a document.

    Parameters
    ----------
    projection
        Dotted paths to 1, the fields to return, or to 0, the fields to leave out. With fields to
        return, new names may map to ``"$path"``, the value at a path. ``_id`` is returned unless it
        is 0. Without a projection, documents are returned whole.

    Raises
    ------
    ArgumentError
        It is not a projection, or one that a server would refuse.
    """
    if projection is None or projection == {}:
        return lambda document: document
    if not isinstance(projection, Mapping):
        raise ArgumentError(f"The projection is {projection!r}; expected a dictionary.")
    flags: dict[str, bool] = {}
    computed: dict[str, list[str]] = {}
    for path, value in _flattened(projection):
        if isinstance(value, str):
            computed[path] = _source_path(path, value)
        elif isinstance(value, bool | int | float):
            flags[path] = bool(value)
        else:
            raise ArgumentError(
                f"The projection has {value!r} at {path!r}; expected 1, 0 or a path such as "
                "'$name'. Operators are not supported."
            )
    with_id = flags.pop(_ID, True)
    is_inclusion = bool(computed) or any(flags.values()) or (not flags and with_id)
    if any(flag != is_inclusion for flag in flags.values()):
        raise ArgumentError(
            f"The projection {dict(projection)!r} both includes and excludes fields; only _id may "
            "be left out of the fields that are included."
        )
    named = _tree([*flags, *([_ID] if with_id == is_inclusion else [])], computed)

    def project(document: JsonDocument) -> JsonDocument:
        result: JsonDocument = _project(document, named, is_inclusion=is_inclusion)
        values = {name: _value_at(document, steps) for name, steps in computed.items()}
        return result | {name: one for name, one in values.items() if one is not _MISSING}

    return project


def _flattened(projection: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted paths and values of a projection, whose objects may be nested."""
    for name, value in projection.items():
        if not isinstance(name, str) or not all(name.split(".")) or name.startswith("$"):
            raise ArgumentError(f"The projection has the path {name!r}; expected a dotted path.")
        path = f"{above}.{name}" if above else name
        if isinstance(value, Mapping) and value and not any(key[:1] == "$" for key in value):
            yield from _flattened(value, path)
        else:
            yield path, value


def _source_path(name: str, value: str) -> list[str]:
    steps = value.removeprefix("$").split(".")
    if not value.startswith("$") or value.startswith("$$") or not all(steps):
        raise ArgumentError(
            f"The projection has {value!r} at {name!r}; expected 1, 0 or a path such as '$name'."
        )
    if "." in name:
        raise ArgumentError(f"The projection's new name {name!r} has a dot; expected a plain name.")
    return steps


def _tree(paths: list[str], computed: Mapping[str, object]) -> _Tree:
    """Return paths as a tree, whose leaves are None."""
    tree: _Tree = {}
    for path in paths:
        *above, last = path.split(".")
        branch: _Tree | None = tree
        for step in above:
            branch = branch.setdefault(step, {}) if branch is not None else None
        if branch is None or last in branch or path.split(".")[0] in computed:
            raise ArgumentError(f"The projection names {path!r} and a path above or below it.")
        branch[last] = None
    return tree


def _project(value: Any, tree: _Tree, *, is_inclusion: bool) -> Any:  # noqa: ANN401 - any JSON
    """Return the parts of a value that a tree names, or all others, in each object of a list."""
    if isinstance(value, list):
        kept = (_project(one, tree, is_inclusion=is_inclusion) for one in value)
        return [one for one in kept if one is not _MISSING]
    if not isinstance(value, dict):
        return _MISSING if is_inclusion else value
    result = {}
    for name, inner in value.items():
        branch = tree.get(name)
        if branch is not None:
            result[name] = _project(inner, branch, is_inclusion=is_inclusion)
        elif (name in tree) == is_inclusion:
            result[name] = inner
    return {name: inner for name, inner in result.items() if inner is not _MISSING}


def _value_at(value: Any, steps: list[str]) -> Any:  # noqa: ANN401 - any JSON
    """Return the value at a path; of a list, those of the objects in it."""
    for depth, step in enumerate(steps):
        if isinstance(value, list):
            found = (_value_at(one, steps[depth:]) for one in value if isinstance(one, dict))
            return [one for one in found if one is not _MISSING]
        if not isinstance(value, dict) or step not in value:
            return _MISSING
        value = value[step]
    return value
