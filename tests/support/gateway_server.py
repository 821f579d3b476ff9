"""A small REST gateway over a real MongoDB server, for tests.

It speaks the public gateway's protocol (``find``, ``count_documents``; a payload cap), fails on
request, and records the requests.
"""

import gzip
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from bson import json_util
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import RequestReceived
from pymongo.database import Database
from pymongo.errors import OperationFailure

PREFIX = "/v1/analysis"
_PAGE = b"<!DOCTYPE html><html><head><title>Please sign in</title></head><body></body></html>"
_PIECE_SECONDS = 0.05


class OverCap(Enum):
    """What happens to a reply that is larger than the payload cap."""

    SHORTEN = auto()
    """It holds as many whole documents as fit, perhaps none."""
    REFUSE = auto()
    """Status 413."""
    FAIL = auto()
    """Status 502, as if the cap applied within the gateway."""
    CUT = auto()
    """It is cut off at the cap, with a matching length."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong with a request."""

    # Status of the reply; 200 answers the request, and then spoils the answer.
    status: int = 200
    # Additional headers.
    headers: Mapping[str, str] = field(default_factory=dict)
    # Changes the body.
    spoil: Callable[[bytes], bytes] = bytes
    content_type: str = "application/json"
    # The connection is closed after half of the body.
    is_cut: bool = False
    # The connection is reset without a reply.
    is_reset: bool = False
    # The body arrives byte by byte, too slowly for any client.
    is_endless: bool = False


def failing(status: int, **headers: str) -> Fault:
    """Return a reply with a status, as a gateway fails."""
    body = json.dumps({"message": f"failing with {status}"}).encode()
    return Fault(
        status, {name.replace("_", "-"): text for name, text in headers.items()}, lambda _: body
    )


