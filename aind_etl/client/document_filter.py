"""MongoDB filters of documents, parsed and checked.

:func:`parse_filter` turns a filter into a tree of conditions with few operators: ``$ne`` becomes a
negation, ``$in`` an alternative. :mod:`aind_etl.client.filter_sql` translates the tree to SQL.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal, NamedTuple, TypeAlias

from aind_etl.errors import ArgumentError
from aind_etl.text import in_words, suggest

Scalar: TypeAlias = str | int | float | bool
Sign: TypeAlias = Literal["=", ">", ">=", "<", "<="]


class Compare(NamedTuple):
    """The value has the type of another value, and compares with it as the sign says."""

    sign: Sign
    value: Scalar


class OneOf(NamedTuple):
    """The value is one of several strings."""

    values: frozenset[str]


class IsNull(NamedTuple):
    """The value is null or missing."""


class IsPresent(NamedTuple):
    """There is a value, which may be null."""


class Matches(NamedTuple):
    """The value is a string in which a regular expression is found."""

    pattern: re.Pattern[str]


class HasEntry(NamedTuple):
    """The value is a list with an entry that meets a condition.

    The condition is about the entry itself, by the path ``""``, if ``of_values``, and otherwise
    about the fields of an object.
    """

    condition: "Condition"
    of_values: bool


Test: TypeAlias = Compare | OneOf | IsNull | IsPresent | Matches | HasEntry


class At(NamedTuple):
    """Any value at a dotted path passes a test."""

    path: str
    test: Test


class AllOf(NamedTuple):
    """Every condition holds; true without any."""

    conditions: "tuple[Condition, ...]"


class AnyOf(NamedTuple):
    """One of the conditions holds; false without any."""

    conditions: "tuple[Condition, ...]"


class Not(NamedTuple):
    """A condition does not hold."""

    condition: "Condition"


Condition: TypeAlias = At | AllOf | AnyOf | Not

LOGICAL = ("$and", "$or", "$nor")
"""Operators that combine filters."""
_SIGNS: dict[str, Sign] = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_TESTS = (
    *_SIGNS,
    "$ne",
    "$in",
    "$nin",
    "$exists",
    "$regex",
    "$options",
    "$not",
    "$elemMatch",
)
_PATTERN_OPTIONS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
_MOST_LEVELS = 100
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def parse_filter(query: Mapping[str, Any]) -> Condition:
    """Return the condition that a MongoDB filter expresses.

    Parameters
    ----------
    query
        The filter: paths and values, ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``,
        ``$in``, ``$nin``, ``$exists``, ``$regex`` with ``$options``, ``$not``, ``$elemMatch``,
        ``$and``, ``$or`` and ``$nor``.

    Raises
    ------
    ArgumentError
        It is not a filter, or has a part that is not supported, which is named.
    """
    refuse_deep_nesting(query)
    return _parse(query)


def refuse_deep_nesting(query: object) -> None:
    """Raise an ArgumentError for a filter whose nesting would exhaust the stack."""
    level = [query]
    for _ in range(_MOST_LEVELS):
        level = [
            inner
            for one in level
            if isinstance(one, Mapping | list | tuple)
            for inner in (one.values() if isinstance(one, Mapping) else one)
        ]
        if not level:
            return
    raise ArgumentError(
        f"The filter is nested more than {_MOST_LEVELS} levels deep; give a flatter one."
    )


def _parse(query: Mapping[str, Any]) -> Condition:
    if not isinstance(query, Mapping):
        raise ArgumentError(
            f"A filter is a dictionary such as {{'subject_id': '730945'}}, not {query!r}."
        )
    conditions = []
    for key, value in query.items():
        if not isinstance(key, str):
            raise ArgumentError(f"The filter has the key {key!r}; expected a string.")
        if key in LOGICAL:
            conditions.append(_combine(key, value))
        elif key.startswith("$"):
            raise _unknown_operator(key, "the filter", LOGICAL)
        else:
            conditions.append(_at(key, value))
    return _all_of(conditions)


def _combine(operator: str, value: object) -> Condition:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ArgumentError(f"'{operator}' takes a list of filters, not {value!r}.")
    conditions = tuple(_parse(one) for one in value)
    if operator == "$and":
        return _all_of(conditions)
    either = conditions[0] if len(conditions) == 1 else AnyOf(conditions)
    return either if operator == "$or" else Not(either)


def _all_of(conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _at(path: str, value: object) -> Condition:
    steps = path.split(".")
    if not all(steps) or any(step.startswith("$") for step in steps):
        raise ArgumentError(
            f"{path!r} is not a path; expected names with single dots between them, such as "
            "'analysis_results.n_trials'."
        )
    if not isinstance(value, Mapping):
        return _equal(path, value)
    if value and all(isinstance(key, str) and key.startswith("$") for key in value):
        return _all_tests(path, value)
    raise ArgumentError(
        f"The filter compares '{path}' with a whole object, {_short(value)}. Name its fields "
        f"instead, each by its path, such as '{path}.{next(iter(value), 'name')}'."
    )


def _all_tests(path: str, tests: Mapping[str, Any]) -> Condition:
    if "$options" in tests and "$regex" not in tests:
        raise ArgumentError(f"'$options' at '{path}' needs a '$regex' beside it.")
    return _all_of(
        [
            _test(path, operator, value, tests.get("$options"))
            for operator, value in tests.items()
            if operator != "$options"
        ]
    )


def _test(path: str, operator: str, value: object, options: object) -> Condition:  # noqa: PLR0911 - one for each operator
    match operator:
        case "$eq":
            return _equal(path, value)
        case "$ne":
            return Not(_equal(path, value))
        case "$in":
            return _in(path, value)
        case "$nin":
            return Not(_in(path, value))
        case "$exists":
            return _exists(path, value)
        case "$regex":
            return At(path, _matches(path, value, options))
        case "$not":
            return _not(path, value)
        case "$elemMatch":
            return _element_match(path, value)
        case "$gt" | "$gte" | "$lt" | "$lte":
            return At(path, Compare(_SIGNS[operator], _scalar(path, operator, value)))
    raise _unknown_operator(operator, f"'{path}'", _TESTS)


def _equal(path: str, value: object) -> Condition:
    if value is None:
        return At(path, IsNull())
    if isinstance(value, re.Pattern):
        return At(path, _matches(path, value))
    return At(path, Compare("=", _scalar(path, "$eq", value)))


def _in(path: str, value: object) -> Condition:
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str):
        raise ArgumentError(f"At '{path}', '$in' and '$nin' take a list of values, not {value!r}.")
    # One test for all strings: there may be thousands.
    strings = frozenset(one for one in value if isinstance(one, str))
    others = [_equal(path, one) for one in value if not isinstance(one, str)]
    return AnyOf((*([At(path, OneOf(strings))] if strings else []), *others))


def _exists(path: str, value: object) -> Condition:
    if not isinstance(value, bool | int):
        raise ArgumentError(f"At '{path}', '$exists' takes True or False, not {value!r}.")
    present = At(path, IsPresent())
    return present if value else Not(present)


def _not(path: str, value: object) -> Condition:
    if isinstance(value, re.Pattern):
        return Not(At(path, _matches(path, value)))
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(
            f"At '{path}', '$not' takes operators such as {{'$gt': 5}}, not {value!r}."
        )
    return Not(_all_tests(path, value))


def _element_match(path: str, value: object) -> Condition:
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(
            f"At '{path}', '$elemMatch' takes what an entry must meet, not {value!r}."
        )
    if all(key in _TESTS for key in value):
        return At(path, HasEntry(_all_tests("", value), of_values=True))
    return At(path, HasEntry(_parse(value), of_values=False))


def _scalar(path: str, operator: str, value: object) -> Scalar:
    if isinstance(value, date):
        raise ArgumentError(
            f"At '{path}' the filter compares with the date {value.isoformat()!r}. Dates in the "
            "documents are strings, and compare as strings: give a string."
        )
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        raise ArgumentError(
            f"At '{path}', '{operator}' compares with {_short(value)}; expected an integer of at "
            "most 64 bits. Give a float."
        )
    if isinstance(value, str | bool | int | float):
        return value
    raise ArgumentError(
        f"At '{path}', '{operator}' compares with {_short(value)}; expected a string, a number, "
        "True or False."
    )


def _matches(path: str, value: object, options: object = None) -> Matches:
    # As on a server, classes such as \w are those of ASCII.
    flags = int(re.ASCII)
    if isinstance(value, re.Pattern):
        flags |= 0 if options else value.flags & sum(_PATTERN_OPTIONS.values())
        value = value.pattern
    options = options or ""
    if not isinstance(value, str):
        raise ArgumentError(f"At '{path}', '$regex' takes a string, not {_short(value)}.")
    if not isinstance(options, str) or not set(options) <= _PATTERN_OPTIONS.keys():
        raise ArgumentError(
            f"At '{path}', '$options' takes letters out of {in_words(_PATTERN_OPTIONS, 'and')}, "
            f"not {options!r}."
        )
    for option in options:
        flags |= _PATTERN_OPTIONS[option]
    try:
        return Matches(re.compile(value, flags))
    except re.error as error:
        raise ArgumentError(f"The regular expression {value!r} cannot be read: {error}.") from None


def _unknown_operator(operator: str, place: str, known: Sequence[str]) -> ArgumentError:
    if operator in _TESTS:
        hint = "It belongs at a path."
    elif operator in LOGICAL:
        hint = "It belongs outside of paths."
    else:
        hint = suggest(operator, known)
    return ArgumentError(f"The operator '{operator}' at {place} is not supported. {hint}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python refuses to write out integers of more than some thousand digits.
        return f"a value of the type {type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - as messages show it
