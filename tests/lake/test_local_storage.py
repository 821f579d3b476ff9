"""The lake's storage on a disk: files that appear whole, staging, locks of the system."""

import os
import signal
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import BinaryIO

import pytest
from places import content

from aind_etl.errors import ConfigurationError, DataError
from aind_etl.lake.storage.local import LocalStorage

NAME = "analyses/collection=a/part.parquet"


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "lake")


def staged(storage: LocalStorage) -> list[str]:
    return sorted(path.name for path in storage.path("_staging").glob("*"))


# --- files ------------------------------------------------------------------------------------


def test_nothing_is_created_before_something_is_written(storage):
    storage.files("analyses", ".parquet")
    storage.clear_staging()
    assert not storage.remove(NAME)
    assert not storage.root.exists()


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "lake").write_text("a file")
    with pytest.raises(ConfigurationError, match="is a file; name a folder"):
        LocalStorage(tmp_path / "lake")


def test_a_reader_keeps_reading_the_file_it_opened(storage):
    storage.write(NAME, content(b"old"))
    with storage.path(NAME).open("rb") as reader:
        storage.write(NAME, content(b"new"))
        assert reader.read() == b"old"
    assert storage.read(NAME) == b"new"


def test_only_existing_files_are_listed(storage):
    storage.write(NAME, content(b"x"))
    folder = storage.path(NAME).parent
    # As if it vanished while the folder is listed.
    (folder / "vanished.parquet").symlink_to("nowhere")
    (folder / "folder.parquet").mkdir()
    assert list(storage.files("", ".parquet")) == [NAME]


def test_a_file_is_not_visible_before_it_is_complete(storage):
    seen: list[tuple[bytes | None, list[str]]] = []

    def look(file: BinaryIO) -> None:
        file.write(b"half")
        file.flush()
        seen.append((storage.read(NAME), list(storage.files("", ".parquet"))))

    storage.write(NAME, look)
    assert seen == [(None, [])]
    assert staged(storage) == []


def test_a_file_is_on_the_disk_before_its_name_is(storage, monkeypatch):
    steps: list[str] = []
    replace = os.replace

    def note_sync(handle: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")

    def note_replace(source: Path, target: Path) -> None:
        steps.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    storage.write(NAME, content(b"one"))
    assert steps == ["file", "rename", "folder"]


def test_a_file_written_into_a_folder_while_it_is_removed_is_kept(storage, monkeypatch):
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


def test_files_of_killed_processes_are_cleared_and_those_of_living_ones_are_not(storage):
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
            "LocalStorage(Path(sys.argv[1])).clear_staging('extract-a', 'raw-hashes-a')"
        )
        subprocess.run([sys.executable, "-c", program, str(storage.root)], check=True)
        file.write(b"whole")

    storage.write(NAME, write)
    assert storage.read(NAME) == b"whole"
    assert staged(storage) == ["begun.new", "notes.txt", "refresh-a"]


def test_scratch_is_empty_at_first_and_removed_afterwards(storage):
    left = storage.path("_staging/refresh-a/left.arrow")
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a run that was killed")
    with suppress(DataError), storage.scratch("refresh-a") as folder:
        assert list(folder.iterdir()) == []
        (folder / "mine.arrow").write_bytes(b"x")
        raise DataError("stop")
    assert staged(storage) == []


# --- locks ------------------------------------------------------------------------------------

HOLD = dedent("""\
    import sys, time
    from pathlib import Path
    from aind_etl.lake.storage.local import LocalStorage

    with LocalStorage(Path(sys.argv[1])).lock("collection=a", "the collection 'a'"):
        print("held", flush=True)
        time.sleep(600)
""")


def test_the_lock_of_another_process_names_it_and_is_free_when_that_is_killed(storage):
    def lock() -> None:
        with storage.lock("collection=a", "the collection 'a'"):
            text = storage.path("_locks/collection=a.holder").read_text()
            assert f"process {os.getpid()}" in text

    command = [sys.executable, "-c", HOLD, str(storage.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="writing the collection 'a'") as refused:
            lock()
        assert f"process {holder.pid} on {os.uname().nodename}" in str(refused.value)
        storage.path("_locks/collection=a.holder").unlink()
        with pytest.raises(DataError, match="unknown process"):
            lock()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    lock()


def test_other_users_can_read_the_files(storage):
    umask = os.umask(0o022)
    try:
        storage.write(NAME, content(b"x"))
    finally:
        os.umask(umask)
    assert stat.S_IMODE(storage.path(NAME).stat().st_mode) == 0o644