FAULTS = {
    **{str(status): failing(status) for status in (429, 500, 503, 504, 408)},
    "429 with Retry-After": failing(429, Retry_After="0.1"),
    "429 with a date": failing(429, Retry_After=formatdate(0, usegmt=True)),
    "429 with nonsense": failing(429, Retry_After="soon"),
    "reset": Fault(is_reset=True),
    "cut": Fault(is_cut=True),
    "cut unnoticed": Fault(spoil=lambda body: body[: len(body) // 2]),
    "slow without end": Fault(is_endless=True),
    "empty body": Fault(spoil=lambda _: b""),
    "invalid JSON": Fault(
        spoil=lambda body: body.replace(b":", b"=", 1) if b":" in body else b"[oops]"
    ),
    "no array": Fault(spoil=lambda _: b'{"message": "Internal error"}'),
    "scalars": Fault(spoil=lambda _: b"[1, 2]"),
    "two arrays": Fault(spoil=lambda body: body + body),
    "page": Fault(spoil=lambda _: _PAGE, content_type="text/html; charset=utf-8"),
    "page that says it is JSON": Fault(spoil=lambda _: b"\n" + _PAGE),
    "page of a bad gateway": Fault(502, spoil=lambda _: _PAGE, content_type="text/html"),
}
"""Faults that a retry may overcome."""


@dataclass(frozen=True)
class Request:
    """A request as it arrived."""

    method: str
    collection: str
    action: str
    parameters: Mapping[str, str]
    # With names in lower case.
    headers: Mapping[str, str]
    # Path and query as in the request.
    target: str
    # Time of the monotonic clock.
    at: float

    @property
    def condition(self) -> dict[str, Any]:
        """The filter."""
        return dict(json.loads(self.parameters.get("filter", "{}")))

    @property
    def limit(self) -> int:
        """The limit, 0 if there was none."""
        return int(self.parameters.get("limit", 0))

    @property
    def is_for_documents(self) -> bool:
        """Whether it asks for whole documents."""
        return self.action == "find" and "projection" not in self.parameters


def as_request(method: str, target: str, headers: Mapping[str, str]) -> Request:
    """Return a request that arrives now."""
    parts = urlsplit(target)
    collection, _, action = parts.path.removeprefix(f"{PREFIX}/").partition("/")
    names = {name.lower(): text for name, text in headers.items()}
    parameters = dict(parse_qsl(parts.query))
    return Request(method, unquote(collection), action, parameters, names, target, time.monotonic())


_SMALL_PAGE = 20


class Gateway:
    """A running gateway; its attributes set its behaviour and record what happened."""

    def __init__(self, database: Database[dict[str, Any]], url: str) -> None:
        self.database = database
        # Its address with the database.
        self.url = url
        # Largest size of a body in bytes, and what happens to larger ones.
        self.payload_cap = 10 << 20
        self.over_cap = OverCap.SHORTEN
        # Whether replies are compressed for clients that accept gzip.
        self.packs = True
        # Whether types that JSON lacks are plain text, rather than extended JSON.
        self.writes_ids_as_text = False
        # Whether collections that do not exist get status 404, rather than no documents.
        self.misses = False
        # Number of documents missing in every reply with more than 20.
        self.leaves_out = 0
        # What goes wrong with the next requests, one by one; then with any request.
        self.faults: deque[Fault] = deque()
        self.fault_for: Callable[[Request], Fault | None] = lambda _: None
        # Called with each request before its answer is sent.
        self.before_reply: Callable[[Request], None] = lambda _: None
        self.requests: list[Request] = []
        self.connections = 0
        # Largest number of concurrent requests.
        self.most_under_way = 0
        # Number of compressed replies.
        self.packed = 0
        self.is_closing = threading.Event()
        # After so many requests the client is most likely in an endless loop, and is refused.
        self.most_requests: float = 600
        self.is_overrun = False
        self._under_way = 0
        self._lock = threading.Lock()

    def connect(self) -> None:
        """Count a new connection."""
        with self._lock:
            self.connections += 1

    def begin(self, request: Request) -> Fault | None:
        """Record a request, and return what goes wrong with it."""
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
            if len(self.requests) > self.most_requests:
                self.is_overrun = True
                return failing(400)
            return self.faults.popleft() if self.faults else self.fault_for(request)

    def end(self) -> None:
        """Record that a request is answered, from the client's point of view."""
        with self._lock:
            self._under_way -= 1

    def answer(self, request: Request) -> tuple[int, bytes]:
        """Return status and body of the reply to a request."""
        if self.misses and request.collection not in self.database.list_collection_names():
            return 404, b'{"message": "Not Found"}'
        collection = self.database[request.collection]
        try:
            if request.action == "count_documents":
                counts = {
                    "total_record_count": collection.count_documents({}),
                    "filtered_record_count": collection.count_documents(request.condition),
                }
                return 200, json.dumps(counts).encode()
            if request.action != "find":
                return 403, b'{"message": "Missing Authentication Token"}'
            parameters = request.parameters
            found = collection.find(
                request.condition,
                json.loads(parameters.get("projection", "null")),
                sort=list(json.loads(parameters.get("sort", "{}")).items()),
                limit=request.limit,
                skip=int(parameters.get("skip", 0)),
            )
            page = list(found)
            if self.leaves_out and len(page) > _SMALL_PAGE:
                # The last one stays, after which the next page begins.
                page = page[: -1 - self.leaves_out] + page[-1:]
            return self._capped(map(self._as_json, page))
        except (OperationFailure, ValueError) as error:
            return 400, json.dumps({"message": str(error)}).encode()

    def _capped(self, documents: Iterator[bytes]) -> tuple[int, bytes]:
        chosen: list[bytes] = []
        size = 2
        for document in documents:
            size += len(document) + 2
            if size > self.payload_cap:
                if self.over_cap is OverCap.REFUSE:
                    return 413, b'{"message": "Request Entity Too Large"}'
                if self.over_cap is OverCap.FAIL:
                    return 502, b'{"message": "Internal server error"}'
                if self.over_cap is OverCap.CUT:
                    chosen.append(document)
                break
            chosen.append(document)
        body = b"[" + b", ".join(chosen) + b"]"
        return 200, body[: self.payload_cap]

    def _as_json(self, document: dict[str, Any]) -> bytes:
        """Return a document as the gateway writes it, with bare ``NaN``."""
        default = str if self.writes_ids_as_text else json_util.default
        return json.dumps(document, default=default).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "_Server"

    def setup(self) -> None:
        super().setup()
        self.server.gateway.connect()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base
        """Log nothing: the requests are recorded."""

    def do_GET(self) -> None:
        gateway = self.server.gateway
        request = as_request(self.command, self.path, dict(self.headers))
        fault = gateway.begin(request)
        try:
            status, body = 200, b""
            if fault is None or fault.status == 200:
                status, body = gateway.answer(request)
            if fault is not None:
                status = fault.status if fault.status != 200 else status
                body = fault.spoil(body)
            gateway.before_reply(request)
        finally:
            gateway.end()
        self._send(status, body, fault or Fault())

    def _send(self, status: int, body: bytes, fault: Fault) -> None:
        if fault.is_reset:
            # Without lingering, closing resets the connection.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        headers = {"Content-Type": fault.content_type, **fault.headers}
        if self.server.gateway.packs and "gzip" in self.headers.get("accept-encoding", ""):
            body = gzip.compress(body, 1)
            headers["Content-Encoding"] = "gzip"
            self.server.gateway.packed += 1
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault.is_cut:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault.is_endless:
            self.close_connection = True
            for position in range(len(body) - 1):
                if self.server.gateway.is_closing.wait(_PIECE_SECONDS):
                    return
                self.wfile.write(body[position : position + 1])
        else:
            self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    gateway: Gateway

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that disconnect."""


@contextmanager
def running_gateway(database: Database[dict[str, Any]]) -> Iterator[Gateway]:
    """Run a gateway to a database on a free port of this host."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        gateway = Gateway(database, f"http://127.0.0.1:{server.server_port}{PREFIX}")
        server.gateway = gateway
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield gateway
        finally:
            gateway.is_closing.set()
            server.shutdown()
            thread.join()
        assert not gateway.is_overrun, f"a client sent more than {gateway.most_requests} requests"


@contextmanager
def running_http2_gateway(
    database: Database[dict[str, Any]], certificate_with_key: Path
) -> Iterator[Gateway]:
    """Run a gateway for HTTP/2 over TLS, without faults and for replies of a few kilobytes."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate_with_key)
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        gateway = Gateway(database, f"https://localhost:{listener.getsockname()[1]}{PREFIX}")

        def accept() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                except OSError:
                    return
                arguments = (gateway, plain, context)
                threading.Thread(target=_speak_http2, args=arguments, daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield gateway
        finally:
            # Closing alone does not end `accept`.
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _speak_http2(gateway: Gateway, plain: socket.socket, context: ssl.SSLContext) -> None:
    """Answer the requests of one connection, one after the other."""
    try:
        connection = context.wrap_socket(plain, server_side=True)
    except OSError:
        # The client does not trust this server.
        plain.close()
        return
    with connection:
        gateway.connect()
        speaker = H2Connection(H2Configuration(client_side=False))
        speaker.initiate_connection()
        connection.sendall(speaker.data_to_send())
        while received := connection.recv(1 << 16):
            for event in speaker.receive_data(received):
                if isinstance(event, RequestReceived):
                    fields = {
                        bytes(name).decode(): bytes(value).decode() for name, value in event.headers
                    }
                    request = as_request(fields.pop(":method"), fields.pop(":path"), fields)
                    gateway.begin(request)
                    status, body = gateway.answer(request)
                    gateway.end()
                    head = [(":status", str(status)), ("content-type", "application/json")]
                    speaker.send_headers(event.stream_id, head)
                    speaker.send_data(event.stream_id, body, end_stream=True)
            connection.sendall(speaker.data_to_send())
