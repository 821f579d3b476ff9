"""What a notebook imports: the warehouse's tables as DataFrames.

Here belongs reading for people. Building and publishing belong to :mod:`aind_etl.warehouse`.
"""

from pathlib import Path

import duckdb
import polars as pl

from aind_etl.contract.ddl import quote_identifier
from aind_etl.errors import ConfigurationError
from aind_etl.settings import load_settings
from aind_etl.warehouse import connect


class Warehouse:
    """A warehouse, opened anew for each question: never locked, and never out of date.

    Parameters
    ----------
    path
        The DuckDB file; the one that ``AIND_ETL_WAREHOUSE`` or ``AIND_ETL_LAKE`` name where none
        is given.

    Examples
    --------
    >>> warehouse = Warehouse("lake/warehouse.duckdb")  # doctest: +SKIP
    >>> warehouse.table("best_models")  # doctest: +SKIP
    >>> warehouse.sql("SELECT count(*) FROM analyses WHERE subject_id = '730945'")  # doctest: +SKIP
    """

    def __init__(self, path: Path | str | None = None) -> None:
        self.path = load_settings().warehouse_path if path is None else Path(path)

    def sql(self, query: str) -> pl.DataFrame:
        """Return the rows of a SELECT.

        Raises
        ------
        ConfigurationError
            There is no warehouse, or the query cannot be run.
        """
        with connect(self.path) as connection:
            try:
                relation = connection.sql(query)
                if relation is None:
                    raise ConfigurationError(f"{query!r} returns no rows. Give a SELECT.")
                frame: pl.DataFrame = relation.pl()
            except duckdb.Error as error:
                raise ConfigurationError(f"The query cannot be run. {error}") from None
            return frame

    def table(self, name: str) -> pl.DataFrame:
        """Return a whole table, view or mart.

        Raises
        ------
        ConfigurationError
            There is no warehouse, or it has no such table.
        """
        return self.sql(f"FROM {quote_identifier(name)}")
