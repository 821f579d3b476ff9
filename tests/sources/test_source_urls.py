"""Opening sources by their address, and the sample as a source."""

import gc

import pytest
from worlds import MAIN, write_dump

from aind_etl.errors import ConfigurationError
from aind_etl.settings import Settings
from aind_etl.sources.dump import DumpSource
from aind_etl.sources.kinds import open_source
from aind_etl.sources.protocol import Source, read_documents


def opened(address: str) -> Source:
    return open_source(Settings(source=address))


def test_a_path_and_its_file_url_name_the_same_dump(sample_dump, tmp_path):
    folder = tmp_path / "my dump"
    folder.symlink_to(sample_dump)
    by_path, by_url = opened(str(folder)), opened(folder.as_uri())
    assert "%20" in folder.as_uri()
    assert by_path.list_collections() == by_url.list_collections()
    assert list(read_documents(by_path, MAIN)) == list(read_documents(by_url, MAIN))
    assert by_path.name == by_url.name == str(folder)


def test_a_tilde_means_the_home_folder(sample_dump, tmp_path, monkeypatch):
    (tmp_path / "dump").symlink_to(sample_dump)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert opened("~/dump").list_collections() == DumpSource(sample_dump).list_collections()
    with pytest.raises(ConfigurationError, match="'~/dump' is not a folder"):
        opened("file:~/dump")  # In a URL it is a character like any other.


def test_the_sample_has_the_documents_of_its_dump(sample_dump):
    with opened("sample:") as sample:
        dump = DumpSource(sample_dump)
        assert sample.list_collections() == dump.list_collections()
        for collection in dump.list_collections():
            assert list(read_documents(sample, collection)) == list(
                read_documents(dump, collection)
            )
            ids = list(dump.list_ids(collection))
            assert list(sample.list_ids(collection)) == ids
            found = sample.read_documents_by_id(collection, set(ids[:3]))
            assert [document.record_id for document in found] == ids[:3]


def test_size_and_seed_determine_documents_name_and_fingerprint():
    with (
        opened("sample:?sessions=1") as small,
        opened("sample:?sessions=3&seed=0") as large,
        opened("sample:?seed=1&sessions=3") as other,
    ):
        few, many = list(small.list_ids(MAIN)), list(large.list_ids(MAIN))
        assert 0 < len(few) < len(many)
        assert set(few) < set(many)
        assert set(many).isdisjoint(other.list_ids(MAIN))
        assert len({source.name for source in (small, large, other)}) == 3
        assert len({source.fingerprint(MAIN) for source in (small, large, other)}) == 3


def test_closing_the_sample_removes_its_files(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with opened("sample:?sessions=1") as sample:
        assert sample.list_collections()
        assert list(tmp_path.iterdir())
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_sample_that_cannot_be_written_is_never_read_in_part(monkeypatch):
    def fail(folder, **_options):
        write_dump(folder, [{"_id": "a"}])
        raise OSError(28, "No space left on device")

    with opened("sample:?sessions=1") as sample:
        with monkeypatch.context() as patch:
            patch.setattr("aind_etl.sample.write_world", fail)
            with pytest.raises(OSError, match="No space left"):
                sample.list_collections()
        assert len(list(sample.list_ids(MAIN))) > 1


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
def test_an_invalid_sample_address_is_an_error_that_shows_it(address):
    with pytest.raises(ConfigurationError, match="is not understood") as raised:
        opened(address)
    assert address in str(raised.value)


def test_an_unknown_scheme_is_an_error_that_shows_no_password():
    with pytest.raises(ConfigurationError, match="redis://") as raised:
        opened("redis://user:secret@server/analysis")
    assert "secret" not in str(raised.value)
    assert "sample:" in str(raised.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [("nowhere", "is not a folder"), ("notes.txt", "is not a folder"), ("", "holds no dump")],
)
def test_a_path_without_a_dump_is_an_error_that_shows_it(tmp_path, name, problem):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ConfigurationError, match=f"{tmp_path / name}' {problem}"):
        opened(str(tmp_path / name))


def test_the_error_for_the_folder_above_a_dump_has_a_hint(tmp_path, sample_dump):
    (tmp_path / "analysis").symlink_to(sample_dump)
    with pytest.raises(ConfigurationError, match="Its folders are analysis: did you mean"):
        opened(str(tmp_path))
