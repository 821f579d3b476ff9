"""The file operations below the lake: whole files, staging, locks."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from textwrap import dedent
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake.storage.local import LocalStorage

NAME = "analyses/collection=a/part.parquet"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "lake")


def content(text: bytes) -> Callable[[BinaryIO], None]:
    def write(file: BinaryIO) -> None:
        file.write(text)

    return write


def staged(storage: LocalStorage) -> list[str]:
    return sorted(path.name for path in storage.path("_staging").glob("*"))


def gone_process() -> int:
    """Return the number of a process that has ended."""
    return int(subprocess.check_output([sys.executable, "-c", "import os; print(os.getpid())"]))


# --- files ------------------------------------------------------------------------------------


def test_what_was_written_is_read_and_listed(storage: LocalStorage) -> None:
    assert storage.write(NAME, content(b"one"))
    assert storage.write("analyses/other.parquet", content(b"two"))
    assert storage.write("analyses/note.txt", content(b"three"))
    assert storage.read(NAME) == b"one"
    assert storage.path(NAME).read_bytes() == b"one"
    assert storage.files("analyses", ".parquet") == [NAME, "analyses/other.parquet"]
    assert storage.files("nowhere", ".parquet") == []


def test_a_file_that_is_not_there_reads_as_none(storage: LocalStorage) -> None:
    assert storage.read(NAME) is None
    assert storage.read("no/folder/either") is None


def test_nothing_is_made_on_the_disk_before_something_is_written(storage: LocalStorage) -> None:
    storage.files("analyses", ".parquet")
    storage.clear_staging()
    assert not storage.remove(NAME)
    assert not storage.root.exists()


def test_a_file_instead_of_the_folder_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(ConfigurationError, match="is a file; name a folder"):
        LocalStorage(tmp_path / "lake")


def test_the_same_content_leaves_the_file_alone(storage: LocalStorage) -> None:
    storage.write(NAME, content(b"same"))
    before = storage.path(NAME).stat()
    assert not storage.write(NAME, content(b"same"))
    after = storage.path(NAME).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert staged(storage) == []


@pytest.mark.parametrize("other", [b"", b"SAME", b"sam", b"same "])
def test_any_other_content_replaces_the_file(storage: LocalStorage, other: bytes) -> None:
    storage.write(NAME, content(b"same"))
    assert storage.write(NAME, content(other))
    assert storage.read(NAME) == other
    assert staged(storage) == []


def test_a_reader_keeps_the_file_it_opened(storage: LocalStorage) -> None:
    storage.write(NAME, content(b"old"))
    with storage.path(NAME).open("rb") as reader:
        storage.write(NAME, content(b"new"))
        assert reader.read() == b"old"
    assert storage.read(NAME) == b"new"


def test_a_write_that_fails_leaves_the_old_file(storage: LocalStorage) -> None:
    storage.write(NAME, content(b"old"))

    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        storage.write(NAME, fail)
    assert storage.read(NAME) == b"old"
    assert storage.files("analyses", "") == [NAME]
    assert storage.write(NAME, content(b"new"))
    assert staged(storage) == []


def test_nobody_sees_a_file_before_it_is_whole(storage: LocalStorage) -> None:
    seen: list[tuple[bytes | None, list[str]]] = []

    def look(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        seen.append((storage.read(NAME), storage.files("", ".parquet")))

    storage.write(NAME, look)
    assert seen == [(None, [])]


def test_a_long_name_can_be_written(storage: LocalStorage) -> None:
    name = f"analyses/collection={'%2F' * 70}/session_month=2024-10/part.parquet"
    assert storage.write(name, content(b"x"))
    assert storage.read(name) == b"x"


def test_removing_a_file_removes_the_folders_it_leaves_empty_and_no_others(
    storage: LocalStorage,
) -> None:
    one = "analyses/collection=a/session_month=2024-10/part.parquet"
    other = "analyses/collection=b/session_month=2024-10/part.parquet"
    storage.write(one, content(b"1"))
    storage.write(other, content(b"2"))
    assert storage.remove(one)
    assert not storage.path("analyses/collection=a").exists()
    assert storage.read(other) == b"2"
    assert not storage.remove(one)
    assert storage.remove(other)
    assert not storage.path("analyses").exists()
    assert storage.root.is_dir()


def test_a_file_that_comes_into_a_folder_while_it_is_emptied_is_kept(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "analyses/collection=b/part.parquet"
    storage.write(NAME, content(b"1"))
    remove_folder = os.rmdir

    def interleaved(path: Path, **options: int) -> None:
        if path == storage.path("analyses"):
            storage.write(other, content(b"2"))
        remove_folder(path, **options)

    monkeypatch.setattr(os, "rmdir", interleaved)
    assert storage.remove(NAME)
    assert storage.read(other) == b"2"


# --- staging ----------------------------------------------------------------------------------


def test_what_killed_processes_left_is_cleared_and_what_living_ones_write_is_not(
    storage: LocalStorage,
) -> None:
    folder = storage.path("_staging")
    folder.mkdir(parents=True)
    (folder / "left.tmp").write_bytes(b"left")
    (folder / "begun.new").write_bytes(b"in use")
    (folder / "old.new").write_bytes(b"left")
    os.utime(folder / "old.new", (0, 0))
    (folder / "notes.txt").write_bytes(b"of somebody else")
    (folder / "refresh-a").mkdir()
    (folder / "extract-a").mkdir()
    (folder / "extract-a" / "left.arrow").write_bytes(b"left")

    def write(file: BinaryIO) -> None:
        # In another process and another namespace of processes, as another container has.
        program = (
            "import sys; from pathlib import Path; "
            "from aind_etl.lake.storage.local import LocalStorage; "
            "LocalStorage(Path(sys.argv[1])).clear_staging('extract-a', 'recognise-a')"
        )
        subprocess.run([sys.executable, "-c", program, str(storage.root)], check=True)
        file.write(b"whole")

    storage.write(NAME, write)
    assert storage.read(NAME) == b"whole"
    assert staged(storage) == ["begun.new", "notes.txt", "refresh-a"]


def test_a_lock_that_a_thread_takes_twice_is_an_error_at_once(storage: LocalStorage) -> None:
    with storage.lock("a", "something"):
        with storage.lock("b", "something else"):
            pass
        again = storage.lock("a", "something", wait_seconds=60)
        with pytest.raises(DataError, match="this process itself"), again:
            pass
    with storage.lock("a", "something"):
        pass


def test_scratch_is_empty_at_first_and_gone_afterwards(storage: LocalStorage) -> None:
    left = storage.path("_staging/refresh-a/left.arrow")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a run that was killed")
    with storage.scratch("refresh-a") as folder:
        assert list(folder.iterdir()) == []
        (folder / "mine.arrow").write_bytes(b"x")
    assert staged(storage) == []


def test_scratch_is_gone_after_an_error(storage: LocalStorage) -> None:
    with suppress(DataError), storage.scratch("refresh-a") as folder:
        (folder / "mine.arrow").write_bytes(b"x")
        raise DataError("stop")
    assert staged(storage) == []


@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from(["a/1", "a/2", "a/b/1", "c/1"]), st.none() | st.binary(max_size=3)
        )
    )
)
def test_files_are_as_the_last_write_or_removal_left_them(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, bytes | None]]
) -> None:
    storage = LocalStorage(tmp_path_factory.mktemp("files"))
    expected: dict[str, bytes] = {}
    for name, text in writes:
        if text is None:
            assert storage.remove(name) == (expected.pop(name, None) is not None)
        else:
            assert storage.write(name, content(text)) == (expected.get(name) != text)
            expected[name] = text
    found = {name: storage.read(name) for name in storage.files("", "") if name[0] != "_"}
    assert found == expected
    folders = {path for path in storage.root.rglob("*") if path.is_dir() and path.name[0] != "_"}
    needed = {parent for name in expected for parent in storage.path(name).parents}
    assert folders <= needed


# --- locks ------------------------------------------------------------------------------------

HOLD = dedent("""\
    import sys, time
    from pathlib import Path
    from aind_etl.lake.storage.local import LocalStorage

    with LocalStorage(Path(sys.argv[1])).lock("collection=a", "the collection 'a'"):
        print("held", flush=True)
        time.sleep(600)
