"""The REST gateway: everything is read, whatever goes wrong, and politely."""

import gzip
import json
import math
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from bson import ObjectId, json_util
from gateway_server import (
    FAULTS,
    PREFIX,
    Fault,
    Gateway,
    OverCap,
    Request,
    failing,
    running_gateway,
    running_http2_gateway,
)
from hypothesis import given
from hypothesis import strategies as st
from mongod import certificate_or_skip
from pymongo import MongoClient
from pymongo.database import Database
from worlds import MAIN, assert_same, contents_of, extract, live_documents_of, load

from aind_etl.changelog.passes import Pass
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import shards
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.lake import Lake
from aind_etl.sources.canonical import Document, document_from_json
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.gateway import KNOWN_COLLECTIONS, GatewaySource, replies
from aind_etl.sources.gateway import client as client_module
from aind_etl.sources.gateway import source as source_module
from aind_etl.sources.protocol import read_documents

Db = Database[dict[str, Any]]

ODD = "odd"
"""A collection of documents that are hard to transfer."""

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

EVERY_COLLECTION = [*KNOWN_COLLECTIONS, ODD]

every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


@pytest.fixture(scope="session")
def stored(sample_dump: Path) -> dict[str, list[Document]]:
    """Return the documents of the world by collection, in the order of their ids."""
    dump = DumpSource(sample_dump)
    names = dump.list_collections()
    sample = {name: sorted(read_documents(dump, name)) for name in names}
    return sample | {ODD: expected(ODD_DOCUMENTS)}


@pytest.fixture(scope="session")
def world(admin: MongoClient[dict[str, Any]], sample_dump: Path) -> Iterator[Db]:
    """Yield a database with the sample and the odd documents, which no test may change."""
    database = admin[f"gateway_world_{ObjectId()}"]
    database[ODD].insert_many(ODD_DOCUMENTS)
    for path in sample_dump.glob("*.jsonl"):
        database[path.stem].insert_many(map(json_util.loads, path.read_text().splitlines()))
    yield database
    admin.drop_database(database.name)


@pytest.fixture
def sample(world: Db) -> Iterator[Gateway]:
    """Yield a gateway to the sample."""
    with running_gateway(world) as running:
        yield running


