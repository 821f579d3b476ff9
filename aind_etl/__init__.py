"""aind-etl: AIND's analysis results as parquet and a DuckDB warehouse.

In a notebook, ``from aind_etl import Warehouse, get_mle_model_fitting, get_session_table``.
Everything else is for the command ``aind-etl``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aind_etl.client.drop_in import replace_public_reader
    from aind_etl.client.model_fitting import get_mle_model_fitting
    from aind_etl.client.session_table import get_session_table
    from aind_etl.client.warehouse import Warehouse

__all__ = ["Warehouse", "get_mle_model_fitting", "get_session_table", "replace_public_reader"]

_MODULES = {
    "Warehouse": "warehouse",
    "get_mle_model_fitting": "model_fitting",
    "get_session_table": "session_table",
    "replace_public_reader": "drop_in",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - depends on the name
    # Imported on first use, so that the command's help does not wait for DuckDB and polars.
    if name in _MODULES:
        return getattr(import_module(f"aind_etl.client.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
