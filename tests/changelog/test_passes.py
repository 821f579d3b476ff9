"""Passes: the change log follows its source."""

import gzip
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from datetime import timedelta
from itertools import islice
from pathlib import Path
from textwrap import dedent
from typing import Any

import bson
import orjson
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from worlds import (
    MAIN,
    NEEDS_PROC,
    NOON,
    Clock,
    JsonDocument,
    assert_same,
    contents_of,
    data_files_of,
    extract,
    files_of,
    live_documents_of,
    load,
    loaded_lake,
    log_of,
    read_dump,
    write_dump,
)

import aind_etl.changelog.comparison
import aind_etl.changelog.log_writer
import aind_etl.changelog.passes
from aind_etl.changelog.passes import ExtractLimits, ExtractReport, Pass, extract_collection
from aind_etl.contract import tables
from aind_etl.contract.id_ranges import ALL_IDS, Split
from aind_etl.errors import DataError, SourceError
from aind_etl.lake import Lake
from aind_etl.sources.canonical import Document, RawDocument, canonical_document
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.protocol import read_documents

BOTH = pytest.mark.parametrize("pass_kind", list(Pass))


class Dump:
    """A dump of one collection, to change between passes."""

    def __init__(self, folder: Path, documents: list[JsonDocument]) -> None:
        self.folder = folder
        self.documents = {one["_id"]: one for one in documents}
        self.ids = list(self.documents)
        self.write()

    def write(self) -> None:
        """Write the documents to the disk."""
        write_dump(self.folder, self.documents.values())

    def take(self, *ids: str) -> list[JsonDocument]:
        """Remove documents, and return them."""
        taken = [self.documents.pop(one) for one in ids]
        self.write()
        return taken

    def put(self, *documents: JsonDocument) -> None:
        """Add documents, or replace those of the same ids."""
        self.documents |= {one["_id"]: one for one in documents}
        self.write()

    def change(self, *ids: str) -> None:
        """Change something in documents."""
        self.put(*(self.documents[one] | {"status": "changed"} for one in ids))


@pytest.fixture
def dump(sample_dump: Path, tmp_path: Path) -> Dump:
    """Return a dump with some documents of the sample."""
    return Dump(tmp_path / "dump", read_dump(sample_dump)[::10])


def run(
    dump: Dump | Path, lake: Lake, pass_kind: Pass = Pass.FULL, **options: Any
) -> ExtractReport:
    source = DumpSource(dump if isinstance(dump, Path) else dump.folder)
    options = {"now": Clock()} | options
    return extract_collection(source, lake, MAIN, pass_kind, **options)


def counts(report: ExtractReport) -> dict[str, int]:
    """Return the counts of a report that are not zero."""
    names = ("new", "changed", "unchanged", "deleted", "repeated")
    return {name: getattr(report, name) for name in names if getattr(report, name)}


def live_ids(lake: Lake) -> list[str]:
    return sorted(lake.change_log(MAIN).live_documents()["record_id"])


# --- passes -----------------------------------------------------------------------------------


@BOTH
def test_the_first_pass_of_either_kind_loads_everything(dump, lake, pass_kind):
    report = run(dump, lake, pass_kind)
    assert counts(report) == {"new": len(dump.ids)}
    assert (report.read, report.batches) == (len(dump.ids), [1])
    assert log_of(lake) == [(1, one, "upsert") for one in sorted(dump.ids)]


def test_the_log_holds_each_document_of_the_source(dump, lake):
    run(dump, lake)
    logged = lake.tables.scan(tables.DOCUMENTS).collect()
    expected = list(read_documents(DumpSource(dump.folder), MAIN))
    found = map(
        Document._make, logged.select(Document._fields[0], "document", "content_hash").rows()
    )
    assert list(found) == expected
    assert logged["extracted_at"].unique().to_list() == [NOON]
    assert logged["source_collection"].unique().to_list() == [MAIN]