""")


@contextmanager
def other_holder(root: Path) -> Iterator[subprocess.Popen[str]]:
    """Give another process that holds the lock."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root)], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_whoever_finds_a_lock_taken_is_told_by_whom(storage: LocalStorage) -> None:
    with (
        other_holder(storage.root) as holder,
        pytest.raises(DataError) as refused,
        storage.lock("collection=a", "the collection 'a'"),
    ):
        pass
    assert f"process {holder.pid} on {os.uname().nodename}" in str(refused.value)
    assert "the collection 'a'" in str(refused.value)


def test_the_lock_of_a_killed_process_is_free(storage: LocalStorage) -> None:
    with other_holder(storage.root) as holder:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with storage.lock("collection=a", "the collection 'a'"):
            text = storage.path("_locks/collection=a.holder").read_text()
    assert f"process {os.getpid()}" in text


def test_a_lock_refuses_this_process_too_and_is_free_afterwards(storage: LocalStorage) -> None:
    with storage.lock("a", "it"):
        with pytest.raises(DataError, match="Another run is writing it"), storage.lock("a", "it"):
            pass
        with storage.lock("b", "another"):
            pass
    with pytest.raises(KeyError), storage.lock("a", "it"):
        raise KeyError
    with storage.lock("a", "it"):
        pass


def test_a_lock_is_refused_even_where_its_holder_is_not_written_down(
    storage: LocalStorage,
) -> None:
    with other_holder(storage.root):
        storage.path("_locks/collection=a.holder").unlink()
        with (
            pytest.raises(DataError, match="unknown process"),
            storage.lock("collection=a", "the collection 'a'"),
        ):
            pass


def test_files_can_be_read_by_others(storage: LocalStorage) -> None:
    umask = os.umask(0o022)
    try:
        storage.write(NAME, content(b"x"))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(storage.path(NAME).stat().st_mode) == 0o644
