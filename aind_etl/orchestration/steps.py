"""A decorator for steps: it holds a lock while they run, and keeps credentials out of errors."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import wraps
from hashlib import sha256
from typing import Any, TypeAlias

import dagster as dg

from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.orchestration.runs import PARTITION_TAG
from aind_etl.text import without_credentials

_Step: TypeAlias = Callable[..., Iterator[Any]]


def step(function: _Step) -> _Step:
    """Wrap the generator function of an asset, a check or an op for use as a step.

    While the step runs, a lock shows that its run is alive (see :mod:`.lost_runs`). The causes of
    its errors contain no credentials: Dagster stores an error with all its causes, most of which
    are written by libraries.
    """

    @wraps(function)
    def guarded(*args: object, **kwargs: Any) -> Iterator[Any]:  # noqa: ANN401 - a step's own
        with ExitStack() as stack:
            # Another run of the same job and partition that holds the lock shows that both live.
            with suppress(DataError):
                stack.enter_context(run_lock(kwargs["etl"].lake, dg.OpExecutionContext.get().run))
            with hiding_credentials():
                yield from function(*args, **kwargs)

    return guarded


def run_lock(lake: Lake, run: dg.DagsterRun) -> AbstractContextManager[None]:
    """Hold the lock of a run, which is shared by the runs of the same job and partition."""
    partition = sha256(run.tags.get(PARTITION_TAG, "").encode()).hexdigest()[:16]
    return lake.storage.lock(f"run={run.job_name},{partition}", f"the run {run.run_id}")


@contextmanager
def hiding_credentials() -> Iterator[None]:
    """Remove the causes of an error from the first one that shows a credential."""
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