@BOTH
def test_a_pass_finds_what_is_new_and_gone_and_a_full_one_also_changes(dump, lake, pass_kind):
    first, second, third, *rest = dump.ids
    (kept,) = dump.take(third)
    run(dump, lake)
    dump.take(first)
    dump.change(second)
    dump.put(kept)
    report = run(dump, lake, pass_kind)
    found = {"new": 1, "deleted": 1}
    appended = [(2, first, "delete"), (2, third, "upsert")]
    if pass_kind is Pass.FULL:
        found |= {"changed": 1, "unchanged": len(rest)}
        appended.append((2, second, "upsert"))
    assert counts(report) == found
    assert report.read == (1 if pass_kind is Pass.NEW else len(rest) + 2)
    assert [entry for entry in log_of(lake) if entry[0] == 2] == sorted(appended)
    assert live_ids(lake) == sorted(dump.documents)
    deleted = lake.change_log(MAIN).versions().filter(pl.col("operation") == "delete").collect()
    assert deleted.select("document", "content_hash").rows() == [(None, None)]
    assert counts(run(dump, lake)).get("changed") == (1 if pass_kind is Pass.NEW else None)


@BOTH
def test_a_repeated_pass_writes_nothing_but_the_state(dump, lake, pass_kind):
    load(dump.folder, lake)
    before, stats = files_of(lake.storage.root), data_files_of(lake.storage.root)
    later = Clock(NOON + timedelta(days=9))
    report = run(dump, lake, pass_kind, now=later)
    load(dump.folder, lake, pass_kind, now=later)
    assert report.batches == []
    assert counts(report).keys() <= {"unchanged"}
    after = files_of(lake.storage.root)
    assert {name for name in after if after[name] != before.get(name)} == {
        f"_state/collection={MAIN}.json"
    }
    assert after.keys() == before.keys()
    assert data_files_of(lake.storage.root) == stats


@pytest.mark.slow
@BOTH
def test_a_document_that_returns_is_new_but_keeps_its_first_seen_time(dump, lake, pass_kind):
    clock = Clock()
    one = dump.ids[0]
    load(dump.folder, lake, now=clock)
    (kept,) = dump.take(one)
    clock.move(days=1)
    load(dump.folder, lake, pass_kind, now=clock)
    assert one not in lake.tables.scan(tables.ANALYSES).collect()["record_id"].to_list()
    dump.put(kept)
    clock.move(days=1)
    assert load(dump.folder, lake, pass_kind, now=clock).extracts[MAIN].new == 1
    assert [entry[2] for entry in log_of(lake) if entry[1] == one] == ["upsert", "delete", "upsert"]
    row = lake.tables.scan(tables.ANALYSES).filter(pl.col("record_id") == one).collect()
    assert row["first_seen_at"].to_list() == [NOON]
    assert row["changed_at"].to_list() == [NOON + timedelta(days=2)]


def test_a_document_that_returns_to_an_earlier_content_is_changed(dump, lake):
    one = dump.ids[0]
    before = dump.documents[one]
    run(dump, lake)
    dump.change(one)
    run(dump, lake)
    dump.put(before)
    assert counts(run(dump, lake))["changed"] == 1
    versions = lake.change_log(MAIN).versions().filter(pl.col("record_id") == one)
    hashes = versions.collect()["content_hash"]
    assert hashes[0] == hashes[2] != hashes[1]


def test_another_format_of_the_same_content_is_no_change(sample_dump, dump, lake, tmp_path):
    run(dump, lake)
    other = tmp_path / "other"
    other.mkdir()
    backwards = [dict(reversed(one.items())) for one in reversed(dump.documents.values())]
    (other / f"{MAIN}.bson.gz").write_bytes(gzip.compress(b"".join(map(bson.encode, backwards))))
    assert counts(run(other, lake)) == {"unchanged": len(dump.ids)}


