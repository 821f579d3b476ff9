"""Arguments of calls from notebooks, parsed.

Each ``parse_`` function raises an ArgumentError that names a wrong value and what was expected.
"""

import inspect
from collections.abc import Callable, Iterable
from datetime import date, datetime
from functools import wraps
from typing import ParamSpec, TypeVar

from aind_etl.errors import ArgumentError
from aind_etl.text import suggest

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def explain_unknown_arguments(
    function: Callable[_Arguments, _Result],
) -> Callable[_Arguments, _Result]:
    """Make a function suggest the nearest names when it is given an argument it does not have."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def wrapper(*values: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        for name in named:
            if name not in names:
                raise TypeError(
                    f"{function.__name__}() has no argument {name!r}. {suggest(name, names)}"
                )
        return function(*values, **named)

    return wrapper


def parse_strings(argument: str, value: object) -> list[str]:
    """Return one string or several as a list; integers, such as subject numbers, become strings."""
    if value is None:
        return []
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    for one in values:
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise ArgumentError(f"{argument} is {one!r}; expected a string or a list of strings.")
    return [str(one) for one in values]


def parse_day(argument: str, value: object) -> date:
    """Return a day given as ``YYYY-MM-DD`` or as a date."""
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        # date.fromisoformat() accepts other spellings, in which a typing error is another day.
        return datetime.strptime(str(value), "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise ArgumentError(
            f"{argument} is {value!r}; expected a day such as '2024-10-24'."
        ) from None
