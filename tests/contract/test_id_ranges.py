"""Splits and shards: every record is in exactly one of them."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import bson
import pytest
from gateway_server import running_gateway
from hypothesis import example, given
from hypothesis import strategies as st
from mongod import failing, mongod_or_skip
from pymongo import MongoClient
from pymongo.database import Database
from worlds import ANY_SHARE, Clock, extract, files_of, live_documents_of, log_of, write_dump

from aind_etl.changelog.passes import ExtractLimits, Pass, extract_collection
from aind_etl.contract.id_ranges import ALL_IDS, MOST_RANGES, UNSHARDED, Shard, shards
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.sources.canonical import OTHER_ID_PREFIX
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.gateway import GatewaySource
from aind_etl.sources.gateway import source as gateway_source
from aind_etl.sources.mongodb import MongoSource
from aind_etl.sources.mongodb import source as mongo_source_module
from aind_etl.sources.protocol import Source, read_documents

NAME = "divided"
IDENTITIES: list[Any] = [
    *(f"{n:02x}{'7' * 30}" for n in range(0, 256, 5)),
    *("", "Zürich", "zzz", "GG", "_id:5", "~", "8", "80", "8000", "7fff"),
    *(5, 2.5, None, True, bson.ObjectId("8" * 24), {"b": 1, "a": 2}),
]
NUMBERS = st.integers(1, 300)


@example(MOST_RANGES, "7fff0")
@given(number=NUMBERS, record_id=st.text() | st.text("0123456789abcdef", min_size=3))
def test_every_record_id_is_in_exactly_one_split(number: int, record_id: str) -> None:
    assert sum(split.holds(record_id) for split in UNSHARDED.splits(number)) == 1


@example(MOST_RANGES)
@given(number=NUMBERS)
def test_splits_follow_each_other_and_one_holds_the_ids_that_are_not_strings(number: int) -> None:
    divided = UNSHARDED.splits(number)
    assert len(set(divided)) == number
    assert [split.upper for split in divided[:-1]] == [split.lower for split in divided[1:]]
    assert (divided[0].lower, divided[-1].upper) == ("", None)
    assert sum(split.holds(OTHER_ID_PREFIX) for split in divided) == 1


@example(Shard(2, 3), MOST_RANGES)
@given(shard=NUMBERS.flatmap(lambda of: st.sampled_from([*shards(of)])), number=NUMBERS)
def test_the_splits_of_a_shard_cover_it(shard: Shard, number: int) -> None:
    read = shard.splits(number)
    assert len(read) == min(number, MOST_RANGES // shard.of)
    assert (read[0].lower, read[-1].upper) == shard.ids
    assert [split.upper for split in read[:-1]] == [split.lower for split in read[1:]]


@given(of=NUMBERS)
def test_a_label_identifies_a_shard_and_labels_sort_as_shards_do(of: int) -> None:
    labels = [shard.label for shard in shards(of)]
    assert [Shard.from_label(label) for label in labels] == list(shards(of))
    assert labels == sorted(labels)


@pytest.mark.parametrize("text", ["", "0-of-4", "5-of-4", "1-of-16", "1-of", "1-of-4x", "a-of-4"])
def test_other_texts_are_not_labels(text: str) -> None:
    assert Shard.from_label(text) is None


def test_hexadecimal_ids_are_divided_evenly() -> None:
    ids = [f"{n:04x}ffff" for n in range(0, MOST_RANGES, 31)]
    for number in (2, 3, 10, 16, 100):
        sizes = [sum(map(split.holds, ids)) for split in UNSHARDED.splits(number)]
        assert max(sizes) - min(sizes) <= 2


def test_a_single_split_has_all_ids() -> None:
    assert UNSHARDED.splits(1) == [ALL_IDS]


# --- sources ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoClient[dict[str, Any]]]:
    running = mongod_or_skip(tmp_path_factory.mktemp("splits-mongod"))
    with running as port, MongoClient[dict[str, Any]]("127.0.0.1", port) as client:
        yield client


@pytest.fixture
def database(mongod: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    name = f"shards_{uuid4().hex[:8]}"
    mongod[name][NAME].insert_many(
        {"_id": identity, "n": n} for n, identity in enumerate(IDENTITIES)
    )
    yield mongod[name]
    mongod.drop_database(name)


Open = Callable[..., Source]


@pytest.fixture(params=["mongod", "gateway", "dump"])
def open_source(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Open]:
    """Return a function that opens the same documents in each kind of source."""
    if request.param == "dump":
        documents = [{"_id": identity, "n": n} for n, identity in enumerate(IDENTITIES)]
        (tmp_path / "dump").mkdir()
        (tmp_path / f"dump/{NAME}.bson").write_bytes(b"".join(map(bson.encode, documents)))
        yield lambda **_: DumpSource(tmp_path / "dump")
        return
    database = request.getfixturevalue("database")
    if request.param == "mongod":
        yield lambda **limits: mongo_source(database, **limits)
        return
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_gateway(database) as gateway:
        yield lambda **limits: GatewaySource(
            gateway.url,
            [NAME],
            replace(gateway_source.LIMITS, page_ids=7, **limits),
            requests_per_second=1e6,
        )


def mongo_source(database: Database[dict[str, Any]], **limits: Any) -> MongoSource:
    host, port = database.client.address or ("", 0)
    address = f"mongodb://{host}:{port}/{database.name}"
    return MongoSource(address, replace(mongo_source_module.LIMITS, page_ids=7, **limits))


def test_the_splits_of_a_source_have_each_document_once(open_source: Open) -> None:
    with open_source() as source:
        whole = sorted(read_documents(source, NAME))
        assert len(whole) == len(IDENTITIES)
        found, ids = [], []
        for split in reversed(UNSHARDED.splits(7)):
            documents = list(read_documents(source, NAME, split))
            assert all(split.holds(document.record_id) for document in documents)
            found += documents
            ids += list(source.list_ids(NAME, split))
        assert sorted(found) == whole
        assert sorted(ids) == [document.record_id for document in whole]


@pytest.mark.slow
@pytest.mark.parametrize("pass_kind", Pass)
def test_the_number_of_splits_may_change_from_pass_to_pass(
    open_source: Open, lake: Lake, pass_kind: Pass
) -> None:
    with open_source() as source:
        for number in (20, 7, 1000, 1, 20):
            limits = ExtractLimits(max_deleted_share=0, shard_documents=number)
            report = extract_collection(source, lake, NAME, pass_kind, limits=limits, now=Clock())
            assert report.deleted == report.changed == report.repeated == 0
        whole = sorted(document.record_id for document in read_documents(source, NAME))
    assert report.new == 0
    assert live_documents_of(lake)["record_id"].to_list() == whole
    assert len(log_of(lake, NAME)) == len(IDENTITIES)


def test_only_a_collection_over_the_size_is_divided(
    database: Database[dict[str, Any]], lake: Lake
) -> None:
    with mongo_source(database) as source:
        for size, expected in ((len(IDENTITIES), 1), (len(IDENTITIES) - 1, 2), (10, 7)):
            limits = ExtractLimits(shard_documents=size)
            report = extract_collection(source, lake, NAME, Pass.NEW, limits=limits)
            assert report.splits == expected


def test_the_share_of_deleted_documents_is_that_of_the_whole_collection(
    database: Database[dict[str, Any]], lake: Lake
) -> None:
    limits = ExtractLimits(max_deleted_share=0.2, shard_documents=5)
    with mongo_source(database) as source:
        extract_collection(source, lake, NAME, Pass.FULL, limits=limits)
        # All of one split, and a tenth of the collection.
        database[NAME].delete_many({"_id": {"$gte": "0", "$lt": "1"}})
        report = extract_collection(source, lake, NAME, Pass.FULL, limits=limits)
    assert report.deleted == 4


@pytest.mark.parametrize("connections", [1, 3])
def test_no_more_connections_are_made_than_the_source_is_allowed(
    database: Database[dict[str, Any]], lake: Lake, connections: int
) -> None:
    admin = database.client.admin
    most = 0
    is_over = threading.Event()

    def count() -> None:
        nonlocal most
        question = [
            {"$currentOp": {"allUsers": True, "idleConnections": True}},
            {"$match": {"appName": "aind-etl", "desc": {"$regex": "^conn"}}},
            {"$project": {"connectionId": 1}},
        ]
        while not is_over.is_set():
            most = max(most, len(list(admin.aggregate(question))))
            time.sleep(0.005)

    counting = threading.Thread(target=count)
    counting.start()
    try:
        with (
            failing(database.client, "find", times=None, blockConnection=True, blockTimeMS=10),
            mongo_source(database, connections=connections) as source,
        ):
            limits = ExtractLimits(shard_documents=5)
            report = extract_collection(source, lake, NAME, Pass.FULL, limits=limits)
    finally:
        is_over.set()
        counting.join()
    assert report.splits > connections
    # One more watches the server.
    assert connections <= most <= connections + 1


def test_nothing_is_deleted_if_a_split_cannot_be_read(
    database: Database[dict[str, Any]], lake: Lake
) -> None:
    limits = ExtractLimits(max_deleted_share=1, shard_documents=5)
    with mongo_source(database) as source:
        extract_collection(source, lake, NAME, Pass.FULL, limits=limits)
        database[NAME].delete_many({"_id": {"$lt": "8"}})
        # An id that cannot be read, in the last split.
        broken = bson.encode({"_id": "zABCD"}).replace(b"ABCD", b"\xff\xfeCD")
        database[NAME].insert_one(bson.raw_bson.RawBSONDocument(broken))
        with pytest.raises(SourceError, match="cannot be read"):
            extract_collection(source, lake, NAME, Pass.NEW, limits=limits)
    assert {operation for _, _, operation in log_of(lake, NAME)} == {"upsert"}


def test_a_dump_is_read_once_and_whole(tmp_path: Path) -> None:
    write_dump(tmp_path / "dump", [{"_id": f"{n:04x}"} for n in range(50)])
    reports = extract(tmp_path / "dump", Lake(tmp_path / "lake"), limits=ANY_SHARE)
    assert [report.splits for report in reports.values()] == [1]
    assert files_of(tmp_path / "lake")
