"""Programs written for the public reader, answered by the warehouse without changes to them.

:func:`replace_public_reader` registers modules under the names of the packages that such programs
import: the public reader of analysis results, and the client of the document database.
"""

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any, NoReturn

from aind_etl.client.model_fitting import get_mle_model_fitting
from aind_etl.client.session_table import get_session_table
from aind_etl.client.warehouse import Warehouse
from aind_etl.errors import ArgumentError, ConfigurationError

_READER = "aind_analysis_arch_result_access"
_DATABASE_CLIENT = "aind_data_access_api"
_DATABASE = "analysis"


class MetadataDbClient:
    """The client of the document database, reading from the warehouse; ``host`` is ignored.

    Raises
    ------
    ConfigurationError
        The database is not ``analysis``, which the warehouse holds.
    """

    def __init__(
        self,
        host: str = "",  # noqa: ARG002 - the client has it
        database: str = _DATABASE,
        collection: str = "",
        **_options: object,
    ) -> None:
        if database != _DATABASE:
            raise ConfigurationError(
                f"The warehouse holds the database {_DATABASE!r}, not {database!r}. Use the "
                "database itself, in a program that does not call replace_public_reader()."
            )
        self._collection = collection

    def retrieve_docdb_records(
        self,
        filter_query: Mapping[str, Any] | None = None,
        projection: Mapping[str, Any] | None = None,
        sort: Mapping[str, int] | None = None,
        limit: int = 0,
        **_paging: object,
    ) -> list[dict[str, Any]]:
        """Return whole documents, as :meth:`Warehouse.documents` does; 0 is no limit.

        Raises
        ------
        ValueError
            An argument is wrong, or ``sort`` is given.
        """
        if sort:
            raise ArgumentError("sort is not supported: documents come in the order of their ids.")
        return Warehouse().documents(self._collection, filter_query, projection, limit or None)


def get_logistic_regression(*_arguments: object, **_named: object) -> NoReturn:
    """Raise a ConfigurationError: the warehouse holds no logistic regressions."""
    raise ConfigurationError(
        "The warehouse holds no logistic regressions of single sessions. Use the public reader, in "
        "a program that does not call replace_public_reader(); columns named logistic_… of "
        "`sessions` have the coefficients."
    )


def replace_public_reader() -> None:
    """Make imports of the public reader and of the database's client use the warehouse.

    Call it before the first such import. The warehouse is the one that ``AIND_ETL_WAREHOUSE`` or
    ``AIND_ETL_LAKE`` name.

    Examples
    --------
    >>> import aind_etl
    >>> aind_etl.replace_public_reader()  # doctest: +SKIP
    >>> from aind_analysis_arch_result_access import get_mle_model_fitting  # doctest: +SKIP
    """
    fits: dict[str, object] = {"get_mle_model_fitting": get_mle_model_fitting}
    sessions = {
        "get_session_table": get_session_table,
        "get_logistic_regression": get_logistic_regression,
    }
    members: dict[str, dict[str, object]] = {
        _READER: fits,
        f"{_READER}.han_pipeline": fits | sessions,
        f"{_READER}.df_mle_model_fitting": fits,
        _DATABASE_CLIENT: {},
        f"{_DATABASE_CLIENT}.document_db": {"MetadataDbClient": MetadataDbClient},
    }
    description = "Answered by the warehouse; see aind_etl.client.drop_in."
    for name, content in members.items():
        module = sys.modules[name] = ModuleType(name, description)
        vars(module).update(content)
        package, _, last = name.rpartition(".")
        if package:
            setattr(sys.modules[package], last, module)
        else:
            # Makes it a package, whose modules can be imported.
            module.__path__ = []
