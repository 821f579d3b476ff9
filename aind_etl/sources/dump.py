"""A dump on disk: a folder with one file per collection, as mongoexport and mongodump write it.

The files are ``<collection>.jsonl``, ``.json`` and ``.bson``, each also ``.gz``. They are streamed,
one document at a time.

A truncated file is an error. Only an uncompressed file that was cut between two documents cannot be
told from a complete one.
"""

import codecs
import gzip
import logging
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import ConfigurationError, SourceError
from aind_etl.settings import Settings
from aind_etl.sources.canonical import (
    UNREADABLE_PREFIX,
    Document,
    RawDocument,
    canonical_document,
    document_from_bson,
    document_from_json,
)
from aind_etl.sources.protocol import Source, read_documents

_FILE_NAME = re.compile(r"(?P<collection>.+)\.(jsonl|json|bson)(\.gz)?")
_log = logging.getLogger(__name__)
_File: TypeAlias = BufferedReader | gzip.GzipFile
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Files without documents that mongodump writes.
_NO_DOCUMENTS = re.compile(r".*\.metadata\.json(\.gz)?|prelude\.json(\.gz)?|system\..*")

_CHUNK_BYTES = 1 << 20
_LENGTH_BYTES = 4
# Five bytes: an empty BSON document, its length and the closing zero.
_SHORTEST_BSON = 5
_LARGEST_BSON = 1 << 30
# A bracket or a string. A complete string has a group; an incomplete one ends with the buffer. The
# quantifiers are possessive, because a string may be as long as a document.
_TOKEN = re.compile(rb'[{}\[\]]|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:(")|\\?\Z)', re.DOTALL)
_NEXT_DOCUMENT = re.compile(rb"\n(?=\{)")
_OPENING = b"{["
_BETWEEN_DOCUMENTS = b" \t\r\n,"


class DumpSource(Source):
    """A folder of dumped collections, called by its path unless it has another name."""

    connections = 1

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self._folder = folder
        self.name = name or str(folder)

    def list_collections(self) -> list[str]:
        """Return the names of the collections, sorted."""
        return sorted(self._files())

    def count_documents(self, collection: str, split: Split = ALL_IDS) -> None:
        """Return None: counting would mean reading the files."""

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield the record id of every document of a split."""
        return (document.record_id for document in read_documents(self, collection, split))

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield every document of a split, in the order of the file."""
        raw = self._read(collection)
        if split == ALL_IDS:
            return raw
        documents = map(canonical_document, raw)
        return (document for document in documents if split.holds(document.record_id))

    def read_documents_by_id(
        self, collection: str, record_ids: AbstractSet[str]
    ) -> Iterator[Document]:
        """Yield the documents of a collection that have one of ``record_ids``."""
        documents = read_documents(self, collection)
        return (document for document in documents if document.record_id in record_ids)

    def fingerprint(self, collection: str) -> str:
        """Return the sizes and modification times of the collection's files."""
        try:
            stats = [path.stat() for path in self._files().get(collection, [])]
        except OSError as error:
            raise SourceError(f"The source {self.name} cannot be read: {error}.") from error
        return ",".join(f"{stat.st_size}@{stat.st_mtime_ns}" for stat in stats)

    def __exit__(self, *exception: object) -> None:
        """Do nothing: files are closed when they have been read."""

    def _read(self, collection: str) -> Iterator[RawDocument]:
        for path in self._files().get(collection, []):
            format_name = path.name.removesuffix(".gz").rpartition(".")[2]
            split, parse = _FORMATS[format_name]
            with _open(path) as file:
                if format_name != "bson":
                    _expect_utf8(file)
                for raw in split(file):
                    yield RawDocument(raw, parse)

    def _files(self) -> dict[str, list[Path]]:
        """Return the files of each collection, by name."""
        files: dict[str, list[Path]] = {}
        try:
            paths = sorted(path for path in self._folder.iterdir() if _is_regular_file(path))
        except OSError as error:
            raise SourceError(f"The source {self.name} cannot be read: {error}.") from error
        for path in paths:
            match = _FILE_NAME.fullmatch(path.name)
            if match and not _NO_DOCUMENTS.fullmatch(path.name):
                # mongodump percent-encodes names that a file system might not accept.
                files.setdefault(unquote(match["collection"]), []).append(path)
        return files


def _is_regular_file(path: Path) -> bool:
    """Return whether a path is a file; links are refused, because they may point anywhere."""
    if path.is_symlink():
        _warn(f"{str(path)!r} is a link and is not read. Put the file itself into the dump.")
        return False
    try:
        path.name.encode()
    except UnicodeEncodeError:
        _warn(f"{str(path)!r} has a name that is not UTF-8 and is not read. Rename it.")
        return False
    return path.is_file()


@cache
def _warn(message: str) -> None:
    """Log a warning once, however often the folder is listed."""
    _log.warning(message)


@contextmanager
def _open(path: Path) -> Iterator[_File]:
    """Open a file, decompressed; errors of reading it become a :class:`SourceError`."""
    try:
        with path.open("rb") as file:
            yield _decompressed(file) if path.suffix == ".gz" else file
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(
            f"The dump {str(path)!r} cannot be read to its end: {error}. Nothing was deleted "
            "because of it; dump the collection again."
        ) from error


