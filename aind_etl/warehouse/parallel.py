"""Running statements on one database two at a time: most keep a single core busy."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from typing import TypeVar

import duckdb

from aind_etl.contract.ddl import quote_identifier

_Result = TypeVar("_Result")
_THREADS = 2


def run_parallel(
    connection: duckdb.DuckDBPyConnection,
    steps: Mapping[str, Callable[[duckdb.DuckDBPyConnection], _Result]],
    reads: Mapping[str, AbstractSet[str]] | None = None,
    progress: Callable[[str], None] = lambda _name: None,
) -> dict[str, _Result]:
    """Run steps, each on a connection of its own to the current database.

    Parameters
    ----------
    connection
        A connection, not used by the steps.
    steps
        What to run, by name.
    reads
        By name of a step, the names of those that must have ended before it begins.
    progress
        Called with each name as its step begins, in the calling thread.

    Returns
    -------
    dict
        What each step returned.

    Raises
    ------
    Exception
        The first error of a step. No further step is begun.
    """
    ((database,),) = connection.execute("SELECT current_database()").fetchall()

    def run(name: str) -> tuple[str, _Result]:
        with connection.cursor() as cursor:
            cursor.execute(f"USE {quote_identifier(database)}")
            return name, steps[name](cursor)

    order = TopologicalSorter({name: (reads or {}).get(name, ()) for name in steps})
    order.prepare()
    ready: list[str] = []
    running: set[Future[tuple[str, _Result]]] = set()
    results: dict[str, _Result] = {}
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="warehouse") as pool:
        while order.is_active():
            ready += order.get_ready()
            while ready and len(running) < _THREADS:
                progress(ready[0])
                running.add(pool.submit(run, ready.pop(0)))
            ended, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                name, results[name] = future.result()
                order.done(name)
    return results
