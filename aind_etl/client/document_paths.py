"""Paths of documents that the contract names, without positions in lists."""

from collections.abc import Iterator
from functools import cache

from aind_etl.contract import Column, tables
from aind_etl.contract.columns import FIT, LEFT_IN_DOCUMENTS

_COLUMNS_OF_ANSWER = {
    **{name.upper(): name for name in ("aic", "bic", "lpt", "lpt_aic", "lpt_bic")},
    "analysis_time": "finished_at",
    "analysis_tag": "analysis_version",
    "S3_location": "result_location",
    "CO_asset_id": "url",
    "params": "value",
}
"""Columns of the model-fitting answer whose names in the contract differ."""


@cache
def known_paths() -> frozenset[str]:
    """Return the paths from which values are read, and of large values that are not."""
    left = (f"{fit}.{path}" for fit in FIT.values() for path in LEFT_IN_DOCUMENTS)
    columns = (column for table in tables.ANALYSIS_TABLES for column in table.columns)
    return frozenset([*left, *(path for column in columns for path in _paths(column))])


@cache
def paths_by_name() -> dict[str, tuple[str, ...]]:
    """Return the paths in either format of each name that needs no path in a filter.

    The two formats keep the same values in different places, so a filter by a path finds documents
    of one format only. The names are columns of the model-fitting answer and of `analyses`.
    """
    found: dict[str, tuple[str, ...]] = {}
    children = (tables.FIT_PARAMETERS, tables.CROSS_VALIDATION, tables.INPUT_ASSETS)
    for column in (column for table in (tables.ANALYSES, *children) for column in table.columns):
        paths = tuple(_paths(column))
        if paths and column.name != "record_id":
            found.setdefault(column.name, paths)
    names = {name: found[column] for name, column in _COLUMNS_OF_ANSWER.items()}
    return names | {
        name: paths
        for name, paths in found.items()
        # Other names of the child tables are too common to replace.
        if name in tables.ANALYSES.column_names or name.startswith("prediction")
    }


def _paths(column: Column) -> Iterator[str]:
    for origin in column.origins.values():
        for path in origin.paths:
            yield path.replace("[]", "").removesuffix(".*")
