"""What every step does: it shows that its run is alive, and keeps credentials out of errors."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import wraps
from hashlib import sha256
from inspect import isgeneratorfunction
from typing import Any, ParamSpec, TypeVar

import dagster as dg

from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.text import without_credentials

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

PARTITION_TAG = "dagster/partition"
"""Dagster's tag of a run: its partition."""


def step(function: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Return the function of an asset, a check or an op, wrapped for use as a step.

    While it runs, a lock shows that its run is alive (see :mod:`.lost_runs`). Errors that leave it
    have no credentials of addresses in their causes: Dagster stores an error with all its causes,
    most of which libraries have written.
    """
    if isgeneratorfunction(function):

        @wraps(function)
        def generating(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Iterator[object]:
            with _guarded(kwargs):
                yield from function(*args, **kwargs)

        return generating  # type: ignore[return-value]

    @wraps(function)
    def returning(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with _guarded(kwargs):
            return function(*args, **kwargs)

    return returning


def run_lock(lake: Lake, run: dg.DagsterRun) -> AbstractContextManager[None]:
    """Hold the lock that shows that a run of a job and partition is alive.

    Raises
    ------
    DataError
        Another process holds it.
    """
    partition = sha256(run.tags.get(PARTITION_TAG, "").encode()).hexdigest()[:16]
    return lake.storage.lock(f"run={run.job_name},{partition}", f"the run {run.run_id}")


@contextmanager
def hiding_credentials() -> Iterator[None]:
    """Cut off the causes of an error from the first that shows a credential."""
    try:
        yield
    except Exception as raised:
        error: BaseException = raised
        while (cause := error.__cause__ or error.__context__) is not None:
            if without_credentials(text := str(cause)) != text:
                error.__cause__, error.__suppress_context__ = None, True
                break
            error = cause
        raise


@contextmanager
def _guarded(arguments: Mapping[str, Any]) -> Iterator[None]:
    with ExitStack() as held:
        # While another run of the same job and partition holds the lock, that shows life for both.
        with suppress(DataError):
            held.enter_context(run_lock(arguments["etl"].lake, dg.OpExecutionContext.get().run))
        with hiding_credentials():
            yield
