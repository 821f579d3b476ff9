"""MongoDB filters of documents as SQL, with the semantics of a MongoDB server.

Values compare only with values of their type. :mod:`aind_etl.client.json_sql` finds the values at a
path.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from itertools import count
from typing import Any, NamedTuple, TypeAlias

from aind_etl.client import json_sql
from aind_etl.errors import ArgumentError
from aind_etl.text import in_words, suggest

Scalar: TypeAlias = str | int | float | bool
Names: TypeAlias = Mapping[str, tuple[str, ...]]
"""Names that mean a value at one of several paths."""
Test: TypeAlias = Callable[[str], str]
"""Returns SQL that is true where a value, given as SQL, passes a test."""

_LOGICAL = ("$and", "$or", "$nor")
_SIGNS = {"$eq": "=", "$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_DENIED = {"$ne": "$eq", "$nin": "$in"}
_TESTS = (*_SIGNS, *_DENIED, "$in", "$exists", "$regex", "$options", "$not", "$elemMatch")
_PATTERN_OPTIONS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
_MOST_LEVELS = 100
_HALF_PAIR = re.compile("[\ud800-\udfff]")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
# Up to here, floats hold every integer.
_FIRST_INEXACT = 2**53


class Place(NamedTuple):
    """A path in a document, or in an entry of a list at the path ``above``.

    ``document`` is SQL. The path ``""`` is the entry itself.
    """

    document: str
    path: str
    above: str = ""

    @property
    def full_path(self) -> str:
        """The path from the root of the document."""
        return ".".join(filter(None, (self.above, self.path)))


class DocumentFilter:
    """A MongoDB filter as SQL over a column `document` of canonical JSON.

    Parameters
    ----------
    query
        The filter: paths and values, ``$eq``, ``$ne``, ``$gt``, ``$gte``, ``$lt``, ``$lte``,
        ``$in``, ``$nin``, ``$exists``, ``$regex`` with ``$options``, ``$not``, ``$elemMatch``,
        ``$and``, ``$or`` and ``$nor``.
    names
        Names with the paths that they stand for, except in ``$elemMatch``.

    Attributes
    ----------
    predicate
        SQL that is true or false: whether the document meets the filter.
    parameters
        Values of the named parameters in it.
    functions
        The functions that it calls, by name: each takes a string and returns a boolean.
    paths
        Every path that the filter names.

    Raises
    ------
    ArgumentError
        It is not a filter, or has a part that is not supported, which is named.
    """

    def __init__(self, query: object, names: Names) -> None:
        _refuse_deep_nesting(query)
        self.parameters: dict[str, Any] = {}
        self.functions: dict[str, Callable[[str], bool]] = {}
        self.paths: set[str] = set()
        self._names = names
        self._numbers = count()
        self.predicate = self._meets("document", query)

    def _meets(self, document: str, query: object, above: str = "") -> str:
        """Return SQL that is true or false: whether a document or an entry meets a filter."""
        if not isinstance(query, Mapping):
            raise ArgumentError(
                f"A filter is a dictionary such as {{'subject_id': '730945'}}, not {query!r}."
            )
        conditions = []
        for key, value in query.items():
            if not isinstance(key, str):
                raise ArgumentError(f"The filter has the key {key!r}; expected a string.")
            if key in _LOGICAL:
                conditions.append(self._combination(document, key, value, above))
            elif key.startswith("$"):
                raise _unknown_operator(key, "the filter", _LOGICAL)
            elif key in self._names and not above:
                conditions.append(self._at_any(document, key, value))
            else:
                conditions.append(self._at(Place(document, key, above), value))
        return _join("AND", conditions)

    def _combination(self, document: str, operator: str, value: object, above: str) -> str:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise ArgumentError(f"'{operator}' takes a list of filters, not {value!r}.")
        conditions = [self._meets(document, one, above) for one in value]
        joined = _join("AND" if operator == "$and" else "OR", conditions)
        return f"NOT {joined}" if operator == "$nor" else joined

    def _at_any(self, document: str, name: str, value: object) -> str:
        """Return the condition that a value passes its tests at one of the paths of a name."""
        paths = self._names[name]
        conditions = []
        for path in paths:
            place = Place(document, path)
            condition = self._at(place, value)
            if path != name and len(paths) > 1:
                # A test such as $ne matches documents without a value at the path.
                condition = _join("AND", [self._exists(place, value=True), condition])
            conditions.append(condition)
        return _join("OR", conditions)

    def _at(self, place: Place, value: object) -> str:
        steps = place.path.split(".")
        if not all(steps) or any(step.startswith("$") for step in steps):
            raise ArgumentError(
                f"{place.path!r} is not a path; expected names with single dots between them, such "
                "as 'analysis_results.n_trials'."
            )
        if not isinstance(value, Mapping):
            return self._equal(place, value)
        if value and all(isinstance(key, str) and key.startswith("$") for key in value):
            return self._all_tests(place, value)
        raise ArgumentError(
            f"The filter compares '{place.path}' with a whole object, {_short(value)}. Name its "
            "fields instead, each by its path, such as "
            f"'{place.path}.{next(iter(value), 'name')}'."
        )

    def _all_tests(self, place: Place, tests: Mapping[str, Any]) -> str:
        options = tests.get("$options")
        if "$options" in tests and "$regex" not in tests:
            raise ArgumentError(f"'$options' at '{place.path}' needs a '$regex' beside it.")
        conditions = [
            self._test(place, operator, value, options)
            for operator, value in tests.items()
            if operator != "$options"
        ]
        return _join("AND", conditions)

    def _test(self, place: Place, operator: str, value: object, options: object) -> str:  # noqa: PLR0911 - one for each operator
        match operator:
            case "$eq":
                return self._equal(place, value)
            case "$in":
                return self._in(place, value)
            case "$ne" | "$nin":
                return f"NOT {self._test(place, _DENIED[operator], value, options)}"
            case "$exists":
                return self._exists(place, value)
            case "$regex":
                return self._any(place, self._matches(place, value, options))
            case "$not":
                return self._not(place, value)
            case "$elemMatch":
                return self._element_match(place, value)
            case "$gt" | "$gte" | "$lt" | "$lte":
                return self._any(place, self._compares(place, operator, value))
        raise _unknown_operator(operator, f"'{place.path}'", _TESTS)

    def _any(self, place: Place, test: Test, *, is_whole: bool = False) -> str:
        """Return SQL that is true or false: whether any value at a place passes a test."""
        if not place.path:
            return f"coalesce({test(place.document)}, FALSE)"
        self.paths.add(place.full_path)
        values = json_sql.values_at(place.document, place.path, is_whole=is_whole)
        return self._any_of(values, test)

    def _any_of(self, values: str, test: Test) -> str:
        name = f"value_{next(self._numbers)}"
        return f"len(list_filter({values}, lambda {name}: {test(name)})) > 0"

    def _bind(self, value: object) -> str:
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and _HALF_PAIR.search(one):
                raise ArgumentError(
                    f"The filter compares with {_short(one)}, which holds half of a surrogate "
                    "pair; expected Unicode text, as documents have it."
                )
        name = f"parameter_{next(self._numbers)}"
        self.parameters[name] = value
        return f"${name}"

    def _equal(self, place: Place, value: object) -> str:
        if value is None:
            return self._any(place, lambda one: f"({one} IS NULL OR json_type({one}) = 'NULL')")
        if isinstance(value, re.Pattern):
            return self._any(place, self._matches(place, value))
        return self._any(place, self._compares(place, "$eq", value))

    def _in(self, place: Place, value: object) -> str:
        if not isinstance(value, Sequence | set | frozenset) or isinstance(value, str):
            raise _wrong_value(place, "'$in' and '$nin' take a list of values", value)
        conditions = [self._equal(place, one) for one in value if not isinstance(one, str)]
        strings = sorted({one for one in value if isinstance(one, str)})
        if strings:
            # One test for all strings: there may be thousands.
            known = self._bind(strings)
            is_known = self._any(place, lambda one: f"list_contains({known}, {json_sql.text(one)})")
            conditions.append(is_known)
        return _join("OR", conditions)

    def _exists(self, place: Place, value: object) -> str:
        if not isinstance(value, bool | int):
            raise _wrong_value(place, "'$exists' takes True or False", value)
        exists = self._any(place, lambda one: f"{one} IS NOT NULL", is_whole=True)
        return exists if value else f"NOT {exists}"

    def _not(self, place: Place, value: object) -> str:
        if isinstance(value, re.Pattern):
            return f"NOT {self._equal(place, value)}"
        if not isinstance(value, Mapping) or not value:
            raise _wrong_value(place, "'$not' takes operators such as {'$gt': 5}", value)
        return f"NOT {self._all_tests(place, value)}"

    def _element_match(self, place: Place, value: object) -> str:
        if not isinstance(value, Mapping) or not value:
            raise _wrong_value(place, "'$elemMatch' takes what an entry must meet", value)
        above = place.full_path

        def meets(entry: str) -> str:
            if all(key in _TESTS for key in value):
                return self._all_tests(Place(entry, "", above), value)
            return f"{json_sql.is_object(entry)} AND {self._meets(entry, value, above)}"

        return self._any(
            place, lambda one: self._any_of(json_sql.elements(one), meets), is_whole=True
        )

    def _matches(self, place: Place, value: object, options: object = None) -> Test:
        """Return the test that a regular expression is found in a string."""
        pattern = _compile(place, value, options)
        name = f"matches_{len(self.functions)}"
        self.functions[name] = lambda text: pattern.search(text) is not None
        return lambda one: f"{name}({json_sql.text(one)})"

    def _compares(self, place: Place, operator: str, value: object) -> Test:
        """Return the test that a value has the type of another, and compares with it so."""
        other = _scalar(place.path, operator, value)
        sign = _SIGNS[operator]
        if isinstance(other, str | bool):
            of_its_type = json_sql.text if isinstance(other, str) else json_sql.boolean
            bound = self._bind(other)
            return lambda one: f"{of_its_type(one)} {sign} {bound}"
        return lambda one: self._compares_number(one, sign, other)

    def _compares_number(self, value: str, sign: str, other: float) -> str:
        number = json_sql.number(value)
        if math.isnan(other):
            # To a server, NaN equals NaN and is neither less nor greater.
            return "FALSE" if sign in {">", "<"} else f"isnan({number})"
        compares = f"{number} {sign} {self._bind(float(other))}"
        if _FIRST_INEXACT <= abs(other) < math.inf:
            # Compared as integers, which all such numbers are: as floats, some would be equal.
            is_in_range = f"abs({number}) < 1e30 AND NOT {json_sql.is_object(value)}"
            as_integers = f"{value}::HUGEINT {sign} {self._bind(int(other))}::HUGEINT"
            compares = f"CASE WHEN {is_in_range} THEN {as_integers} ELSE {compares} END"
        return f"NOT isnan({number}) AND {compares}"


def _refuse_deep_nesting(query: object) -> None:
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


def _join(operator: str, conditions: Sequence[str]) -> str:
    neutral = {"AND": "TRUE", "OR": "FALSE"}[operator]
    return f"({f' {operator} '.join(conditions) or neutral})"


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


def _compile(place: Place, value: object, options: object) -> re.Pattern[str]:
    # As on a server, classes such as \w are those of ASCII.
    flags = int(re.ASCII)
    if isinstance(value, re.Pattern):
        flags |= 0 if options else value.flags & sum(_PATTERN_OPTIONS.values())
        value = value.pattern
    options = options or ""
    if not isinstance(value, str):
        raise _wrong_value(place, "'$regex' takes a string", value)
    if not isinstance(options, str) or not set(options) <= _PATTERN_OPTIONS.keys():
        letters = in_words(_PATTERN_OPTIONS, "and")
        raise _wrong_value(place, f"'$options' takes letters out of {letters}", options)
    for option in options:
        flags |= _PATTERN_OPTIONS[option]
    try:
        return re.compile(value, flags)
    except re.error as error:
        raise ArgumentError(f"The regular expression {value!r} cannot be read: {error}.") from None


def _wrong_value(place: Place, expected: str, value: object) -> ArgumentError:
    return ArgumentError(f"At '{place.path}', {expected}, not {_short(value)}.")


def _unknown_operator(operator: str, place: str, known: Sequence[str]) -> ArgumentError:
    if operator in _TESTS:
        hint = "It belongs at a path."
    elif operator in _LOGICAL:
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