def test_the_first_of_several_documents_with_one_id_counts(dump, lake):
    lines = (dump.folder / f"{MAIN}.jsonl").read_bytes()
    first = dump.ids[0]
    other = orjson.dumps(dump.documents[first] | {"status": "another"})
    (dump.folder / f"{MAIN}.jsonl").write_bytes(lines + other + b"\n" + lines)
    for expected in ("new", "unchanged"):
        report = run(dump, lake)
        assert counts(report) == {expected: len(dump.ids), "repeated": len(dump.ids) + 1}
    assert len(log_of(lake)) == len(dump.ids)
    assert "another" not in str(lake.change_log(MAIN).versions().collect()["document"].to_list())


def test_of_two_files_of_one_collection_the_first_wins(dump, lake, monkeypatch):
    monkeypatch.setattr(aind_etl.changelog.comparison, "COMPARED_DOCUMENTS", 5)
    content = b"".join(
        bson.encode(one | {"status": "of the first"}) for one in dump.documents.values()
    )
    (dump.folder / f"{MAIN}.bson").write_bytes(content)
    for pass_kind in Pass:
        fresh = Lake(lake.storage.root / pass_kind.value)
        report = run(dump, fresh, pass_kind)
        assert counts(report) == {"new": len(dump.ids), "repeated": len(dump.ids)}
        documents = fresh.change_log(MAIN).versions().collect()["document"]
        assert documents.str.contains("of the first").all()


def test_an_empty_collection_is_recorded(dump, lake):
    dump.take(*dump.ids)
    assert counts(run(dump, lake)) == {}
    assert lake.collections() == [MAIN]
    assert log_of(lake) == []


def test_progress_adds_up_to_the_documents_read(dump, lake, monkeypatch):
    monkeypatch.setattr(aind_etl.changelog.comparison, "COMPARED_DOCUMENTS", 7)
    steps: list[int] = []
    report = run(dump, lake, progress=steps.append)
    assert sum(steps) == report.read == len(dump.ids)
    assert len(steps) > 2


def test_the_state_records_what_was_read_and_when(dump, lake):
    run(dump, lake)
    later = NOON + timedelta(hours=3)
    run(dump, lake, Pass.NEW, now=Clock(later))
    state = lake.state(MAIN)
    assert state.source == str(dump.folder)
    assert state.fingerprint == DumpSource(dump.folder).fingerprint(MAIN)
    assert (state.first_pass_ended_at, state.last_full_pass_at) == (NOON, NOON)
    assert state.last_new_pass_at == later


# --- look back -----------------------------------------------------------------------------


def test_a_new_pass_reads_recent_documents_again_except_the_first_load(dump, lake):
    clock = Clock()
    late, later, *first_load = dump.ids
    kept = dump.take(late, later)
    run(dump, lake, now=clock)
    clock.move(hours=2)
    dump.put(kept[0])
    run(dump, lake, Pass.NEW, now=clock)
    clock.move(hours=20)
    dump.put(kept[1])
    report = run(dump, lake, Pass.NEW, now=clock)
    assert counts(report) == {"new": 1, "unchanged": 1}
    dump.change(late, later, first_load[0])
    clock.move(hours=3)
    report = run(dump, lake, Pass.NEW, now=clock)
    assert (report.read, counts(report)) == (2, {"changed": 2})
    clock.move(days=2)
    dump.put(*kept)
    report = run(dump, lake, Pass.NEW, now=clock)
    assert (report.read, counts(report)) == (0, {})


def test_how_far_a_new_pass_looks_back_is_configurable(dump, lake):
    clock = Clock()
    late = dump.ids[0]
    (kept,) = dump.take(late)
    run(dump, lake, now=clock)
    dump.put(kept)
    clock.move(hours=1)
    run(dump, lake, Pass.NEW, now=clock)
    dump.change(late)
    clock.move(hours=30)
    assert run(dump, lake, Pass.NEW, now=clock).read == 0
    for hours, read in ((29, 0), (31, 1)):
        limits = ExtractLimits(look_back=timedelta(hours=hours))
        assert run(dump, lake, Pass.NEW, now=clock, limits=limits).read == read


