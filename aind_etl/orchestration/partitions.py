"""Dynamic partitions: one per collection, or one per shard of a large collection.

A collection that is deleted at the source keeps its partition, like its history in the lake.
Partitions of shards that no longer exist are removed; their runs stay in Dagster's history.
"""

from collections.abc import Iterable, Mapping

import dagster as dg

from aind_etl.contract.id_ranges import UNSHARDED, Shard, shards
from aind_etl.lake import Lake

_NAME = "collections"

COLLECTIONS = dg.DynamicPartitionsDefinition(name=_NAME)
"""One partition per collection or shard."""


def partition_key(collection: str, shard: Shard) -> str:
    """Return the key of a partition, such as ``collection`` or ``collection/3-of-8``."""
    is_plain = shard == UNSHARDED and partition_of(collection) == (collection, UNSHARDED)
    return collection if is_plain else f"{collection}/{shard.label}"


def partition_of(key: str) -> tuple[str, Shard]:
    """Return the collection and the shard of a partition's key."""
    collection, slash, label = key.rpartition("/")
    shard = Shard.from_label(label) if slash else None
    return (key, UNSHARDED) if shard is None else (collection, shard)


def planned_partitions(lake: Lake, collections: Iterable[str]) -> dict[str, list[str]]:
    """Return the keys of the partitions that collections should have, by collection."""
    return {
        name: [partition_key(name, shard) for shard in shards(lake.layout(name).planned_shards)]
        for name in collections
    }


def new_and_stale(
    instance: dg.DagsterInstance, planned: Mapping[str, Iterable[str]]
) -> tuple[list[str], list[str]]:
    """Return the planned partitions that do not exist, and existing ones that are not planned.

    Partitions of collections without a plan are neither.
    """
    known = set(instance.get_dynamic_partitions(_NAME))
    wanted = {key for keys in planned.values() for key in keys}
    of_planned = {key for key in known if partition_of(key)[0] in planned}
    return sorted(wanted - known), sorted(of_planned - wanted)


def make_partitions(
    instance: dg.DagsterInstance, planned: Mapping[str, Iterable[str]]
) -> list[str]:
    """Create the planned partitions, delete stale ones of the same collections, and return all."""
    new, stale = new_and_stale(instance, planned)
    if new:
        instance.add_dynamic_partitions(_NAME, new)
    for key in stale:
        instance.delete_dynamic_partition(_NAME, key)
    return sorted(instance.get_dynamic_partitions(_NAME))
