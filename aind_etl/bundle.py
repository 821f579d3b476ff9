"""The location of the package's files that are not Python.

In a wheel they are in ``aind_etl/_bundled``, in a clone at the top of the repository.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_IN_CLONE = {"sql": "sql", "dagster.yaml": "dagster_home/dagster.yaml"}


def bundled(name: str) -> Path:
    """Return the path of a bundled file or folder: ``sql`` or ``dagster.yaml``."""
    installed = _PACKAGE / "_bundled" / name
    return installed if installed.exists() else _PACKAGE.parent / _IN_CLONE[name]
