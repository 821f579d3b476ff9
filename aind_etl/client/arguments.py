"""The arguments of calls from notebooks: validation, and messages for wrong ones."""

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
    """Make a function say which argument was probably meant by a name it does not know."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @wraps(function)
    def explained(*values: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        for name in named:
            if name not in names:
                raise TypeError(
                    f"{function.__name__}() has no argument {name!r}. {suggest(name, names)}"
                )
        return function(*values, **named)

    return explained


def as_texts(argument: str, value: object) -> list[str]:
    """Return one text or several as a list; whole numbers, as subjects have, become texts.

    Raises
    ------
    ArgumentError
        It is neither.
    """
    if value is None:
        return []
    values = list(value) if isinstance(value, Iterable) and not isinstance(value, str) else [value]
    for one in values:
        if not isinstance(one, str | int) or isinstance(one, bool):
            raise ArgumentError(f"{argument} is a text or a list of texts; {one!r} is none.")
    return [str(one) for one in values]


def parse_day(argument: str, value: object) -> date:
    """Return a day that is given as ``YYYY-MM-DD`` or as a date.

    Raises
    ------
    ArgumentError
        It is no day.
    """
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    try:
        # Python takes other spellings, in which a slip of the pen would be another day.
        return datetime.strptime(str(value), "%Y-%m-%d").date()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise ArgumentError(
            f"{argument} is a day such as '2024-10-24'; {value!r} is none."
        ) from None


def as_days(argument: str, value: object) -> tuple[date | None, date | None]:
    """Return the first and the last day of a day, or of a range whose ends may be open.

    Raises
    ------
    ArgumentError
        It is neither, or the range ends before it begins.
    """
    if not isinstance(value, tuple | list):
        day = parse_day(argument, value)
        return day, day
    if len(value) != 2:  # noqa: PLR2004 - a range has two ends
        raise ArgumentError(
            f"{argument} is a day, or the first and the last of a range such as "
            f"('2024-10-01', '2024-10-31'); {value!r} is neither."
        )
    first, last = (None if one is None else parse_day(argument, one) for one in value)
    if first and last and last < first:
        raise ArgumentError(f"{argument} is a range that ends on {last}, before it begins.")
    return first, last
