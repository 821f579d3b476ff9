"""Staleness: which collections, or shards, have changes that the lake does not have.

The fingerprints of a source are compared with the lake's state files. That is cheap enough to run
every minute, and depends on nothing but the source and the lake.
"""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from multiprocessing.pool import ThreadPool
from time import monotonic
from typing import TypeVar

from aind_etl.contract.id_ranges import UNSHARDED, Shard, shards
from aind_etl.errors import AindEtlError, SourceError
from aind_etl.flatten import flattener_version
from aind_etl.lake import Lake
from aind_etl.lake.resharding import plan_shards
from aind_etl.lake.state import CollectionState
from aind_etl.sources.protocol import Source

_T = TypeVar("_T")
_THREADS = 8


@dataclass(frozen=True, slots=True)
class StaleCollection:
    """A collection, or a shard of one, that needs a pass.

    Attributes
    ----------
    collection, shard
        The collection, and the shard of it.
    identity
        A text that stays the same until the content that waits to be read changes.
    reason
        Why it is stale, for people.
    """

    collection: str
    identity: str
    reason: str
    shard: Shard = UNSHARDED


@dataclass(slots=True)
class StalenessReport:
    """The result of comparing a source with the lake.

    Attributes
    ----------
    present
        Every collection of the source and of the lake, sorted.
    stale
        The stale collections, or shards of them.
    unanswered
        Why a collection could not be checked, by its name.
    """

    present: list[str]
    stale: list[StaleCollection] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)


def find_stale_collections(
    source: Source,
    lake: Lake,
    choose: Callable[[set[str]], list[str]],
    *,
    most_documents: int,
    within: timedelta,
) -> StalenessReport:
    """Return the collections that need a pass, and plan how many shards they have.

    ``choose`` returns which of the existing collections to check, and ``most_documents`` is the
    most in a shard. A collection without a reply ``within`` the time for all requests is left to
    the next check and does not delay the others.

    Raises
    ------
    SourceError
        The source cannot list its collections in time.
    """
    deadline = monotonic() + within.total_seconds()
    (listed,) = _in_threads([source.list_collections], deadline, within)
    if isinstance(listed, AindEtlError):
        raise listed
    report = StalenessReport(choose({*listed, *lake.collections()}))
    fingerprints = _in_threads(
        [partial(source.fingerprint, name) for name in report.present], deadline, within
    )
    for collection, fingerprint in zip(report.present, fingerprints, strict=True):
        if isinstance(fingerprint, AindEtlError):
            report.unanswered[collection] = str(fingerprint)
            continue
        reasons: Mapping[Shard, str] = {
            seen.shard: reason
            for seen in lake.shards(collection)
            if (reason := _reason(source, seen, seen.state(collection), fingerprint))
        }
        if reasons:
            reasons = _plan_shards(source, lake, collection, reasons, most_documents)
        for shard, reason in reasons.items():
            name = lake.for_shard(shard).name_of(collection)
            identity = _hash(name, source.name, fingerprint, flattener_version())
            report.stale.append(StaleCollection(collection, identity, reason, shard))
    return report


def _plan_shards(
    source: Source, lake: Lake, collection: str, reasons: Mapping[Shard, str], most_documents: int
) -> Mapping[Shard, str]:
    """Plan the number of shards; return those to read, and why."""
    try:
        documents = source.count_documents(collection)
    except AindEtlError:
        documents = None  # The pass itself will report the error.
    of = plan_shards(lake, collection, documents, most_documents)
    if of == lake.layout(collection).shards:
        return reasons
    return dict.fromkeys(shards(of), f"to be divided into {of:,} shards")


def overdue_full_pass(
    lake: Lake, collection: str, now: datetime, age: timedelta
) -> Iterator[StaleCollection]:
    """Yield the shards of a collection that have not been read in full for longer than ``age``.

    The first pass counts, because it reads everything.
    """
    for seen in lake.shards(collection):
        state = seen.state(collection)
        ended = list(filter(None, (state.last_full_pass_at, state.first_pass_ended_at)))
        if ended and now - max(ended) > age:
            last = max(ended)
            yield StaleCollection(
                collection,
                _hash(seen.name_of(collection), "full", last.isoformat()),
                f"last read in full on {last:%Y-%m-%d at %H:%M} UTC",
                seen.shard,
            )


def _reason(source: Source, lake: Lake, state: CollectionState, fingerprint: str) -> str | None:
    if state.first_pass_ended_at is None:
        return "never read to its end"
    if state.source != source.name:
        return f"last read from {state.source}"
    if state.fingerprint != fingerprint:
        return f"{state.fingerprint} when last read, {fingerprint} now"
    if state.flattened_through < lake.change_log(state.collection).last_batch():
        return "documents read but not flattened"
    if state.flattener != flattener_version():
        return "flattened by an earlier version"
    return None


def _in_threads(
    calls: Sequence[Callable[[], _T]], deadline: float, within: timedelta
) -> list[_T | AindEtlError]:
    """Call functions in threads; return their results, or an error for those not in time.

    A server that never replies blocks only a few daemon threads, which do not keep the process
    alive.
    """
    too_late = SourceError(
        f"The source did not answer within {within.total_seconds():g} seconds. Check the server "
        "and the network; the next check tries again."
    )
    answers: list[_T | AindEtlError] = []
    with ThreadPool(_THREADS) as pool:
        for reply in [pool.apply_async(call) for call in calls]:
            try:
                answers.append(reply.get(max(0, deadline - monotonic())))
            except multiprocessing.TimeoutError:
                answers.append(too_late)
            except AindEtlError as error:
                answers.append(error)
    return answers


def _hash(*texts: str) -> str:
    return sha256("\0".join(texts).encode()).hexdigest()[:16]
