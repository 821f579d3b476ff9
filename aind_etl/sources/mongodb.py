"""A MongoDB database, or a compatible server such as Amazon DocumentDB.

Every request is a ``find`` that is sorted by ``_id``, bounded, and answered in one reply: no cursor
stays open at the server, and any request can be repeated from the last ``_id``. Only features of
DocumentDB are used, and nothing is written.
"""

import logging
import os
import random
import re
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from fnmatch import fnmatchcase
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, unquote

import bson
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pydantic import SecretStr
from pymongo import ASCENDING, DESCENDING, MongoClient
from pymongo.errors import (
    ConfigurationError as ClientConfigurationError,
)
from pymongo.errors import (
    ConnectionFailure,
    CursorNotFound,
    ExecutionTimeout,
    InvalidName,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.sources.canonical import (
    OTHER_ID_PREFIX,
    UNREADABLE_PREFIX,
    Document,
    RawDocument,
    document_from_bson,
    record_id_of,
    string_id,
)

USERNAME_VARIABLE = "AIND_ETL_MONGODB_USERNAME"
PASSWORD_VARIABLE = "AIND_ETL_MONGODB_PASSWORD"  # noqa: S105 - a name, not a password
PASSWORD_FILE_VARIABLE = "AIND_ETL_MONGODB_PASSWORD_FILE"  # noqa: S105

_log = logging.getLogger(__name__)
_Answer = TypeVar("_Answer")
_Reply = TypeVar("_Reply", bound=Mapping[str, Any])

# An "@" anywhere but before the hosts is refused: it would be part of a password that is not
# percent-encoded, whose beginning would then be shown as a host.
_URL = re.compile(
    r"mongodb(?:\+srv)?://(?:[^@/?]*@)?(?P<hosts>[\w.,:%\[\]-]+)"
    r"(?:/(?P<database>[^@/?]*))?(?:\?(?P<options>[^@]*))?"
)
_EXAMPLE = "mongodb://host:27017/analysis?tls=true&tlsCAFile=global-bundle.pem&authSource=admin"

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 10.0
_REACH_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
# A BSON document begins with its own length, an element of it with its type and its name.
_LENGTH_BYTES = 4
_BATCH = b"\x04firstBatch\0"
# What is asked for by id at a time. The server takes 16 MB, and ids have any length.
_ASKED_IDS = 1000
_ASKED_BYTES = 1 << 20

# Codes of errors that pass: elections, shutdowns, lost cursors, queries killed for their length.
_PASSING_CODES = frozenset(
    {6, 7, 43, 50, 89, 91, 134, 175, 189, 237, 262, 9001, 10107}
    | {11600, 11601, 11602, 13388, 13435, 13436}
)
_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18

_IDS: CodecOptions[dict[str, Any]] = CodecOptions(
    datetime_conversion=DatetimeConversion.DATETIME_MS
)
# Text that is no UTF-8 must not hinder reading the ``_id`` beside it.
_RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    unicode_decode_error_handler="surrogateescape",
)


class _Kind(NamedTuple):
    """Values of ``_id`` that are compared with each other.

    Attributes
    ----------
    types
        The types they have in Python.
    condition
        What holds for all of them and, as the operators of a filter look at values of one kind
        only, for no others.
    """

    types: tuple[type, ...]
    condition: Mapping[str, Any]


