"""The assets: the change log, what is made of it, the warehouse with its views and marts.

Each is a few lines that call a room of the package and report metadata.
"""

from collections.abc import Sequence

import dagster as dg

from aind_etl.orchestration.assets.documents import documents
from aind_etl.orchestration.assets.flattened import flatten
from aind_etl.orchestration.assets.warehouse import warehouse_asset

BY_COLLECTION = (documents, flatten)
"""What is made of one collection at a time."""


def all_assets() -> Sequence[dg.AssetsDefinition]:
    """Return every asset.

    Raises
    ------
    ConfigurationError
        A file of ``sql/`` does not begin with a comment.
    """
    return [*BY_COLLECTION, warehouse_asset()]
