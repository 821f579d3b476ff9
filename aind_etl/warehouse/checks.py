"""Running the checks of ``sql/``: queries that return offending rows."""

from collections.abc import Iterator, Sequence
from functools import partial

import duckdb

from aind_etl.errors import ConfigurationError
from aind_etl.warehouse.connection import OUT_OF_MEMORY
from aind_etl.warehouse.parallel import run_parallel
from aind_etl.warehouse.sql_files import SqlFile


def run_checks(
    connection: duckdb.DuckDBPyConnection, checks: Sequence[SqlFile]
) -> Iterator[tuple[SqlFile, int]]:
    """Run checks; yield each with the number of offending rows, in the given order.

    Raises
    ------
    ConfigurationError
        A check cannot be run.
    duckdb.Error
        The memory does not suffice.
    """
    counts = run_parallel(connection, {check.name: partial(_count, check) for check in checks})
    yield from ((check, counts[check.name]) for check in checks)


def _count(check: SqlFile, connection: duckdb.DuckDBPyConnection) -> int:
    try:
        # A statement may end in a comment.
        counted = connection.execute(f"SELECT count(*) FROM (\n{check.statement}\n)").fetchall()
    except OUT_OF_MEMORY:
        raise
    except duckdb.Error as error:
        raise ConfigurationError(
            f"sql/{check.kind}/{check.name}.sql cannot be run: {error}"
        ) from None
    return int(counted[0][0])