# Less than every number, but not to be found by comparing.
_NAN = _Kind((), {"$eq": float("nan")})
_STRING = _Kind((str,), {"$gte": ""})
_OBJECT_ID = _Kind((bson.ObjectId,), {"$gte": bson.ObjectId(bytes(12))})
# In the order in which the server sorts them. Arrays and regular expressions cannot be ids.
_KINDS = (
    _Kind((bson.MinKey,), {"$eq": bson.MinKey()}),
    _Kind((type(None),), {"$eq": None}),
    _NAN,
    _Kind((int, bson.Int64, float, bson.Decimal128), {"$gte": float("-inf")}),
    _STRING,
    _Kind((dict, bson.DBRef), {"$gte": {}}),
    _Kind((bytes, bson.Binary), {"$gte": b""}),
    _OBJECT_ID,
    _Kind((bool,), {"$gte": False}),
    _Kind((bson.DatetimeMS,), {"$gte": bson.DatetimeMS(-(2**63))}),
    _Kind((bson.Timestamp,), {"$gte": bson.Timestamp(0, 0)}),
    _Kind((bson.MaxKey,), {"$eq": bson.MaxKey()}),
)
_OBJECT_ID_TEXT = re.compile(r'_id:\{"\$oid":"([0-9a-f]{24})"\}')