@pytest.mark.usefixtures("small_batches")
def test_an_interrupted_first_load_does_not_count_as_recent(dump, lake):
    clock = Clock()
    with pytest.raises(SourceError):
        extract_collection(Failing(dump.folder, 20), lake, MAIN, Pass.NEW, now=clock)
    assert log_of(lake)
    clock.move(minutes=5)
    run(dump, lake, Pass.NEW, now=clock)
    clock.move(minutes=5)
    assert run(dump, lake, Pass.NEW, now=clock).read == 0


# --- the limit on deletions --------------------------------------------------------------------


@BOTH
def test_more_deletions_than_allowed_are_an_error_and_nothing_is_deleted(dump, lake, pass_kind):
    (kept,) = dump.take(dump.ids[-1])
    run(dump, lake)
    known = len(dump.documents)
    gone = known // 5 + 1
    dump.take(*dump.ids[:gone])
    dump.put(kept)
    before = lake.state(MAIN)
    with pytest.raises(DataError) as raised:
        run(dump, lake, pass_kind)
    assert f"{gone} of {known} documents of the collection '{MAIN}' are gone" in str(raised.value)
    assert "0.2" in str(raised.value)
    assert "--max-deleted-share 1" in str(raised.value)
    assert {operation for _, _, operation in log_of(lake)} == {"upsert"}
    assert live_ids(lake) == sorted(dump.ids), "new documents are kept"
    assert lake.state(MAIN) == before, "the collection stays stale"
    report = run(dump, lake, pass_kind, limits=ExtractLimits(max_deleted_share=1))
    assert report.deleted == gone
    assert live_ids(lake) == sorted(dump.documents)


@BOTH
@pytest.mark.parametrize(("share", "gone"), [(0.2, 6), (0.5, 15), (0.0, 0), (1.0, 30)])
def test_as_many_deletions_as_allowed_are_made(dump, lake, pass_kind, share, gone):
    dump.take(*dump.ids[30:])
    run(dump, lake)
    limits = ExtractLimits(max_deleted_share=share)
    dump.take(*dump.ids[:gone])
    assert run(dump, lake, pass_kind, limits=limits).deleted == gone


def test_a_collection_that_vanished_completely_is_an_error(dump, lake, tmp_path):
    run(dump, lake)
    write_dump(tmp_path / "without", [{"_id": "a"}], "another")
    (dump.folder / f"{MAIN}.jsonl").write_bytes(b"")
    for source in (tmp_path / "without", dump):
        with pytest.raises(DataError, match=f"{len(dump.ids)} of {len(dump.ids)} documents"):
            run(source, lake)
    assert live_ids(lake) == sorted(dump.ids)


def test_the_error_names_the_previous_source(dump, sample_dump, lake, tmp_path):
    run(dump, lake)
    other = Dump(tmp_path / "other", read_dump(sample_dump)[1::10])
    with pytest.raises(DataError, match="The lake was last read from") as raised:
        run(other, lake)
    assert str(dump.folder) in str(raised.value)


# --- batches and interruptions ----------------------------------------------------------------


class Failing(DumpSource):
    """A dump that fails after a number of documents."""

    def __init__(self, folder: Path, documents: int) -> None:
        super().__init__(folder)
        self._readable = documents

    def read_raw(self, collection: str, split: Split = ALL_IDS) -> Iterator[RawDocument | Document]:
        """Yield the first documents, and fail."""
        yield from islice(super().read_raw(collection, split), self._readable)
        raise SourceError("The line is cut.")

    def list_ids(self, collection: str, split: Split = ALL_IDS) -> Iterator[str]:
        """Yield every id, without failing."""
        for document in map(canonical_document, super().read_raw(collection, split)):
            yield document.record_id


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aind_etl.changelog.comparison, "COMPARED_DOCUMENTS", 5)
    monkeypatch.setattr(aind_etl.changelog.log_writer, "_BATCH_BYTES", 1)


