"""MongoDB, against a real server: paging, faults, credentials, and the commands it receives."""

import logging
import random
import socketserver
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from mongod import URI_VARIABLE, Server, can_fail, certificate_or_skip, failing, mongod_or_skip
from pymongo import MongoClient, common, monitoring
from pymongo.database import Database
from pymongo.errors import OperationFailure
from worlds import MAIN, Clock, extract, load, read_dump

from aind_etl.changelog.passes import Pass
from aind_etl.cli import main
from aind_etl.contract.id_ranges import shards
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.settings import Settings
from aind_etl.sources.canonical import Document, document_from_bson, record_id_of
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.mongodb import MongoSource
from aind_etl.sources.mongodb import address as address_module
from aind_etl.sources.mongodb import faults as faults_module
from aind_etl.sources.mongodb.source import LIMITS, open_source
from aind_etl.sources.protocol import read_documents

Client = MongoClient[dict[str, Any]]
AnyDatabase = Database[dict[str, Any]]

TWENTY_FOUR_DIGITS = "5f5f5f5f5f5f5f5f5f5f5f5f"
EVERY_KIND_OF_ID = [
    *(bson.MinKey(), None, float("nan"), float("-inf"), -7, 1, bson.Decimal128("1.10"), 2.5),
    *(bson.Int64(2**60), float("inf"), "", "1", TWENTY_FOUR_DIGITS, "long " * 2000, "ä"),
    *({}, {"b": 1, "a": 2}, b"", b"xx", bson.Binary(b"0123456789abcdef", 4)),
    *(bson.ObjectId(TWENTY_FOUR_DIGITS), bson.ObjectId("6f6f6f6f6f6f6f6f6f6f6f6f")),
    *(False, True, bson.DatetimeMS(-(2**62)), datetime(2026, 5, 1, 12, tzinfo=UTC)),
    *(bson.DatetimeMS(2**62), bson.Timestamp(1, 1), bson.MaxKey()),
]
"""In the order of the server."""

PASSWORD = "horse/b@ttery:st%ple?"  # Every character that has a meaning in an address.
USERNAME = "reading-user"

# Commands that DocumentDB has and a reader needs. Any other fails the test.
COMMANDS = {
    *("find", "listCollections", "collStats", "aggregate"),
    *("saslStart", "saslContinue", "endSessions"),
}
COUNTING = {"$group": {"_id": 1, "n": {"$sum": 1}}}
FIND_OPTIONS = {
    *("find", "filter", "projection", "sort"),
    *("limit", "batchSize", "singleBatch", "maxTimeMS"),
}
SESSION_OPTIONS = {"lsid", "$db", "$clusterTime", "$readPreference"}
OPERATORS = {"$gt", "$gte", "$lt", "$eq", "$ne", "$in"}


def _only_counts(pipeline: list[dict[str, Any]]) -> bool:
    """Return whether a pipeline counts documents, by their ids at most."""
    match, *rest = pipeline
    return rest == [COUNTING] and match.keys() == {"$match"} and match["$match"].keys() <= {"_id"}


class Watch(monitoring.CommandListener):
    """Records commands, and those that DocumentDB lacks or a reader must not send."""

    def __init__(self) -> None:
        self.commands: list[dict[str, Any]] = []
        self.wrong: list[str] = []

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Record a command."""
        command = dict(event.command)
        self.commands.append(command)
        if event.command_name not in COMMANDS:
            self.wrong.append(f"{event.command_name} is no command of a reader")
        if event.command_name == "aggregate" and not _only_counts(command["pipeline"]):
            self.wrong.append(f"a reader only counts by a pipeline, not {command['pipeline']}")
        if event.command_name == "find":
            self.wrong += self._wrong_in_find(command)

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Look for open cursors."""
        if event.command_name == "find" and event.reply["cursor"]["id"]:
            self.wrong.append("a cursor was left open")

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Do nothing: tests make commands fail."""

    @property
    def finds(self) -> list[dict[str, Any]]:
        """Return the requests for documents and ids."""
        return [command for command in self.commands if "find" in command]

    @staticmethod
    def _wrong_in_find(command: dict[str, Any]) -> Iterator[str]:
        for option in command.keys() - FIND_OPTIONS - SESSION_OPTIONS:
            yield f"find has {option}"
        if list(command.get("sort", {})) != ["_id"]:
            yield "find is not sorted by _id"
        # Where ids are of several types, they are listed by one cursor over the index.
        lists_ids = command["filter"] == {} and command.get("projection") == {"_id": 1}
        if not lists_ids and not (command.get("limit") and command.get("singleBatch")):
            yield "find is not bounded"
        if not lists_ids and command.get("batchSize") != command.get("limit"):
            yield "find leaves the number of documents of a reply to the server"
        if command["filter"].keys() - {"_id"}:
            yield f"find filters by {set(command['filter'])}"
        for operator in command["filter"].get("_id", {}).keys() - OPERATORS:
            yield f"find has the operator {operator}"


@pytest.fixture
def address(server: Server, database: AnyDatabase) -> str:
    # A server that reports a shutdown is checked again only after this time.
    return server.address(database.name, more="heartbeatFrequencyMS=500")


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """Record the commands of a test, and fail it for those that a reader must not send."""
    watch = Watch()
    monkeypatch.setattr(
        address_module, "MongoClient", partial(MongoClient, event_listeners=[watch])
    )
    yield watch
    assert not watch.wrong


@pytest.fixture
def opened(address: str) -> Iterator[Callable[..., MongoSource]]:
    """Return a function that opens the test's database as a source."""
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(MongoSource(address, replace(LIMITS, **limits)))


