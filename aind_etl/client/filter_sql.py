"""Filters on documents as SQL over the warehouse's tables.

The contract tells where the value at each path of a document is stored: in a column of `analyses`,
in a child table, or in `attributes`. The tables do not hold everything: an early analysis without
an agent's alias has a derived one, times lose their spelling, and a null looks like a missing
value. Every condition therefore becomes two: one that *surely* matches, and one that *may*.
Documents between the two are checked by :mod:`aind_etl.client.document_matching`.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import NamedTuple

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
    Scalar,
    Test,
)
from aind_etl.client.known_paths import (
    KEY,
    PROCESSES,
    KnownPaths,
    ValueColumn,
    columns_below,
    columns_of,
    is_left_in_document,
)
from aind_etl.contract import DataType, tables
from aind_etl.contract.ddl import quote_identifier

_TRUE, _FALSE = "TRUE", "FALSE"
_IS_FRAMEWORK = "pipeline_format = 'framework'"
_FIRST_INEXACT = 2**53
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_DAY_LENGTH = len("2024-10-24")
# Types made of texts, and how many days off the texts a zone of two digits of hours can put them.
_DATED = {DataType.DATE: 0, DataType.TIMESTAMPTZ: 5}
ANY_REJECTED_VALUE = "SELECT 1 FROM rejected_values LIMIT 1"
"""The query that tells whether there are rejected values, which :class:`KnownPaths` takes."""


class Bounds(NamedTuple):
    """SQL of what is sure to meet a condition, and of what may."""

    sure: str
    maybe: str


_UNDECIDED = Bounds(_FALSE, _TRUE)
_NEVER = Bounds(_FALSE, _FALSE)


@dataclass(frozen=True, slots=True)
class FilterSql:
    """A condition as SQL.

    Attributes
    ----------
    flags
        For each name used in ``sure`` and ``maybe`` an expression over a row of `analyses`: the
        flag of a record is whether it is true of any of its processes.
    parameters
        Values of the named parameters in the flags.
    sure, maybe
        Which records are sure to meet the condition, and which may, by the flags.
    """

    flags: dict[str, str]
    parameters: dict[str, object]
    sure: str
    maybe: str


def to_sql(
    condition: Condition, known: KnownPaths, is_readable: Callable[[str], bool]
) -> FilterSql:
    """Translate a condition on documents.

    Parameters
    ----------
    condition
        The condition.
    known
        The paths there are.
    is_readable
        Says whether DuckDB can read a regular expression.

    Raises
    ------
    ArgumentError
        No document has a value at one of the paths.
    """
    translation = _Translation(known, is_readable)
    sure, maybe = translation.of_records(condition)
    used = set(re.findall(r"\$(\w+)", " ".join(translation.flags.values())))
    parameters = {name: translation.parameters[name] for name in sorted(used)}
    return FilterSql(translation.flags, parameters, sure, maybe)


class _Translation:
    """The translation of one condition, with the flags and parameters it needs."""

    def __init__(self, known: KnownPaths, is_readable: Callable[[str], bool]) -> None:
        self.flags: dict[str, str] = {}
        self.parameters: dict[str, object] = {}
        self._known = known
        self._is_readable = is_readable

    def of_records(self, condition: Condition) -> Bounds:
        """Return what records meet a condition, by their flags."""
        match condition:
            case At(path, HasEntry(inner, of_values=False)) if path == PROCESSES:
                self._known.require(path)
                is_entry = Bounds(_IS_FRAMEWORK, _IS_FRAMEWORK)
                return self._any_process(_all([is_entry, self._of_process(inner)]))
            case At(path, test):
                return self._any_process(self._at(path, test))
            case _:
                return self._combined(condition, self.of_records)

    def _of_process(self, condition: Condition) -> Bounds:
        """Return which rows of `analyses` meet a condition on an entry of the processes."""
        match condition:
            case At(path, _) if path.split(".")[0].isdecimal():
                return _UNDECIDED
            case At(path, test):
                return self._at(f"{PROCESSES}.{path}", test)
            case _:
                return self._combined(condition, self._of_process)

    @staticmethod
    def _combined(condition: Condition, translate: Callable[[Condition], Bounds]) -> Bounds:
        match condition:
            case AllOf(conditions):
                return _all([translate(one) for one in conditions])
            case AnyOf(conditions):
                return _any([translate(one) for one in conditions])
            case Not(denied):
                sure, maybe = translate(denied)
                return Bounds(_not(maybe), _not(sure))
            case At():
                raise AssertionError(condition)

    def _any_process(self, bounds: Bounds) -> Bounds:
        """Return flags of records for what is said of rows."""
        sure = self._flag(bounds.sure)
        return Bounds(sure, sure if bounds.maybe == bounds.sure else self._flag(bounds.maybe))

    def _flag(self, expression: str) -> str:
        if expression in {_TRUE, _FALSE}:
            return expression
        name = f"flag_{len(self.flags)}"
        self.flags[name] = expression
        return name

    def _bind(self, value: object) -> str:
        name = f"value_{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"

    def _at(self, path: str, test: Test) -> Bounds:
        """Return which rows of `analyses` have a value at a path that passes a test."""
        self._known.require(path)
        steps = path.split(".")
        position = None
        depth = PROCESSES.count(".") + 1
        if path.startswith(f"{PROCESSES}.") and steps[depth].isdecimal():
            position = int(steps.pop(depth))
        plain = ".".join(steps)
        if any(step.isdecimal() for step in steps) or self._is_absent(plain, test):
            return _UNDECIDED
        found = [self._at_place(place, test) for place in columns_of(plain)]
        found += self._at_attributes(plain, test)
        if isinstance(test, IsPresent):
            found += [self._at_place(place, test) for place in columns_below(plain)]
        bounds = _any(found)
        if position is not None:
            at_position = f"process_index = {position}"
            bounds = _all([bounds, Bounds(at_position, at_position)])
        if self._known.has_rejected_values:
            bounds = Bounds(
                _joined("AND", [bounds.sure, "n_rejected_values = 0"]),
                _joined("OR", [bounds.maybe, "n_rejected_values > 0"]),
            )
        sure, maybe = map(_is_true, bounds)
        # Whatever is there may be there as a null, which leaves no trace.
        return Bounds(sure, _TRUE if isinstance(test, IsPresent) else maybe)

    @staticmethod
    def _is_absent(path: str, test: Test) -> bool:
        """Return whether the tables never tell if a value at a path passes a test."""
        if isinstance(test, IsNull | HasEntry):
            return True
        if isinstance(test, Compare) and isinstance(test.value, int | float):
            # Columns have no NaN, and hold whole numbers only as exactly as floats do: from 2**53
            # on, one may have become another.
            inexact = math.isnan(test.value) or abs(test.value) >= _FIRST_INEXACT
            if inexact and not math.isinf(test.value):
                return True
        return any(path == left or path.startswith(f"{left}.") for left in is_left_in_document())

    def _at_place(self, place: ValueColumn, test: Test) -> Bounds:
        bounds = self._passes(quote_identifier(place.column.name), place.column.type, test)
        if place.table is not tables.ANALYSES:
            bounds = Bounds(*(self._in_children(place, condition) for condition in bounds))
        is_format = f"pipeline_format = '{place.pipeline_format}'"
        bounds = _all([Bounds(is_format, is_format), bounds])
        return bounds if place.is_exact else bounds._replace(sure=_FALSE)

    def _in_children(self, place: ValueColumn, condition: str) -> str:
        if condition == _FALSE:
            return _FALSE
        conditions = [condition]
        if place.parameter is not None:
            conditions.append(f"parameter = {self._bind(place.parameter)}")
        if place.column.name == "parameter":
            # The clamped ones are no part of the list.
            conditions.append("is_fitted")
        key = ", ".join(KEY)
        return (
            f"({key}) IN (SELECT ({key}) FROM {place.table.name} WHERE {' AND '.join(conditions)})"
        )

    def _at_attributes(self, path: str, test: Test) -> list[Bounds]:
        found = self._known.attributes_at(path)
        if not found:
            return []
        match test:
            case IsPresent():
                passes = Bounds(_TRUE, _TRUE)
            case Matches() | OneOf() | Compare(_, str()):
                passes = self._passes("value_text", DataType.VARCHAR, test)
            case Compare(_, bool()):
                passes = self._passes("value_boolean", DataType.BOOLEAN, test)
            case _:
                passes = self._passes("value_number", DataType.DOUBLE, test)
                is_number = "NOT isnan(value_number)"
                passes = _all([passes, Bounds(is_number, is_number)])
        key = ", ".join(KEY)
        places = " OR ".join(
            f"(section = {self._bind(section)} AND path = {self._bind(inner)} "
            f"AND pipeline_format = {self._bind(pipeline_format)})"
            for pipeline_format, section, inner in found
        )
        return [
            Bounds(
                *(
                    f"({key}) IN (SELECT ({key}) FROM attributes "
                    f"JOIN analyses USING ({key}) WHERE ({places}) AND {condition})"
                    for condition in passes
                )
            )
        ]

    def _passes(self, value: str, data_type: DataType, test: Test) -> Bounds:
        """Return when a column's value passes a test."""
        is_there = f"{value} IS NOT NULL"
        bounds = _NEVER
        match test:
            case IsPresent():
                bounds = Bounds(is_there, is_there)
            case Matches() if data_type is DataType.VARCHAR:
                pattern = self._pattern(test)
                matches = f"regexp_matches({value}, {self._bind(pattern)})" if pattern else ""
                bounds = Bounds(matches or _FALSE, matches or is_there)
            case Matches() if data_type in _DATED:
                bounds = Bounds(_FALSE, is_there)
            case Compare(order, str() as text) if data_type in _DATED:
                bounds = _compare_days(f"{value}::DATE", _DATED[data_type], order, text)
            case OneOf(texts) if data_type is DataType.VARCHAR:
                is_one = f"{value} IN (SELECT unnest({self._bind(sorted(texts))}))"
                bounds = Bounds(is_one, is_one)
            case OneOf(texts):
                equal = [Compare(Order.EQUAL, text) for text in sorted(texts)]
                bounds = _any([self._passes(value, data_type, one) for one in equal])
            case Compare(order, other) if _is_comparable(data_type, other):
                compares = f"{value} {order} {self._bind(other)}"
                bounds = Bounds(compares, compares)
            case Compare(order, other):
                bounds = Bounds(_FALSE, self._converted(value, data_type, order, other))
        return bounds

    def _converted(self, value: str, data_type: DataType, order: Order, other: Scalar) -> str:
        """Return when a column's value may be of another type in the document, and so pass."""
        if data_type is DataType.VARCHAR and isinstance(other, bool):
            return f"{value} IN ('true', 'false')"
        if data_type is DataType.VARCHAR:
            return f"TRY_CAST({value} AS DOUBLE) {order} {self._bind(other)}"
        is_number = data_type is DataType.DOUBLE or data_type.is_integer
        return f"{value} IS NOT NULL" if is_number and isinstance(other, str) else _FALSE

    def _pattern(self, test: Matches) -> str | None:
        """Return a regular expression as DuckDB reads it, None where it has none like it."""
        if "x" in test.options:
            return None
        # Said both ways: outside of the expression, DuckDB has options of its own.
        off = "".join(option for option in "ims" if option not in test.options)
        pattern = f"(?{test.options}{f'-{off}' if off else ''}){test.pattern}"
        return pattern if self._is_readable(pattern) else None


