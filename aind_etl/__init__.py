"""aind-etl: AIND's analysis results as parquet and a DuckDB warehouse.

In a notebook, ``from aind_etl import Warehouse, get_mle_model_fitting``. Everything else is the
command's.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aind_etl.client import Warehouse, get_mle_model_fitting

__all__ = ["Warehouse", "get_mle_model_fitting"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    # Loaded when asked for: the command's help need not wait for DuckDB and polars.
    if name in __all__:
        from aind_etl import client  # noqa: PLC0415

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
