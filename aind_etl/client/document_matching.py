"""Whether a document matches a condition, with the semantics of a MongoDB server.

Paths go through arrays as on the server: a path continues through every object of an array, a
number in it is a position as well as a key, and an array at its end matches as a whole and by each
of its elements. Values compare only with values of their type.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

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

_MISSING: Final = object()
_COMPARISONS: Mapping[Order, Callable[[Any, Any], bool]] = {
    Order.EQUAL: operator.eq,
    Order.GREATER: operator.gt,
    Order.GREATER_OR_EQUAL: operator.ge,
    Order.LESS: operator.lt,
    Order.LESS_OR_EQUAL: operator.le,
}


def meets(document: object, condition: Condition) -> bool:
    """Return whether a document meets a condition.

    Parameters
    ----------
    document
        The document, parsed from its canonical JSON; or an entry of a list, which conditions
        name by the path ``""``.
    condition
        What to meet.
    """
    match condition:
        case At(path, test):
            return _any_at(document, path, test)
        case AllOf(conditions):
            return all(meets(document, one) for one in conditions)
        case AnyOf(conditions):
            return any(meets(document, one) for one in conditions)
        case Not(denied):
            return not meets(document, denied)


def _any_at(document: object, path: str, test: Test) -> bool:
    steps = path.split(".") if path else []
    whole = isinstance(test, HasEntry | IsPresent)
    values = _values(document, steps, whole=whole) if steps else iter([_plain(document)])
    return any(_passes(value, test) for value in values)


def _passes(value: object, test: Test) -> bool:
    match test:
        case IsPresent():
            return value is not _MISSING
        case IsNull():
            return value is None or value is _MISSING
        case Matches():
            return isinstance(value, str) and bool(_compiled(test).search(value))
        case Compare(order, other):
            return _stands(value, order, other)
        case OneOf(values):
            return isinstance(value, str) and value in values
        case HasEntry(condition, of_values):
            return isinstance(value, list) and any(
                meets(entry, condition)
                for entry in value
                if of_values or isinstance(entry, Mapping)
            )


def _values(value: object, steps: Sequence[str], *, whole: bool) -> Iterator[object]:
    """Yield the values at a path below a value; ``whole`` leaves a list at its end together."""
    for position, step in enumerate(steps):
        if not isinstance(value, Mapping) or step not in value:
            yield _MISSING
            return
        value = value[step]
        if isinstance(value, list) and position + 1 < len(steps):
            yield from _values_in_list(value, steps[position + 1 :], whole=whole)
            return
    yield from _leaves(value, whole=whole)


def _values_in_list(
    entries: Sequence[object], steps: Sequence[str], *, whole: bool
) -> Iterator[object]:
    for index, entry in enumerate(entries):
        if isinstance(entry, Mapping):
            yield from _values(entry, steps, whole=whole)
        if steps[0] == str(index):
            if len(steps) == 1:
                # A list that a position names stands for itself alone.
                yield _plain(entry)
            elif isinstance(entry, Mapping):
                yield from _values(entry, steps[1:], whole=whole)
            elif isinstance(entry, list):
                yield from _values_in_list(entry, steps[1:], whole=whole)


def _leaves(value: object, *, whole: bool) -> Iterator[object]:
    if isinstance(value, list) and not whole:
        yield from map(_plain, value)
    yield _plain(value)


def _plain(value: object) -> object:
    """Return the number that an object of extended JSON stands for; else the value."""
    if isinstance(value, dict) and len(value) == 1:
        number = value.get("$numberDouble", value.get("$numberDecimal"))
        if isinstance(number, str):
            return float(number)
    return value


def _stands(value: Any, order: Order, other: Any) -> bool:  # noqa: ANN401 - types are compared here
    if _kind(value) is not _kind(other):
        return False
    if isinstance(value, str):
        # As bytes of UTF-8, as the server does.
        value, other = value.encode(), other.encode()
    elif math.isnan(value) or math.isnan(other):
        # What is no number equals only its like.
        return order not in {Order.GREATER, Order.LESS} and math.isnan(value) and math.isnan(other)
    return bool(_COMPARISONS[order](value, other))


def _kind(value: object) -> type | None:
    """Return the type that values must share to be compared; None compares with nothing."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    return str if isinstance(value, str) else None


@lru_cache(maxsize=64)
def _compiled(test: Matches) -> re.Pattern[str]:
    return compile_pattern(test)
