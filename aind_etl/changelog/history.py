"""The history of a record: its versions in the change log, and the changes between them."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
import polars as pl

from aind_etl.errors import DataError
from aind_etl.lake import Lake
from aind_etl.text import suggest


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs between two versions.

    Attributes
    ----------
    path
        The path of the value in the document, dotted, with list positions in brackets.
    before, after
        The values as JSON; None if absent.
    """

    path: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a record.

    Attributes
    ----------
    batch_id, extracted_at, operation, content_hash
        As in the change log.
    changes
        Differences from the previous document; empty for the first version and for a deletion.
    """

    batch_id: int
    extracted_at: datetime
    operation: str
    content_hash: str | None
    changes: tuple[Change, ...]


def record_history(lake: Lake, collection: str, record_id: str) -> list[Version]:
    """Return the versions of a record, the oldest first.

    Raises
    ------
    DataError
        A file of the change log is damaged, or the log never held such a record.
    """
    log = lake.change_log(collection)
    with log.reporting_damage():
        rows = log.versions().filter(pl.col("record_id") == record_id).sort("batch_id").collect()
    versions: list[Version] = []
    before: dict[str, str] | None = None
    columns = ("batch_id", "extracted_at", "operation", "content_hash", "document")
    for batch_id, at, operation, content_hash, document in rows.select(columns).iter_rows():
        changes: tuple[Change, ...] = ()
        if document is not None:
            after = dict(_leaves(orjson.loads(document), ""))
            changes = () if before is None else tuple(_changes(before, after))
            before = after
        versions.append(Version(batch_id, at, operation, content_hash, changes))
    if not versions:
        collections = lake.collections()
        if collection not in collections:
            raise DataError(
                f"There is no collection {collection!r} in {lake}. "
                f"{suggest(collection, collections)}"
            )
        raise DataError(
            f"The collection {collection!r} of {lake} never held a record {record_id!r}. Ids are "
            "case-sensitive; 'aind-etl sql \"SELECT record_id FROM analyses\"' shows them."
        )
    return versions


def _changes(before: dict[str, str], after: dict[str, str]) -> Iterator[Change]:
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            yield Change(path, before.get(path), after.get(path))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:  # noqa: ANN401 - any JSON
    """Yield the path and the JSON of every scalar, and of every empty object and list."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for index, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{index}]")
    else:
        yield path, orjson.dumps(value).decode()