@pytest.fixture
def empty(database: Db) -> Iterator[Gateway]:
    """Yield a gateway to an empty database."""
    with running_gateway(database) as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses, and use no proxy for this host."""
    monkeypatch.setattr(client_module, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(client_module, "LONGEST_PAUSE", 0.1)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def open_gateway() -> Iterator[Callable[..., GatewaySource]]:
    """Return a function that opens a source without a rate limit."""
    with ExitStack() as stack:

        def open_one(
            running: Gateway,
            *,
            collections: Sequence[str] = EVERY_COLLECTION,
            requests_per_second: float = 1e6,
            **limits: Any,
        ) -> GatewaySource:
            source = GatewaySource(
                running.url,
                collections,
                replace(source_module.LIMITS, **limits),
                requests_per_second=requests_per_second,
            )
            return stack.enter_context(source)

        yield open_one


def expected(documents: Iterable[dict[str, Any]]) -> list[Document]:
    """Return the canonical form of documents, in the order of their ids."""
    texts = (json.dumps(one, default=json_util.default) for one in documents)
    return sorted(document_from_json(text.encode()) for text in texts)


def document_requests(running: Gateway) -> list[Request]:
    return [request for request in running.requests if request.is_for_documents]


# --- the same documents -----------------------------------------------------------------------


def test_the_gateway_gives_the_documents_of_the_database(sample, stored, open_gateway):
    source = open_gateway(sample)
    assert source.list_collections() == sorted(stored)
    for collection, there in stored.items():
        ids = [document.record_id for document in there]
        assert list(read_documents(source, collection)) == there
        assert list(source.list_ids(collection)) == ids
        assert sorted(source.read_documents_by_id(collection, set(ids))) == there


def test_each_page_starts_after_the_last_id(sample, stored, open_gateway):
    source = open_gateway(sample, page_documents=3, page_ids=3)
    there = stored[MAIN]
    assert list(read_documents(source, MAIN)) == there
    requests = document_requests(sample)
    assert [request.limit for request in requests] == [3] * len(requests)
    assert [request.condition["_id"] for request in requests] == [
        {"$gte": ""},
        *(
            {"$gt": document.record_id}
            for document in [*there[2::3], *there[len(there) // 3 * 3 :][-1:]]
        ),
    ]
    assert list(source.list_ids(MAIN)) == [document.record_id for document in there]
    assert not any("skip" in request.parameters for request in sample.requests)


@pytest.mark.parametrize("over_cap", [OverCap.SHORTEN, OverCap.REFUSE])
def test_pages_shrink_under_the_payload_cap(sample, stored, open_gateway, over_cap):
    there = stored[MAIN]
    sample.payload_cap = 2 * max(len(document.text) for document in there)
    sample.over_cap = over_cap
    source = open_gateway(sample)
    assert list(read_documents(source, MAIN)) == there
    requests = document_requests(sample)
    again = [(one, other) for one, other in pairwise(requests) if one.condition == other.condition]
    # A refused request is repeated with half the limit; a short reply is accepted.
    assert bool(again) == (over_cap is OverCap.REFUSE)
    assert all(other.limit == one.limit // 2 for one, other in again)
    # The client remembers what fitted: not every page is refused first.
    assert len(again) < len(requests) / 3
    ids = {document.record_id for document in there}
    assert sorted(source.read_documents_by_id(MAIN, ids)) == there
    assert all(
        request.parameters.get("projection") in {None, '{"_id":1}'} for request in sample.requests
    )


def test_the_page_size_in_bytes_limits_the_number_of_documents(sample, stored, open_gateway):
    assert list(read_documents(open_gateway(sample, page_bytes=20_000), MAIN)) == stored[MAIN]
    limits = [request.limit for request in document_requests(sample)]
    assert min(limits) < max(limits[1:]) < 64


@pytest.mark.parametrize("packs", [True, False])
def test_replies_may_be_compressed(sample, stored, open_gateway, packs):
    sample.packs = packs
    assert list(read_documents(open_gateway(sample), ODD)) == stored[ODD]
    assert sample.packed == (len(sample.requests) if packs else 0)


def test_the_next_page_is_requested_while_a_page_is_processed(sample, open_gateway):
    documents = read_documents(open_gateway(sample, page_documents=3), MAIN)
    next(documents)
    give_up = time.monotonic() + 30
    while len(document_requests(sample)) < 2 and time.monotonic() < give_up:
        time.sleep(0.001)
    next(documents)
    assert len(document_requests(sample)) == 2


def test_http_2_is_used_if_the_gateway_offers_it(
    world, stored, open_gateway, tmp_path, monkeypatch
):
    trusted, for_server = certificate_or_skip(tmp_path / "certificates")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    with running_http2_gateway(world, for_server) as running:
        source = open_gateway(running, page_documents=4)
        assert list(read_documents(source, ODD)) == stored[ODD]
        ids = {document.record_id for document in stored[ODD]}
        assert sorted(source.read_documents_by_id(ODD, ids)) == stored[ODD]
        assert running.connections == 1


def test_an_untrusted_certificate_is_an_error(world, open_gateway, tmp_path, monkeypatch):
    monkeypatch.setattr(client_module, "_REACH_SECONDS", 0.1)
    _, for_server = certificate_or_skip(tmp_path / "certificates")
    with (
        running_http2_gateway(world, for_server) as running,
        pytest.raises(SourceError, match=r"cannot be reached .* CERTIFICATE_VERIFY_FAILED"),
    ):
        open_gateway(running).list_collections()


def test_an_empty_collection_can_be_read(sample, open_gateway):
    source = open_gateway(sample)
    assert list(read_documents(source, "none")) == []
    assert list(source.list_ids("none")) == []
    assert list(source.read_documents_by_id("none", {"a"})) == []
    assert source.fingerprint("none") == "0 documents"


# --- collections ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("misses", [True, False])
def test_missing_and_empty_collections_are_not_listed(empty, open_gateway, misses):
    empty.misses = misses
    empty.database["dynamic-foraging-nm"].insert_one({"_id": "a"})
    empty.database.create_collection("dynamic-foraging-analysis")
    chosen = open_gateway(empty, collections=["x", "dynamic-foraging-nm"])
    for source in (GatewaySource(empty.url), chosen):
        assert source.list_collections() == ["dynamic-foraging-nm"]


@pytest.mark.parametrize("misses", [True, False])
def test_a_gateway_with_none_of_the_collections_is_an_error(empty, open_gateway, misses):
    empty.misses = misses
    with pytest.raises(SourceError, match="no documents in any of the collections 'a', 'b'"):
        open_gateway(empty, collections=["b", "a"]).list_collections()


def test_the_name_of_a_collection_is_percent_encoded(empty, open_gateway):
    empty.database["a b/é?"].insert_one({"_id": "a"})
    source = open_gateway(empty, collections=["a b/é?"])
    assert source.list_collections() == ["a b/é?"]
    assert list(source.list_ids("a b/é?")) == ["a"]


# --- by id ------------------------------------------------------------------------------------


def test_only_the_requested_documents_are_returned(sample, stored, open_gateway):
    there = stored[MAIN]
    some = there[::7]
    wanted = {document.record_id for document in some} | {"gone", "_without-id:0"}
    assert sorted(open_gateway(sample).read_documents_by_id(MAIN, wanted)) == some


def test_no_ids_need_no_request(sample, open_gateway):
    assert list(open_gateway(sample).read_documents_by_id(MAIN, set())) == []
    assert sample.requests == []


def test_urls_stay_below_the_limit_of_servers(sample, stored, open_gateway):
    there = stored[MAIN]
    wanted = {document.record_id for document in there} | {
        f"é{number}" * 30 for number in range(99)
    }
    assert sorted(open_gateway(sample).read_documents_by_id(MAIN, wanted)) == there
    assert max(len(request.target) for request in sample.requests) < 7000


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


@pytest.fixture
def capped(empty: Gateway) -> Gateway:
    """Return a gateway to a document that is larger than a reply, and two others."""
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many(large())
    return empty


@pytest.mark.parametrize("over_cap", OverCap)
def test_a_document_over_the_cap_is_assembled_from_parts(capped, open_gateway, over_cap):
    capped.over_cap = over_cap
    source = open_gateway(capped)
    assert list(read_documents(source, MAIN)) == expected(large())
    assert list(source.read_documents_by_id(MAIN, {"m", "z", "gone"})) == expected(large()[1:])
    assert list(source.list_ids(MAIN)) == ["a", "m", "z"]


@pytest.mark.parametrize("over_cap", [OverCap.SHORTEN, OverCap.REFUSE])
@pytest.mark.parametrize("key", ["analysis_results", "unknown"])
def test_a_document_with_a_part_over_the_cap_is_rejected_with_the_reason(
    empty, open_gateway, over_cap, key, lake
):
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


def test_documents_that_a_gateway_omits_are_not_deleted(sample, open_gateway, lake):
    source = open_gateway(sample, collections=[MAIN])
    extract(source, lake)
    before = set(lake.change_log(MAIN).live_documents()["record_id"])
    sample.leaves_out = 3
    assert len(set(source.list_ids(MAIN))) < len(before)
    for kind in (Pass.FULL, Pass.NEW):
        report = extract(source, lake, kind)[MAIN]
        assert (report.new, report.deleted) == (0, 0)
        assert set(lake.change_log(MAIN).live_documents()["record_id"]) == before


def test_a_first_load_with_fewer_documents_than_counted_is_an_error(sample, open_gateway, lake):
    sample.leaves_out = 3
    source = open_gateway(sample, collections=[MAIN])
    count = source.count_documents(MAIN)
    with pytest.raises(SourceError, match=f"but counts {count}") as raised:
        extract(source, lake)
    found = lake.change_log(MAIN).live_documents().height
    assert 0 < found < count
    assert f"The source returned {found} documents" in str(raised.value)
    assert lake.state(MAIN).first_pass_ended_at is None
    sample.leaves_out = 0
    extract(source, lake, Pass.NEW)
    assert lake.change_log(MAIN).live_documents().height == count


@pytest.mark.parametrize("of", [1, 2, 7])
def test_the_count_of_a_split_is_the_number_of_its_ids(sample, open_gateway, of):
    mixed = sample.database["odd numbers"]
    mixed.drop()
    mixed.insert_many([{"_id": 1}, {"_id": "1"}, {"_id": None}])
    source = open_gateway(sample)
    for name in (MAIN, ODD, "odd numbers"):
        counted = [source.count_documents(name, shard.ids) for shard in shards(of)]
        assert counted == [len(set(source.list_ids(name, shard.ids))) for shard in shards(of)]
        assert sum(counted) == source.count_documents(name)


def test_a_shard_with_fewer_documents_than_counted_is_an_error(sample, open_gateway, lake):
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
        with pytest.raises(SourceError, match="it leaves some out"):
            extract(source, part, MAIN)


def test_deletions_are_recorded_although_documents_are_inserted_meanwhile(
    empty, open_gateway, lake
):
    documents = [{"_id": f"{n:02}", "nwb_name": "x"} for n in range(30)]
    empty.database[MAIN].insert_many(documents)
    source = open_gateway(empty, collections=[MAIN])
    extract(source, lake)
    empty.database[MAIN].delete_many({"_id": {"$in": ["03", "07"]}})
    inserted = []

    def insert(request: Request) -> None:
        if request.action == "find" and not inserted:
            inserted.append(1)
            empty.database[MAIN].insert_many([{"_id": "00a", "nwb_name": "y"}])

    empty.before_reply = insert
    assert extract(source, lake)[MAIN].deleted == 2
    extract(source, lake)
    assert set(lake.change_log(MAIN).live_documents()["record_id"]) == {
        one["_id"] for one in empty.database[MAIN].find({}, {"_id": 1})
    }


@pytest.mark.parametrize("over_cap", [OverCap.FAIL, OverCap.CUT])
def test_a_part_that_fails_for_an_unknown_reason_is_an_error(empty, open_gateway, over_cap):
    empty.payload_cap, empty.over_cap = 8000, over_cap
    empty.database[MAIN].insert_many(large(analysis_results="x" * 9000))
    source = open_gateway(empty, deadline=0.2)
    documents = read_documents(source, MAIN)
    assert next(documents).record_id == "a"
    with pytest.raises(SourceError, match="did not answer"):
        list(documents)


def test_a_document_that_changes_while_its_parts_are_read_is_read_again(capped, open_gateway):
    def change(request: Request) -> None:
        if "analysis_spec" in request.parameters.get("projection", "{}"):
            capped.before_reply = lambda _: None
            capped.database[MAIN].replace_one({"_id": "m"}, large(status="new")[1])

    capped.before_reply = change
    assert list(read_documents(open_gateway(capped), MAIN)) == expected(large(status="new"))


def test_a_document_that_changes_all_the_time_is_an_error(capped, open_gateway):
    versions = count()

    def change(_: Request) -> None:
        capped.database[MAIN].update_one({"_id": "m"}, {"$set": {"status": next(versions)}})

    capped.before_reply = change
    with pytest.raises(SourceError, match=r"'m' of .* changes while it is read"):
        list(read_documents(open_gateway(capped), MAIN))


def test_a_document_deleted_while_its_parts_are_read_is_gone(capped, open_gateway):
    def remove(request: Request) -> None:
        if "analysis_spec" in request.parameters.get("projection", "{}"):
            capped.database[MAIN].delete_one({"_id": "m"})

    capped.before_reply = remove
    there = expected([large()[0], large()[2]])
    assert list(read_documents(open_gateway(capped), MAIN)) == there
    capped.database[MAIN].insert_one(large()[1])
    assert list(open_gateway(capped).read_documents_by_id(MAIN, {"a", "m", "z"})) == there


# --- ids that are not strings -------------------------------------------------------------------


def other_ids(number: int = 7) -> list[dict[str, Any]]:
    ids: list[Any] = ["text", "more text", None, 1, 2.5, {"b": 1, "a": "x"}, True]
    ids += [ObjectId(f"{digit:024x}") for digit in range(number)]
    return [{"_id": identity, "n": place} for place, identity in enumerate(ids)]


@pytest.mark.parametrize("page_documents", [1, 2, 1000])
def test_documents_with_ids_of_any_type_are_read(empty, open_gateway, page_documents):
    empty.database[MAIN].insert_many(other_ids())
    there = expected(other_ids())
    ids = [document.record_id for document in there]
    source = open_gateway(empty, page_documents=page_documents)
    assert sorted(read_documents(source, MAIN)) == there
    assert sorted(source.list_ids(MAIN)) == ids
    assert sorted(source.read_documents_by_id(MAIN, set(ids[::2]))) == there[::2]


def test_no_document_is_missed_when_others_are_deleted_before_it(empty, open_gateway):
    empty.database[MAIN].insert_many(other_ids())
    removed = ObjectId(f"{0:024x}")
    documents = read_documents(open_gateway(empty, page_documents=1), MAIN)
    read = [next(documents) for _ in range(10)]
    assert empty.database[MAIN].delete_one({"_id": removed}).deleted_count == 1
    assert sorted([*read, *documents]) == expected(other_ids())


def test_documents_that_are_shifted_all_the_time_are_an_error(empty, open_gateway):
    empty.database[MAIN].insert_many(other_ids())
    numbers = count(-1, -1)

    def insert(_: Request) -> None:
        empty.database[MAIN].insert_one({"_id": next(numbers)})

    empty.before_reply = insert
    with pytest.raises(SourceError, match="changes faster"):
        list(read_documents(open_gateway(empty, page_documents=1), MAIN))


def test_a_document_over_the_cap_without_a_string_id_is_an_error(empty, open_gateway):
    empty.payload_cap = 8000
    empty.database[MAIN].insert_many([*other_ids(), {"_id": 9, "text": "x" * 9000}])
    with pytest.raises(SourceError, match="larger than a reply"):
        list(read_documents(open_gateway(empty), MAIN))


def test_a_gateway_that_writes_other_ids_as_strings_is_an_error(empty, open_gateway):
    empty.writes_ids_as_text = True
    empty.database[MAIN].insert_many([{"_id": "1"}, {"_id": ObjectId()}])
    with pytest.raises(SourceError, match="up to the _id '1' only"):
        list(read_documents(open_gateway(empty), MAIN))


# --- faults -----------------------------------------------------------------------------------


@pytest.mark.slow
@every_fault
def test_reading_succeeds_despite_a_temporary_fault(sample, stored, open_gateway, fault):
    there = stored[MAIN]
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


def test_a_request_without_a_reply_is_retried(sample, stored, open_gateway):
    def say_nothing(_: Request) -> None:
        if len(sample.requests) in {1, 4}:
            sample.is_closing.wait(0.5)

    sample.before_reply = say_nothing
    source = open_gateway(sample, reply_timeout=0.2)
    assert list(read_documents(source, ODD)) == stored[ODD]


@pytest.mark.slow
@every_fault
def test_a_permanent_fault_is_an_error(sample, open_gateway, fault):
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
def test_a_permanent_fault_while_reading_is_an_error(sample, open_gateway, fault):
    sample.fault_for = lambda _: fault if len(sample.requests) > 5 else None
    timeout = 1 if fault.is_endless else 30
    source = open_gateway(sample, deadline=0.1, reply_timeout=timeout, page_documents=20)
    documents = read_documents(source, MAIN)
    for _ in range(20):
        next(documents)
    with pytest.raises(SourceError, match=r"did not answer .* within 0\.1 s"):
        list(documents)


def test_the_error_shows_the_title_of_a_proxy_s_page(sample, open_gateway):
    sample.fault_for = lambda _: FAULTS["page"]
    with pytest.raises(SourceError, match=r"web page \(HTML\) .*'Please sign in' .* proxy"):
        open_gateway(sample, deadline=0.1).list_collections()


def test_a_gateway_that_only_replies_with_errors_is_reached(sample, open_gateway):
    sample.fault_for = lambda _: failing(503)
    with pytest.raises(SourceError, match="did not answer"):
        open_gateway(sample, deadline=0.1).list_collections()


def test_a_refusal_does_not_mean_that_a_gateway_is_reached(sample, open_gateway, monkeypatch):
    monkeypatch.setattr(client_module, "_REACH_SECONDS", 0.2)
    sample.faults.append(failing(403))
    sample.fault_for = lambda _: Fault(is_reset=True)
    with pytest.raises(SourceError, match="cannot be reached"):
        open_gateway(sample, deadline=5).list_collections()


def test_an_address_without_a_server_is_an_error(monkeypatch):
    monkeypatch.setattr(client_module, "_REACH_SECONDS", 0.2)
    address = "http://127.0.0.1:1/v1/analysis"
    with pytest.raises(SourceError, match=f"cannot be reached at {address}/"):
        GatewaySource(address).list_collections()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (failing(400), "status 400 with 'failing with 400'"),
        (failing(403), "status 403"),
        (
            failing(301, Location="https://other.org/v1?secret=x"),
            "a redirect to 'https://other.org/v1'",
        ),
    ],
)
def test_a_refusal_is_not_retried(sample, open_gateway, fault, words):
    sample.fault_for = lambda _: fault
    source = open_gateway(sample)
    with pytest.raises(SourceError, match=words):
        list(read_documents(source, MAIN))
    assert len(sample.requests) == 1
    with pytest.raises(SourceError, match=words):
        source.list_collections()


@pytest.mark.parametrize("page", [b'[{"_id":"a"}]', b'[{"_id":"b"},{"_id":"a"}]', b'[{"a":1}]'])
def test_a_server_that_ignores_the_filter_is_an_error(sample, open_gateway, page):
    sample.fault_for = lambda _: Fault(spoil=lambda _: page)
    source = open_gateway(sample)
    with pytest.raises(SourceError):
        list(read_documents(source, MAIN))
    with pytest.raises(SourceError, match="not requested"):
        list(source.read_documents_by_id(MAIN, {"c"}))


@pytest.mark.parametrize("answered", [0, 2, 5])
@pytest.mark.parametrize("is_silent_about_ends", [True, False])
def test_empty_replies_do_not_mean_an_empty_collection(
    sample, open_gateway, answered, is_silent_about_ends
):
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


def test_an_id_too_long_for_a_url_is_an_error(sample, open_gateway):
    with pytest.raises(SourceError, match="too long"):
        list(open_gateway(sample).read_documents_by_id(MAIN, {"x" * 100_000}))


def test_ids_that_are_refused_as_too_large_are_an_error(sample, open_gateway):
    source = open_gateway(sample)
    sample.payload_cap, sample.over_cap = 10, OverCap.REFUSE
    with pytest.raises(SourceError, match="as too large: status 413"):
        list(source.list_ids(MAIN))


# --- politeness -------------------------------------------------------------------------------


def test_the_client_waits_as_long_as_the_gateway_asks(sample, open_gateway):
    sample.faults += [failing(429, Retry_After="0.4"), failing(503, Retry_After="0.3")]
    source = open_gateway(sample)
    assert source.fingerprint(ODD) == f"{len(ODD_DOCUMENTS)} documents"
    first, second, third = (request.at for request in sample.requests)
    assert second >= first + 0.4
    assert third >= second + 0.3


def test_a_busy_reply_holds_back_all_requests():
    pace = client_module.RateLimiter(1e6, threading.Event())
    began = time.monotonic()
    pace.hold(0.1)
    pace.wait()
    assert time.monotonic() >= began + 0.1


@pytest.mark.parametrize("moment", ["3600", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_a_gateway_that_asks_to_wait_too_long_is_an_error(sample, open_gateway, moment):
    sample.fault_for = lambda _: failing(429, Retry_After=moment)
    with pytest.raises(SourceError, match=r"asks to wait \d{4,} s"):
        open_gateway(sample).fingerprint(MAIN)
    assert len(sample.requests) == 1


def test_the_request_rate_is_limited(sample, stored, open_gateway):
    began = time.monotonic()
    source = open_gateway(sample, requests_per_second=10, page_documents=20)
    wanted = set(source.list_ids(MAIN))
    assert sorted(source.read_documents_by_id(MAIN, wanted)) == stored[MAIN]
    assert len(sample.requests) >= 8
    for number, request in enumerate(sorted(sample.requests, key=lambda request: request.at)):
        assert request.at >= began + number / 10


@pytest.mark.parametrize("connections", [1, 3])
def test_concurrency_is_limited_and_connections_are_reused(
    sample, stored, open_gateway, connections, monkeypatch
):
    monkeypatch.setattr(source_module, "_URL_IDS_BYTES", 500)

    def wait_for_company(request: Request) -> None:
        give_up = time.monotonic() + 5
        while (
            "$in" in request.parameters.get("filter", "")
            and sample.most_under_way < connections
            and time.monotonic() < give_up
        ):
            time.sleep(0.001)

    sample.before_reply = wait_for_company
    source = open_gateway(sample, connections=connections, page_documents=20)
    there = stored[MAIN]
    assert list(read_documents(source, MAIN)) == there
    wanted = {document.record_id for document in there}
    assert sorted(source.read_documents_by_id(MAIN, wanted)) == there
    assert sample.most_under_way == connections
    assert sample.connections <= connections < len(sample.requests)


def test_requests_name_the_program_and_only_read(sample, open_gateway, lake):
    source = open_gateway(sample, collections=[ODD])
    extract(source, lake)
    extract(source, lake, Pass.NEW)
    assert {(request.method, request.action) for request in sample.requests} == {
        ("GET", "find"),
        ("GET", "count_documents"),
    }
    for request in sample.requests:
        assert request.headers["user-agent"].startswith("aind-etl/")
        assert "authorization" not in request.headers


def test_reading_ends_when_the_source_is_closed(sample):
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
def test_an_invalid_address_is_not_shown(url):
    with pytest.raises(ConfigurationError, match="not understood") as raised:
        GatewaySource(url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("end", ["", "/"])
def test_the_name_is_the_address(end):
    with GatewaySource(f"https://host:8443{PREFIX}{end}") as source:
        assert source.name == f"https://host:8443{PREFIX}"
        assert repr(source) == f"GatewaySource('{source.name}')"


# --- replies ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"1", b'"["', b"{}", b"[1]", b"[{}{}]", b"[{},]", b"[,{}]", b"[{}]]"),
        *(b"[{}] x", b"]", b"[}", b'[{"a": "\xff"}]', b'[{"a": "\\ud800"}]', b'[{"a":' * 100_000),
    ],
    ids=lambda body: repr(body[:20]),
)
def test_a_body_that_is_not_an_array_of_documents_is_an_error(body):
    with pytest.raises(replies.TransientError, match="not an array of documents") as raised:
        replies.parse_documents(body)
    assert raised.value.may_be_size


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_truncated_body_is_never_a_shorter_list_of_documents(share):
    body = json.dumps(ODD_DOCUMENTS).encode()
    assert replies.parse_documents(body) == [
        document_from_json(json.dumps(one).encode()) for one in ODD_DOCUMENTS
    ]
    with pytest.raises(replies.TransientError):
        replies.parse_documents(body[: int(len(body) * share)])


# --- end to end -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_lake_loaded_from_the_gateway_equals_one_from_the_dump(sample, built, open_gateway, lake):
    source = open_gateway(sample, collections=KNOWN_COLLECTIONS)
    load(source, lake)
    assert_same(contents_of(lake), contents_of(built.lake))
    assert not any(report.batches for report in extract(source, lake).values())


@pytest.mark.parametrize("pass_kind", list(Pass))
def test_both_passes_find_new_and_deleted_documents(empty, open_gateway, lake, pass_kind):
    collection = empty.database[MAIN]
    documents = [{"_id": f"{number:03}", "status": "success"} for number in range(90)]
    collection.insert_many(documents[:50])
    extract(open_gateway(empty, page_documents=10), lake)
    collection.insert_many(documents[50:])
    collection.delete_many({"_id": {"$in": [one["_id"] for one in documents[:20]]}})
    if pass_kind is Pass.FULL:
        documents[30]["status"] = "changed"
        collection.replace_one({"_id": documents[30]["_id"]}, documents[30])
    report = extract(open_gateway(empty), lake, pass_kind)[MAIN]
    assert (report.new, report.deleted) == (40, 20)
    assert report.changed == (pass_kind is Pass.FULL)
    live = live_documents_of(lake).select("record_id", "document", "content_hash")
    assert live.rows() == expected(documents[20:])


def test_a_gateway_that_fails_midway_deletes_nothing(sample, open_gateway, lake):
    collections = [MAIN, ODD]
    extract(open_gateway(sample, collections=collections), lake)
    sample.requests.clear()
    sample.fault_for = lambda _: failing(503) if len(sample.requests) > 12 else None
    failing_source = open_gateway(sample, collections=collections, deadline=0.1, page_documents=50)
    with pytest.raises(SourceError):
        extract(failing_source, lake)
    sample.fault_for = lambda _: None
    reports = extract(open_gateway(sample, collections=collections), lake).values()
    assert not any(one.new or one.deleted or one.changed for one in reports)


def test_a_decompression_bomb_is_an_error(monkeypatch):
    monkeypatch.setattr(client_module, "_LARGEST_REPLY_BYTES", 1 << 20)
    bomb = gzip.compress(bytes(100_000_000))
    tracemalloc.start()
    with pytest.raises(replies.TransientError, match="decompresses to more than 1,048,576 bytes"):
        client_module._decompressed(httpx.Headers({"content-encoding": "gzip"}), bomb)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 50_000_000
