"""Filters of documents as SQL over their JSON, with the semantics of a MongoDB server.

Paths go through arrays as on the server: a path continues through every object of an array, a
number in it is a position as well as a key, and an array at its end matches as a whole and by each
of its elements. Values compare only with values of their type.

In the SQL, the values at a path are a list of JSON; SQL's NULL in it is a value that is missing,
JSON's null one that is there.
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
    Order,
    Test,
    compile_pattern,
)
from aind_etl.contract.ddl import quote_text

# Below it, a float holds every whole number.
_FIRST_INEXACT = 2**53
_IS_OBJECT = "json_type({}) = 'OBJECT'"
_IS_WHOLE = "json_type({}) IN ('BIGINT', 'UBIGINT')"


class DocumentSql:
    """Translates conditions on documents to SQL over a column of canonical JSON.

    Attributes
    ----------
    parameters
        Values of the named parameters in what was translated so far.
    functions
        Functions from a text to a truth value that it calls, by name.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}
        self.functions: dict[str, Callable[[str], bool]] = {}
        self._numbers = count()

    def meets(self, document: str, condition: Condition) -> str:
        """Return SQL that is true or false: whether a document meets a condition.

        Parameters
        ----------
        document
            SQL of the document; or of an entry of a list, which conditions name by the path ``""``.
        condition
            What to meet.
        """
        match condition:
            case At("", test):
                return f"coalesce({self._passes(document, test)}, FALSE)"
            case At(path, test):
                is_whole = isinstance(test, HasEntry | IsPresent)
                values = self.values_at(document, path, is_whole=is_whole)
                return self._any(values, lambda value: self._passes(value, test))
            case AllOf(conditions):
                return self._joined("AND", [self.meets(document, one) for one in conditions])
            case AnyOf(conditions):
                return self._joined("OR", [self.meets(document, one) for one in conditions])
            case Not(denied):
                return f"NOT {self.meets(document, denied)}"

    def values_at(self, document: str, path: str, *, is_whole: bool) -> str:
        """Return SQL of the list of values at a path; ``is_whole`` leaves arrays together."""
        steps = path.split(".")
        # A number is a key, and a position in an array as well.
        choices = [
            (False, True) if step.isdecimal() and place else (False,)
            for place, step in enumerate(steps)
        ]
        lists = [
            self._follow(document, list(zip(steps, positions, strict=True)), is_whole=is_whole)
            for positions in product(*choices)
        ]
        return lists[0] if len(lists) == 1 else f"list_concat({', '.join(lists)})"

    def _follow(self, document: str, steps: list[tuple[str, bool]], *, is_whole: bool) -> str:
        """Return the values at the end of steps, each a name and whether it is a position."""
        values = f"[{document}]"
        for place, (step, is_position) in enumerate(steps):
            is_last = place + 1 == len(steps)
            if is_position:
                entry = self._each(values, partial(_at_position, step))
                values = f"list_filter({entry}, lambda v: v IS NOT NULL)"
            else:
                values = self._each(values, partial(_at_key, step))
            if not is_last and steps[place + 1][1]:
                continue
            if not is_last:
                alone = _IS_OBJECT if is_position else "TRUE"
                values = self._spread(values, "{objects}", alone)
            elif not is_position and not is_whole:
                values = self._spread(values, "list_append({entries}, {value})", "TRUE")
        return values

    def _each(self, values: str, make: Callable[[str], str]) -> str:
        name = self._name("v")
        return f"list_transform({values}, lambda {name}: {make(name)})"

    def _spread(self, values: str, array: str, alone: str) -> str:
        """Return values with something else in place of arrays, and others if ``alone``."""
        value = self._name("v")
        entries = f"json_extract({value}, '$[*]')"
        objects = f"list_filter({entries}, lambda e: {_IS_OBJECT.format('e')})"
        return (
            f"flatten(list_transform({values}, lambda {value}: CASE "
            f"WHEN json_type({value}) = 'ARRAY' "
            f"THEN {array.format(entries=entries, objects=objects, value=value)} "
            f"WHEN {alone.format(value)} THEN [{value}] ELSE [] END))"
        )

    def _any(self, values: str, test: Callable[[str], str]) -> str:
        name = self._name("v")
        return f"len(list_filter({values}, lambda {name}: {test(name)})) > 0"

    @staticmethod
    def _joined(operator: str, conditions: list[str]) -> str:
        nothing = "TRUE" if operator == "AND" else "FALSE"
        return f"({f' {operator} '.join(conditions) or nothing})"

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
            case Matches():
                return f"{self._function(compile_pattern(test))}({text})"
            case OneOf(values):
                return f"list_contains({self._bind(sorted(values))}, {text})"
            case HasEntry(condition, of_values):
                entries = (
                    f"CASE WHEN json_type({value}) = 'ARRAY' THEN json_extract({value}, '$[*]') END"
                )
                is_asked = "TRUE" if of_values else _IS_OBJECT
                return self._any(
                    entries,
                    lambda entry: f"{is_asked.format(entry)} AND {self.meets(entry, condition)}",
                )
            case Compare(order, str() as other):
                return f"{text} {order} {self._bind(other)}"
            case Compare(order, bool() as other):
                truth = f"CASE WHEN json_type({value}) = 'BOOLEAN' THEN {value}::BOOLEAN END"
                return f"{truth} {order} {self._bind(other)}"
            case Compare(order, other):
                return self._compares(value, order, cast("float", other))

    def _function(self, pattern: re.Pattern[str]) -> str:
        name = f"matches_{len(self.functions)}"
        self.functions[name] = lambda text: pattern.search(text) is not None
        return name

    def _compares(self, value: str, order: Order, other: float) -> str:
        """Return SQL that is true where a value is a number that compares so to another."""
        extended = f"coalesce({value}->>'/$numberDouble', {value}->>'/$numberDecimal')"
        number = (
            f"CASE WHEN json_type({value}) IN ('DOUBLE', 'BIGINT', 'UBIGINT') "
            f"THEN {value}::DOUBLE WHEN {_IS_OBJECT.format(value)} "
            f"THEN TRY_CAST({extended} AS DOUBLE) END"
        )
        if math.isnan(other):
            # What is no number equals only its like.
            is_strict = order in {Order.GREATER, Order.LESS}
            return "FALSE" if is_strict else f"isnan({number})"
        if math.isfinite(other) and other == int(other):
            # Integers are compared exactly, as floats are not.
            bound = f"{self._bind(int(other))}::HUGEINT"
            as_whole = _IS_WHOLE.format(value)
            if abs(other) > _FIRST_INEXACT:
                as_whole = f"({as_whole} OR abs({number}) < 1e30)"
            whole = f"{value}::HUGEINT {order} {bound}"
            plain = f"{number} {order} {self._bind(float(other))}"
            compares = f"CASE WHEN {as_whole} THEN {whole} ELSE {plain} END"
        else:
            compares = f"{number} {order} {self._bind(other)}"
        return f"NOT isnan({number}) AND {compares}"


def _at_key(key: str, value: str) -> str:
    pointer = "/" + key.replace("~", "~0").replace("/", "~1")
    return f"json_extract({value}, {quote_text(pointer)})"


def _at_position(position: str, value: str) -> str:
    # A position with leading zeros is none.
    if position != str(int(position)):
        return "NULL::JSON"
    is_array = f"json_type({value}) = 'ARRAY'"
    return f"CASE WHEN {is_array} THEN json_extract({value}, '$[{position}]') END"
