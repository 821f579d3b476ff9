"""Running statements on one database two at a time: most keep a single core busy."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from graphlib import TopologicalSorter
from typing import TypeVar

import duckdb

from aind_etl.contract.ddl import quote_identifier

_Result = TypeVar("_Result")
STATEMENTS = 2
"""Number of statements at a time, unless the memory suffices for one only."""
_INTERRUPT_EVERY_SECONDS = 0.1


def run_parallel(
    connection: duckdb.DuckDBPyConnection,
    steps: Mapping[str, Callable[[duckdb.DuckDBPyConnection], _Result]],
    reads: Mapping[str, AbstractSet[str]] | None = None,
    progress: Callable[[str], None] = lambda _name: None,
    *,
    at_a_time: int = STATEMENTS,
) -> dict[str, _Result]:
    """Run steps, each on a connection of its own to the current database, with times in UTC.

    The first error of a step is raised. No further step is begun then, and the other one is
    interrupted.

    Parameters
    ----------
    reads
        By name of a step, the names of those that must have ended before it begins. Names of
        anything else are ignored.
    progress
        Called with each name as its step begins, in the calling thread.

    Returns
    -------
    dict
        What each step returned, by name.
    """
    ((database,),) = connection.execute("SELECT current_database()").fetchall()

    cursors: set[duckdb.DuckDBPyConnection] = set()

    def run(name: str) -> tuple[str, _Result]:
        with connection.cursor() as cursor:
            # A cursor does not inherit the settings of its connection.
            cursor.execute("SET TimeZone = 'UTC'")
            cursor.execute(f"USE {quote_identifier(database)}")
            cursors.add(cursor)
            try:
                return name, steps[name](cursor)
            finally:
                cursors.discard(cursor)

    order = TopologicalSorter(
        {name: steps.keys() & (reads or {}).get(name, set()) for name in steps}
    )
    order.prepare()
    ready: list[str] = []
    running: set[Future[tuple[str, _Result]]] = set()
    results: dict[str, _Result] = {}
    with ThreadPoolExecutor(at_a_time, thread_name_prefix="warehouse") as pool:
        try:
            while order.is_active():
                ready += order.get_ready()
                while ready and len(running) < at_a_time:
                    progress(ready[0])
                    running.add(pool.submit(run, ready.pop(0)))
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for future in ended:
                    name, results[name] = future.result()
                    order.done(name)
        except BaseException:
            # An error or Ctrl-C does not wait for a long statement of the other step. Repeated,
            # because an interrupt between two statements has no effect.
            while running:
                for cursor in [*cursors]:
                    with suppress(duckdb.Error):  # It has just been closed.
                        cursor.interrupt()
                _, running = wait(running, timeout=_INTERRUPT_EVERY_SECONDS)
            raise
    return results
