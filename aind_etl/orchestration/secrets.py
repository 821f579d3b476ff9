"""Errors of steps as Dagster may keep them: without a credential, in their causes too."""

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import isgeneratorfunction
from typing import ParamSpec, TypeVar

from aind_etl.text import without_credentials

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def hiding_credentials(step: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return a step whose errors show no user and no password of an address.

    Dagster keeps an error with all its causes, most of which were written by libraries.
    """
    if isgeneratorfunction(step):

        @wraps(step)
        def generating(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[object]:
            try:
                yield from step(*args, **kwargs)
            except Exception as error:
                _hide(error)
                raise

        return generating  # type: ignore[return-value]

    @wraps(step)
    def hiding(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        try:
            return step(*args, **kwargs)
        except Exception as error:
            _hide(error)
            raise

    return hiding


def _hide(error: BaseException) -> None:
    """Cut off the causes of an error from the first that shows a credential."""
    while (cause := error.__cause__ or error.__context__) is not None:
        if without_credentials(text := str(cause)) != text:
            error.__cause__, error.__suppress_context__ = None, True
            return
        error = cause
