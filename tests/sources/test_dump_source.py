"""Dumps on disk: every format, truncated, damaged, large."""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any

import bson
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import MAIN, NEEDS_PROC, JsonDocument, read_dump, write_dump

from aind_etl.errors import SourceError
from aind_etl.sources import dump
from aind_etl.sources.canonical import UNREADABLE_PREFIX, Document
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import read_documents


def as_lines(documents: list[JsonDocument]) -> bytes:
    return b"".join(orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in documents)


def as_array(documents: list[JsonDocument]) -> bytes:
    return b"[" + b",\n".join(map(orjson.dumps, documents)) + b"]\n"


def as_pretty_array(documents: list[JsonDocument]) -> bytes:
    return json.dumps(documents, indent="\t").encode()


def as_bson(documents: list[JsonDocument]) -> bytes:
    return b"".join(map(bson.encode, documents))


FORMATS: dict[str, tuple[str, Callable[[list[JsonDocument]], bytes]]] = {
    "lines": ("jsonl", as_lines),
    "Windows line ends": (
        "jsonl",
        lambda documents: as_lines(documents).replace(b"\n", b"\r\n") + b"\r\n\r\n",
    ),
    "no last line end": ("jsonl", lambda documents: as_lines(documents).removesuffix(b"\n")),
    "lines of json": ("json", as_lines),
    "array": ("json", as_array),
    "pretty array": ("json", as_pretty_array),
    "pretty documents": (
        "json",
        lambda documents: "\n".join(json.dumps(one, indent=2) for one in documents).encode(),
    ),
    "nothing between": ("json", lambda documents: b"".join(map(orjson.dumps, documents))),
    "bson": ("bson", as_bson),
}


@pytest.fixture(params=["plain", "gzip"])
def packed(request: pytest.FixtureRequest) -> Callable[[Path, bytes], Path]:
    """Return a function that writes a file, plain or compressed."""

    def write(path: Path, content: bytes) -> Path:
        if request.param == "plain":
            path.write_bytes(content)
            return path
        path = path.with_name(f"{path.name}.gz")
        path.write_bytes(gzip.compress(content, 1, mtime=0))
        return path

    return write


