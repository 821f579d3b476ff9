"""Filters of documents as SQL over their JSON, with the semantics of a MongoDB server.

Paths go through arrays as on a server: a path continues through every object of an array, a number
in it is a position as well as a key, and an array at its end matches as a whole and by each of its
elements. Values compare only with values of their type.

In the SQL, the values at a path are a list of JSON. SQL's NULL in it is a missing value, JSON's
null a value that is null.
"""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import count, product
from typing import Any, cast

from aind_etl.client.document_filter import (
    AllOf,
    AnyOf,
    At,
    Compare,
    Condition,
    HasEntry,
    IsNull,
    IsPresent,
    Matches,
    Not,
    OneOf,
    Sign,
    Test,
)
from aind_etl.contract.ddl import quote_text

# Up to here, floats hold every integer.
_FIRST_INEXACT = 2**53
_IS_OBJECT = "json_type({}) = 'OBJECT'"


class DocumentSql:
    """Translates conditions on documents to SQL over a column of canonical JSON.

    Attributes
    ----------
    parameters
        Values of the named parameters in the SQL translated so far.
    functions
        The functions that the SQL calls, by name: each takes a string and returns a boolean.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.functions: dict[str, Callable[[str], bool]] = {}
        self._numbers = count()

    def meets(self, document: str, condition: Condition) -> str:
        """Return SQL that is true or false: whether a document meets a condition.

        ``document`` is its SQL, or that of a list's entry, which has the path ``""``.
        """
        match condition:
            case At("", test):
                return f"coalesce({self._passes(document, test)}, FALSE)"
            case At(path, test):
                is_whole = isinstance(test, HasEntry | IsPresent)
                values = self.values_at(document, path, is_whole=is_whole)
                return self._any(values, lambda value: self._passes(value, test))
            case AllOf(conditions):
                met = " AND ".join(self.meets(document, one) for one in conditions)
                return f"({met or 'TRUE'})"
            case AnyOf(conditions):
                met = " OR ".join(self.meets(document, one) for one in conditions)
                return f"({met or 'FALSE'})"
            case Not(denied):
                return f"NOT {self.meets(document, denied)}"

    def values_at(self, document: str, path: str, *, is_whole: bool) -> str:
        """Return SQL of the list of values at a path.

        Arrays at its end are left whole if ``is_whole``, and otherwise followed by their elements.
        """
        steps = path.split(".")
        # A number is a key, and a position in an array as well.
        choices = [
            (False, True) if step.isdecimal() and depth else (False,)
            for depth, step in enumerate(steps)
        ]
        lists = [
            self._follow(document, list(zip(steps, positions, strict=True)), is_whole=is_whole)
            for positions in product(*choices)
        ]
        return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"

    def _follow(self, document: str, steps: list[tuple[str, bool]], *, is_whole: bool) -> str:
        """Return the values at the end of steps, each a name and whether it is a position."""
        values = f"[{document}]"
        for depth, (step, is_position) in enumerate(steps):
            is_last = depth + 1 == len(steps)
            if is_position:
                entry = self._each(values, partial(_at_position, step))
                values = f"list_filter({entry}, lambda v: v IS NOT NULL)"
            else:
                values = self._each(values, partial(_at_key, step))
            if not is_last and steps[depth + 1][1]:
                continue
            if not is_last:
                alone = _IS_OBJECT if is_position else "TRUE"
                values = self._replace_arrays(values, "{objects}", alone)
            elif not is_position and not is_whole:
                values = self._replace_arrays(values, "list_append({entries}, {value})", "TRUE")
        return values

    def _each(self, values: str, make: Callable[[str], str]) -> str:
        name = self._name("v")
        return f"list_transform({values}, lambda {name}: {make(name)})"

    def _replace_arrays(self, values: str, by: str, alone: str) -> str:
        """Return values in which a list replaces each array; others are kept if ``alone`` holds."""
        value = self._name("v")
        entries = f"json_extract({value}, '$[*]')"
        objects = f"list_filter({entries}, lambda e: {_IS_OBJECT.format('e')})"
        return (
            f"flatten(list_transform({values}, lambda {value}: CASE "
            f"WHEN json_type({value}) = 'ARRAY' "
            f"THEN {by.format(entries=entries, objects=objects, value=value)} "
            f"WHEN {alone.format(value)} THEN [{value}] ELSE [] END))"
        )

    def _any(self, values: str, test: Callable[[str], str]) -> str:
        name = self._name("v")
        return f"len(list_filter({values}, lambda {name}: {test(name)})) > 0"

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"

    def _bind(self, value: object) -> str:
        name = self._name("value_")
        self.parameters[name] = value
        return f"${name}"

    def _passes(self, value: str, test: Test) -> str:  # noqa: PLR0911 - one for each test
        """Return SQL that is true where a value passes a test."""
        text = f"CASE WHEN json_type({value}) = 'VARCHAR' THEN {value}->>'$' END"
        match test:
            case IsPresent():
                return f"{value} IS NOT NULL"
            case IsNull():
                return f"({value} IS NULL OR json_type({value}) = 'NULL')"
            case Matches(pattern):
                return f"{self._function(pattern)}({text})"
            case OneOf(values):
                return f"list_contains({self._bind(sorted(values))}, {text})"
            case HasEntry(condition, of_values):
                entries = (
                    f"CASE WHEN json_type({value}) = 'ARRAY' THEN json_extract({value}, '$[*]') END"
                )
                is_tested = "TRUE" if of_values else _IS_OBJECT
                return self._any(
                    entries,
                    lambda entry: f"{is_tested.format(entry)} AND {self.meets(entry, condition)}",
                )
            case Compare(sign, str() as other):
                return f"{text} {sign} {self._bind(other)}"
            case Compare(sign, bool() as other):
                boolean = f"CASE WHEN json_type({value}) = 'BOOLEAN' THEN {value}::BOOLEAN END"
                return f"{boolean} {sign} {self._bind(other)}"
            case Compare(sign, other):
                return self._compares(value, sign, cast("float", other))

    def _function(self, pattern: re.Pattern[str]) -> str:
        name = f"matches_{len(self.functions)}"
        self.functions[name] = lambda text: pattern.search(text) is not None
        return name

    def _compares(self, value: str, sign: Sign, other: float) -> str:
        """Return SQL that is true where a value is a number that compares with another so."""
        extended = f"coalesce({value}->>'/$numberDouble', {value}->>'/$numberDecimal')"
        number = (
            f"CASE WHEN json_type({value}) IN ('DOUBLE', 'BIGINT', 'UBIGINT') "
            f"THEN {value}::DOUBLE WHEN {_IS_OBJECT.format(value)} "
            f"THEN TRY_CAST({extended} AS DOUBLE) END"
        )
        if math.isnan(other):
            # To a server, NaN equals NaN and is neither less nor greater.
            return "FALSE" if sign in {">", "<"} else f"isnan({number})"
        if math.isfinite(other) and other == int(other):
            # Integers are compared as integers: as floats, large ones would be equal.
            is_integer = f"json_type({value}) IN ('BIGINT', 'UBIGINT')"
            if abs(other) > _FIRST_INEXACT:
                is_integer = f"({is_integer} OR abs({number}) < 1e30)"
            as_integers = f"{value}::HUGEINT {sign} {self._bind(int(other))}::HUGEINT"
            as_floats = f"{number} {sign} {self._bind(float(other))}"
            compares = f"CASE WHEN {is_integer} THEN {as_integers} ELSE {as_floats} END"
        else:
            compares = f"{number} {sign} {self._bind(other)}"
        return f"NOT isnan({number}) AND {compares}"


def _at_key(key: str, value: str) -> str:
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    return f"json_extract({value}, {quote_text(pointer)})"


def _at_position(position: str, value: str) -> str:
    # A number with leading zeros is a key only.
    if position != str(int(position)):
        return "NULL::JSON"
    is_array = f"json_type({value}) = 'ARRAY'"
    return f"CASE WHEN {is_array} THEN json_extract({value}, '$[{position}]') END"
