"""Staleness: which collections, or shards, have changes that the lake does not have.

The fingerprints of a source are compared with the lake's state files. That is cheap enough for
every minute, and does not depend on anything but the lake.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
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
    """A collection, or a shard of one, that the lake is behind of.

    Attributes
    ----------
    collection, shard
        The collection, and which shard of it.
    identity
        The same text as long as the same content waits, another one as soon as more does.
    reason
        Why, for people.
    """

    collection: str
    identity: str
    reason: str
    shard: Shard = UNSHARDED


@dataclass(slots=True)
class StalenessReport:
    """What a look at a source found.

    Attributes
    ----------
    present
        Every collection of the source and of the lake, sorted.
    behind
        The collections, or their shards, that the lake is behind of.
    unanswered
        Why a collection could not be checked, by its name.
    """

    present: list[str]
    behind: list[StaleCollection] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)


def find_stale_collections(
    source: Source,
    lake: Lake,
    choose: Callable[[set[str]], list[str]],
    *,
    most_documents: int,
    within: timedelta,
) -> StalenessReport:
    """Return which collections the lake is behind of, and plan the shards of those.

    Parameters
    ----------
    source, lake
        What is compared.
    choose
        Returns which collections to look at, out of those there are.
    most_documents
        How many documents a shard of a collection may have.
    within
        How long all of it may take. A collection that has not answered by then is left to the
        next look; the others are not held up by it.

    Raises
    ------
    SourceError
        The source cannot list its collections, or not in time.
    ConfigurationError
        A collection that was asked for is not there.
    """
    give_up = monotonic() + within.total_seconds()
    (listed,) = _in_threads([source.list_collections], give_up, within)
    present = choose({*listed.result(), *lake.collections()})
    arrivals = StalenessReport(present)
    asked = _in_threads(
        [lambda name=name: source.fingerprint(name) for name in present],  # type: ignore[misc]
        give_up,
        within,
    )
    for collection, answer in zip(present, asked, strict=True):
        try:
            fingerprint = answer.result()
        except AindEtlError as error:
            arrivals.unanswered[collection] = str(error)
            continue
        reasons: Mapping[Shard, str] = {
            shard.shard: reason
            for shard in lake.shards(collection)
            if (reason := _reason(source, shard, shard.state(collection), fingerprint))
        }
        if reasons:
            reasons = _planned(source, lake, collection, reasons, most_documents)
        for shard, reason in reasons.items():
            name = lake.for_shard(shard).name_of(collection)
            identity = _hash(name, source.name, fingerprint, flattener_version())
            arrivals.behind.append(StaleCollection(collection, identity, reason, shard))
    return arrivals


def _planned(
    source: Source,
    lake: Lake,
    collection: str,
    reasons: Mapping[Shard, str],
    most_documents: int,
) -> Mapping[Shard, str]:
    """Return the shards that are to be read, once it is planned how many there are to be."""
    try:
        documents = source.count_documents(collection)
    except AindEtlError:
        documents = None  # The pass itself will say what is wrong.
    of = plan_shards(lake, collection, documents, most_documents)
    if of == lake.layout(collection).shards:
        return reasons
    return dict.fromkeys(shards(of), f"to be divided into {of:,} shards")


def overdue_full_pass(
    lake: Lake, collection: str, now: datetime, age: timedelta
) -> Iterator[StaleCollection]:
    """Yield the shards of a collection that were not read in full for longer than ``age``.

    The first pass counts: it reads everything.
    """
    for shard in lake.shards(collection):
        overdue = _overdue(shard, shard.state(collection), now, age)
        if overdue is not None:
            yield overdue


def _overdue(
    lake: Lake, state: CollectionState, now: datetime, age: timedelta
) -> StaleCollection | None:
    read = [
        moment
        for moment in (state.last_full_pass_at, state.first_pass_ended_at)
        if moment is not None
    ]
    if not read or now - max(read) <= age:
        return None
    last = max(read)
    return StaleCollection(
        state.collection,
        _hash(lake.name_of(state.collection), "full", last.isoformat()),
        f"last read in full on {last:%Y-%m-%d at %H:%M} UTC",
        lake.shard,
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
    calls: list[Callable[[], _T]], give_up: float, within: timedelta
) -> list["Future[_T]"]:
    """Call functions side by side, and return their answers as of a moment.

    The threads are not waited for any longer than that: a server that never answers holds up
    nothing but its own thread.
    """
    answers: list[Future[_T]] = [Future() for _ in calls]
    waiting = iter(list(zip(calls, answers, strict=True)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                call, answer = next(waiting, (None, None))
            if call is None or answer is None:
                return
            if not answer.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - passed to the caller
                answer.set_exception(error)
            else:
                answer.set_result(result)

    for _ in range(min(_THREADS, len(calls))):
        threading.Thread(target=work, daemon=True).start()
    done, _ = wait(answers, max(0, give_up - monotonic()))
    return [answer if answer in done else _late(within) for answer in answers]


def _late(within: timedelta) -> "Future[_T]":
    late: Future[_T] = Future()
    late.set_exception(
        SourceError(
            f"The source did not answer within {within.total_seconds():g} seconds. Look at the "
            "server and the network; the next check tries again."
        )
    )
    return late


def _hash(*shards: str) -> str:
    return sha256("\0".join(shards).encode()).hexdigest()[:16]
