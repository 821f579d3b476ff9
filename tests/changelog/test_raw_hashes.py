"""The cache of raw hashes: known bytes are not parsed, and the result is the same."""

import json
import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import bson
import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from worlds import ANY_SHARE, MAIN, Clock, data_files_of, live_documents_of, read_dump, write_dump

from aind_etl.changelog.passes import ExtractReport, Pass, extract_collection
from aind_etl.changelog.raw_hashes import RawHashes
from aind_etl.client.verify import verify_collection
from aind_etl.contract.id_ranges import UNSHARDED
from aind_etl.errors import SourceError
from aind_etl.lake import Lake
from aind_etl.lake.tables import is_in_range
from aind_etl.sources import canonical, dump
from aind_etl.sources.canonical import Document
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import read_documents


def run(
    folder: Path, lake: Lake, pass_kind: Pass = Pass.FULL, clock: Clock | None = None
) -> ExtractReport:
    return extract_collection(
        DumpSource(folder), lake, MAIN, pass_kind, limits=ANY_SHARE, now=clock or Clock()
    )


def cache_file(lake: Lake) -> Path:
    return Path(str(lake.storage.path(lake.raw_hashes_name(MAIN))))


@pytest.fixture
def folder(sample_dump: Path, tmp_path: Path) -> Path:
    """Return the folder of a dump with some documents of the sample."""
    write_dump(tmp_path / "dump", read_dump(sample_dump)[::10])
    return tmp_path / "dump"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Return a list to which every document that is parsed is added."""
    seen: list[bytes] = []
    for suffix, (split, make) in dump._FORMATS.items():

        def noting(raw: bytes, make: Callable[[bytes], Document] = make) -> Document:
            seen.append(raw)
            return make(raw)

        monkeypatch.setitem(dump._FORMATS, suffix, (split, noting))
    return seen


@pytest.mark.parametrize("first", Pass)
def test_unchanged_documents_are_not_parsed_and_nothing_is_written(folder, lake, parsed, first):
    loaded = run(folder, lake, first)
    files = data_files_of(Path(str(lake)))
    parsed.clear()
    report = run(folder, lake)
    assert parsed == []
    assert (report.read, report.unchanged) == (loaded.new, loaded.new)
    assert data_files_of(Path(str(lake))) == files


def test_only_documents_with_other_bytes_are_parsed(folder, lake, parsed):
    run(folder, lake)
    documents = read_dump(folder)
    documents[3] = dict(reversed(documents[3].items()))
    documents[5]["status"] = "changed"
    write_dump(folder, documents)
    parsed.clear()
    report = run(folder, lake)
    assert [json.loads(raw)["_id"] for raw in parsed] == [documents[3]["_id"], documents[5]["_id"]]
    assert (report.changed, report.unchanged) == (1, len(documents) - 1)
    parsed.clear()
    assert run(folder, lake).unchanged == len(documents)
    assert parsed == []


def test_unreadable_documents_are_parsed_every_time(folder, lake, parsed):
    with (folder / f"{MAIN}.jsonl").open("ab") as file:
        file.write(b'{"_id": "broken\n["a", "list"]\n')
    run(folder, lake)
    parsed.clear()
    run(folder, lake)
    assert parsed == [b'{"_id": "broken', b'["a", "list"]']


def test_hashes_of_another_canonical_form_are_not_used(folder, lake, parsed, monkeypatch):
    run(folder, lake)
    monkeypatch.setattr("aind_etl.changelog.raw_hashes.canonical_version", lambda: "the next")
    for expected in (len(read_dump(folder)), 0):
        parsed.clear()
        run(folder, lake)
        assert len(parsed) == expected


def test_the_version_of_the_canonical_form_changes_with_its_code(tmp_path, monkeypatch):
    before = canonical.canonical_version()
    code = Path(canonical.__file__).read_text()
    (tmp_path / "canonical.py").write_text(code + "\n")
    monkeypatch.setattr(canonical, "__file__", str(tmp_path / "canonical.py"))
    assert canonical.canonical_version.__wrapped__() != before


def test_a_damaged_cache_is_reported_and_rebuilt(folder, lake, parsed, caplog):
    run(folder, lake)
    sound = cache_file(lake).read_bytes()
    for damaged in (b"", sound[:-20], sound[: len(sound) // 2], b"\0" * len(sound)):
        cache_file(lake).write_bytes(damaged)
        caplog.clear()
        parsed.clear()
        with caplog.at_level(logging.WARNING):
            assert run(folder, lake).unchanged == len(parsed) > 0
        assert MAIN in caplog.text
        assert cache_file(lake).read_bytes() == sound


def test_the_hashes_of_each_split_are_read_and_rewritten_by_themselves(lake):
    splits = UNSHARDED.splits(2)
    documents = pl.DataFrame({"record_id": ["1", "e"], "content_hash": ["aa", "bb"]})
    hashed = documents.with_columns(raw_hash=pl.Series([b"first", b"other"]))
    for changed in (splits, splits[:1], []):
        with lake.scratch("raw-hashes", MAIN) as folder:
            raw_hashes = RawHashes(lake, MAIN, folder)
            known = [raw_hashes.known(split, documents) for split in splits]
            for split in changed:
                own = hashed.filter(is_in_range(split, pl.col("record_id")))
                raw_hashes.record(split, known[0].clear(), own.select("record_id"), own)
            raw_hashes.write(splits)
    assert [one.rows() for one in known] == [[row] for row in hashed.rows()]


@pytest.mark.slow
def test_a_cache_with_any_changed_byte_is_not_used(folder, lake):
    run(folder, lake)
    content = cache_file(lake).read_bytes()
    live = live_documents_of(lake).select("record_id", "content_hash")
    for place in range(0, len(content), 3):
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << place % 8
        cache_file(lake).write_bytes(spoilt)
        with lake.scratch("raw-hashes", MAIN) as empty:
            assert RawHashes(lake, MAIN, empty).known(UNSHARDED.ids, live).is_empty()


def test_a_new_pass_does_not_rewrite_the_cache(folder, lake, sample_dump):
    run(folder, lake)
    before = cache_file(lake).stat()
    write_dump(folder, [*read_dump(folder), read_dump(sample_dump)[1]])
    assert run(folder, lake, Pass.NEW).new == 1
    assert cache_file(lake).stat().st_ino == before.st_ino
    assert run(folder, lake).new == 0
    assert cache_file(lake).stat().st_ino != before.st_ino


def test_old_hashes_do_not_hide_what_a_new_pass_found_since(folder, lake):
    clock = Clock()
    run(folder, lake, clock=clock)
    before = read_dump(folder)
    late = before[0] | {"_id": "late"}
    write_dump(folder, [*before, late])
    clock.move(hours=1)
    run(folder, lake, clock=clock)
    write_dump(folder, [*before, late | {"status": "changed"}])
    clock.move(hours=1)
    assert run(folder, lake, Pass.NEW, clock).changed == 1
    write_dump(folder, [*before, late])
    assert run(folder, lake, clock=clock).changed == 1
    write_dump(folder, before)
    assert run(folder, lake, Pass.NEW, clock).deleted == 1
    write_dump(folder, [*before, late])
    assert run(folder, lake, clock=clock).new == 1


def test_a_deep_verification_does_not_use_the_cache(folder, lake, parsed):
    run(folder, lake)
    parsed.clear()
    _, differences = verify_collection(DumpSource(folder), lake, MAIN, deep=True)
    assert len(parsed) == len(read_dump(folder))
    assert [one for one in differences if one.between == "source and lake"] == []


# --- any history --------------------------------------------------------------------------------

IDENTITIES = ("a", "b")
BROKEN = 2
"""The version of a document that is unreadable."""

PUTS = st.tuples(
    st.sampled_from(IDENTITIES),
    st.sampled_from([0, 1, 0, 1, BROKEN]),
    st.just(value=False) | st.booleans(),
)
# What happens to the cache file before a pass: a byte changes, or the file is lost, truncated, or
# replaced by an earlier one.
HARMS = st.one_of(
    st.none(),
    st.tuples(st.just("flip"), st.floats(0, 1, exclude_max=True), st.integers(1, 255)),
    st.tuples(st.sampled_from(["lost", "cut"]), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("earlier"), st.floats(0, 1, exclude_max=True), st.just(0)),
    st.tuples(st.just("earlier"), st.just(0.0), st.just(0)),
)
STEPS = st.tuples(
    st.lists(st.one_of(PUTS, PUTS, st.sampled_from(IDENTITIES)), min_size=1, max_size=2),
    st.one_of(st.just([]), st.lists(PUTS, max_size=1)),
    st.sampled_from(["jsonl"] * 3 + ["bson"]),
    st.sampled_from([Pass.FULL] * 3 + [Pass.NEW]),
    st.sampled_from([1, 1, 25]),
    st.sampled_from([True] * 3 + [False]),
    HARMS,
)


def written(identity: str, number: int, *, is_reversed: bool) -> tuple[bytes, bytes]:
    """Return a version of a document as JSON and as BSON, perhaps with its keys reversed."""
    document: Mapping[str, Any] = {
        "_id": identity,
        "aic": float("nan") if identity == "a" else 1.5,
        "n": {"x": number},
    }
    if is_reversed:
        document = dict(reversed(document.items()))
    as_json, as_bson = json.dumps(document).encode(), bson.encode(document)
    if number == BROKEN:
        # The length stays the same: a quotation mark is missing, or a byte is not UTF-8.
        return as_json.replace(b'"n"', b'"n '), as_bson.replace(b"n\0", b"\xff\0", 1)
    return as_json, as_bson


def harm(path: Path, how: tuple[str, float, int], earlier: list[bytes]) -> None:
    """Damage a cache file."""
    kind, share, bits = how
    content = bytearray(path.read_bytes())
    if kind == "lost":
        path.unlink()
        return
    if kind == "flip" and content:
        content[int(share * len(content))] ^= bits
    elif kind == "cut":
        content = content[: int(share * len(content))]
    else:
        content = bytearray(earlier[int(share * len(earlier))])
    path.write_bytes(content)


@pytest.mark.slow
@settings(
    max_examples=20,
    deadline=None,
    # Shrinking takes far longer than the search.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(history=st.lists(STEPS, min_size=5, max_size=8))
def test_any_history_gives_the_same_log_with_any_damage_to_the_cache(
    tmp_path, history, monkeypatch
):
    # A failing pass has written what it found.
    monkeypatch.setattr("aind_etl.changelog.comparison.COMPARED_DOCUMENTS", 1)
    monkeypatch.setattr("aind_etl.changelog.log_writer._BATCH_BYTES", 1)
    here = tmp_path / uuid4().hex
    folder = here / "dump"
    folder.mkdir(parents=True)
    plain, lake = Lake(here / "plain"), Lake(here / "lake")
    clock = Clock()
    earlier: list[bytes] = []
    documents: dict[str, tuple[bytes, bytes]] = {}
    for changes, twice, written_as, pass_kind, hours, is_whole, harmed in history:
        for change in changes:
            if isinstance(change, str):
                documents.pop(change, None)
            else:
                identity, number, is_reversed = change
                documents[identity] = written(identity, number, is_reversed=is_reversed)
        # A dump may hold an id twice: the first counts.
        there = [*documents.values()]
        there += [written(one, number, is_reversed=order) for one, number, order in twice]
        content = b"".join(both[1] if written_as == "bson" else both[0] + b"\n" for both in there)
        (folder / f"{MAIN}.jsonl").unlink(missing_ok=True)
        (folder / f"{MAIN}.bson").unlink(missing_ok=True)
        (folder / f"{MAIN}.{written_as}").write_bytes(content if is_whole else content + b"{{{{{")
        clock.move(hours=hours)
        if cache_file(lake).exists():
            earlier.append(cache_file(lake).read_bytes())
            if harmed:
                harm(cache_file(lake), harmed, earlier)
        cache_file(plain).unlink(missing_ok=True)
        for one in (plain, lake):
            with nullcontext() if is_whole else pytest.raises(SourceError):
                run(folder, one, pass_kind, clock)
        log = plain.change_log(MAIN).versions().collect().sort("batch_id", "record_id")
        assert lake.change_log(MAIN).versions().collect().sort("batch_id", "record_id").equals(log)
        if pass_kind is Pass.FULL and is_whole:
            source: dict[str, Document] = {}
            for document in read_documents(DumpSource(folder), MAIN):
                source.setdefault(document.record_id, document)
            live = live_documents_of(lake).select("record_id", "document", "content_hash")
            assert live.rows() == sorted(source.values())