def _decompressed(file: BufferedReader) -> gzip.GzipFile:
    # Python reads an empty file as the compressed form of nothing, but gzip never writes one.
    if not file.peek(1):
        raise EOFError("it is empty")
    return gzip.GzipFile(fileobj=file)


def _expect_utf8(file: _File) -> None:
    """Raise an EOFError if a file is encoded in UTF-16."""
    head = file.read(2)
    if head in _UTF16 or head[1:] == b"\0":
        raise EOFError(
            "it is encoded in UTF-16; expected UTF-8. Convert it with 'iconv -f UTF-16 -t UTF-8'"
        )
    file.seek(0)


# Each of the following yields the bytes of the documents of a file, and raises an EOFError if the
# file is truncated.


def _split_lines(file: _File) -> Iterator[bytes]:
    """Yield the lines that are not blank."""
    for line in file:
        stripped = line.strip()
        if stripped:
            if not line.endswith(b"\n"):
                _expect_complete(stripped)
            yield stripped


def _split_bson(file: _File) -> Iterator[bytes]:
    """Yield the documents of a file of concatenated BSON."""
    position = 0
    while head := file.read(_LENGTH_BYTES):
        length = struct.unpack("<i", head)[0] if len(head) == _LENGTH_BYTES else 0
        if not _SHORTEST_BSON <= length <= _LARGEST_BSON:
            raise EOFError(f"no BSON document begins at byte {position}")
        document = head + file.read(length - _LENGTH_BYTES)
        if len(document) < length:
            raise EOFError(f"it ends within the BSON document that begins at byte {position}")
        yield document
        position += length


def _split_json(file: _File) -> Iterator[bytes]:
    """Yield the documents of a JSON file: an array, or concatenated values.

    Only strings and brackets are parsed, so that a malformed document does not affect its
    neighbours. Text between two documents, other than separators, is yielded as a document.
    """
    buffer = b""
    depth = begin = scanned = 0
    is_array: bool | None = None  # Unknown until the first bracket.
    is_open = False  # Whether the end of the array is still to come.
    # Each read doubles the buffer, so that an incomplete document is copied only a few times.
    while chunk := file.read(max(_CHUNK_BYTES, len(buffer))):
        buffer += chunk
        for match in _TOKEN.finditer(buffer, scanned):
            token = match[0]
            if token[:1] == b'"':
                if match[1] is None:
                    break  # Wait for the rest of the string.
            elif depth == 0 and (token in b"}]" or (token == b"[" and is_array is None)):
                # A bracket around all documents, or one that closes nothing.
                yield from _stray(buffer[begin : match.start()])
                begin = match.end()
                is_open = token == b"["
                is_array = is_array or is_open
            elif token in _OPENING:
                if depth == 0:
                    yield from _stray(buffer[begin : match.start()])
                    begin = match.start()
                depth += 1
                is_array = bool(is_array)
            else:
                depth -= 1
                if depth == 0:
                    yield buffer[begin : match.end()]
                    begin = match.end()
            scanned = match.end()
        else:
            scanned = len(buffer)
        buffer = buffer[begin:]
        scanned -= begin
        begin = 0
    if is_open:
        raise EOFError("it ends within its array of documents")
    yield from _split_rest(buffer, is_array=bool(is_array))


def _split_rest(text: bytes, *, is_array: bool) -> Iterator[bytes]:
    """Yield what follows the last complete document of a file.

    A document that is never closed would swallow all that follow. Formatted JSON has no line that
    begins with the brace of an inner object, so such a line begins the next document.
    """
    *parts, last = [text] if is_array else _NEXT_DOCUMENT.split(text)
    for part in parts:
        yield from _stray(part)
    for stray in _stray(last):
        if stray[:1] in _OPENING:
            _expect_complete(stray)
        yield stray


def _expect_complete(text: bytes) -> None:
    """Raise an EOFError if the last document of a file is truncated: more may be missing."""
    if document_from_json(text).record_id.startswith(UNREADABLE_PREFIX):
        raise EOFError("it ends within a document")


def _stray(text: bytes) -> Iterator[bytes]:
    """Yield the text between two documents, if there is any."""
    stripped = text.strip(_BETWEEN_DOCUMENTS)
    if stripped:
        yield stripped


_FORMATS: dict[str, tuple[Callable[[_File], Iterator[bytes]], Callable[[bytes], Document]]] = {
    "jsonl": (_split_lines, document_from_json),
    "json": (_split_json, document_from_json),
    "bson": (_split_bson, document_from_bson),
}


def open_source(settings: Settings) -> DumpSource:
    """Return the dump in a folder, given by its path or its ``file:`` URL.

    Raises
    ------
    ConfigurationError
        The folder does not exist, or holds no dump.
    """
    parts = urlsplit(settings.source)
    is_url = parts.scheme == "file"
    folder = Path(unquote(parts.path)) if is_url else Path(settings.source).expanduser()
    if not folder.is_dir():
        raise ConfigurationError(
            f"The source {str(folder)!r} is not a folder. Name a folder with one file per "
            "collection: <collection>.jsonl, .json or .bson, each also .gz."
        )
    source = DumpSource(folder)
    if not source.list_collections():
        inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
        hint = f" Its folders are {', '.join(inner)}: did you mean one of them?" if inner else ""
        raise ConfigurationError(
            f"The folder {str(folder)!r} holds no dump: no <collection>.jsonl, .json or "
            f".bson, each also .gz.{hint}"
        )
    return source