@pytest.fixture
def faults(admin: Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Return a function that makes the server fail; the pauses of sources are short."""
    if not can_fail(admin):
        pytest.skip(f"the server that {URI_VARIABLE} names cannot be made to fail")
    monkeypatch.setattr(faults_module, "FIRST_PAUSE", 0.01)
    # How long pymongo waits before it checks a server again after a broken connection.
    monkeypatch.setattr(common, "MIN_HEARTBEAT_INTERVAL", 0.01)
    return partial(failing, admin)


class Secured(NamedTuple):
    """A server that requires TLS and a password, with a database that ``USERNAME`` may read."""

    server: Server
    ca_file: Path
    root: Client

    def address(self, *, credentials: str = "", database: str = "analysis") -> str:
        """Return the address of a database."""
        more = f"authSource=admin&tls=true&tlsCAFile={self.ca_file}"
        return self.server.address(database, credentials=credentials, more=more)


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    ca_file, server_file = certificate_or_skip(folder / "tls")
    options = ["--auth", "--tlsMode", "requireTLS", "--tlsCAFile", str(ca_file)]
    options += ["--tlsCertificateKeyFile", str(server_file)]
    options += ["--tlsAllowConnectionsWithoutCertificates"]
    with mongod_or_skip(folder, *options) as port:
        uri = f"mongodb://127.0.0.1:{port}/"
        with Client(uri, tls=True, tlsCAFile=str(ca_file)) as first:
            # Allowed from this host as long as there is no user.
            first.admin.command("createUser", "root", pwd="root", roles=["root"])
        with Client(
            uri, tls=True, tlsCAFile=str(ca_file), username="root", password="root"
        ) as root:
            role = {"role": "read", "db": "analysis"}
            root.admin.command("createUser", USERNAME, pwd=PASSWORD, roles=[role])
            root.admin.command("createUser", "stranger", pwd="stranger", roles=[])
            root["analysis"][MAIN].insert_many({"_id": f"record {n}"} for n in range(20))
            yield Secured(Server(uri), ca_file, root)


def documents_of(source: MongoSource, collection: str = MAIN) -> list[Document]:
    return list(read_documents(source, collection))


def assert_short(error: BaseException, *words: str) -> None:
    """Check that an error is short, has some words, and shows no exception."""
    text = str(error)
    assert isinstance(error, ConfigurationError | SourceError)
    assert error.exit_code == (3 if isinstance(error, SourceError) else 2)
    assert text.endswith(".")
    assert "\n" not in text
    assert "Topology" not in text
    assert len(text) < 500
    for word in words:
        assert word in text


# Reading


def test_a_database_gives_the_documents_of_its_dump(database, opened, sample_dump):
    dump = DumpSource(sample_dump)
    for collection in dump.list_collections():
        database[collection].insert_many(read_dump(sample_dump, collection))
    source = opened()
    assert source.list_collections() == dump.list_collections()
    for collection in dump.list_collections():
        expected = sorted(read_documents(dump, collection))
        identifiers = [document.record_id for document in expected]
        assert sorted(read_documents(source, collection)) == expected
        assert sorted(source.list_ids(collection)) == identifiers
        some = set(identifiers[::3])
        wanted = [document for document in expected if document.record_id in some]
        assert sorted(source.read_documents_by_id(collection, some)) == wanted


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_ids_of_all_types_are_read_once_and_in_order(database, opened, size):
    documents = [
        {"_id": one, "values": [one, 1.0, bson.Regex("^a", "i")]} for one in EVERY_KIND_OF_ID
    ]
    database[MAIN].insert_many(random.Random(0).sample(documents, len(documents)))
    source = opened(page_documents=size, page_ids=size)
    expected = [document_from_bson(bson.encode(document)) for document in documents]
    assert documents_of(source) == expected
    assert list(source.list_ids(MAIN)) == [document.record_id for document in expected]
    everything = {document.record_id for document in expected}
    assert list(source.read_documents_by_id(MAIN, everything)) == expected


def test_any_document_can_be_read_by_its_record_id(database, opened):
    database[MAIN].insert_many({"_id": one} for one in EVERY_KIND_OF_ID)
    source = opened()
    for document in documents_of(source):
        found = source.read_documents_by_id(MAIN, {document.record_id, "unknown"})
        assert list(found) == [document]


@pytest.mark.parametrize(
    "identities", [["a", "b", "c", "d"], [bson.ObjectId(bytes([n]) * 12) for n in range(4)]]
)
def test_a_collection_with_ids_of_one_type_is_read_in_pages(database, opened, watch, identities):
    database[MAIN].insert_many({"_id": one} for one in identities)
    source = opened(page_documents=3, page_ids=3)
    assert len(documents_of(source)) == len(identities)
    # Both ends, two pages, and the one after the last.
    assert [find["limit"] for find in watch.finds] == [1, 1, 3, 3, 3]
    database[MAIN].insert_one({"_id": 17})
    assert len(list(source.list_ids(MAIN))) == len(identities) + 1


@pytest.mark.parametrize(("number", "length"), [(3000, 1), (600, 4000)])
def test_many_ids_are_requested_in_several_requests(database, opened, watch, number, length):
    names = [f"{n:04d} {'x' * length}" for n in range(number)]
    database[MAIN].insert_many({"_id": name} for name in names)
    found = [one.record_id for one in opened().read_documents_by_id(MAIN, set(names))]
    assert found == names
    chunks = [find["filter"]["_id"]["$in"] for find in watch.finds if "_id" in find["filter"]]
    assert max(map(len, chunks)) <= 1000
    assert max(len(bson.encode({"": chunk})) for chunk in chunks) < 1.2e6


def test_no_ids_need_no_request(opened, watch):
    assert list(opened().read_documents_by_id(MAIN, set())) == []
    assert watch.commands == []


def test_pages_of_large_documents_are_small_and_need_no_cursor(database, opened, faults, watch):
    for n in range(6):
        database[MAIN].insert_one({"_id": str(n), "text": "x" * 5_000_000})
    with faults("getMore", "killCursors", times=None, closeConnection=True):
        assert len(documents_of(opened())) == 6
    limits = [find["limit"] for find in watch.finds if find["limit"] > 1]
    # The server cuts the first page, as it sends 16 MB at most; then the size is known.
    assert limits == [1000]
    watch.commands.clear()
    assert len(documents_of(opened(page_documents=3, page_bytes=10_500_000))) == 6
    assert [find["limit"] for find in watch.finds] == [1, 1, 3, 2, 2, 2]


def test_writes_during_reading_neither_repeat_nor_hide_a_document(database, opened):
    written = database[MAIN]
    written.insert_many({"_id": f"{n:02d}"} for n in range(10, 30))
    reading = read_documents(opened(page_documents=3), MAIN)
    seen = [document.record_id for document in islice(reading, 6)]
    written.delete_many({"_id": {"$in": ["11", "15", "25"]}})
    written.insert_many([{"_id": "05"}, {"_id": "28 and a half"}, {"_id": "99"}])
    written.replace_one({"_id": "12"}, {"_id": "12", "text": "x" * 100_000})
    seen += [document.record_id for document in reading]
    assert seen == sorted(set(seen))
    always_there = {f"{n:02d}" for n in range(10, 30)} - {"11", "15", "25"}
    assert always_there <= set(seen)
    assert {"28 and a half", "99"} <= set(seen)


def not_utf8(document: dict[str, Any]) -> RawBSONDocument:
    """Return a document in which ``ABCD`` is no text any more."""
    return RawBSONDocument(bson.encode(document).replace(b"ABCD", b"\xff\xfeCD"))


def test_a_document_that_is_not_utf8_keeps_its_id(database, opened):
    database[MAIN].insert_many([{"_id": "1"}, not_utf8({"_id": "2", "x": "ABCD"}), {"_id": "3"}])
    source = opened(page_documents=1)
    documents = documents_of(source)
    assert [document.record_id for document in documents] == ["1", "2", "3"]
    assert list(source.list_ids(MAIN)) == ["1", "2", "3"]
    assert list(source.read_documents_by_id(MAIN, {"2"})) == documents[1:2]


@pytest.mark.parametrize("method", ["list_ids", "read_raw"])
@pytest.mark.parametrize("identity", [not_utf8({"_id": "ABCD"}), {"_id": bson.Code("x")}])
def test_an_id_that_cannot_be_read_is_an_error(database, opened, method, identity):
    database[MAIN].insert_many([{"_id": "1"}, identity, {"_id": "\uffff"}])
    with pytest.raises(SourceError, match="_id") as caught:
        list(getattr(opened(), method)(MAIN))
    assert_short(caught.value, MAIN)


# Collections


def test_views_and_system_and_empty_collections_are_not_listed(database, opened):
    database["b"].insert_one({"_id": 1})
    database["a"].insert_one({"_id": 1})
    database.create_collection("empty")
    database.command("create", "view", viewOn="a", pipeline=[])
    database.command("profile", 2)
    database["a"].find_one()
    database.command("profile", 0)
    assert {"system.profile", "system.views"} <= set(database.list_collection_names())
    assert opened().list_collections() == ["a", "b"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ("", "", ["fits-a", "fits-b", "other"]),
        ("fits-*", "", ["fits-a", "fits-b"]),
        ("fits-*,other", "*-b", ["fits-a", "other"]),
        ("", "[fo]*", []),
    ],
)
def test_patterns_choose_collections(address, database, include, exclude, expected):
    for name in ("fits-a", "fits-b", "other"):
        database[name].insert_one({"_id": 1})
    with open_source(Settings(source=address, include=include, exclude=exclude), {}) as source:
        assert source.list_collections() == expected
        # What was loaded before it was excluded must not look as if it were gone.
        assert list(source.list_ids("other")) == ["_id:1"]


def test_inserts_and_deletes_change_the_fingerprint(database, opened, watch):
    source = opened()
    database[MAIN].insert_one({"_id": 1})
    seen = [source.fingerprint(MAIN)]
    assert source.fingerprint(MAIN) == seen[0]
    database[MAIN].insert_one({"_id": 2})
    seen.append(source.fingerprint(MAIN))
    database[MAIN].delete_one({"_id": 1})
    database[MAIN].insert_one({"_id": 3, "more": "text"})
    seen.append(source.fingerprint(MAIN))
    assert len(set(seen)) == 3
    assert watch.finds == []


# Transient errors

PASSING = {
    "the connection breaks": {"closeConnection": True},
    "the cursor is lost": {"errorCode": 43},
    "the server shuts down": {"errorCode": 11600},
    "the primary steps down": {"errorCode": 189},
    "there is no primary": {"errorCode": 10107},
    "the node recovers": {"errorCode": 13436},
    "the reply took too long for the server": {"errorCode": 50},
    "the reply took too long for the client": {"blockConnection": True, "blockTimeMS": 800},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", PASSING.values(), ids=PASSING)
def test_reading_resumes_after_a_transient_error(database, opened, faults, caplog, how):
    identities = [f"{n:02d}" for n in range(10)] + [bson.ObjectId() for _ in range(5)]
    database[MAIN].insert_many({"_id": one} for one in identities)
    source = opened(page_documents=3, page_ids=3, reply_timeout=0.3, deadline=60)
    expected = list(map(record_id_of, identities))
    for reading in (source.list_ids, lambda name: (one[0] for one in read_documents(source, name))):
        records = reading(MAIN)
        begun = list(islice(records, 4))
        with faults("find", times=3, **how):
            assert begun + list(records) == expected
    assert "retrying in" in caplog.text


@pytest.mark.parametrize("command", ["listCollections", "collStats"])
def test_other_commands_are_retried_too(database, opened, faults, command):
    database[MAIN].insert_one({"_id": 1})
    source = opened(deadline=60)
    with faults(command, times=2, closeConnection=True):
        assert source.list_collections() == [MAIN]
        assert source.fingerprint(MAIN)


def test_a_request_that_takes_too_long_is_retried_with_a_smaller_limit(
    database, opened, faults, watch
):
    database[MAIN].insert_many({"_id": f"{n:02d}"} for n in range(20))
    source = opened(page_documents=16, deadline=60)
    reading = read_documents(source, MAIN)
    next(reading)
    watch.commands.clear()
    with faults("find", times=2, errorCode=50):
        assert len(list(reading)) == 19
    assert [find["limit"] for find in watch.finds] == [16, 8, 4, 16]


@pytest.mark.parametrize("how", [{"closeConnection": True}, {"errorCode": 11600}])
def test_a_server_that_does_not_recover_is_an_error_after_the_deadline(
    database, opened, faults, how
):
    database[MAIN].insert_many({"_id": f"{n:02d}"} for n in range(10))
    source = opened(page_documents=3, deadline=0.5)
    reading = read_documents(source, MAIN)
    next(reading)
    with (
        faults("find", times=None, **how),
        pytest.raises(SourceError, match=r"within 0\.5 s") as caught,
    ):
        list(reading)
    assert_short(caught.value, source.name, "run again")


def test_a_permanent_error_is_not_retried(database, opened, faults, watch):
    database[MAIN].insert_one({"_id": 1})
    source = opened(deadline=60)
    assert len(documents_of(source)) == 1
    watch.commands.clear()
    with faults("find", times=1, errorCode=2), pytest.raises(SourceError) as caught:
        documents_of(source)
    assert_short(caught.value, source.name)
    assert len(watch.finds) == 1


def test_the_next_pass_completes_an_interrupted_load(database, opened, faults, lake):
    database[MAIN].insert_many({"_id": f"{n:03d}", "n": n} for n in range(100))
    source = opened(page_documents=10, deadline=0.2)
    with faults("find", times=None, closeConnection=True), pytest.raises(SourceError):
        extract(source, lake)
    again = opened(page_documents=10, deadline=60)
    with faults("find", times=3, closeConnection=True):
        assert extract(again, lake)[MAIN].new == 100


# Permanent errors


@pytest.mark.parametrize(
    "host", ["mongodb://127.0.0.1:1", "mongodb://nowhere.invalid", "mongodb+srv://nowhere.invalid"]
)
def test_a_server_that_cannot_be_reached_gives_a_short_error(host):
    source = MongoSource(f"{host}/analysis?serverSelectionTimeoutMS=300")
    with source, pytest.raises(SourceError, match=r"cannot be (reached|found)") as caught:
        source.list_collections()
    assert_short(caught.value, f"{host}/analysis", "Check the host")


@pytest.mark.parametrize("method", ["list_collections", "fingerprint", "list_ids"])
def test_a_missing_database_is_an_error_rather_than_empty(opened, database, method):
    with pytest.raises(SourceError, match="There is no database") as caught:
        list(getattr(opened(), method)(*[MAIN] * (method != "list_collections")))
    assert_short(caught.value, database.name)


@pytest.mark.parametrize("method", ["list_ids", "read_raw", "count_documents"])
def test_a_name_that_no_collection_may_have_is_a_short_error(opened, database, method):
    database[MAIN].insert_one({"_id": "a"})
    with pytest.raises(SourceError, match="must not start or end with") as caught:
        list(getattr(opened(), method)("name."))
    assert_short(caught.value, database.name)


def test_the_command_exits_with_3_and_prints_the_error(
    address, database, monkeypatch, tmp_path, capfd
):
    arguments = ["verify", "--source", address, "--lake", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["aind-etl", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 3
    printed = capfd.readouterr().err
    assert f"Error: There is no database '{database.name}' at" in printed
    assert printed.count("\n") == 1


class OldServer(socketserver.BaseRequestHandler):
    """Answers every command as a server as old as DocumentDB 3.6 describes itself."""

    def handle(self) -> None:
        """Answer until the client hangs up."""
        about = {"ok": 1.0, "ismaster": True, "helloOk": True, "minWireVersion": 0}
        about |= {"maxWireVersion": 6, "maxBsonObjectSize": 1 << 24, "readOnly": False}
        body = bson.encode(about | {"maxMessageSizeBytes": 48 << 20, "maxWriteBatchSize": 1000})
        while header := self.request.recv(16, 0x100):  # MSG_WAITALL
            length, request_id, _, _ = struct.unpack("<iiii", header)
            self.request.recv(length - 16, 0x100)
            reply = struct.pack("<iB", 0, 0) + body
            head = struct.pack("<iiii", 16 + len(reply), 1, request_id, 2013)  # OP_MSG
            self.request.sendall(head + reply)


def test_a_server_that_is_too_old_gives_a_short_error():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldServer) as old:
        old.daemon_threads = True
        threading.Thread(target=old.serve_forever, daemon=True).start()
        port = old.server_address[1]
        with (
            MongoSource(f"mongodb://127.0.0.1:{port}/analysis") as source,
            pytest.raises(SourceError, match="too old") as caught,
        ):
            source.list_collections()
        old.shutdown()
    assert_short(caught.value, "wire version 6", "upgrade")


@pytest.mark.parametrize(
    "url",
    [
        "mongodb://",
        "mongodb:///analysis",
        "mongodb://host",
        "mongodb://host/",
        "mongodb://host/a.b",
        "mongodb://host:99999/analysis",
        "mongodb://host/analysis?tlsCAFlie=ca.pem",
        "mongodb://host/analysis?tls=true&tlsCAFile=/no/such/file",
        "mongodb://host/analysis?connectTimeoutMS=secret",
        "mongodb://host/analysis?tlsCertificateKeyFilePassword=secret&tlsCertificateKeyFile=/no/file",
        "mongodb://user@host/analysis",
        "mongodb://user:sec%ret@host/analysis",
        "mongodb://user:sec:ret@host/analysis",
        "mongodb://user:sec@ret@host/analysis",
        "mongodb://user:sec/ret@host/analysis",
        "mongodb://user:sec?ret@host/analysis",
        "mongodb://user:123?secret@host/analysis",
        "mongodb://user:123/secret@host/analysis",
    ],
)
def test_a_wrong_address_gives_a_short_error_without_the_password(url):
    with pytest.raises(ConfigurationError) as caught:
        MongoSource(url)
    assert_short(caught.value, "mongodb://host")
    shown = "".join(traceback.format_exception(caught.value))
    for secret in ("sec", "ret@", "123"):
        assert secret not in shown.replace("secure", "")


def test_options_of_the_address_apply_but_writes_are_never_retried():
    options = "readPreference=secondaryPreferred&socketTimeoutMS=1234&retryWrites=true"
    with MongoSource(f"mongodb://host/analysis?{options}") as source:
        client = source._client
        assert client.read_preference.name == "SecondaryPreferred"
        assert client.options.pool_options.socket_timeout == 1.234
        assert client.options.retry_writes is False


# Access


@pytest.mark.parametrize(
    "credentials",
    [
        {"password": PASSWORD},
        {"credentials": f"{USERNAME}:{quote(PASSWORD, safe='')}"},
        {"credentials": "somebody:else", "password": PASSWORD},
    ],
)
def test_the_role_read_is_sufficient(secured, lake, credentials):
    address = secured.address(credentials=credentials.get("credentials", ""))
    password = credentials.get("password")
    username = USERNAME if password else None
    with MongoSource(address, username=username, password=password) as source:
        assert source.list_collections() == [MAIN]
        assert extract(source, lake)[MAIN].new == 20
        assert extract(source, lake, Pass.NEW)[MAIN].new == 0
    with Client(secured.address(), username=USERNAME, password=PASSWORD) as client:
        for write in (
            lambda: client["analysis"][MAIN].insert_one({}),
            lambda: client["analysis"][MAIN].delete_many({}),
            client["other"].list_collection_names,
        ):
            with pytest.raises(OperationFailure, match="not authorized"):
                write()


@pytest.mark.parametrize(
    ("username", "password", "words"),
    [
        (USERNAME, "wrong-secret", ["refuses", address_module.PASSWORD_VARIABLE]),
        ("nobody", PASSWORD, ["refuses", address_module.USERNAME_VARIABLE]),
        ("stranger", "stranger", ["may not read", "role 'read'"]),
        (None, None, ["may not read", address_module.USERNAME_VARIABLE]),
    ],
)
def test_a_user_without_access_gets_a_short_error(secured, username, password, words):
    with (
        MongoSource(secured.address(), username=username, password=password) as source,
        pytest.raises(SourceError) as caught,
    ):
        source.list_collections()
    assert_short(caught.value, source.name, *words)


@pytest.mark.parametrize("options", ["", "tls=true&"])
def test_an_untrusted_server_gives_a_short_error(secured, options):
    address = secured.server.address("analysis", more=f"{options}serverSelectionTimeoutMS=500")
    with (
        MongoSource(address, username=USERNAME, password=PASSWORD) as source,
        pytest.raises(SourceError, match="cannot be reached") as caught,
    ):
        source.list_collections()
    assert_short(caught.value, source.name, "tlsCAFile")


def test_credentials_come_from_the_environment(secured, tmp_path):
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    named = {address_module.USERNAME_VARIABLE: USERNAME}
    for environment in (
        named | {address_module.PASSWORD_VARIABLE: PASSWORD},
        named | {address_module.PASSWORD_FILE_VARIABLE: str(file)},
    ):
        settings = Settings(source=secured.address(), exclude=("other",))
        with open_source(settings, environment) as source:
            assert source.list_collections() == [MAIN]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PASSWORD": "secret"}, "USERNAME"),
        ({"USERNAME": "user"}, "not understood"),
        ({"USERNAME": "user", "PASSWORD": "secret", "PASSWORD_FILE": "file"}, "Both"),
        ({"USERNAME": "user", "PASSWORD_FILE": "/no/such/file"}, "No such file"),
        ({"USERNAME": "user", "PASSWORD_FILE": "{empty}"}, "is empty"),
        ({"USERNAME": "user", "PASSWORD_FILE": "{binary}"}, "UTF-8"),
    ],
)
def test_invalid_credentials_give_a_short_error(tmp_path, environment, words):
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    files = {name: tmp_path / name for name in ("empty", "binary")}
    given = {
        f"AIND_ETL_MONGODB_{name}": value.format(**files) for name, value in environment.items()
    }
    with pytest.raises(ConfigurationError, match=words) as caught:
        open_source(Settings(source="mongodb://host/analysis"), given)
    assert "secret" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_no_password_appears_in_names_logs_errors_or_files(secured, lake, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    in_address = f"{USERNAME}:{quote(PASSWORD, safe='')}"
    shown = []
    for choices in ({}, {"username": USERNAME, "password": PASSWORD}):
        for credentials in (in_address, f"{USERNAME}:wrong-secret"):
            address = secured.address(credentials=credentials)
            with MongoSource(address, replace(LIMITS, deadline=2), **choices) as source:
                shown += [repr(source), str(source), source.name]
                try:
                    shown += [str(extract(source, lake)), source.fingerprint(MAIN)]
                    shown.append(str(lake.state(MAIN)))
                except SourceError as error:
                    shown += traceback.format_exception(error)
    files = [path.read_bytes() for path in lake.storage.root.rglob("*") if path.is_file()]
    assert files
    assert any("refuses" in text for text in shown)
    everything = b"\n".join(files) + "\n".join([*shown, caplog.text, *capfd.readouterr()]).encode()
    assert source.name.encode() in everything
    for secret in (PASSWORD, quote(PASSWORD, safe=""), "wrong-secret", "b@ttery", "b%40ttery"):
        assert secret.encode() not in everything


# The cost for the server


def requests_during(database: AnyDatabase, work: Callable[[], object]) -> list[dict[str, Any]]:
    """Return the requests that the server's profiler recorded during some work."""
    database["system.profile"].drop()
    database.create_collection("system.profile", capped=True, size=1 << 24)
    database.command("profile", 2)
    try:
        work()
    finally:
        database.command("profile", 0)
    fields = ["command.projection", "docsExamined", "nreturned", "planSummary"]
    requests = database["system.profile"].find({"op": "query", "appName": "aind-etl"}, fields)
    return requests.to_list()


def test_a_new_pass_reads_only_new_documents(database, opened, lake):
    rng = random.Random(0)
    identities = [f"{rng.getrandbits(256):064x}" for _ in range(2_100)]
    database[MAIN].insert_many({"_id": one, "text": "x" * 100} for one in identities[:2_000])
    source, clock = opened(page_ids=500), Clock()
    assert extract(source, lake, now=clock)[MAIN].new == 2_000
    clock.move(days=2)
    database[MAIN].insert_many({"_id": one} for one in identities[2_000:])
    database[MAIN].delete_many({"_id": {"$in": identities[:50]}})
    reports = {}
    requests = requests_during(
        database, lambda: reports.update(extract(source, lake, Pass.NEW, now=clock))
    )
    assert (reports[MAIN].new, reports[MAIN].deleted) == (100, 50)
    assert sum(one["docsExamined"] for one in requests) == 100
    whole = [one for one in requests if "projection" not in one["command"]]
    assert sum(one["nreturned"] for one in whole) == 100
    plans = {one["planSummary"] for one in requests}
    assert not any("COLLSCAN" in plan or "SORT" in plan for plan in plans)


def test_every_request_uses_the_index_whatever_the_ids(database, opened):
    database[MAIN].insert_many({"_id": one} for one in EVERY_KIND_OF_ID)
    source = opened(page_documents=3, page_ids=3)
    requests = requests_during(
        database,
        lambda: (
            documents_of(source),
            list(source.read_documents_by_id(MAIN, set(source.list_ids(MAIN)))),
        ),
    )
    plans = {one["planSummary"].partition(" ")[0] for one in requests}
    assert plans <= {"IXSCAN", "IDHACK", "EOF"}
    assert all(one["docsExamined"] <= one["nreturned"] + 1 for one in requests)


# End to end


def test_both_passes_keep_a_lake_up_to_date_with_the_database(database, opened, lake, sample_dump):
    documents = read_dump(sample_dump)
    database[MAIN].insert_many(documents[:-3])
    source, clock = opened(page_documents=7), Clock()
    assert load(source, lake, now=clock).extracts[MAIN].new == len(documents) - 3
    clock.move(days=2)
    database[MAIN].insert_many(documents[-3:])
    database[MAIN].delete_one({"_id": documents[0]["_id"]})
    database[MAIN].update_one({"_id": documents[1]["_id"]}, {"$set": {"noted": float("nan")}})
    new = load(source, lake, Pass.NEW, now=clock).extracts[MAIN]
    assert (new.new, new.deleted, new.changed, new.read) == (3, 1, 0, 3)
    full = load(source, lake, Pass.FULL, now=clock).extracts[MAIN]
    assert (full.new, full.deleted, full.changed) == (0, 0, 1)
    live = lake.change_log(MAIN).live_documents()
    assert dict(zip(live["record_id"], live["content_hash"], strict=True)) == {
        document.record_id: document.content_hash for document in read_documents(source, MAIN)
    }
    assert lake.state(MAIN).source == source.name


# The watch itself


BOUNDED = {"sort": [("_id", 1)], "limit": -1}


@pytest.mark.parametrize(
    "ask",
    [
        lambda collection: collection.find().to_list(),
        lambda collection: collection.find({}, sort=[("_id", 1)]).to_list(),
        lambda collection: collection.find({}, sort=[("x", 1)], limit=-1).to_list(),
        lambda collection: collection.find({}, **BOUNDED, hint="_id_").to_list(),
        lambda collection: collection.find({}, **BOUNDED, allow_disk_use=True).to_list(),
        lambda collection: collection.find({"x": 1}, **BOUNDED).to_list(),
        lambda collection: collection.find({"_id": {"$type": 2}}, **BOUNDED).to_list(),
        lambda collection: collection.aggregate([{"$facet": {"a": []}}]).to_list(),
        lambda collection: collection.insert_one({}),
    ],
)
def test_the_watch_notices_commands_that_a_reader_must_not_send(address, database, ask):
    watch = Watch()
    with Client(address, event_listeners=[watch]) as client:
        ask(client[database.name]["any"])
    assert watch.wrong


@pytest.mark.parametrize("hiding", [[], [bson.MinKey()], [bson.MaxKey()], ["a", bson.MaxKey()]])
@pytest.mark.parametrize("code", [bson.Code("x"), bson.Code("x", {"y": 1})])
def test_an_id_that_is_code_is_an_error_wherever_it_is_sorted(address, database, hiding, code):
    database["odd"].drop()
    database["odd"].insert_many([{"_id": one} for one in [code, *hiding]])
    with (
        MongoSource(address) as source,
        pytest.raises(SourceError, match="an _id of the type Code"),
    ):
        list(source.list_ids("odd"))


@pytest.mark.parametrize("of", [1, 2, 7, 64])
@pytest.mark.parametrize(
    "identities", [EVERY_KIND_OF_ID, [bson.ObjectId(bytes([n]) * 12) for n in range(4)]]
)
def test_the_count_of_a_split_is_the_number_of_its_ids(opened, database, identities, of):
    database["odd"].insert_many([{"_id": one} for one in identities])
    with opened() as source:
        counted = [source.count_documents("odd", shard.ids) for shard in shards(of)]
        listed = [len(set(source.list_ids("odd", shard.ids))) for shard in shards(of)]
    assert counted == listed
    assert sum(counted) == len(identities)
