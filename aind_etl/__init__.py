"""aind-etl: AIND's analysis results as parquet and a DuckDB warehouse.

In a notebook, ``from aind_etl import Warehouse, get_mle_model_fitting, get_session_table``.
Everything else belongs to the command.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aind_etl.client.model_fitting import get_mle_model_fitting
    from aind_etl.client.session_table import get_session_table
    from aind_etl.client.warehouse import Warehouse

__all__ = ["Warehouse", "get_mle_model_fitting", "get_session_table"]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    # Loaded when asked for: the command's help need not wait for DuckDB and polars.
    if name == "Warehouse":
        from aind_etl.client.warehouse import Warehouse  # noqa: PLC0415

        return Warehouse
    if name == "get_mle_model_fitting":
        from aind_etl.client.model_fitting import get_mle_model_fitting  # noqa: PLC0415

        return get_mle_model_fitting
    if name == "get_session_table":
        from aind_etl.client.session_table import get_session_table  # noqa: PLC0415

        return get_session_table
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