class MongoSource:
    """One database, of which every collection is a collection of the source.

    The record id of a document is its ``_id`` as text, also where the document cannot be read
    otherwise: ids can be listed without the documents, and have to be the same.

    Parameters
    ----------
    url
        The address, ``mongodb://`` or ``mongodb+srv://``, with the name of the database. Its
        options (TLS, read preference, time-outs) are pymongo's; writes are never retried.
    username, password
        Credentials; they take precedence over those in the address.
    include, exclude
        Patterns (``*``, ``?``, ``[…]``) of the collections to discover: those that match one of
        ``include``, or all where none is given, and none of ``exclude``.
    deadline
        Seconds until a question is given up that the server does not answer. The last of the
        attempts may outlast it, by no more than ``reply_timeout``.
    reply_timeout
        Seconds the server may take for one reply.
    connections
        The most questions asked at a time, unless the address says ``maxPoolSize``. Besides the
        connections for these there is one that watches the server.
    page_documents, page_ids
        The most documents, and the most ids, asked for at a time.
    page_bytes
        About how many bytes a page of documents may have, judged by the page before; the server
        sends no more than 16 MB in any case.

    Raises
    ------
    ConfigurationError
        The address or its options are wrong.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of the caller's
        self,
        url: str,
        *,
        username: str | None = None,
        password: SecretStr | str | None = None,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        deadline: float = 300.0,
        reply_timeout: float = 60.0,
        connections: int = 4,
        page_documents: int = 1000,
        page_ids: int = 5_000,
        page_bytes: int = 8 << 20,
    ) -> None:
        match = _URL.fullmatch(url)
        if not match:
            raise ConfigurationError(
                "The address of the MongoDB source is not understood (it is not shown: it may hold "
                f"a password). Expected is something like {_EXAMPLE}; in user name, password and "
                "options, write @ as %40, / as %2F, : as %3A and ? as %3F."
            )
        database = unquote(match["database"] or "")
        scheme = url.partition("://")[0]
        self.name = f"{scheme}://{match['hosts']}/{database}"
        if not database:
            raise ConfigurationError(
                f"The source {self.name} names no database. Write it after the host: {_EXAMPLE}."
            )
        self._include = include
        self._exclude = exclude
        self._deadline = deadline
        self._page_documents = page_documents
        self._page_ids = page_ids
        self._page_bytes = page_bytes
        self._max_time_ms = max(1, int(min(deadline, reply_timeout) * 1000))
        self._reached = False
        self._found = False
        given = {name.lower() for name, _ in parse_qsl(match["options"] or "")}
        if isinstance(password, SecretStr):
            password = password.get_secret_value()
        self._client = self._open(url, given, username, password, connections)
        # None, or 0, is no limit: then the usual one does.
        self.connections = int(self._client.options.pool_options.max_pool_size or connections)
        try:
            self._database = self._client[database]
        except InvalidName as error:
            raise ConfigurationError(
                f"The source {self.name} names no database that can be: {error}. Write its name "
                f"after the host: {_EXAMPLE}."
            ) from None

    def __repr__(self) -> str:
        return f"MongoSource({self.name!r})"

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted: no system's, no empty ones, no views.

        Raises
        ------
        SourceError
            The server cannot be asked, or has no such database.
        """
        return [
            name
            for name in sorted(self._discover())
            if any(fnmatchcase(name, pattern) for pattern in self._include or ["*"])
            and not any(fnmatchcase(name, pattern) for pattern in self._exclude)
            and self._edge(name, ASCENDING)
        ]

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> int:
        """Return how many documents of a split the server counts.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        self._find_database()
        if split == ALL_IDS:
            return self._count(collection, {})
        conditions = list(self._conditions(collection, split))
        return sum(self._count(collection, {"_id": condition}) for condition in conditions)

    def _count(self, collection: str, condition: Mapping[str, Any]) -> int:
        return int(self._ask(lambda _: self._database[collection].count_documents(condition)))

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a split, reading nothing but ids.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        for condition in self._conditions(collection, split):
            yield from map(record_id_of, self._identities(collection, condition))

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument]:
        """Yield every document of a split, in the order of ``_id``.

        What is inserted, changed or deleted meanwhile may be seen or not; nothing is given twice.

        Raises
        ------
        SourceError
            The collection cannot be read to its end.
        """
        make = partial(self._document, collection)
        for condition in self._conditions(collection, split):
            for raw in self._raw_documents(collection, condition):
                yield RawDocument(raw, make)

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``.

        Raises
        ------
        SourceError
            They cannot be read to their end.
        """
        if not record_ids:
            return
        for kind in self._kinds(collection):
            for some in _chunks(self._candidates(collection, kind, record_ids)):
                for raw in self._raw_documents(collection, {"$in": some}):
                    document = self._document(collection, raw)
                    if document.record_id in record_ids:
                        yield document

    def fingerprint(self, collection: str) -> str:
        """Return how many documents the server counts, and how many bytes they have.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        facts = self._statistics(collection)
        return f"{facts.get('count', 0)} documents, {facts.get('size', 0)} bytes"

    def __enter__(self) -> Self:
        """Return the source."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the connections."""
        self._client.close()

    def _open(
        self,
        url: str,
        given: set[str],
        username: str | None,
        password: str | None,
        connections: int,
    ) -> MongoClient[dict[str, Any]]:
        """Return a client that has not connected yet.

        Raises
        ------
        ConfigurationError
            pymongo does not understand the address.
        """
        defaults: dict[str, Any] = {
            "appname": "aind-etl",
            "connecttimeoutms": int(_CONNECT_SECONDS * 1000),
            "serverselectiontimeoutms": int(min(_REACH_SECONDS, self._deadline) * 1000),
            "sockettimeoutms": self._max_time_ms,
            "maxpoolsize": connections,
            # The other way to watch a server takes two connections.
            "servermonitoringmode": "poll",
        }
        options = {name: value for name, value in defaults.items() if name not in given}
        # DocumentDB refuses retryable writes, and asking again is done here, with a deadline.
        options |= {"retrywrites": False, "retryreads": False}
        credentials = {"username": username, "password": password}
        options |= {name: value for name, value in credentials.items() if value}
        if password and not username and "@" not in url:
            raise ConfigurationError(
                f"There is a password for the source {self.name}, but no user name. Set "
                f"{USERNAME_VARIABLE}."
            )
        try:
            with warnings.catch_warnings():
                # An option that pymongo ignores, such as a misspelt one of TLS, is a mistake.
                warnings.simplefilter("error", UserWarning)
                return MongoClient(url, connect=False, **options)
        except OSError as error:
            raise ConfigurationError(
                f"A file that the options of the source {self.name} name (tlsCAFile, "
                f"tlsCertificateKeyFile, tlsCRLFile) cannot be used: {error.strerror or error}."
            ) from None
        except (PyMongoError, UserWarning, ValueError, TypeError) as error:
            # Of what pymongo says only the names are repeated: it may show values as well.
            said = str(error).lower()
            wrong = [name for name in sorted(given) if name in said]
            what = f"its option {wrong[0]!r}" if wrong else "its credentials, hosts or options"
            raise ConfigurationError(
                f"The address of the source {self.name} is not understood: {what}. Expected is "
                f"something like {_EXAMPLE}, with special characters percent-encoded, and a "
                "password where there is a user name."
            ) from None

    def _discover(self) -> list[str]:
        """Return the names of the database's own collections.

        Raises
        ------
        SourceError
            The server cannot be asked, or has no such database.
        """
        found = self._ask(lambda _: list(self._database.list_collections(nameOnly=True)))
        if not found:
            raise SourceError(
                f"There is no database {self._database.name!r} at {self.name}, or it has no "
                "collection that this user may see. Check the name after the host, which must "
                "match in upper and lower case, and the user's rights."
            )
        self._found = True
        return [
            entry["name"]
            for entry in found
            if entry.get("type", "collection") == "collection"
            and not entry["name"].startswith("system.")
        ]

    def _find_database(self) -> None:
        """Make sure, once, that there is the database; a missing one looks like an empty one.

        Raises
        ------
        SourceError
            There is no such database.
        """
        if not self._found:
            self._discover()

    def _statistics(self, collection: str) -> Mapping[str, Any]:
        """Return what the server knows of a collection without reading it.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        self._find_database()
        return self._ask(
            lambda _: self._database.command(
                "collStats", collection, read_preference=self._database.read_preference
            )
        )

    def _conditions(self, collection: str, split: Split) -> Iterator[Mapping[str, Any]]:
        """Yield the conditions that the ``_id`` of a split's documents meet, one a kind of them.

        Raises
        ------
        SourceError
            The server cannot be asked.
        """
        for kind in self._kinds(collection):
            if kind is _STRING:
                yield {"$gte": split.lower} | ({"$lt": split.upper} if split.upper else {})
            elif split.holds(OTHER_ID_PREFIX):
                # All of them belong to one split.
                yield kind.condition

    def _kinds(self, collection: str) -> Sequence[_Kind]:
        """Return the kinds of ``_id`` a collection may have: one if its ends are of one kind.

        Raises
        ------
        SourceError
            There are some of a kind that is not known.
        """
        self._find_database()
        ends = [*self._edge(collection, ASCENDING), *self._edge(collection, DESCENDING)]
        kinds = []
        for value in ends:
            # NaN is the one value that differs from itself.
            kind = _NAN if _is_nan(value) else _BY_TYPE.get(type(value))
            if kind is None:
                raise SourceError(
                    f"The collection {collection!r} of {self.name} has an _id of the type "
                    f"{type(value).__name__}, which cannot be read in order. Leave the collection "
                    "out, or give the document another _id."
                )
            kinds.append(kind)
        if not kinds:
            return ()
        return kinds[:1] if all(kind is kinds[0] for kind in kinds) else _KINDS

    def _edge(self, collection: str, direction: int) -> list[Any]:
        """Return the first ``_id`` of a collection in an order, if it has any.

        Types that are not known sort before or after all others but the keys made to be the first
        and the last, behind which they would hide: after such a key comes what follows it.
        """
        edge = self._page_of_ids(collection, None, 1, direction)
        if edge and isinstance(edge[0], bson.MinKey | bson.MaxKey):
            edge += self._page_of_ids(collection, {"$ne": edge[0]}, 1, direction)
        return edge

    def _candidates(
        self, collection: str, kind: _Kind, record_ids: AbstractSet[str]
    ) -> Iterable[Any]:
        """Return the values of a kind that may have one of ``record_ids``.

        From the text of any but strings and ObjectIds the value cannot be had again, if only
        for the order of an object's keys; the few there are of other kinds are looked through.
        """
        if kind is _STRING:
            return sorted(text for text in map(string_id, record_ids) if text is not None)
        if kind is _OBJECT_ID:
            matches = map(_OBJECT_ID_TEXT.fullmatch, sorted(record_ids))
            return [bson.ObjectId(match[1]) for match in matches if match]
        return (
            value
            for value in self._identities(collection, kind.condition)
            if record_id_of(value) in record_ids
        )

    def _identities(self, collection: str, condition: Mapping[str, Any]) -> Iterator[Any]:
        """Yield every ``_id`` of a collection that meets a condition, in order."""
        while page := self._page_of_ids(collection, condition, self._page_ids):
            yield from page
            condition = {**condition, "$gt": page[-1]}

    def _raw_documents(self, collection: str, condition: Mapping[str, Any]) -> Iterator[bytes]:
        """Yield every document of a collection whose ``_id`` meets a condition, in order."""
        limit = self._page_documents
        while page := self._page_of_documents(collection, condition, limit):
            yield from page
            condition = {**condition, "$gt": self._identity(collection, page[-1])}
            mean_bytes = max(1, sum(map(len, page)) // len(page))
            limit = min(self._page_documents, max(1, self._page_bytes // mean_bytes))

    def _document(self, collection: str, raw: bytes) -> Document:
        """Return the document whose BSON is ``raw``, with its ``_id`` if it is not readable.

        Raises
        ------
        SourceError
            Its ``_id`` cannot be read either.
        """
        document = document_from_bson(raw)
        if document.record_id.startswith(UNREADABLE_PREFIX):
            identity = self._identity(collection, raw)
            document = document._replace(record_id=record_id_of(identity))
        return document

    def _identity(self, collection: str, raw: bytes) -> Any:  # noqa: ANN401 - any type
        """Return the ``_id`` of a document that may not be readable otherwise.

        Raises
        ------
        SourceError
            It cannot be read either.
        """
        try:
            value = RawBSONDocument(raw, _RAW)["_id"]
            if isinstance(value, str):
                value.encode()
        except (bson.errors.BSONError, UnicodeError, KeyError) as error:
            raise self._unreadable_identity(collection) from error
        return value

    def _unreadable_identity(self, collection: str) -> SourceError:
        return SourceError(
            f"The collection {collection!r} of {self.name} has an _id that cannot be read: most "
            "likely it is not valid UTF-8. Give the document another _id, or leave the "
            "collection out."
        )

    def _page_of_ids(
        self,
        collection: str,
        condition: Mapping[str, Any] | None,
        limit: int,
        direction: int = ASCENDING,
    ) -> list[Any]:
        """Return the first ``_id`` that meet a condition; none after the last.

        Raises
        ------
        SourceError
            The server did not give them until the deadline, or they cannot be read.
        """
        try:
            reply = self._page(collection, condition, limit, _IDS, direction)
        except bson.errors.BSONError as error:
            raise self._unreadable_identity(collection) from error
        return [document["_id"] for document in reply["cursor"]["firstBatch"]]

    def _page_of_documents(
        self, collection: str, condition: Mapping[str, Any], limit: int
    ) -> list[bytes]:
        """Return the BSON of the first documents whose ``_id`` meets a condition.

        Raises
        ------
        SourceError
            The server did not give them until the deadline.
        """
        reply = self._page(collection, condition, limit, _RAW)
        try:
            return _cut(reply)
        except bson.errors.BSONError as error:
            raise SourceError(
                f"The source {self.name} gave a reply that is damaged: {error}. Run again."
            ) from error

    def _page(
        self,
        collection: str,
        condition: Mapping[str, Any] | None,
        limit: int,
        codec: CodecOptions[_Reply],
        direction: int = ASCENDING,
    ) -> _Reply:
        """Return the reply with the first documents whose ``_id`` meets a condition.

        It may hold fewer than asked for although there are more; after the last it holds none.

        Raises
        ------
        SourceError
            The server did not give them until the deadline.
        """

        def find(attempt: int) -> _Reply:
            # What was too slow may be done in smaller steps.
            smaller = max(1, limit >> attempt)
            question = {
                "find": collection,
                "filter": {} if condition is None else {"_id": condition},
                "sort": {"_id": direction},
                "limit": smaller,
                # Without it the server gives a hundred, however many may come in one reply.
                "batchSize": smaller,
                "singleBatch": True,
                "maxTimeMS": self._max_time_ms,
            }
            if codec is _IDS:
                question["projection"] = {"_id": 1}
            if self._database.read_concern.document:
                question["readConcern"] = self._database.read_concern.document
            # Asked as a command, the reply comes as it is: pymongo's cursors make an object of
            # each of its documents, only to put their bytes together.
            return self._database.command(
                question,
                codec_options=codec,
                read_preference=self._database.read_preference,
            )

        return self._ask(find)

    def _ask(self, question: Callable[[int], _Answer]) -> _Answer:
        """Return the answer to a question, asking again while that may help.

        Parameters
        ----------
        question
            What to call, with the number of attempts that failed.

        Raises
        ------
        SourceError
            The server refuses to answer, or does not until the deadline.
        """
        began = time.monotonic()
        for attempt in count():
            try:
                answer = question(attempt)
            except PyMongoError as error:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt)
                # Clients that failed together must not come back together.
                pause *= random.uniform(0.5, 1)  # noqa: S311 - guards nothing
                if not self._passes(error):
                    raise SourceError(self._explain(error)) from error
                if time.monotonic() + pause > began + self._deadline:
                    raise SourceError(
                        f"The source {self.name} did not answer within {self._deadline:g} s, "
                        f"though asked {attempt + 1} times; at last: {_reason(error)}. What was "
                        "read stays: run again when the server is well."
                    ) from error
                _log.warning("%s: %s; asking again in %.1f s", self.name, _reason(error), pause)
                time.sleep(pause)
            else:
                self._reached = True
                return answer
        raise AssertionError

    def _passes(self, error: PyMongoError) -> bool:
        """Return whether it may help to ask again."""
        if isinstance(error, ServerSelectionTimeoutError):
            # pymongo kept trying already. A server that has answered before may be restarting;
            # one that never did has most likely another address.
            return self._reached
        if isinstance(error, OperationFailure) and error.code in _PASSING_CODES:
            return True
        return isinstance(error, ConnectionFailure | CursorNotFound | ExecutionTimeout)

    def _explain(self, error: PyMongoError) -> str:
        """Return a sentence on an error that does not pass, without credentials."""
        reason = _reason(error)
        if isinstance(error, ServerSelectionTimeoutError):
            return (
                f"The source {self.name} cannot be reached: {reason}. Check the host, the port "
                "and the way to it (a tunnel needs directConnection=true), and tls=true with "
                "tlsCAFile where the server wants TLS."
            )
        if isinstance(error, ClientConfigurationError) and "wire version" in reason:
            return (
                f"The server of {self.name} is too old for this program: {reason}. MongoDB 4.4 "
                "and Amazon DocumentDB 5.0 or later can be read; upgrade the server."
            )
        if isinstance(error, ClientConfigurationError):
            return (
                f"The source {self.name} cannot be found: {reason}. Check the host's name; "
                "mongodb+srv:// needs a name with SRV records, and otherwise it is mongodb://."
            )
        if isinstance(error, OperationFailure) and error.code == _AUTHENTICATION_FAILED:
            return (
                f"The server of {self.name} refuses the user name or the password. Check "
                f"{USERNAME_VARIABLE} and {PASSWORD_VARIABLE} (or {PASSWORD_FILE_VARIABLE}), and "
                "write authSource=admin into the address if the user belongs to the database "
                "'admin'."
            )
        if isinstance(error, OperationFailure) and error.code == _UNAUTHORIZED:
            return (
                f"The user may not read {self.name}: {reason}. Grant the role 'read' on the "
                f"database, or set {USERNAME_VARIABLE} and {PASSWORD_VARIABLE}."
            )
        return f"The source {self.name} cannot be read: {reason}."


def _cut(reply: RawBSONDocument) -> list[bytes]:
    """Return the BSON of each document of a reply."""
    cursor = reply["cursor"]
    raw = bytes(cursor.raw)
    found = raw.find(_BATCH)
    array = found + len(_BATCH)
    array_end = array + _length(raw, array)
    if found < 0 or not _is_document(raw[_LENGTH_BYTES:found] + raw[array_end:]):
        # It is within something else.
        return [bytes(document.raw) for document in cursor["firstBatch"]]
    documents: list[bytes] = []
    begin = array + _LENGTH_BYTES
    # An array is a document whose keys are the positions.
    while raw.startswith(key := b"\x03%d\0" % len(documents), begin):
        begin += len(key)
        end = begin + _length(raw, begin)
        documents.append(raw[begin:end])
        begin = end
    if begin + 1 != array_end:
        raise bson.errors.InvalidBSON("the batch of a reply holds what is no document")
    return documents


def _length(raw: bytes, begin: int) -> int:
    """Return the length that the BSON at a position begins with."""
    return int.from_bytes(raw[begin : begin + _LENGTH_BYTES], "little")


def _is_document(elements: bytes) -> bool:
    """Return whether bytes are the elements of a BSON document, with its closing zero."""
    try:
        bson.decode(struct.pack("<i", _LENGTH_BYTES + len(elements)) + elements)
    except bson.errors.BSONError:
        return False
    return True


def mongo_source_from_environment(
    url: str,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    connections: int = 4,
    environment: Mapping[str, str] = os.environ,
) -> MongoSource:
    """Return the source at an address, with the credentials that the environment has.

    Parameters
    ----------
    url, include, exclude, connections
        As for :class:`MongoSource`.
    environment
        Where ``AIND_ETL_MONGODB_USERNAME`` and ``AIND_ETL_MONGODB_PASSWORD`` are looked up, or
        ``AIND_ETL_MONGODB_PASSWORD_FILE``, the path of a file with the password.

    Raises
    ------
    ConfigurationError
        The address is wrong, or the password's file cannot be read.
    """
    password = environment.get(PASSWORD_VARIABLE)
    file = environment.get(PASSWORD_FILE_VARIABLE)
    if password and file:
        raise ConfigurationError(
            f"Both {PASSWORD_VARIABLE} and {PASSWORD_FILE_VARIABLE} are set. Unset one of them."
        )
    if file:
        password = _read_password(Path(file).expanduser())
    username = environment.get(USERNAME_VARIABLE)
    return MongoSource(
        url,
        username=username,
        password=password,
        include=include,
        exclude=exclude,
        connections=connections,
    )


def _read_password(path: Path) -> str:
    try:
        password = path.read_text(encoding="utf-8").strip("\r\n")
    except (OSError, UnicodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is no text in UTF-8"
        raise ConfigurationError(
            f"The file {str(path)!r}, named by {PASSWORD_FILE_VARIABLE}, cannot be read: {what}."
        ) from None
    if not password:
        raise ConfigurationError(
            f"The file {str(path)!r}, named by {PASSWORD_FILE_VARIABLE}, is empty. Write the "
            "password into it."
        )
    return password


_BY_TYPE = {type_: kind for kind in _KINDS for type_ in kind.types}


def _is_nan(value: object) -> bool:
    if isinstance(value, bson.Decimal128):
        return value.to_decimal().is_nan()
    return isinstance(value, float) and value != value  # noqa: PLR0124 - as only NaN does


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    """Yield values in lists that the server takes."""
    chunk: list[Any] = []
    size = 0
    for value in values:
        chunk.append(value)
        size += len(bson.encode({"": value}))
        if len(chunk) >= _ASKED_IDS or size >= _ASKED_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _reason(error: PyMongoError) -> str:
    """Return what pymongo says, without the description of the whole deployment."""
    text = " ".join(str(error).split())
    for end in (", Timeout: ", ", full error: ", " (configured timeouts: "):
        text = text.partition(end)[0]
    return text.rstrip(".")
