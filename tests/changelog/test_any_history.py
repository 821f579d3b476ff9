"""The lake follows any history of a source, on real servers.

Histories are random. Documents are inserted (also late, with old times), changed without a change
of any time, deleted, and inserted again under the same ``_id``; collections appear and disappear.
Passes of both kinds, whole or in splits, are killed between any two writes, or meet a failing
server or a source that omits documents. The change log is compacted; its files are lost, damaged
and restored; cache files are replaced by earlier ones. ``AIND_ETL_TEST_STEPS`` is the number of
steps; on an object store, where each takes long, a twentieth of it.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import polars as pl
import pytest
from bson import CodecOptions, ObjectId
from bson.raw_bson import RawBSONDocument
from gateway_server import FAULTS, Fault, Gateway, failing, running_gateway
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from mongod import can_fail, mongod_or_skip
from places import Places
from pymongo import MongoClient, common
from pymongo.database import Database
from worlds import Clock, JsonDocument, load, read_dump

from aind_etl.changelog.compaction import compact_change_log
from aind_etl.changelog.passes import ExtractLimits, Pass
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import DataError, SourceError
from aind_etl.sources.canonical import (
    Document,
    RawDocument,
    canonical_document,
    document_from_bson,
    record_id_of,
)
from aind_etl.sources.gateway import GatewaySource
from aind_etl.sources.gateway import client as client_module
from aind_etl.sources.mongodb import MongoSource, faults
from aind_etl.sources.paging import Limits
from aind_etl.sources.protocol import Source

pytestmark = pytest.mark.slow

STEPS = int(os.environ.get("AIND_ETL_TEST_STEPS", "80"))
STEPS_A_HISTORY = 40
FEWEST_STEPS = 10

AnyDatabase = Database[dict[str, Any]]

ALWAYS = "always-there"
"""A collection that never disappears: a database without collections is an error."""
COLLECTIONS = (ALWAYS, "another", "a third")
LIMITS = Limits(connections=2, page_documents=3, page_ids=3, page_bytes=4 << 20)
IDENTITIES: tuple[Any, ...] = (
    *(f"{digit:x}{'0' * 31}" for digit in range(0, 16, 3)),
    "5",
    5,
    "5" * 24,
    ObjectId("5" * 24),
    "_id:5",
    "Zürich",
)

KEY_OF_VERSIONS = ("record_id", "batch_id", "content_hash")
PASSES = st.sampled_from(Pass)
NAMES = st.sampled_from(COLLECTIONS)
IDS = st.sampled_from(range(len(IDENTITIES)))
DIVISIONS = st.sampled_from([1, 2, 100])


class ByMongod:
    """A database on a mongod."""

    HOWS = ({"closeConnection": True}, {"errorCode": 43}, {"errorCode": 11600}, {"errorCode": 189})

    def __init__(self, client: MongoClient[dict[str, Any]], port: int) -> None:
        self._client = client
        self.database = client[f"history_{uuid4().hex[:8]}"]
        options = "directConnection=true&heartbeatFrequencyMS=500"
        self._address = f"mongodb://127.0.0.1:{port}/{self.database.name}?{options}"

    def open(self) -> MongoSource:
        """Open the source."""
        return MongoSource(self._address, LIMITS)

    def passing(self, number: int) -> AbstractContextManager[None]:
        """Cause a transient error."""
        return self._failing({"times": 1 + number % 3}, self.HOWS[number % len(self.HOWS)])

    def failing_after(self, requests: int) -> AbstractContextManager[None]:
        """Make every request fail after some."""
        return self._failing({"skip": requests}, {"errorCode": 13})

    @contextmanager
    def _failing(self, mode: dict[str, int], how: dict[str, Any]) -> Iterator[None]:
        data = {"failCommands": ["find"], "appName": "aind-etl", **how}
        self._client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            self._client.admin.command("configureFailPoint", "failCommand", mode="off")


class ByGateway:
    """A database behind a gateway."""

    HOWS = ("429", "503", "reset", "cut", "cut unnoticed")

    def __init__(self, database: AnyDatabase, gateway: Gateway) -> None:
        self.database = gateway.database = database
        self._gateway = gateway

    def open(self) -> GatewaySource:
        """Open the source."""
        self._gateway.requests.clear()
        return GatewaySource(
            self._gateway.url,
            COLLECTIONS,
            LIMITS,
            requests_per_second=1e6,
        )

    @contextmanager
    def passing(self, number: int) -> Iterator[None]:
        """Cause a transient error."""
        fault = FAULTS[self.HOWS[number % len(self.HOWS)]]
        self._gateway.faults.extend([fault] * (1 + number % 3))
        yield
        self._gateway.faults.clear()

    @contextmanager
    def failing_after(self, requests: int) -> Iterator[None]:
        """Make every request fail after some."""
        number = count()
        refusal: Fault = failing(400)
        self._gateway.fault_for = lambda _: refusal if next(number) >= requests else None
        try:
            yield
        finally:
            self._gateway.fault_for = lambda _: None


Served: TypeAlias = ByMongod | ByGateway
"""A database that can be opened as a source and made to fail."""


class Omitting:
    """A source that omits some documents, but counts them."""

    def __init__(self, source: Source, hidden: set[str]) -> None:
        self._source = source
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the ids of a split but those that are hidden."""
        ids = self._source.list_ids(collection, split)
        return (one for one in ids if one not in self._hidden)

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield the documents of a split but those that are hidden."""
        for raw in self._source.read_raw(collection, split):
            if canonical_document(raw).record_id not in self._hidden:
                yield raw


class History(RuleBasedStateMachine):
    """A database that changes, and a lake that follows it."""

    def __init__(self, served: Served, pool: list[JsonDocument], places: Places) -> None:
        super().__init__()
        self.served = served
        self.pool = pool
        self.places = places
        self.lake = places.new()
        self.clock = Clock()
        self.versions = count()
        self.caches: list[tuple[str, bytes]] = []

    def put(self, name: str, identity: int, time: str) -> None:
        """Write a document, of either format, that differs from all earlier ones."""
        document = self.pool[identity % len(self.pool)] | {
            "_id": IDENTITIES[identity],
            "analysis_datetime": time,
            "version": next(self.versions),
        }
        self.served.database[name].replace_one({"_id": document["_id"]}, document, upsert=True)

    @initialize()
    def begin(self) -> None:
        """Begin with a document."""
        self.put(ALWAYS, 0, "2026-01-01T00:00:00")

    @rule(name=NAMES, identity=IDS)
    def insert(self, name: str, identity: int) -> None:
        """Insert a document, or replace it."""
        self.put(name, identity, "2026-05-01T00:00:00")

    @rule(name=NAMES, identity=IDS)
    def insert_late_with_an_old_time(self, name: str, identity: int) -> None:
        """Insert a document with a time long ago."""
        self.put(name, identity, "2024-11-01T00:00:00")

    @rule(name=NAMES, identity=IDS)
    def update_without_any_time_changing(self, name: str, identity: int) -> None:
        """Change a document that is there."""
        change = {"$set": {"version": next(self.versions)}}
        self.served.database[name].update_one({"_id": IDENTITIES[identity]}, change)

    @rule(name=NAMES, identity=st.integers(1, len(IDENTITIES) - 1))
    def delete(self, name: str, identity: int) -> None:
        """Delete a document that is there."""
        self.served.database[name].delete_one({"_id": IDENTITIES[identity]})

    @rule(name=NAMES, identity=IDS)
    def delete_and_insert_again(self, name: str, identity: int) -> None:
        """Let another document take an ``_id``."""
        self.served.database[name].delete_one({"_id": IDENTITIES[identity]})
        self.put(name, identity, "2026-01-01T00:00:00")

    @rule(name=st.sampled_from(COLLECTIONS[1:]))
    def collection_disappears(self, name: str) -> None:
        """Drop a collection."""
        self.served.database.drop_collection(name)

    @rule(name=NAMES, fewest_files=st.integers(2, 4))
    def compact(self, name: str, fewest_files: int) -> None:
        """Compact a change log."""
        compact_change_log(self.lake, name, fewest_files=fewest_files)

    @rule(number=st.integers(0, 30))
    def cache_file_is_an_earlier_one(self, number: int) -> None:
        """Replace the cache file by an earlier one."""
        if self.caches:
            name, content = self.caches[number % len(self.caches)]
            self.lake.storage.write(name, lambda file: file.write(content))

    def run(self, pass_kind: Pass, shard_documents: int) -> None:
        """Make a pass over every collection, and flatten what it found."""
        self.clock.move(hours=1)
        limits = ExtractLimits(max_deleted_share=1, shard_documents=shard_documents)
        with self.served.open() as source:
            load(source, self.lake, pass_kind, limits=limits, now=self.clock)

    @rule(pass_kind=PASSES, shard_documents=DIVISIONS)
    def pass_(self, pass_kind: Pass, shard_documents: int) -> None:
        """Make a pass."""
        self.run(pass_kind, shard_documents)
        self.check(pass_kind)

    @rule(pass_kind=PASSES, shard_documents=DIVISIONS, number=st.integers(0, 20))
    def pass_through_faults(self, pass_kind: Pass, shard_documents: int, number: int) -> None:
        """Make a pass while the server fails now and then."""
        with self.served.passing(number):
            self.run(pass_kind, shard_documents)
        self.check(pass_kind)

    @rule(pass_kind=PASSES, shard_documents=DIVISIONS, requests=st.integers(0, 25))
    def pass_that_fails(self, pass_kind: Pass, shard_documents: int, requests: int) -> None:
        """Make a pass that fails."""
        with self.served.failing_after(requests), suppress(SourceError):
            self.run(pass_kind, shard_documents)

    @rule(pass_kind=PASSES, shard_documents=DIVISIONS, operation=st.integers(1, 60))
    def killed_pass(self, pass_kind: Pass, shard_documents: int, operation: int) -> None:
        """Make a pass that is killed at an operation that changes the lake."""
        with self.places.killed_at(operation):
            self.run(pass_kind, shard_documents)

    @rule(name=NAMES, number=st.integers(0, 20), pass_kind=PASSES, is_damaged=st.booleans())
    def log_file_is_lost_for_a_while(
        self, name: str, number: int, pass_kind: Pass, *, is_damaged: bool
    ) -> None:
        """Remove or truncate a file of a change log, go on, and restore it from a backup."""
        # Without the last file, its batch numbers would be used again.
        files = self.lake.change_log(name).files()[:-1]
        if not files:
            return
        path = files[number % len(files)].path
        known = set(
            self.lake.change_log(name).versions().select(*KEY_OF_VERSIONS).collect().iter_rows()
        )
        backup = path.read_bytes()
        file_name = str(path).removeprefix(f"{self.lake}/")
        if is_damaged:
            self.lake.storage.write(file_name, lambda file: file.write(backup[: len(backup) // 2]))
            with suppress(DataError):
                self.run(pass_kind, 100)
        else:
            self.lake.storage.remove(file_name)
            self.run(pass_kind, 100)
            self.check(pass_kind)
        self.lake.storage.write(file_name, lambda file: file.write(backup))
        self.run(Pass.FULL, 100)
        self.check(Pass.FULL)
        now = self.lake.change_log(name).versions().select(*KEY_OF_VERSIONS).collect()
        assert known <= set(now.iter_rows())

    @rule(pass_kind=PASSES, omitted=st.sets(IDS, min_size=1))
    def pass_over_a_source_that_omits(self, pass_kind: Pass, omitted: set[int]) -> None:
        """Make a pass over a source that omits documents, but counts them."""
        hidden = {record_id_of(IDENTITIES[one]) for one in omitted}
        before = {
            name: set(self.lake.change_log(name).live_documents()["record_id"])
            for name in COLLECTIONS
        }
        self.clock.move(hours=1)
        limits = ExtractLimits(max_deleted_share=1)
        with self.served.open() as source, suppress(SourceError):
            load(Omitting(source, hidden), self.lake, pass_kind, limits=limits, now=self.clock)
        for name in COLLECTIONS:
            kept = set(self.lake.change_log(name).live_documents()["record_id"])
            assert before[name] & self.hashes_at_the_server(name).keys() <= kept

    def check(self, pass_kind: Pass) -> None:
        """Compare the lake with the database: contents after a full pass, ids after a new one."""
        for name in COLLECTIONS:
            cache_file = self.lake.raw_hashes_name(name)
            self.caches.append((cache_file, self.lake.storage.read(cache_file) or b""))
            there = self.hashes_at_the_server(name)
            live = self.lake.change_log(name).live_documents()
            here = dict(live.select("record_id", "content_hash").iter_rows())
            if pass_kind is Pass.FULL:
                assert here == there
            else:
                assert here.keys() == there.keys()
            versions, flattened, rejected = pl.collect_all(
                [
                    self.lake.change_log(name).versions().select("record_id", "batch_id"),
                    self.lake.tables.scan(tables.ANALYSES, name).select("record_id"),
                    self.lake.tables.scan(tables.REJECTED_DOCUMENTS, name).select("record_id"),
                ]
            )
            assert len(set(versions.iter_rows())) == versions.height
            made = [*set(flattened["record_id"]), *rejected["record_id"]]
            assert sorted(made) == sorted(here)

    def hashes_at_the_server(self, name: str) -> dict[str, str]:
        """Return the content hash of every document of a collection, by record id."""
        raw = CodecOptions(document_class=RawBSONDocument)
        found = self.served.database.get_collection(name, raw).find()
        documents = [document_from_bson(bytes(one.raw)) for one in found]
        return {one.record_id: one.content_hash for one in documents}

    def teardown(self) -> None:
        """End with a full pass."""
        self.run(Pass.FULL, 100)
        self.check(Pass.FULL)
        self.served.database.client.drop_database(self.served.database.name)


@pytest.fixture(scope="module")
def mongod(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[MongoClient[dict[str, Any]], int]]:
    with (
        mongod_or_skip(tmp_path_factory.mktemp("history-mongod")) as port,
        MongoClient[dict[str, Any]]("127.0.0.1", port) as client,
    ):
        assert can_fail(client)
        yield client, port


@pytest.fixture
def pool(sample_dump: Path) -> list[JsonDocument]:
    """Return a few documents of both formats."""
    documents = read_dump(sample_dump)
    older = [one for one in documents if "analysis_results" in one]
    return [older[0], next(one for one in documents if "processing" in one), older[-1], {}]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.005)
    # How long pymongo waits before it checks a server again after a broken connection.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def follow(make: Callable[[], History], steps: int = STEPS) -> None:
    run_state_machine_as_test(
        make,
        settings=settings(
            max_examples=max(1, steps // STEPS_A_HISTORY),
            stateful_step_count=min(max(steps, FEWEST_STEPS), STEPS_A_HISTORY),
            deadline=None,
            # Shrinking takes far longer than the search.
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize(
    ("places", "steps"), [("disk", STEPS), ("object store", STEPS // 20)], indirect=["places"]
)
def test_the_lake_follows_any_history_of_a_mongod(mongod, pool, places, steps):
    follow(lambda: History(ByMongod(*mongod), pool, places), steps)


@pytest.mark.parametrize("places", ["disk"], indirect=True)
def test_the_lake_follows_any_history_behind_a_gateway(mongod, pool, places):
    client, _ = mongod
    with running_gateway(client["unused"]) as gateway:
        follow(
            lambda: History(ByGateway(client[f"history_{uuid4().hex[:8]}"], gateway), pool, places)
        )