def _is_comparable(data_type: DataType, value: object) -> bool:
    if isinstance(value, str):
        return data_type is DataType.VARCHAR
    if isinstance(value, bool):
        return data_type is DataType.BOOLEAN
    return data_type is DataType.DOUBLE or data_type.is_integer


def _compare_days(day: str, slack: int, order: Order, text: str) -> Bounds:
    """Return how the text of a time compares, as far as its day tells.

    Parameters
    ----------
    day
        SQL of the day, UTC.
    slack
        How many days that of the text may be from it.
    order, text
        What to compare with.
    """
    try:
        other = date.fromisoformat(text[:_DAY_LENGTH]) if _DAY.match(text) else None
        days = [other + timedelta(days=by) for by in (-slack, slack)] if other else []
    except (ValueError, OverflowError):
        days = []
    if not days:
        return Bounds(_FALSE, f"{day} IS NOT NULL")
    first, last = (f"DATE '{one.isoformat()}'" for one in days)
    # A text begins with its day: it is never before it, and after it only by what follows.
    is_day_alone = slack == 0 and len(text) == _DAY_LENGTH
    sure, maybe = {
        Order.EQUAL: (_FALSE, f"{day} BETWEEN {first} AND {last}"),
        Order.GREATER: (f"{day} > {last}", f"{day} >= {first}"),
        Order.GREATER_OR_EQUAL: (f"{day} > {last}", f"{day} >= {first}"),
        Order.LESS: (f"{day} < {first}", f"{day} <= {last}"),
        Order.LESS_OR_EQUAL: (f"{day} < {first}", f"{day} <= {last}"),
    }[order]
    if is_day_alone and order is Order.GREATER_OR_EQUAL:
        sure = maybe
    if is_day_alone and order is Order.LESS:
        maybe = sure
    return Bounds(sure, maybe)


def _all(bounds: Sequence[Bounds]) -> Bounds:
    return Bounds(*(_joined("AND", side) for side in zip(*bounds, strict=True)))


def _any(bounds: Sequence[Bounds]) -> Bounds:
    if not bounds:
        return _NEVER
    return Bounds(*(_joined("OR", side) for side in zip(*bounds, strict=True)))


def _joined(operator: str, conditions: Sequence[str]) -> str:
    deciding, idle = (_FALSE, _TRUE) if operator == "AND" else (_TRUE, _FALSE)
    if deciding in conditions:
        return deciding
    parts = [condition for condition in conditions if condition != idle]
    if len(parts) <= 1:
        return parts[0] if parts else idle
    return "(" + f" {operator} ".join(parts) + ")"


def _not(condition: str) -> str:
    constants = {_TRUE: _FALSE, _FALSE: _TRUE}
    return constants.get(condition, f"(NOT {condition})")


def _is_true(condition: str) -> str:
    """Return a condition that is false where SQL does not know."""
    return condition if condition in {_TRUE, _FALSE} else f"coalesce({condition}, FALSE)"
