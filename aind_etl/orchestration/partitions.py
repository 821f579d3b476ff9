"""The partitions: one a collection, found in the source rather than written down.

Here belongs what a partition is and how new ones come. None is ever removed: a collection that
is gone from the source still has its history in the lake.
"""

from collections.abc import Iterable

import dagster as dg

_NAME = "collections"

COLLECTIONS = dg.DynamicPartitionsDefinition(name=_NAME)
"""One partition a collection."""

ONE_RUN_EACH = dg.BackfillPolicy.multi_run(max_partitions_per_run=1)
"""A backfill makes one run a collection: each has its own writer, history and retries."""


def new_partitions(instance: dg.DagsterInstance, collections: Iterable[str]) -> list[str]:
    """Return the collections that are no partitions yet, sorted."""
    return sorted(set(collections) - set(instance.get_dynamic_partitions(_NAME)))


def add_partitions(instance: dg.DagsterInstance, collections: Iterable[str]) -> None:
    """Make partitions of collections that are none yet."""
    new = new_partitions(instance, collections)
    if new:
        instance.add_dynamic_partitions(_NAME, new)


def known_partitions(instance: dg.DagsterInstance) -> list[str]:
    """Return every partition there is, sorted."""
    return sorted(instance.get_dynamic_partitions(_NAME))
