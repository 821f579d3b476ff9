"""What the lake relies on, on a disk and on an object store: whole files, and locks."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from traceback import format_exception
from typing import BinaryIO, TypeAlias

import pytest
import s3fs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from object_store import new_prefix
from places import content

from aind_etl.errors import DataError
from aind_etl.lake.storage import open_storage
from aind_etl.lake.storage.local import LocalStorage
from aind_etl.lake.storage.object_store import ObjectStorage

AnyStorage: TypeAlias = LocalStorage | ObjectStorage

NAME = "analyses/collection=a/part.parquet"


@pytest.fixture(params=["disk", pytest.param("object store", marks=pytest.mark.slow)])
def new_storage(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], AnyStorage]:
    """Return a function that makes an empty storage."""
    if request.param == "disk":
        return lambda: LocalStorage(tmp_path_factory.mktemp("storage") / "lake")
    request.getfixturevalue("endpoint")
    return lambda: ObjectStorage(new_prefix())


@pytest.fixture
def storage(new_storage: Callable[[], AnyStorage]) -> AnyStorage:
    return new_storage()


def own_files(storage: AnyStorage) -> list[str]:
    return [name for name in storage.files("", "") if not name.startswith("_")]


def test_a_written_file_is_read_and_listed(storage):
    assert storage.read(NAME) is None
    assert not storage.exists(NAME)
    assert storage.write(NAME, content(b"one"))
    assert storage.write("analyses/other.parquet", content(b"second"))
    assert storage.write("analyses/note.txt", content(b"three"))
    assert storage.read(NAME) == b"one"
    assert storage.path(NAME).read_bytes() == b"one"
    files = storage.files("analyses", ".parquet")
    assert list(files) == [NAME, "analyses/other.parquet"]
    assert [file.size for file in files.values()] == [3, 6]
    assert storage.files("nowhere", ".parquet") == {}


def test_the_same_content_leaves_the_file_as_it_is(storage):
    def identity() -> object:
        if isinstance(storage, ObjectStorage):
            return s3fs.S3FileSystem().info(storage.path(NAME), refresh=True)
        facts = storage.path(NAME).stat()
        return facts.st_ino, facts.st_mtime_ns

    storage.write(NAME, content(b"same"))
    before = identity()
    assert not storage.write(NAME, content(b"same"))
    assert identity() == before
    assert own_files(storage) == [NAME]


def test_other_content_replaces_the_file_and_changes_its_mark(storage):
    storage.write(NAME, content(b"same"))
    marks = [storage.files("analyses", "")[NAME].mark]
    for other in (b"", b"SAME", b"sam", b"same "):
        assert storage.write(NAME, content(other))
        assert storage.read(NAME) == other
        marks.append(storage.files("analyses", "")[NAME].mark)
    assert len(set(marks)) == len(marks)


def test_a_failed_write_leaves_the_old_file(storage):
    storage.write(NAME, content(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.write(NAME, fail)
    assert storage.read(NAME) == b"old"
    assert own_files(storage) == [NAME]
    assert storage.files("_staging", "") == {}


def test_a_file_that_may_not_be_replaced_is_left_and_named(storage):
    assert storage.write(NAME, content(b"first"), replace=False)
    with pytest.raises(DataError, match=r"part\.parquet was written by another run"):
        storage.write(NAME, content(b"second"), replace=False)
    assert storage.read(NAME) == b"first"


def test_an_error_of_the_store_is_one_message_without_its_cause(monkeypatch):
    def refuse(*_arguments: object) -> bytes:
        raise PermissionError("the key AKIA0 of the user")

    storage = ObjectStorage("memory://lakes/lake")
    monkeypatch.setattr(type(storage._store), "cat_file", refuse)
    with pytest.raises(DataError, match="refuses to read 'state'") as raised:
        storage.read("state")
    assert "AKIA0" not in "".join(format_exception(raised.value))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from(["a/1", "a/2", "a/b/1", "c/1"]), st.none() | st.binary(max_size=3)
        ),
        max_size=12,
    )
)
def test_files_are_as_the_last_write_or_removal_left_them(new_storage, writes):
    storage = new_storage()
    expected: dict[str, bytes] = {}
    for name, text in writes:
        if text is None:
            assert storage.remove(name) == (expected.pop(name, None) is not None)
        else:
            assert storage.write(name, content(text)) == (expected.get(name) != text)
            expected[name] = text
    assert {name: storage.read(name) for name in own_files(storage)} == expected
    if isinstance(storage, LocalStorage):
        needed = {parent for name in expected for parent in storage.path(name).parents}
        folders = {path for path in storage.root.rglob("*") if path.is_dir()}
        assert {path for path in folders if path.name[0] != "_"} <= needed


def test_a_lock_that_its_thread_holds_is_refused_at_once_and_free_afterwards(storage):
    with storage.lock("a", "it"):
        with storage.lock("b", "another"):
            pass
        with (
            pytest.raises(DataError, match=r"is writing it .*this process itself"),
            storage.lock("a", "it", wait_seconds=60),
        ):
            pass
    with pytest.raises(KeyError), storage.lock("a", "it"):
        raise KeyError
    with storage.lock("a", "it"):
        pass
    assert own_files(storage) == []


def test_a_lock_of_another_thread_names_its_process_and_can_be_waited_for(storage):
    order = []
    taken, refused = threading.Event(), threading.Event()

    def first() -> None:
        with storage.lock("a", "it"):
            taken.set()
            refused.wait(60)
            order.append("first")

    with ThreadPoolExecutor(1) as thread:
        thread.submit(first)
        taken.wait()
        with (
            pytest.raises(DataError, match=rf"writing it \(process {os.getpid()} on"),
            storage.lock("a", "it"),
        ):
            pass
        refused.set()
        with storage.lock("a", "it", wait_seconds=60):
            order.append("second")
    assert order == ["first", "second"]


def test_of_many_threads_one_gets_the_lock(storage):
    gate, done = threading.Barrier(6), threading.Barrier(6)

    def race(_: int) -> bool:
        gate.wait()
        try:
            with open_storage(storage.root).lock("a", "it"):
                done.wait()
        except DataError:
            done.wait()
            return False
        return True

    with ThreadPoolExecutor(6) as racers:
        assert sum(racers.map(race, range(6))) == 1
