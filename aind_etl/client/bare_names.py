"""Names without a path in filters of documents: a value in either format.

The two formats keep the same values in different places, so a server's filter by a path finds the
documents of one format only. Here a name that is a column of the reader or of `analyses` is
replaced by the paths of both formats. A dotted path is left as it is.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from aind_etl.contract import Column, tables
from aind_etl.errors import ArgumentError

_READERS_NAMES = {
    "AIC": "aic",
    "BIC": "bic",
    "LPT": "lpt",
    "LPT_AIC": "lpt_aic",
    "LPT_BIC": "lpt_bic",
    "analysis_time": "finished_at",
    "analysis_tag": "analysis_version",
    "S3_location": "result_location",
    "CO_asset_id": "url",
    "params": "value",
}
"""The model-fitting reader's names of columns that are called otherwise here."""
_LOGICAL = ("$and", "$or", "$nor")
_DEEPEST = 100


def in_either_format(query: Mapping[str, Any], *, depth: int = 0) -> dict[str, Any]:
    """Return a filter in which names without a path are replaced by the paths of both formats.

    What a server finds by the name itself is still found.

    Parameters
    ----------
    query
        A MongoDB filter.
    depth
        How deep it is nested in another.

    Raises
    ------
    ArgumentError
        The filter is nested too deeply.
    """
    if depth > _DEEPEST:
        raise ArgumentError(
            f"The filter is nested more than {_DEEPEST} levels deep; give a flatter one."
        )
    conditions = []
    for key, value in query.items():
        if key in _LOGICAL and isinstance(value, list | tuple):
            inner = [
                in_either_format(one, depth=depth + 1) if isinstance(one, Mapping) else one
                for one in value
            ]
            conditions.append({key: inner})
        elif isinstance(key, str) and key in _paths():
            conditions.append(_anywhere(key, value))
        else:
            conditions.append({key: value})
    if len(conditions) == 1:
        return conditions[0]
    return {"$and": conditions} if conditions else {}


def _anywhere(name: str, value: object) -> dict[str, Any]:
    """Return the condition that a value meets a test at one of its paths, where there is one."""
    paths = _paths()[name]
    if len(paths) == 1:
        return {paths[0]: value}
    return {
        "$or": [
            # A test such as $ne matches documents without a value at the path.
            {path: value} if path == name else {"$and": [{path: {"$exists": True}}, {path: value}]}
            for path in paths
        ]
    }


@cache
def _paths() -> dict[str, tuple[str, ...]]:
    """Return the paths of each name in documents of either format."""
    found: dict[str, tuple[str, ...]] = {}
    children = (tables.FIT_PARAMETERS, tables.CROSS_VALIDATION, tables.INPUT_ASSETS)
    columns = [column for table in (tables.ANALYSES, *children) for column in table.columns]
    for column in columns:
        paths = _paths_of(column)
        if paths and column.name != "record_id":
            found.setdefault(column.name, paths)
    names = {name: found[column] for name, column in _READERS_NAMES.items()}
    return {
        name: paths
        for name, paths in (found | names).items()
        # Of tables whose columns the reader has not, names are too common.
        if name in names or name in tables.ANALYSES.column_names or name.startswith("prediction")
    }


def _paths_of(column: Column) -> tuple[str, ...]:
    return tuple(
        path.replace("[]", "").removesuffix(".*")
        for origin in column.origins.values()
        for path in origin.paths
    )
