"""From the address of a source to the source, and the sample as one."""

import gc
from itertools import islice
from pathlib import Path

import pytest
from worlds import MAIN, Built, assert_same, contents_of, load

from aind_etl.errors import ConfigurationError
from aind_etl.lake import Lake
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.kinds import open_source
from aind_etl.sources.protocol import read_documents


def test_a_path_and_its_file_url_name_the_same_dump(sample_dump: Path, tmp_path: Path) -> None:
    folder = tmp_path / "my dump"
    folder.symlink_to(sample_dump)
    by_path, by_url = open_source(str(folder)), open_source(folder.as_uri())
    assert "%20" in folder.as_uri()
    assert by_path.list_collections() == by_url.list_collections()
    assert list(read_documents(by_path, MAIN)) == list(read_documents(by_url, MAIN))
    assert by_path.name == by_url.name == str(folder)


def test_a_tilde_is_the_home_folder(
    sample_dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dump").symlink_to(sample_dump)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_source("~/dump").list_collections() == DumpSource(sample_dump).list_collections()


def test_the_sample_is_the_same_documents_as_its_dump(sample_dump: Path) -> None:
    with open_source("sample:") as sample:
        dump = DumpSource(sample_dump)
        assert sample.list_collections() == dump.list_collections()
        for collection in dump.list_collections():
            assert list(read_documents(sample, collection)) == list(
                read_documents(dump, collection)
            )
            assert list(sample.list_ids(collection)) == list(dump.list_ids(collection))


@pytest.mark.slow
def test_the_sample_loads_like_its_dump(built: Built, lake: Lake) -> None:
    with open_source("sample:?sessions=24&seed=0") as sample:
        load(sample, lake)
    assert_same(contents_of(lake), contents_of(built.lake))


def test_another_seed_is_another_world_and_says_so() -> None:
    with (
        open_source("sample:?sessions=2&seed=0") as one,
        open_source("sample:?seed=1&sessions=2") as other,
    ):
        assert set(one.list_ids(MAIN)).isdisjoint(other.list_ids(MAIN))
        assert one.name != other.name
        assert one.fingerprint(MAIN) != other.fingerprint(MAIN)


def test_the_number_of_sessions_decides_how_many_documents_there_are() -> None:
    with open_source("sample:?sessions=1") as small, open_source("sample:?sessions=3") as large:
        few, many = list(small.list_ids(MAIN)), list(large.list_ids(MAIN))
        assert 0 < len(few) < len(many)
        assert set(few) < set(many)


def test_the_sample_gives_chosen_documents() -> None:
    with open_source("sample:?sessions=2") as sample:
        wanted = set(islice(sample.list_ids(MAIN), 3))
        found = list(sample.read_documents_by_id(MAIN, wanted))
        assert {document.record_id for document in found} == wanted


def test_nothing_of_the_sample_is_left_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with open_source("sample:?sessions=1") as sample:
        assert sample.list_collections()
        assert list(tmp_path.iterdir())
    gc.collect()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address",
    [
        "sample:?sessions=0",
        "sample:?sessions=-1",
        "sample:?seed=-1",
        "sample:?sessions=many",
        "sample:?sessions=",
        "sample:?sizes=3",
        "sample:24",
        "sample://24",
    ],
)
def test_a_sample_that_cannot_be_is_refused_with_its_address(address: str) -> None:
    with pytest.raises(ConfigurationError, match="is not understood") as refused:
        open_source(address)
    assert address in str(refused.value)


def test_an_unknown_kind_of_source_is_refused_without_showing_a_password() -> None:
    with pytest.raises(ConfigurationError, match="redis://") as refused:
        open_source("redis://user:secret@server/analysis")
    assert "secret" not in str(refused.value)
    assert "sample:" in str(refused.value)


def test_a_folder_that_is_not_there_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder") as refused:
        open_source(str(tmp_path / "nowhere"))
    assert "nowhere" in str(refused.value)


def test_a_file_instead_of_a_folder_is_refused(sample_dump: Path) -> None:
    with pytest.raises(ConfigurationError, match="is not a folder"):
        open_source(str(sample_dump / f"{MAIN}.jsonl"))


def test_a_folder_without_a_dump_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ConfigurationError, match="holds no dump"):
        open_source(str(tmp_path))


def test_the_folder_above_a_dump_is_refused_with_a_hint(tmp_path: Path, sample_dump: Path) -> None:
    (tmp_path / "analysis").symlink_to(sample_dump)
    with pytest.raises(ConfigurationError, match="Its folders are analysis: did you mean"):
        open_source(str(tmp_path))