@pytest.fixture(scope="module")
def small_dump(sample_dump: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a dump with some documents of every collection of the sample."""
    folder = tmp_path_factory.mktemp("small-dump")
    for name in DumpSource(sample_dump).list_collections():
        write_dump(folder, read_dump(sample_dump, name)[::8], name)
    return folder


def read(folder: Path, collection: str = MAIN) -> list[Document]:
    return list(read_documents(DumpSource(folder), collection))


def ids(folder: Path, collection: str = MAIN) -> list[str]:
    return list(DumpSource(folder).list_ids(collection))


# --- formats ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("format_name", "written"), FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_documents(small_dump, tmp_path, packed, format_name, written):
    names = DumpSource(small_dump).list_collections()
    for name in names:
        packed(tmp_path / f"{name}.{format_name}", written(read_dump(small_dump, name)))
    assert DumpSource(tmp_path).list_collections() == names
    for name in names:
        assert read(tmp_path, name) == read(small_dump, name)
        assert ids(tmp_path, name) == ids(small_dump, name)


@pytest.mark.parametrize(
    ("format_name", "content"),
    [("jsonl", b""), ("json", b""), ("bson", b""), ("json", b" [ \n ] \n"), ("jsonl", b"\n\n")],
)
def test_a_file_without_documents_is_an_empty_collection(tmp_path, packed, format_name, content):
    packed(tmp_path / f"{MAIN}.{format_name}", content)
    assert DumpSource(tmp_path).list_collections() == [MAIN]
    assert read(tmp_path) == []


def test_only_the_suffix_determines_the_format(tmp_path):
    documents = [{"_id": "a"}, {"_id": "b"}]
    (tmp_path / "old.bson.jsonl").write_bytes(as_lines(documents))
    (tmp_path / "old.jsonl.json.gz").write_bytes(gzip.compress(as_pretty_array(documents)))
    (tmp_path / "old.json.bson").write_bytes(as_bson(documents))
    source = DumpSource(tmp_path)
    assert source.list_collections() == ["old.bson", "old.json", "old.jsonl"]
    assert all(ids(tmp_path, name) == ["a", "b"] for name in source.list_collections())


@pytest.mark.parametrize(
    "beside",
    [
        *(f"{MAIN}.metadata.json", f"{MAIN}.metadata.json.gz", "prelude.json", "prelude.json.gz"),
        *("system.views.bson", "system.profile.bson.gz", "README.md", "oplog.txt", "jsonl"),
    ],
)
def test_other_files_of_mongodump_are_not_collections(tmp_path, beside):
    write_dump(tmp_path, [{"_id": "a"}])
    (tmp_path / beside).write_bytes(b'{"options":{},"indexes":[]}')
    (tmp_path / "folder.jsonl").mkdir()
    assert DumpSource(tmp_path).list_collections() == [MAIN]
    assert ids(tmp_path) == ["a"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "jsonl.gz"])
def test_a_dump_in_utf_16_is_an_error_that_says_so(tmp_path, encoding, suffix):
    text = '{"_id": "a", "nwb_name": "x"}\n'
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    content = mark + text.encode(encoding)
    content = gzip.compress(content) if suffix.endswith("gz") else content
    (tmp_path / f"c.{suffix}").write_bytes(content)
    with pytest.raises(SourceError, match="encoded in UTF-16; expected UTF-8"):
        list(DumpSource(tmp_path).read_raw("c"))


def test_a_link_in_a_dump_is_ignored_with_a_warning(tmp_path, caplog):
    secret = tmp_path / "secret"
    secret.write_text('{"_id": "a"}\n')
    (tmp_path / "dump").mkdir()
    (tmp_path / "dump" / "c.jsonl").symlink_to(secret)
    (tmp_path / "dump" / "d.jsonl").write_text('{"_id": "b"}\n')
    assert DumpSource(tmp_path / "dump").list_collections() == ["d"]
    assert "c.jsonl" in caplog.text


def test_a_file_name_that_is_not_utf_8_is_ignored_with_a_warning(tmp_path, caplog):
    (tmp_path / os.fsdecode(b"\xff.jsonl")).write_text('{"_id": "a"}\n')
    (tmp_path / "d.jsonl").write_text('{"_id": "b"}\n')
    assert DumpSource(tmp_path).list_collections() == ["d"]
    assert r"\udcff.jsonl' has a name that is not UTF-8" in caplog.text


def test_names_that_mongodump_percent_encoded_are_decoded(tmp_path):
    for name in ("..%2F..%2Fx", "a%20b", "100%25", "dotted.name", "mäuse"):
        write_dump(tmp_path, [{"_id": name}], name)
    source = DumpSource(tmp_path)
    assert source.list_collections() == ["../../x", "100%", "a b", "dotted.name", "mäuse"]
    found = [record_id for name in source.list_collections() for record_id in ids(tmp_path, name)]
    assert found == ["..%2F..%2Fx", "100%25", "a%20b", "dotted.name", "mäuse"]


def test_a_collection_may_have_several_files(tmp_path):
    (tmp_path / f"{MAIN}.bson").write_bytes(as_bson([{"_id": "a", "from": "bson"}]))
    write_dump(tmp_path, [{"_id": "a", "from": "jsonl"}, {"_id": "b"}])
    assert DumpSource(tmp_path).list_collections() == [MAIN]
    assert ids(tmp_path) == ["a", "a", "b"]
    assert "bson" in read(tmp_path)[0].text


def test_a_missing_collection_has_no_documents(sample_dump):
    assert read(sample_dump, "nothing") == []
    assert DumpSource(sample_dump).fingerprint("nothing") == ""


def test_documents_are_read_by_id(sample_dump):
    everything = read(sample_dump)
    wanted = {document.record_id for document in everything[::7]}
    found = DumpSource(sample_dump).read_documents_by_id(MAIN, wanted | {"unknown"})
    assert list(found) == everything[::7]


def test_the_fingerprint_changes_with_the_files(tmp_path):
    path = write_dump(tmp_path, [{"_id": "a"}])
    source = DumpSource(tmp_path)
    before = source.fingerprint(MAIN)
    assert source.fingerprint(MAIN) == before
    path.write_bytes(path.read_bytes() + b'{"_id":"b"}\n')
    assert source.fingerprint(MAIN) != before


# --- damage -----------------------------------------------------------------------------------


INVALID = [b"oops", b"{'_id': 'x'}", b"{]}", b'{"_id": "x",}', b"\xff"]
# The type of the first value is not one of BSON.
INVALID_BSON = as_bson([{"_id": "x"}]).replace(b"\x02_id", b"\x77_id")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(
            (f"x.{end}", b'{"_id": "a"}\n' + bad + b'\n{"_id": "b"}\n')
            for end in ("jsonl", "json")
            for bad in INVALID
        ),
        ("x.json", b'[{"_id": "a"}, {"_id": b}, {"_id": "b"}]'),
        ("x.json", b'[{"_id": "a"}, oops, {"_id": "b"}]'),
        ("x.bson", as_bson([{"_id": "a"}]) + INVALID_BSON + as_bson([{"_id": "b"}])),
    ],
)
def test_an_invalid_document_does_not_affect_others(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    first, bad, last = ids(tmp_path, "x")
    assert (first, last) == ("a", "b")
    assert bad.startswith(UNREADABLE_PREFIX)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("x.json", b'{"_id": "a"}\n{"_id": "b", "x": "\\', "within a document"),
        ("x.json", b'{\n "_id": "a"\n}\n{\n "_id": "b",\n', "within a document"),
        ("x.json", b'[{"_id": "a"}', "within its array"),
        ("x.json", b'[{"_id": "a"},\n{"_id"', "within its array"),
        ("x.json", b"[", "within its array"),
        ("x.jsonl", b'{"_id": "a"}\n{"_id": "b"', "within a document"),
        ("x.jsonl", b'{"_id": "a"}\n{"_id": "b', "within a document"),
        ("x.jsonl", b"{", "within a document"),
        ("x.jsonl.gz", b"", "it is empty"),
        ("x.jsonl.gz", b"no gzip at all", "Not a gzipped file"),
        ("x.jsonl.gz", gzip.compress(b'{"_id":"a"}\n' * 99, mtime=0)[:-9] + b"\0" * 9, "CRC"),
        ("x.bson", b"\1\0\0\0", "no BSON document begins at byte 0"),
        ("x.bson", struct.pack("<i", -5) + b"\0", "no BSON document begins at byte 0"),
        ("x.bson", struct.pack("<i", 2**31 - 1) + b"\0" * 99, "no BSON document begins at byte 0"),
        ("x.bson", as_bson([{"_id": "a"}]) + b"\5\0", "no BSON document begins at byte 16"),
    ],
)
def test_a_truncated_or_damaged_file_is_an_error_that_names_it(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        SourceError, match=f"{name}' cannot be read to its end: .*{words}"
    ) as raised:
        read(tmp_path, "x")
    assert "Nothing was deleted" in str(raised.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
@pytest.mark.parametrize(
    "name", [f"{MAIN}.jsonl.gz", f"{MAIN}.json.gz", f"{MAIN}.bson", f"{MAIN}.bson.gz"]
)
def test_a_truncated_file_of_the_sample_is_an_error_that_names_it(
    small_dump, tmp_path, name, share
):
    documents = read_dump(small_dump)
    content = as_bson(documents) if ".bson" in name else as_lines(documents)
    content = gzip.compress(content, 1, mtime=0) if name.endswith(".gz") else content
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(SourceError, match="cannot be read to its end") as raised:
        read(tmp_path)
    assert name in str(raised.value)


def test_a_folder_that_vanishes_is_a_source_error(tmp_path):
    path = write_dump(tmp_path / "dump", [{"_id": "a"}])
    source = DumpSource(path.parent)
    path.unlink()
    path.parent.rmdir()
    for ask in (
        source.list_collections,
        lambda: list(source.list_ids(MAIN)),
        lambda: source.fingerprint(MAIN),
    ):
        with pytest.raises(SourceError, match="cannot be read"):
            ask()


# --- splitting --------------------------------------------------------------------------------

TEXTS = st.text(st.sampled_from('ab"\\{}[],: \n🐭'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
INDENTS = st.sampled_from([None, 0, 1, "\t"])


@st.composite
def written_documents(draw: st.DrawFn) -> tuple[list[Any], bytes]:
    """Draw documents, and the content of a file with them."""
    documents = draw(st.lists(st.dictionaries(TEXTS, VALUES, max_size=3), max_size=5))
    options: dict[str, Any] = {"indent": draw(INDENTS), "ensure_ascii": draw(st.booleans())}
    if draw(st.booleans()):
        return documents, draw(st.sampled_from(["", "\n"])).join(
            ["", json.dumps(documents, **options), ""]
        ).encode()
    between = draw(st.sampled_from(["", "\n", "\r\n", " ", ",\n"]))
    return documents, between.join(json.dumps(one, **options) for one in documents).encode()


class Dribble(BytesIO):
    """A file that returns a few bytes at a time, as a pipe does."""

    def __init__(self, content: bytes, size: int) -> None:
        super().__init__(content)
        self._size = size

    def read(self, _size: int | None = -1, /) -> bytes:
        """Return the next few bytes."""
        return super().read(self._size)


@given(written=written_documents(), size=st.integers(1, 40))
def test_json_is_split_into_its_documents_whatever_the_chunks(written, size):
    documents, content = written
    assert [json.loads(one) for one in dump._split_json(Dribble(content, size))] == documents
    # Unlike a dribble, a file returns as much as the growing reads request.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dump, "_CHUNK_BYTES", size)
        assert [json.loads(one) for one in dump._split_json(BytesIO(content))] == documents


def split(file: BytesIO) -> tuple[list[bytes], bool]:
    """Return the documents of a file, and whether it is truncated."""
    documents = []
    try:
        for document in dump._split_json(file):
            documents.append(document)  # noqa: PERF402 - those before an error are wanted too
    except EOFError:
        return documents, True
    return documents, False


@given(content=st.text(st.sampled_from('ab"\\{}[],: \n'), max_size=60), size=st.integers(1, 20))
def test_splitting_keeps_all_text_whatever_the_chunks(content, size):
    raw = content.encode()
    whole, is_cut = split(BytesIO(raw))
    assert split(Dribble(raw, size)) == (whole, is_cut)
    if is_cut:
        return
    kept = b"".join(whole)
    for sign in b'ab"\\{:':
        assert kept.count(sign) == raw.count(sign)


@pytest.mark.slow
def test_a_large_document_is_read_in_every_format(tmp_path, packed):
    large = {"_id": "large", "text": 'x"\\' * (1 << 22), "numbers": list(range(1 << 20))}
    documents = [{"_id": "a"}, large, {"_id": "b"}]
    for written, name in ((as_lines, "l.jsonl"), (as_array, "j.json"), (as_bson, "b.bson")):
        packed(tmp_path / name, written(documents))
    hashes = {
        tuple((one.record_id, one.content_hash) for one in read(tmp_path, collection))
        for collection in ("l", "j", "b")
    }
    assert len(hashes) == 1
    ((_, (large_id, _), _),) = hashes
    assert large_id == "large"


# --- memory -----------------------------------------------------------------------------------

MEASURED = dedent("""\
    import re, sys
    from pathlib import Path
    from aind_etl.sources.dump import DumpSource

    def peak() -> int:
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    source = DumpSource(Path(sys.argv[1]))
    next(source.list_ids("warm"))
    before = peak()
    count = sum(1 for _ in source.list_ids("large"))
    print(count, peak() - before)
""")


@pytest.mark.slow
@NEEDS_PROC
@pytest.mark.parametrize("format_name", ["jsonl", "json", "bson"])
def test_a_large_file_is_streamed_in_little_memory(sample_dump, tmp_path, format_name):
    written = {"jsonl": as_lines, "json": as_array, "bson": as_bson}[format_name]
    block = written(read_dump(sample_dump)).strip(b"[]\n")
    between = {"jsonl": b"\n", "json": b",\n", "bson": b""}[format_name]
    times = (60 << 20) // len(block)
    with (tmp_path / f"large.{format_name}").open("wb") as file:
        for number in range(times):
            file.write(between * (number > 0) + block)
    write_dump(tmp_path, [{"_id": "a"}], "warm")
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], check=True, capture_output=True, text=True
    )
    count, kibibytes = map(int, run.stdout.split())
    assert count == times * len(read_dump(sample_dump))
    assert kibibytes < 30 << 10