@pytest.mark.usefixtures("small_batches")
def test_many_versions_are_written_in_several_batches(dump, lake):
    report = run(dump, lake)
    assert report.batches == list(range(1, len(report.batches) + 1))
    sizes = [batch.height for batch in lake.change_log(MAIN).read_batches()]
    assert sizes[:-1] == [5] * (len(sizes) - 1)
    assert len(sizes) == len(report.batches) == -(-len(dump.ids) // 5)
    assert live_ids(lake) == sorted(dump.ids)


def test_large_documents_are_compared_in_small_portions(dump, lake, monkeypatch):
    monkeypatch.setattr(aind_etl.changelog.passes, "COMPARED_BYTES", 10_000)
    steps: list[int] = []
    run(dump, lake, progress=steps.append)
    texts = lake.change_log(MAIN).versions().collect()["document"].str.len_bytes().to_list()
    portions = [texts[sum(steps[:n]) : sum(steps[: n + 1])] for n in range(len(steps))]
    assert len(portions) > 2
    assert all(sum(portion[:-1]) <= 10_000 for portion in portions)
    assert live_ids(lake) == sorted(dump.ids)


@pytest.mark.usefixtures("small_batches")
def test_a_failing_source_leaves_complete_batches_and_no_deletions(dump, lake):
    with pytest.raises(SourceError, match="cut"):
        extract_collection(Failing(dump.folder, 17), lake, MAIN, Pass.FULL, now=Clock())
    assert [batch.height for batch in lake.change_log(MAIN).read_batches()] == [5, 5, 5]
    assert lake.state(MAIN).last_full_pass_at is None
    report = run(dump, lake)
    assert counts(report) == {"unchanged": 15, "new": len(dump.ids) - 15}
    assert live_ids(lake) == sorted(dump.ids)


@BOTH
@pytest.mark.usefixtures("small_batches")
def test_a_source_that_fails_in_a_later_pass_deletes_nothing(dump, lake, pass_kind):
    (kept,) = dump.take(dump.ids[-1])
    run(dump, lake)
    dump.put(kept)
    dump.take(dump.ids[0])
    with pytest.raises(SourceError, match="cut"):
        extract_collection(Failing(dump.folder, 2), lake, MAIN, pass_kind, now=Clock())
    assert {operation for _, _, operation in log_of(lake)} == {"upsert"}
    run(dump, lake, pass_kind)
    assert live_ids(lake) == sorted(dump.documents)


@pytest.mark.parametrize("end", ["bson", "bson.gz", "jsonl", "jsonl.gz"])
@BOTH
def test_a_truncated_dump_deletes_nothing(dump, lake, tmp_path, end, pass_kind):
    run(dump, lake)
    documents = dump.documents.values()
    name = f"{MAIN}.{end}"
    if ".bson" in name:
        content = b"".join(map(bson.encode, documents))
    else:
        content = b"\n".join(map(orjson.dumps, documents))
    content = gzip.compress(content) if name.endswith(".gz") else content
    cut = tmp_path / "cut"
    cut.mkdir()
    for share in (0.0, 0.5, 0.95):
        kept = int(len(content) * share) if name.endswith(".gz") or share else 3
        (cut / name).write_bytes(content[:kept])
        with pytest.raises(SourceError, match="cannot be read to its end"):
            run(cut, lake, pass_kind, limits=ExtractLimits(max_deleted_share=1))
    assert live_ids(lake) == sorted(dump.ids)
    assert {operation for _, _, operation in log_of(lake)} == {"upsert"}


MEASURED = dedent("""\
    import re, sys
    from pathlib import Path
    import aind_etl.changelog.compaction
    import aind_etl.changelog.passes
    from aind_etl.changelog.compaction import compact_change_log
    from aind_etl.changelog.passes import Pass, extract_collection
    from aind_etl.lake import Lake
    from aind_etl.sources.dump import DumpSource

    aind_etl.changelog.passes.COMPARED_BYTES = 4 << 20
    aind_etl.changelog.log_writer._BATCH_BYTES = 4 << 20
    aind_etl.changelog.compaction._ROW_GROUP_BYTES = 4 << 20

    def peak() -> int:
        return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

    source, lake = DumpSource(Path(sys.argv[1])), Lake(Path(sys.argv[2]))
    extract_collection(source, lake, "warm", Pass.FULL)
    compact_change_log(lake, "warm", fewest_files=1)
    before = peak()
    report = extract_collection(source, lake, "large", Pass.FULL)
    print(report.new, peak() - before)
""")


@pytest.mark.slow
@NEEDS_PROC
def test_memory_is_bounded_by_a_batch_and_not_by_the_collection(sample_dump, tmp_path):
    block = read_dump(sample_dump)
    write_dump(tmp_path, block, "warm")
    times = (150 << 20) // (tmp_path / "warm.jsonl").stat().st_size
    with (tmp_path / "large.jsonl").open("wb") as file:
        for number in range(times):
            for one in block:
                file.write(orjson.dumps(one | {"_id": f"{one['_id']}-{number}"}) + b"\n")
    command = [sys.executable, "-c", MEASURED, str(tmp_path), str(tmp_path / "lake")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    new, kibibytes = map(int, done.stdout.split())
    assert new == times * len(block)
    assert kibibytes < 100 << 10


# --- any history ------------------------------------------------------------------------------

POOL = 6
OPERATIONS = st.lists(
    st.tuples(
        st.lists(
            st.tuples(
                st.sampled_from(["put", "take"]), st.integers(0, POOL - 1), st.integers(0, 2)
            ),
            max_size=4,
        ),
        st.sampled_from(Pass),
        st.integers(0, 30),
    ),
    min_size=1,
    max_size=5,
)


def version_of(document: JsonDocument, version: int) -> JsonDocument:
    """Return a document as it is, in another month, or broken."""
    changed = deepcopy(document)
    if version == 1:
        changed["session_date"] = "2001-01-01"
    elif version == 2:
        changed["subject_id"] = 5  # a number where a text belongs
    return changed


@pytest.fixture(scope="module")
def pool(sample_dump: Path) -> list[JsonDocument]:
    documents = [one for one in read_dump(sample_dump) if "analysis_spec" in one]
    return documents[:: len(documents) // POOL][:POOL]


@pytest.mark.slow
@settings(max_examples=25)
@given(history=OPERATIONS)
def test_the_lake_follows_any_history_of_a_dump(tmp_path_factory, pool, history):
    folder = tmp_path_factory.mktemp("history")
    lake, clock = Lake(folder / "lake"), Clock()
    dump = Dump(folder / "dump", [])
    for changes, pass_kind, hours in history:
        for change, index, version in changes:
            if change == "put":
                dump.put(version_of(pool[index], version))
            else:
                dump.documents.pop(pool[index]["_id"], None)
                dump.write()
        clock.move(hours=hours)
        load(dump.folder, lake, pass_kind, now=clock)
        assert live_ids(lake) == sorted(dump.documents)
        if pass_kind is Pass.FULL:
            assert_current(lake, dump)
    load(dump.folder, lake, now=clock)
    assert_current(lake, dump)
    assert_same(contents_of(lake), contents_of(loaded_lake(dump.folder, folder / "from scratch")))


def assert_current(lake: Lake, dump: Dump) -> None:
    """Check that the live documents are those of the source, each flattened or rejected."""
    live = {row[1]: row[3] for row in live_documents_of(lake).rows()}
    source = read_documents(DumpSource(dump.folder), MAIN)
    assert live == {document.record_id: document.content_hash for document in source}
    flattened = lake.tables.scan(tables.ANALYSES).collect()["record_id"].to_list()
    rejected = lake.tables.scan(tables.REJECTED_DOCUMENTS).collect()["record_id"].to_list()
    assert sorted(flattened + rejected) == sorted(live)


def test_collections_do_not_affect_each_other(sample_dump, lake, dump):
    extract(sample_dump, lake)
    others = {name: log_of(lake, name) for name in lake.collections() if name != MAIN}
    assert len(others) == 4
    run(dump, lake, limits=ExtractLimits(max_deleted_share=1))
    assert {name: log_of(lake, name) for name in others} == others
