"""The REST gateway: everything is read, whatever goes wrong, and politely."""

import gzip
import json
import math
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from bson import ObjectId, json_util
from gateway_server import (
    CUT,
    CUT_UNNOTICED,
    EMPTY_BODY,
    ENDLESS,
    INTERNAL,
    INVALID_JSON,
    NO_ARRAY,
    PAGE,
    PAGE_OF_A_BAD_GATEWAY,
    PAGE_THAT_SAYS_IT_IS_JSON,
    PREFIX,
    RESET,
    SCALARS,
    TIMED_OUT,
    TOO_MANY,
    TWO_ARRAYS,
    UNAVAILABLE,
    Fault,
    Gateway,
    OverCap,
    Request,
    failing,
    retry_at,
    running_gateway,
    running_http2_gateway,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mongod import (
    URI_VARIABLE,
    NoMongodError,
    Server,
    find_mongod,
    make_certificate,
    running_mongod,
)
from pymongo import MongoClient
from pymongo.database import Database
from worlds import MAIN, assert_same, contents_of, extract, load, loaded_lake, refresh

from aind_etl.changelog.passes import Pass
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import shards
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.lake import Lake
from aind_etl.sources.canonical import Document, document_from_json
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.gateway import KNOWN_COLLECTIONS, GatewaySource, replies
from aind_etl.sources.gateway import client as asking
from aind_etl.sources.gateway import source as source_module
from aind_etl.sources.protocol import read_documents

Db = Database[dict[str, Any]]

ODD = "odd"
"""A collection of documents that are hard to hand over."""

ODD_DOCUMENTS: list[dict[str, Any]] = [
    {"_id": "not finite", "NaN": math.nan, "list": [math.inf, -math.inf, [math.nan]]},
    {"_id": "brackets", "text": '}]{[ "NaN" \\" \\', "]": {"[": []}, "": {}},
    {"_id": "numbers", "long": 2**62, "whole": 1.0, "small": 5e-324, "minus": -0.0},
    {"_id": "text", "text": "é\u2028\U0001f9ea\x00\x1f</html>", "é": None},
    {"_id": "<html>", "deep": [[[[[[{"a": [{}]}]]]]]]},
    *(
        {"_id": odd}
        for odd in ["", " ", "a&b=c+d%20#?", '"', "\\", "é", "\U0001f9ea", "$", "x" * 900]
    ),
]

FAULTS = {
    "429": TOO_MANY,
    "429 with Retry-After": failing(429, Retry_After="0.1"),
    "429 with a date": failing(429, Retry_After=retry_at(0)),
    "429 with nonsense": failing(429, Retry_After="soon"),
    "500": INTERNAL,
    "503": UNAVAILABLE,
    "504": TIMED_OUT,
    "408": failing(408),
    "reset": RESET,
    "cut": CUT,
    "cut unnoticed": CUT_UNNOTICED,
    "slow without end": ENDLESS,
    "empty body": EMPTY_BODY,
    "invalid JSON": INVALID_JSON,
    "no array": NO_ARRAY,
    "scalars": SCALARS,
    "two arrays": TWO_ARRAYS,
    "page": PAGE,
    "page that says it is JSON": PAGE_THAT_SAYS_IT_IS_JSON,
    "page of a bad gateway": PAGE_OF_A_BAD_GATEWAY,
}
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
every_cap = pytest.mark.parametrize("over_cap", OverCap)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoClient[dict[str, Any]]]:
    """Give a client of a real server."""
    given_uri = os.environ.get(URI_VARIABLE)
    if given_uri:
        with MongoClient[dict[str, Any]](given_uri) as client:
            yield client
        return
    try:
        running = running_mongod(find_mongod(), tmp_path_factory.mktemp("gateway-mongod"))
        with (
            running as port,
            MongoClient[dict[str, Any]](Server(f"mongodb://127.0.0.1:{port}/").uri) as client,
        ):
            yield client
    except NoMongodError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def world_dump(sample_dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sample as a dump, with a collection of odd documents besides."""
    folder = tmp_path_factory.mktemp("world") / "dump"
    shutil.copytree(sample_dump, folder)
    write(folder, ODD_DOCUMENTS, ODD)
    return folder


@pytest.fixture(scope="session")
def world(client: MongoClient[dict[str, Any]], world_dump: Path) -> Iterator[Db]:
    """Give a database with the sample, which no test may change."""
    name = f"gateway_world_{ObjectId()}"
    for path in world_dump.glob("*.jsonl"):
        documents = [json_util.loads(line) for line in path.read_text().splitlines()]
        client[name][path.stem].insert_many(documents)
    yield client[name]
    client.drop_database(name)


@pytest.fixture
def database(client: MongoClient[dict[str, Any]]) -> Iterator[Db]:
    """Give a database with nothing in it."""
    name = f"gateway_{ObjectId()}"
    yield client[name]
    client.drop_database(name)


@pytest.fixture
def sample(world: Db) -> Iterator[Gateway]:
    """Give a gateway to the sample."""
    with running_gateway(world) as running:
        yield running


@pytest.fixture
def empty(database: Db) -> Iterator[Gateway]:
    """Give a gateway to a database with nothing in it."""
    with running_gateway(database) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses, and go to this host without a proxy."""
    monkeypatch.setattr(asking, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(asking, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def open_gateway() -> Iterator[Callable[..., GatewaySource]]:
    """Give a function that opens a source, without the usual patience."""
    opened: list[GatewaySource] = []

    def open_one(running: Gateway, **choices: Any) -> GatewaySource:
        usual: dict[str, Any] = {
            "requests_per_second": 1e6,
            "collections": [*KNOWN_COLLECTIONS, ODD],
        }
        opened.append(GatewaySource(running.url, **usual | choices))
        return opened[-1]

    yield open_one
    for source in opened:
        source.__exit__()


Open = Callable[..., GatewaySource]


def write(folder: Path, documents: Iterable[dict[str, Any]], collection: str = MAIN) -> Path:
    """Write a dump of one collection, with what JSON lacks as the gateway writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(one, default=json_util.default) + "\n" for one in documents]
    (folder / f"{collection}.jsonl").write_text("".join(lines))
    return folder


def expected(documents: Iterable[dict[str, Any]]) -> list[Document]:
    """Return documents as every source gives them, in the order of their ids."""
    read = [
        document_from_json(json.dumps(one, default=json_util.default).encode()) for one in documents
    ]
    return sorted(read)


def dumped(folder: Path, collection: str) -> list[Document]:
    return sorted(read_documents(DumpSource(folder), collection))


def asked_for_documents(running: Gateway) -> list[Request]:
    return [request for request in running.requests if request.is_for_documents]


# --- the same documents -----------------------------------------------------------------------


def test_the_gateway_gives_the_documents_of_the_dump(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    source = open_gateway(sample)
    dump = DumpSource(world_dump)
    assert source.list_collections() == dump.list_collections()
    for collection in dump.list_collections():
        there = dumped(world_dump, collection)
        ids = [document.record_id for document in there]
        assert list(read_documents(source, collection)) == there
        assert list(source.list_ids(collection)) == ids
        assert sorted(source.read_documents_by_id(collection, set(ids))) == there


def test_pages_go_on_from_the_last_id(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    source = open_gateway(sample, page_documents=3, page_ids=3)
    there = dumped(world_dump, MAIN)
    assert list(read_documents(source, MAIN)) == there
    asked = asked_for_documents(sample)
    assert [request.limit for request in asked] == [3] * len(asked)
    assert [request.condition["_id"] for request in asked] == [
        {"$gte": ""},
        *(
            {"$gt": document.record_id}
            for document in [*there[2::3], *there[len(there) // 3 * 3 :][-1:]]
        ),
    ]
    assert list(source.list_ids(MAIN)) == [document.record_id for document in there]
    assert not any("skip" in request.parameters for request in sample.requests)


@pytest.mark.parametrize("over_cap", [OverCap.SHORTEN, OverCap.REFUSE])
def test_pages_shrink_under_the_payload_cap(
    sample: Gateway, world_dump: Path, open_gateway: Open, over_cap: OverCap
) -> None:
    there = dumped(world_dump, MAIN)
    sample.payload_cap = 2 * max(len(document.text) for document in there)
    sample.over_cap = over_cap
    source = open_gateway(sample)
    assert list(read_documents(source, MAIN)) == there
    asked = asked_for_documents(sample)
    again = [(one, other) for one, other in pairwise(asked) if one.condition == other.condition]
    # What is refused is asked for again, half as much; a reply that is only short is taken.
    assert bool(again) == (over_cap is OverCap.REFUSE)
    assert all(other.limit == one.limit // 2 for one, other in again)
    ids = {document.record_id for document in there}
    assert sorted(source.read_documents_by_id(MAIN, ids)) == there
    assert all(
        request.parameters.get("projection") in {None, '{"_id":1}'} for request in sample.requests
    )


def test_pages_have_about_as_many_bytes_as_wanted(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    assert list(read_documents(open_gateway(sample, page_bytes=20_000), MAIN)) == dumped(
        world_dump, MAIN
    )
    limits = [request.limit for request in asked_for_documents(sample)]
    assert min(limits) < max(limits[1:]) < 64


@pytest.mark.parametrize("packs", [True, False])
def test_replies_may_be_packed(
    sample: Gateway, world_dump: Path, open_gateway: Open, packs: bool
) -> None:
    sample.packs = packs
    assert list(read_documents(open_gateway(sample), ODD)) == dumped(world_dump, ODD)
    assert sample.packed == (len(sample.requests) if packs else 0)


def test_the_next_page_is_on_its_way_while_one_is_looked_at(
    sample: Gateway, open_gateway: Open
) -> None:
    documents = read_documents(open_gateway(sample, page_documents=3), MAIN)
    next(documents)
    give_up = time.monotonic() + 30
    while len(asked_for_documents(sample)) < 2 and time.monotonic() < give_up:
        time.sleep(0.001)
    next(documents)
    assert len(asked_for_documents(sample)) == 2


def test_http_2_is_spoken_where_it_is_offered(
    world: Db,
    world_dump: Path,
    open_gateway: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    try:
        trusted, for_server = make_certificate(tmp_path / "certificates")
    except NoMongodError as error:
        pytest.skip(str(error))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with running_http2_gateway(world, for_server) as running:
        source = open_gateway(running, page_documents=4)
        assert list(read_documents(source, ODD)) == dumped(world_dump, ODD)
        ids = {document.record_id for document in dumped(world_dump, ODD)}
        assert sorted(source.read_documents_by_id(ODD, ids)) == dumped(world_dump, ODD)
        assert running.connections == 1


def test_a_certificate_that_nobody_vouches_for_is_an_error(
    world: Db, open_gateway: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_REACH_SECONDS", 0.1)
    try:
        _, for_server = make_certificate(tmp_path / "certificates")
    except NoMongodError as error:
        pytest.skip(str(error))
    with (
        running_http2_gateway(world, for_server) as running,
        pytest.raises(SourceError, match=r"cannot be reached .* CERTIFICATE_VERIFY_FAILED"),
    ):
        open_gateway(running).list_collections()


def test_a_collection_without_documents_is_read_to_its_end(
    sample: Gateway, open_gateway: Open
) -> None:
    source = open_gateway(sample)
    assert list(read_documents(source, "none")) == []
    assert list(source.list_ids("none")) == []
    assert list(source.read_documents_by_id("none", {"a"})) == []
    assert source.fingerprint("none") == "0 documents"


def test_fingerprints_differ_when_documents_come_and_go(empty: Gateway, open_gateway: Open) -> None:
    source = open_gateway(empty)
    seen = [source.fingerprint(MAIN)]
    empty.database[MAIN].insert_one({"_id": "a"})
    seen.append(source.fingerprint(MAIN))
    assert seen == [source.fingerprint("none"), "1 documents"]


# --- collections ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("misses", [True, False])
def test_known_collections_that_are_missing_or_empty_are_left_out(
    empty: Gateway, open_gateway: Open, misses: bool
) -> None:
    empty.misses = misses
    empty.database["dynamic-foraging-nm"].insert_one({"_id": "a"})
    empty.database.create_collection("dynamic-foraging-analysis")
    assert GatewaySource(empty.url).list_collections() == ["dynamic-foraging-nm"]
    assert open_gateway(empty, collections=["x", "dynamic-foraging-nm"]).list_collections() == [
        "dynamic-foraging-nm"
    ]


@pytest.mark.parametrize("misses", [True, False])
def test_a_gateway_with_none_of_the_collections_is_an_error(
    empty: Gateway, open_gateway: Open, misses: bool
) -> None:
    empty.misses = misses
    with pytest.raises(SourceError, match="no documents in any of the collections 'a', 'b'"):
        open_gateway(empty, collections=["b", "a"]).list_collections()


def test_a_collection_with_an_odd_name_is_asked_for_as_it_is_called(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.database["a b/é?"].insert_one({"_id": "a"})
    source = open_gateway(empty, collections=["a b/é?"])
    assert source.list_collections() == ["a b/é?"]
    assert list(source.list_ids("a b/é?")) == ["a"]


# --- by id ------------------------------------------------------------------------------------


def test_only_the_documents_asked_for_are_given(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    there = dumped(world_dump, MAIN)
    some = there[::7]
    wanted = {document.record_id for document in some} | {"gone", "_without-id:0"}
    assert sorted(open_gateway(sample).read_documents_by_id(MAIN, wanted)) == some


def test_no_ids_are_no_question(sample: Gateway, open_gateway: Open) -> None:
    assert list(open_gateway(sample).read_documents_by_id(MAIN, set())) == []
    assert sample.requests == []


def test_addresses_stay_short_enough_for_servers(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    there = dumped(world_dump, MAIN)
    wanted = {document.record_id for document in there} | {
        f"é{number}" * 30 for number in range(99)
    }
    assert sorted(open_gateway(sample).read_documents_by_id(MAIN, wanted)) == there
    assert max(len(request.target) for request in sample.requests) < 7000


def test_the_gateway_of_these_tests_speaks_the_whole_protocol(empty: Gateway) -> None:
    empty.database[MAIN].insert_many([{"_id": f"{n}", "n": n} for n in range(9)])

    def get(action: str, **parameters: object) -> Any:
        texts = {name: json.dumps(value) for name, value in parameters.items()}
        return httpx.get(f"{empty.url}/{MAIN}/{action}", params=texts).json()

    found = get(
        "find",
        filter={"n": {"$gt": 2}},
        projection={"n": 1, "_id": 0},
        sort={"n": -1},
        skip=1,
        limit=2,
    )
    assert found == [{"n": 7}, {"n": 6}]
    counted = get("count_documents", filter={"n": {"$gt": 2}})
    assert counted == {"total_record_count": 9, "filtered_record_count": 6}
    pipeline = [{"$group": {"_id": None, "sum": {"$sum": "$n"}}}]
    reply = httpx.post(f"{empty.url}/{MAIN}/aggregate", json=pipeline)
    assert reply.json() == [{"_id": None, "sum": 36}]


# --- too large for the gateway ----------------------------------------------------------------


def large(**more: Any) -> list[dict[str, Any]]:
    """Return documents of which the middle one is larger than 10 kB."""
    wide = {
        "_id": "m",
        "status": "success",
        "A": "first in order",
        "analysis_results": {"params": [math.nan, 1.0] * 300},
        "analysis_spec": {"text": "}" * 4000},
        "processing": {"list": [{"number": number} for number in range(200)]},
        "unknown": {"key": "é" * 500},
    }
    return [{"_id": "a"}, wide | more, {"_id": "z"}]


@every_cap
def test_a_document_over_the_cap_is_put_together_from_its_parts(
    empty: Gateway, open_gateway: Open, over_cap: OverCap
) -> None:
    empty.payload_cap, empty.over_cap = 8000, over_cap
    empty.database[MAIN].insert_many(large())
    source = open_gateway(empty)
    assert list(read_documents(source, MAIN)) == expected(large())
    assert list(source.read_documents_by_id(MAIN, {"m", "z", "gone"})) == expected(large()[1:])
    assert list(source.list_ids(MAIN)) == ["a", "m", "z"]


@pytest.mark.parametrize("over_cap", [OverCap.SHORTEN, OverCap.REFUSE])
@pytest.mark.parametrize("key", ["analysis_results", "of nobody's knowledge"])
def test_a_document_with_a_part_over_the_cap_is_rejected_with_that_reason(
    empty: Gateway, open_gateway: Open, over_cap: OverCap, key: str, lake: Lake
) -> None:
    empty.payload_cap, empty.over_cap = 8000, over_cap
    documents = large(**{key: "x" * 9000})
    empty.database[MAIN].insert_many(documents)
    source = open_gateway(empty, collections=[MAIN])
    [first, rejected, last] = read_documents(source, MAIN)
    assert [first, last] == expected([documents[0], documents[2]])
    assert rejected.record_id == "m"
    assert json.loads(rejected.text).startswith("larger than a reply of the gateway may be")
    assert list(source.read_documents_by_id(MAIN, {"m"})) == [rejected]
    assert list(source.list_ids(MAIN)) == ["a", "m", "z"]
    load(source, lake)
    rows = lake.tables.scan(tables.REJECTED_DOCUMENTS).filter(pl.col("record_id") == "m").collect()
    assert "larger than a reply of the gateway may be, and so is a part" in rows["message"].item()
    again = load(source, lake, Pass.NEW)
    assert again.extracts[MAIN].new == again.extracts[MAIN].deleted == 0


def test_documents_that_a_gateway_leaves_out_are_not_deleted(
    sample: Gateway, open_gateway: Open, lake: Lake
) -> None:
    source = open_gateway(sample, collections=[MAIN])
    load(source, lake)
    before = set(lake.change_log(MAIN).live_documents()["record_id"])
    sample.leaves_out = 3
    assert len(set(source.list_ids(MAIN))) < len(before)
    for kind in (Pass.FULL, Pass.NEW):
        report = load(source, lake, kind).extracts[MAIN]
        assert (report.new, report.deleted) == (0, 0)
        assert set(lake.change_log(MAIN).live_documents()["record_id"]) == before


def test_a_first_load_that_misses_documents_which_the_source_counts_is_an_error(
    sample: Gateway, open_gateway: Open, lake: Lake
) -> None:
    sample.leaves_out = 3
    source = open_gateway(sample, collections=[MAIN])
    count = source.count_documents(MAIN)
    with pytest.raises(SourceError, match=f"the source counts {count}") as raised:
        load(source, lake)
    found = lake.change_log(MAIN).live_documents().height
    assert 0 < found < count
    assert f"{found} documents were found" in str(raised.value)
    assert lake.state(MAIN).first_pass_ended_at is None
    sample.leaves_out = 0
    load(source, lake, Pass.NEW)
    assert lake.change_log(MAIN).live_documents().height == count


@pytest.mark.parametrize("collection", [MAIN, ODD])
@pytest.mark.parametrize("of", [1, 2, 7])
def test_the_counts_of_the_parts_of_a_collection_are_those_of_their_ids(
    sample: Gateway, open_gateway: Open, collection: str, of: int
) -> None:
    sample.database["odd numbers"].drop()
    sample.database["odd numbers"].insert_many([{"_id": 1}, {"_id": "1"}, {"_id": None}])
    source = open_gateway(sample, collections=[MAIN, ODD, "odd numbers"])
    for name in (collection, "odd numbers"):
        counted = [source.count_documents(name, shard.ids) for shard in shards(of)]
        assert counted == [len(set(source.list_ids(name, shard.ids))) for shard in shards(of)]
        assert sum(counted) == source.count_documents(name)


def test_a_part_that_misses_documents_which_the_source_counts_is_an_error(
    sample: Gateway, open_gateway: Open, lake: Lake
) -> None:
    source = open_gateway(sample, collections=[MAIN])
    lake.update_layout(MAIN, {"parts": 2})
    for part in lake.shards(MAIN):
        extract(source, part, MAIN)
    before = lake.change_log(MAIN).live_documents().height
    assert before == source.count_documents(MAIN)
    sample.leaves_out = 3
    empty = Lake(f"{lake}-of-parts")
    empty.update_layout(MAIN, {"parts": 2})
    for part in empty.shards(MAIN):
        with pytest.raises(SourceError, match="It leaves some out"):
            extract(source, part, MAIN)


def test_documents_that_are_gone_are_deleted_though_others_come_meanwhile(
    empty: Gateway, open_gateway: Open, lake: Lake
) -> None:
    documents = [{"_id": f"{n:02}", "nwb_name": "x"} for n in range(30)]
    empty.database[MAIN].insert_many(documents)
    source = open_gateway(empty, collections=[MAIN])
    load(source, lake)
    empty.database[MAIN].delete_many({"_id": {"$in": ["03", "07"]}})
    inserted = []

    def insert(request: Request) -> None:
        if request.action == "find" and not inserted:
            inserted.append(1)
            empty.database[MAIN].insert_many([{"_id": "00a", "nwb_name": "y"}])

    empty.before_reply = insert
    assert load(source, lake).extracts[MAIN].deleted == 2
    load(source, lake)
    assert set(lake.change_log(MAIN).live_documents()["record_id"]) == {
        one["_id"] for one in empty.database[MAIN].find({}, {"_id": 1})
    }


@pytest.mark.parametrize("over_cap", [OverCap.FAIL, OverCap.CUT])
def test_a_part_that_cannot_be_had_for_an_unknown_reason_is_an_error(
    empty: Gateway, open_gateway: Open, over_cap: OverCap
) -> None:
    empty.payload_cap, empty.over_cap = 8000, over_cap
    empty.database[MAIN].insert_many(large(analysis_results="x" * 9000))
    source = open_gateway(empty, deadline=0.5)
    documents = read_documents(source, MAIN)
    assert next(documents).record_id == "a"
    with pytest.raises(SourceError, match="did not answer"):
        list(documents)


def test_a_document_that_changes_while_its_parts_are_fetched_is_fetched_again(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many(large())

    def change(request: Request) -> None:
        if "analysis_spec" in request.parameters.get("projection", "{}"):
            empty.before_reply = lambda _: None
            empty.database[MAIN].replace_one({"_id": "m"}, large(status="new")[1])

    empty.before_reply = change
    assert list(read_documents(open_gateway(empty), MAIN)) == expected(large(status="new"))


def test_a_document_that_never_stands_still_is_an_error(empty: Gateway, open_gateway: Open) -> None:
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many(large())
    versions = count()

    def change(_: Request) -> None:
        empty.database[MAIN].update_one({"_id": "m"}, {"$set": {"status": next(versions)}})

    empty.before_reply = change
    with pytest.raises(SourceError, match=r"'m' of .* changes while it is read"):
        list(read_documents(open_gateway(empty), MAIN))


def test_a_document_that_goes_while_its_parts_are_fetched_is_gone(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many(large())

    def remove(request: Request) -> None:
        if "analysis_spec" in request.parameters.get("projection", "{}"):
            empty.database[MAIN].delete_one({"_id": "m"})

    empty.before_reply = remove
    there = expected([large()[0], large()[2]])
    assert list(read_documents(open_gateway(empty), MAIN)) == there
    empty.database[MAIN].insert_one(large()[1])
    assert list(open_gateway(empty).read_documents_by_id(MAIN, {"a", "m", "z"})) == there


# --- ids that are no text ---------------------------------------------------------------------


def other_ids(number: int = 7) -> list[dict[str, Any]]:
    ids: list[Any] = ["text", "more text", None, 1, 2.5, {"b": 1, "a": "x"}, True]
    ids += [ObjectId(f"{digit:024x}") for digit in range(number)]
    return [{"_id": identity, "n": place} for place, identity in enumerate(ids)]


@pytest.mark.parametrize("page_documents", [1, 2, 1000])
def test_documents_with_ids_of_any_type_are_read(
    empty: Gateway, open_gateway: Open, page_documents: int
) -> None:
    empty.database[MAIN].insert_many(other_ids())
    there = expected(other_ids())
    ids = [document.record_id for document in there]
    source = open_gateway(empty, page_documents=page_documents)
    assert sorted(read_documents(source, MAIN)) == there
    assert sorted(source.list_ids(MAIN)) == ids
    assert sorted(source.read_documents_by_id(MAIN, set(ids[::2]))) == there[::2]


def test_documents_counted_off_are_not_missed_when_others_go(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.database[MAIN].insert_many(other_ids())
    removed = ObjectId(f"{0:024x}")
    documents = read_documents(open_gateway(empty, page_documents=1), MAIN)
    read = [next(documents) for _ in range(10)]
    assert empty.database[MAIN].delete_one({"_id": removed}).deleted_count == 1
    assert sorted([*read, *documents]) == expected(other_ids())


def test_documents_counted_off_that_never_stand_still_are_an_error(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.database[MAIN].insert_many(other_ids())
    numbers = count(-1, -1)

    def insert(_: Request) -> None:
        empty.database[MAIN].insert_one({"_id": next(numbers)})

    empty.before_reply = insert
    with pytest.raises(SourceError, match="changes faster"):
        list(read_documents(open_gateway(empty, page_documents=1), MAIN))


def test_a_document_over_the_cap_among_them_is_an_error(empty: Gateway, open_gateway: Open) -> None:
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many([*other_ids(), {"_id": 9, "text": "x" * 9000}])
    with pytest.raises(SourceError, match="larger than a reply"):
        list(read_documents(open_gateway(empty), MAIN))


def test_a_gateway_that_writes_other_ids_as_text_is_an_error(
    empty: Gateway, open_gateway: Open
) -> None:
    empty.writes_ids_as_text = True
    empty.database[MAIN].insert_many([{"_id": "1"}, {"_id": ObjectId()}])
    with pytest.raises(SourceError, match="up to the _id '1' only"):
        list(read_documents(open_gateway(empty), MAIN))


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.slow
@every_fault
def test_a_fault_that_passes_is_survived(
    sample: Gateway, world_dump: Path, open_gateway: Open, fault: Fault
) -> None:
    there = dumped(world_dump, MAIN)
    bad = {1, 3, 4, 6, 9}
    sample.fault_for = lambda _: fault if len(sample.requests) in bad else None
    source = open_gateway(sample, reply_timeout=0.2 if fault.is_endless else 30, page_documents=100)
    assert list(read_documents(source, MAIN)) == there
    sample.requests.clear()
    assert list(source.list_ids(MAIN)) == [document.record_id for document in there]
    sample.requests.clear()
    wanted = {document.record_id for document in there}
    assert sorted(source.read_documents_by_id(MAIN, wanted)) == there
    sample.requests.clear()
    assert source.fingerprint(MAIN) == f"{len(there)} documents"


def test_a_gateway_that_says_nothing_for_too_long_is_asked_again(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    def say_nothing(_: Request) -> None:
        if len(sample.requests) in {1, 4}:
            sample.is_closing.wait(1)

    sample.before_reply = say_nothing
    source = open_gateway(sample, reply_timeout=0.3)
    assert list(read_documents(source, ODD)) == dumped(world_dump, ODD)


@pytest.mark.slow
@every_fault
def test_a_fault_that_stays_is_an_error(sample: Gateway, open_gateway: Open, fault: Fault) -> None:
    sample.fault_for = lambda _: fault
    source = open_gateway(sample, deadline=0.1, reply_timeout=0.05 if fault.is_endless else 30)
    for attempt in (
        source.list_collections,
        lambda: list(source.list_ids(MAIN)),
        lambda: list(read_documents(source, MAIN)),
        lambda: list(source.read_documents_by_id(MAIN, {"a"})),
        lambda: source.fingerprint(MAIN),
    ):
        with pytest.raises(SourceError) as raised:
            attempt()
        assert f"{sample.url}/" in str(raised.value)
        assert "?" not in str(raised.value)


@pytest.mark.slow
@every_fault
def test_a_fault_that_comes_to_stay_ends_no_iterator(
    sample: Gateway, open_gateway: Open, fault: Fault
) -> None:
    sample.fault_for = lambda _: fault if len(sample.requests) > 5 else None
    source = open_gateway(
        sample,
        deadline=0.1,
        reply_timeout=1 if fault.is_endless else 30,
        page_documents=20,
        page_ids=20,
    )
    documents = read_documents(source, MAIN)
    for _ in range(20):
        next(documents)
    with pytest.raises(SourceError, match=r"did not answer .* within 0\.1 s"):
        list(documents)


def test_what_a_page_of_a_proxy_says_is_repeated(sample: Gateway, open_gateway: Open) -> None:
    sample.fault_for = lambda _: PAGE
    with pytest.raises(SourceError, match=r"web page \(HTML\) .*'Please sign in' .* proxy"):
        open_gateway(sample, deadline=0.1).list_collections()


def test_nobody_at_the_address_is_an_error(
    open_gateway: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_REACH_SECONDS", 0.2)
    with pytest.raises(
        SourceError, match=r"cannot be reached at http://127\.0\.0\.1:1/v1/analysis/"
    ):
        GatewaySource("http://127.0.0.1:1/v1/analysis").list_collections()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (failing(400), "status 400 with 'failing with 400'"),
        (failing(403), "status 403"),
        (
            failing(301, Location="https://other.org/v1?secret=x"),
            "a redirect to 'https://other.org/v1'",
        ),
    ],
)
def test_a_refusal_is_not_asked_again(
    sample: Gateway, open_gateway: Open, fault: Fault, said: str
) -> None:
    sample.fault_for = lambda _: fault
    source = open_gateway(sample)
    with pytest.raises(SourceError, match=said):
        list(read_documents(source, MAIN))
    assert len(sample.requests) == 1
    with pytest.raises(SourceError, match=said):
        source.list_collections()


@pytest.mark.parametrize("page", [b'[{"_id":"a"}]', b'[{"_id":"b"},{"_id":"a"}]', b'[{"a":1}]'])
def test_a_server_that_does_not_listen_is_an_error(
    sample: Gateway, open_gateway: Open, page: bytes
) -> None:
    sample.fault_for = lambda _: Fault(spoil=lambda _: page)
    source = open_gateway(sample)
    with pytest.raises(SourceError):
        list(read_documents(source, MAIN))
    with pytest.raises(SourceError, match="not requested"):
        list(source.read_documents_by_id(MAIN, {"c"}))


@pytest.mark.parametrize("answered", [0, 2, 5])
@pytest.mark.parametrize("is_silent_about_ends", [True, False])
def test_a_gateway_that_falls_silent_is_not_one_without_documents(
    sample: Gateway, open_gateway: Open, answered: int, is_silent_about_ends: bool
) -> None:
    def fault_for(request: Request) -> Fault | None:
        is_for_ends = request.action == "find" and not request.condition
        is_silent = is_silent_about_ends if is_for_ends else request.action == "find"
        return (
            Fault(spoil=lambda _: b"[]") if is_silent and len(sample.requests) > answered else None
        )

    sample.fault_for = fault_for
    source = open_gateway(sample, page_documents=20, page_ids=20)
    for read in (source.read_raw, source.list_ids):
        sample.requests.clear()
        with pytest.raises(SourceError, match=r"although it counts some|up to the _id"):
            list(read(MAIN))


def test_an_id_too_long_for_any_address_is_an_error(sample: Gateway, open_gateway: Open) -> None:
    with pytest.raises(SourceError, match="too long"):
        list(open_gateway(sample).read_documents_by_id(MAIN, {"x" * 100_000}))


def test_ids_that_are_refused_as_too_large_are_an_error(
    sample: Gateway, open_gateway: Open
) -> None:
    source = open_gateway(sample)
    sample.payload_cap, sample.over_cap = 10, OverCap.REFUSE
    with pytest.raises(SourceError, match="as too large: status 413"):
        list(source.list_ids(MAIN))


# --- politeness -------------------------------------------------------------------------------


def test_a_gateway_that_asks_for_time_gets_it(sample: Gateway, open_gateway: Open) -> None:
    sample.faults += [failing(429, Retry_After="1"), failing(503, Retry_After="0.5")]
    source = open_gateway(sample)
    assert source.fingerprint(ODD) == f"{len(ODD_DOCUMENTS)} documents"
    first, second, third = (request.at for request in sample.requests)
    assert second >= first + 1
    assert third >= second + 0.5


def test_what_one_question_is_asked_to_wait_all_wait() -> None:
    pace = asking.RateLimiter(1e6, threading.Event())
    began = time.monotonic()
    pace.hold(0.1)
    pace.wait()
    assert time.monotonic() >= began + 0.1


@pytest.mark.parametrize("moment", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_gateway_that_asks_for_too_much_time_is_left_alone(
    sample: Gateway, open_gateway: Open, moment: str
) -> None:
    sample.fault_for = lambda _: failing(429, Retry_After=moment)
    with pytest.raises(SourceError, match=r"asks to wait \d{4,} s"):
        open_gateway(sample).fingerprint(MAIN)
    assert len(sample.requests) == 1


def test_no_more_requests_are_made_in_a_second_than_agreed(
    sample: Gateway, world_dump: Path, open_gateway: Open
) -> None:
    began = time.monotonic()
    source = open_gateway(sample, requests_per_second=50, page_documents=20)
    wanted = set(source.list_ids(MAIN))
    assert sorted(source.read_documents_by_id(MAIN, wanted)) == dumped(world_dump, MAIN)
    assert len(sample.requests) >= 8
    for number, request in enumerate(sorted(sample.requests, key=lambda request: request.at)):
        assert request.at >= began + number / 50


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_are_under_way_than_agreed_and_connections_are_kept(
    sample: Gateway,
    world_dump: Path,
    open_gateway: Open,
    concurrency: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(source_module, "_URL_IDS_BYTES", 500)

    def wait_for_company(request: Request) -> None:
        give_up = time.monotonic() + 5
        while (
            "$in" in request.parameters.get("filter", "")
            and sample.most_under_way < concurrency
            and time.monotonic() < give_up
        ):
            time.sleep(0.001)

    sample.before_reply = wait_for_company
    source = open_gateway(sample, concurrency=concurrency, page_documents=20)
    there = dumped(world_dump, MAIN)
    assert list(read_documents(source, MAIN)) == there
    wanted = {document.record_id for document in there}
    assert sorted(source.read_documents_by_id(MAIN, wanted)) == there
    assert sample.most_under_way == concurrency
    assert sample.connections <= concurrency < len(sample.requests)


def test_requests_say_who_asks_and_do_nothing_but_read(
    sample: Gateway, open_gateway: Open, lake: Lake
) -> None:
    source = open_gateway(sample)
    load(source, lake)
    load(source, lake, Pass.NEW)
    assert {(request.method, request.action) for request in sample.requests} == {
        ("GET", "find"),
        ("GET", "count_documents"),
    }
    for request in sample.requests:
        assert request.headers["user-agent"].startswith("aind-etl/")
        assert "authorization" not in request.headers


def test_reading_ends_when_the_source_is_closed(sample: Gateway) -> None:
    sample.fault_for = lambda _: failing(503, Retry_After="100")
    failed = threading.Event()
    with GatewaySource(sample.url) as source:

        def read() -> None:
            with pytest.raises(SourceError, match="was closed"):
                source.fingerprint(MAIN)
            failed.set()

        reader = threading.Thread(target=read)
        reader.start()
        while not sample.requests:
            time.sleep(0.001)
    reader.join(30)
    assert failed.is_set()


# --- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@host/v1/analysis",
        "https://host/v1/analysis?key=secret",
        "https://host/v1/analysis#secret",
        "https://host",
        "https://host/",
        "https:///v1/analysis",
        "https://host:secret/v1/analysis",
        "mongodb://secret/analysis",
    ],
)
def test_an_address_that_is_not_understood_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not understood") as raised:
        GatewaySource(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_address_is_the_name(end: str) -> None:
    with GatewaySource(f"https://host:8443{PREFIX}{end}") as source:
        assert source.name == f"https://host:8443{PREFIX}"
        assert repr(source) == f"GatewaySource('{source.name}')"


# --- splitting --------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.text(), json_values, max_size=3), max_size=4),
    st.sampled_from([None, 1, "\t"]),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=60)
def test_an_array_is_split_into_its_objects_and_never_a_part_of_it(
    values: list[dict[str, Any]], indent: int | str | None, ensure_ascii: bool, share: float
) -> None:
    surrogates_apart = not ensure_ascii and any("\ud800" <= c <= "\udfff" for c in repr(values))
    body = json.dumps(values, indent=indent, ensure_ascii=ensure_ascii or surrogates_apart)
    raw = body.encode("utf-8", "surrogatepass")
    found = [json.loads(one) for one in replies.split_array(raw)]
    assert repr(found) == repr(values)
    with pytest.raises(ValueError, match="array"):
        list(replies.split_array(raw[: int(len(raw) * share)]))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"1",
        b'"["',
        b"{}",
        b"[1]",
        b"[{}{}]",
        b"[{},]",
        b"[,{}]",
        b"[{}]]",
        b"[{}] x",
        b"]",
        b"[}",
    ],
)
def test_what_is_no_array_of_documents_is_not_split(body: bytes) -> None:
    with pytest.raises(ValueError, match="array"):
        list(replies.split_array(body))


# --- end to end -------------------------------------------------------------------------------


def test_a_lake_read_from_the_gateway_is_the_one_read_from_the_dump(
    sample: Gateway, world_dump: Path, open_gateway: Open, tmp_path: Path
) -> None:
    from_dump = loaded_lake(world_dump, tmp_path / "from-dump")
    from_gateway = loaded_lake(open_gateway(sample), tmp_path / "from-gateway")
    assert_same(contents_of(from_gateway), contents_of(from_dump))
    again = load(open_gateway(sample), from_gateway)
    assert not any(report.batches for report in again.extracts.values())


@pytest.mark.parametrize("pass_kind", list(Pass))
def test_both_passes_find_what_came_and_went(
    empty: Gateway, open_gateway: Open, tmp_path: Path, world_dump: Path, pass_kind: Pass
) -> None:
    collection = empty.database[MAIN]
    lines = (world_dump / f"{MAIN}.jsonl").read_text().splitlines()
    documents: list[dict[str, Any]] = [json_util.loads(line) for line in lines]
    collection.insert_many(documents[:200])
    lake = loaded_lake(open_gateway(empty, page_documents=30), tmp_path / "lake")
    collection.insert_many(documents[200:])
    collection.delete_many({"_id": {"$in": [one["_id"] for one in documents[:20]]}})
    if pass_kind is Pass.FULL:
        documents[30]["status"] = "changed"
        collection.replace_one({"_id": documents[30]["_id"]}, documents[30])
    report = load(open_gateway(empty), lake, pass_kind).extracts[MAIN]
    assert (report.new, report.deleted) == (len(documents) - 200, 20)
    assert report.changed == (pass_kind is Pass.FULL)
    there = loaded_lake(write(tmp_path / "dump", documents[20:]), tmp_path / "from-dump")
    assert_same(contents_of(lake), contents_of(there))


def test_a_gateway_that_fails_midway_deletes_nothing(
    sample: Gateway, open_gateway: Open, lake: Lake
) -> None:
    load(open_gateway(sample), lake)
    sample.requests.clear()
    sample.fault_for = lambda _: UNAVAILABLE if len(sample.requests) > 12 else None
    with pytest.raises(SourceError):
        load(open_gateway(sample, deadline=0.1, page_documents=50), lake)
    sample.fault_for = lambda _: None
    report = load(open_gateway(sample), lake)
    assert not any(one.new or one.deleted or one.changed for one in report.extracts.values())
    refresh(lake)


def test_a_reply_that_unpacks_to_gigabytes_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(asking, "_LARGEST_REPLY_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(asking.TransientError, match="decompresses to more than 1,048,576 bytes"):
        asking._decompressed(httpx.Headers({"content-encoding": "gzip"}), bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000_000
