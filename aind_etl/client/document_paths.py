"""Names without a path in filters of documents: they mean a value in either format.

The two formats keep the same values in different places, so a filter by a path finds documents of
one format only. A name that is a column of the model-fitting answer or of `analyses` is replaced by
the paths of both formats. A dotted path is left as it is.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from aind_etl.client.document_filter import LOGICAL, refuse_deep_nesting
from aind_etl.contract import tables

_COLUMNS_OF_ANSWER = {
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
"""Columns of the model-fitting answer whose names in the contract differ."""


def in_either_format(query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a MongoDB filter in which names without a path are replaced by both formats' paths.

    What a server finds by the name itself is still found. Too deep nesting is an ArgumentError.
    """
    refuse_deep_nesting(query)
    return _expand(query)


def _expand(query: Mapping[str, Any]) -> dict[str, Any]:
    conditions = []
    for key, value in query.items():
        if key in LOGICAL and isinstance(value, list | tuple):
            inner = [_expand(one) if isinstance(one, Mapping) else one for one in value]
            conditions.append({key: inner})
        elif key in _paths():
            conditions.append(_at_any(_paths()[key], key, value))
        else:
            conditions.append({key: value})
    if len(conditions) == 1:
        return conditions[0]
    return {"$and": conditions} if conditions else {}


def _at_any(paths: tuple[str, ...], name: str, value: object) -> dict[str, Any]:
    """Return the condition that a value passes a test at one of its paths."""
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
    for column in (column for table in (tables.ANALYSES, *children) for column in table.columns):
        paths = tuple(
            path.replace("[]", "").removesuffix(".*")
            for origin in column.origins.values()
            for path in origin.paths
        )
        if paths and column.name != "record_id":
            found.setdefault(column.name, paths)
    names = {name: found[column] for name, column in _COLUMNS_OF_ANSWER.items()}
    return names | {
        name: paths
        for name, paths in found.items()
        # Other names of the child tables are too common to replace.
        if name in tables.ANALYSES.column_names or name.startswith("prediction")
    }
