"""Filters of documents as MongoDB writes them, understood and checked.

A filter becomes a tree of conditions in which only the simplest operators are left: ``$ne`` is a
negation, ``$in`` an alternative. What conditions mean is said in
:mod:`aind_etl.client.document_matching`, which asks a document, and in
:mod:`aind_etl.client.filter_sql`, which asks the warehouse's columns.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, TypeAlias

from aind_etl.errors import ArgumentError
from aind_etl.text import in_words, suggest

Scalar: TypeAlias = str | int | float | bool


class Order(StrEnum):
    """A comparison of two values of the same type; the value is its sign in SQL."""

    EQUAL = "="
    GREATER = ">"
    GREATER_OR_EQUAL = ">="
    LESS = "<"
    LESS_OR_EQUAL = "<="


@dataclass(frozen=True, slots=True)
class Compare:
    """The value has the type of another, and compares to it as the order says."""

    order: Order
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """The value is one of several texts."""

    values: frozenset[str]


@dataclass(frozen=True, slots=True)
class IsNull:
    """The value is null, or there is none."""


@dataclass(frozen=True, slots=True)
class IsPresent:
    """There is a value, be it null."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The value is a text in which a regular expression is found.

    Attributes
    ----------
    pattern
        The expression.
    options
        Any of ``i``, ``m``, ``s`` and ``x``, as in MongoDB's ``$options``.
    """

    pattern: str
    options: str = ""


@dataclass(frozen=True, slots=True)
class HasEntry:
    """The value is a list with an entry that meets a condition.

    Attributes
    ----------
    condition
        What the entry must meet.
    of_values
        Whether the condition speaks of the entry itself, by the path ``""``, rather than of an
        object's fields.
    """

    condition: "Condition"
    of_values: bool


Test: TypeAlias = Compare | OneOf | IsNull | IsPresent | Matches | HasEntry


@dataclass(frozen=True, slots=True)
class At:
    """Any value at a dotted path passes a test."""

    path: str
    test: Test


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every condition holds; of none, too."""

    conditions: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the conditions holds; of none, none."""

    conditions: "tuple[Condition, ...]"


@dataclass(frozen=True, slots=True)
class Not:
    """A condition does not hold."""

    condition: "Condition"


Condition: TypeAlias = At | AllOf | AnyOf | Not

_ORDERS = {
    "$eq": Order.EQUAL,
    "$gt": Order.GREATER,
    "$gte": Order.GREATER_OR_EQUAL,
    "$lt": Order.LESS,
    "$lte": Order.LESS_OR_EQUAL,
}
_COMBINING = ("$and", "$or", "$nor")
_TESTING = (
    *_ORDERS,
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


def parse_filter(query: Mapping[str, Any]) -> Condition:
    """Return what a MongoDB filter asks for.

    Parameters
    ----------
    query
        The filter: paths and values, ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``,
        ``$in``, ``$nin``, ``$exists``, ``$regex`` with ``$options``, ``$not``, ``$elemMatch``,
        ``$and``, ``$or`` and ``$nor``.

    Raises
    ------
    ArgumentError
        It is no filter, or holds something that is not understood, which is named.
    """
    if not isinstance(query, Mapping):
        raise ArgumentError(
            f"A filter is a dictionary such as {{'subject_id': '730945'}}, not {query!r}."
        )
    conditions = []
    for key, value in query.items():
        if not isinstance(key, str):
            raise ArgumentError(f"The keys of a filter are texts; {key!r} is none.")
        if key in _COMBINING:
            conditions.append(_combine(key, value))
        elif key.startswith("$"):
            raise _unknown_operator(key, "the filter", _COMBINING)
        else:
            conditions.append(_at(_checked_path(key), value))
    return _all_of(conditions)


def compile_pattern(test: Matches) -> re.Pattern[str]:
    """Return a regular expression for Python, whose classes mean ASCII, as the server's do.

    Raises
    ------
    ArgumentError
        It is none.
    """
    flags = re.ASCII
    for option in test.options:
        flags |= _PATTERN_OPTIONS[option]
    try:
        return re.compile(test.pattern, flags)
    except re.error as error:
        raise ArgumentError(
            f"The regular expression {test.pattern!r} cannot be read: {error}."
        ) from None


def _combine(operator: str, value: object) -> Condition:
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise ArgumentError(f"'{operator}' takes a list of filters, not {value!r}.")
    conditions = tuple(parse_filter(one) for one in value)
    if operator == "$and":
        return _all_of(conditions)
    either = conditions[0] if len(conditions) == 1 else AnyOf(conditions)
    return either if operator == "$or" else Not(either)


def _all_of(conditions: Sequence[Condition]) -> Condition:
    return conditions[0] if len(conditions) == 1 else AllOf(tuple(conditions))


def _checked_path(path: str) -> str:
    steps = path.split(".")
    if not all(steps) or any(step.startswith("$") for step in steps):
        raise ArgumentError(
            f"{path!r} is no path: give names with single dots between them, such as "
            "'analysis_results.n_trials'."
        )
    return path


def _at(path: str, value: object) -> Condition:
    """Return the condition of a path and the value beside it."""
    if isinstance(value, Mapping):
        operators = [key for key in value if isinstance(key, str) and key.startswith("$")]
        if operators and len(operators) == len(value):
            return _tests(path, value)
        raise ArgumentError(
            f"The filter compares '{path}' with a whole object, {_short(value)}. Name its fields "
            f"instead, each by its path, such as '{path}.{next(iter(value), 'name')}'."
        )
    return _equal(path, value)


def _tests(path: str, tests: Mapping[str, Any]) -> Condition:
    if "$options" in tests and "$regex" not in tests:
        raise ArgumentError(f"'$options' at '{path}' needs a '$regex' beside it.")
    return _all_of(
        [
            _test(path, operator, value, tests)
            for operator, value in tests.items()
            if operator != "$options"
        ]
    )


def _test(path: str, operator: str, value: object, beside: Mapping[str, Any]) -> Condition:
    """Return the condition that one operator makes."""
    if operator == "$eq":
        return _equal(path, value)
    if operator in _ORDERS:
        return At(path, Compare(_ORDERS[operator], _scalar(path, operator, value)))
    if operator == "$regex":
        return At(path, _pattern(path, value, beside.get("$options")))
    made = _MADE.get(operator)
    if made is None:
        raise _unknown_operator(operator, f"'{path}'", _TESTING)
    return made(path, value)


def _not_equal(path: str, value: object) -> Condition:
    return Not(_equal(path, value))


def _in(path: str, value: object) -> Condition:
    if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str):
        raise ArgumentError(f"At '{path}', '$in' and '$nin' take a list of values, not {value!r}.")
    # Thousands of texts are asked for at once.
    texts = frozenset(one for one in value if isinstance(one, str))
    others = [_equal(path, one) for one in value if not isinstance(one, str)]
    return AnyOf((*([At(path, OneOf(texts))] if texts else []), *others))


def _not_in(path: str, value: object) -> Condition:
    return Not(_in(path, value))


def _exists(path: str, value: object) -> Condition:
    if not isinstance(value, bool | int):
        raise ArgumentError(f"At '{path}', '$exists' takes True or False, not {value!r}.")
    present = At(path, IsPresent())
    return present if value else Not(present)


def _not(path: str, value: object) -> Condition:
    if isinstance(value, re.Pattern):
        return Not(At(path, _pattern(path, value, None)))
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(
            f"At '{path}', '$not' takes operators such as {{'$gt': 5}}, not {value!r}."
        )
    return Not(_tests(path, value))


def _element_match(path: str, value: object) -> Condition:
    if not isinstance(value, Mapping) or not value:
        raise ArgumentError(
            f"At '{path}', '$elemMatch' takes what an entry must meet, not {value!r}."
        )
    if all(key in _TESTING for key in value):
        return At(path, HasEntry(_tests("", value), of_values=True))
    return At(path, HasEntry(parse_filter(value), of_values=False))


_MADE: dict[str, Callable[[str, object], Condition]] = {
    "$ne": _not_equal,
    "$in": _in,
    "$nin": _not_in,
    "$exists": _exists,
    "$not": _not,
    "$elemMatch": _element_match,
}


def _equal(path: str, value: object) -> Condition:
    if value is None:
        return At(path, IsNull())
    if isinstance(value, re.Pattern):
        return At(path, _pattern(path, value, None))
    return At(path, Compare(Order.EQUAL, _scalar(path, "$eq", value)))


_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def _scalar(path: str, operator: str, value: object) -> Scalar:
    if isinstance(value, date):
        raise ArgumentError(
            f"At '{path}' the filter compares with the date {value.isoformat()!r}. Dates in the "
            "documents are texts, and compare as texts: give the text."
        )
    if isinstance(value, int) and not _SMALLEST <= value <= _LARGEST:
        raise ArgumentError(
            f"At '{path}', '{operator}' compares with {_short(value)}; expected an integer of at "
            "most 64 bits. Give a float."
        )
    if isinstance(value, str | bool | int | float):
        return value
    raise ArgumentError(
        f"At '{path}', '{operator}' with {_short(value)} is not understood: give a text, a number, "
        "or True or False."
    )


def _pattern(path: str, value: object, options: object) -> Matches:
    if isinstance(value, re.Pattern):
        if not isinstance(value.pattern, str):
            raise ArgumentError(f"The regular expression at '{path}' is of bytes; give a text.")
        given = "".join(name for name, flag in _PATTERN_OPTIONS.items() if value.flags & flag)
        value, options = value.pattern, options or given
    options = "" if options is None else options
    if not isinstance(value, str):
        raise ArgumentError(f"At '{path}', '$regex' takes a text, not {_short(value)}.")
    if not isinstance(options, str) or not set(options) <= _PATTERN_OPTIONS.keys():
        raise ArgumentError(
            f"At '{path}', '$options' takes letters out of {in_words(_PATTERN_OPTIONS, 'and')}, "
            f"not {options!r}."
        )
    test = Matches(value, "".join(sorted(set(options))))
    compile_pattern(test)
    return test


def _unknown_operator(operator: str, place: str, known: Sequence[str]) -> ArgumentError:
    others = _COMBINING if known is _TESTING else _TESTING
    if operator in others:
        where = "at a path" if operator in _TESTING else "outside of paths"
        hint = f"It belongs {where}."
    else:
        hint = suggest(operator, known)
    return ArgumentError(f"The operator '{operator}' at {place} is not understood. {hint}")


def _short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:
        # Python does not write out whole numbers of more than some thousand digits.
        return f"a value of the type {type(value).__name__} that is too long to show"
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - as messages show it
