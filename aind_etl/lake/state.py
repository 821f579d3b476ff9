"""State files: how far a collection was processed, its layout, and the source's health."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aind_etl.contract.id_ranges import MOST_RANGES

_Model = TypeVar("_Model", bound=BaseModel)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class CollectionState(BaseModel):
    """How far a collection was read and flattened; written after the data it describes.

    It can be deleted at any time; the next run compares and flattens everything again.
    """

    model_config = ConfigDict(extra="ignore")

    collection: str
    source: str = ""
    fingerprint: str = ""
    first_pass_ended_at: datetime | None = None
    last_new_pass_at: datetime | None = None
    last_full_pass_at: datetime | None = None
    flattened_through: int = 0
    flattener: str = ""
    table_sizes: dict[str, int] | None = None
    log_gaps: tuple[str, ...] | None = None
    results_listed_at: datetime | None = None
    results_searched_through: int = 0
    results_reader: str = ""


class SourceHealth(BaseModel):
    """Whether the source can be read, as the sensor found it.

    Attributes
    ----------
    reached_at
        When it last answered.
    failing_since
        Since when it has not answered; None while it does.
    error
        Why it does not.
    is_alerted
        Whether an alert was sent that it cannot be read, and none yet that it can be read again.
    """

    reached_at: datetime | None = None
    failing_since: datetime | None = None
    error: str = ""
    is_alerted: bool = False


class Layout(BaseModel):
    """The number of shards of a collection.

    Attributes
    ----------
    shards
        The present number.
    planned_shards
        The number that the first pass over one of the planned shards reshards the collection to.
    is_to_be_cleared
        Whether files of the previous layout may still be there.
    """

    # The aliases are the names in files, also those of earlier versions.
    model_config = ConfigDict(extra="ignore", populate_by_name=True)

    shards: int = Field(default=1, alias="parts", ge=1, le=MOST_RANGES)
    planned_shards: int = Field(default=1, alias="planned_parts", ge=1, le=MOST_RANGES)
    is_to_be_cleared: bool = False


def merge_states(collection: str, states: Sequence[CollectionState]) -> CollectionState:
    """Return one state for several shards, which says only what is true of every shard."""
    newest = max(states, key=lambda state: state.last_full_pass_at or _LONG_AGO)
    merged: dict[str, Any] = {"collection": collection, "source": newest.source}
    for name in CollectionState.model_fields:
        if name.endswith(("_at", "_through")):
            times = {getattr(state, name) for state in states}
            merged[name] = None if None in times else min(times)
        elif name in {"fingerprint", "flattener", "results_reader"}:
            values = {getattr(state, name) for state in states}
            merged[name] = values.pop() if len(values) == 1 else ""
    return CollectionState.model_validate(merged)


def parse(model: type[_Model], content: bytes | None) -> _Model | None:
    """Return the content of a state file; None if it is missing or invalid.

    An invalid file was written by hand or by a later version: what it says is determined again.
    """
    try:
        return model.model_validate_json(content or b"")
    except ValidationError:
        return None
