"""A run that is killed at any moment and repeated leaves the same as one that was not killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from textwrap import dedent

import dagster as dg
import polars as pl
import pytest
from disk import ClearedDisk, FullDisk
from places import OnDisk, Places
from worlds import (
    MAIN,
    JsonDocument,
    assert_same,
    contents_of,
    files_of,
    load,
    loaded_lake,
    read_dump,
    tables_of,
    write_dump,
)

import aind_etl.changelog.comparison
import aind_etl.changelog.log_writer
import aind_etl.changelog.passes
import aind_etl.flatten.refresh
from aind_etl.contract import tables
from aind_etl.flatten import Flattened, flatten_documents
from aind_etl.flatten.refresh import refresh_analyses
from aind_etl.lake import Lake
from aind_etl.warehouse.connection import connect

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Scenario:
    """The folder of a lake before a run, the source, and the run."""

    before: Path
    dump: Path
    run: Callable[[Lake], object]

    def lake(self, places: Places) -> Lake:
        """Return the lake as it is before the run."""
        return places.copy(self.before)

    def run_killed_at(self, places: Places, lake: Lake, operation: int) -> bool:
        """Run until killed at an operation; return whether the run came to that operation."""
        with places.killed_at(operation) as mortal:
            self.run(lake)
        return mortal.is_dead


@pytest.fixture(autouse=True)
def _flattened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flatten the same documents once per test: it takes most of a run's time, and no disk."""
    made: dict[tuple[object, ...], Flattened] = {}

    def flatten_once(collection: str, documents: pl.DataFrame) -> Flattened:
        key = (collection, *documents.iter_rows())
        if key not in made:
            made[key] = flatten_documents(collection, documents)
        return made[key]

    monkeypatch.setattr(aind_etl.flatten.refresh, "flatten_documents", flatten_once)


@pytest.fixture
def few(sample_dump: Path) -> list[JsonDocument]:
    """Return documents of both formats, those of the older one in one month, the last broken."""
    documents = read_dump(sample_dump)
    older = [one for one in documents if "analysis_results" in one and one["session_date"]]
    of_a_month = [one for one in older if one["session_date"][:7] == older[0]["session_date"][:7]]
    newer = [one for one in documents if "processing" in one]
    return [*of_a_month[:5], newer[0], older[-1] | {"subject_id": 5}]


@pytest.fixture
def dump(few: list[JsonDocument], tmp_path: Path) -> Path:
    """Return the folder of a dump of the documents."""
    write_dump(tmp_path / "dump", few)
    return tmp_path / "dump"


@pytest.fixture
def first_load(dump: Path, tmp_path: Path) -> Scenario:
    """Return a first load."""
    (tmp_path / "before").mkdir()
    return Scenario(tmp_path / "before", dump, lambda lake: load(dump, lake))


@pytest.fixture
def second_load(few: list[JsonDocument], dump: Path, tmp_path: Path) -> Scenario:
    """Return a load with documents new, gone, changed, moved, repaired and broken."""
    new, gone, moved, updated, *rest = few
    write_dump(dump, [gone, moved, updated, *rest])
    write_dump(dump, [gone], "another")
    loaded_lake(dump, tmp_path / "before")
    *framework, broken = deepcopy(rest)
    broken["subject_id"] = "5"
    framework[-1]["processing"] = {}
    moved = moved | {"session_date": "2031-01-01"}
    updated = updated | {"status": "another"}
    write_dump(dump, [updated, new, *framework, broken, moved])
    write_dump(dump, [], "another")
    return Scenario(tmp_path / "before", dump, lambda lake: load(dump, lake))


@pytest.fixture
def another_flattener(
    dump: Path, tmp_path: Path, load_as_before: Callable[[Path, Lake], None]
) -> Scenario:
    """Return a load that flattens everything again, because the code has changed."""
    load_as_before(dump, Lake(tmp_path / "before"))
    return Scenario(tmp_path / "before", dump, lambda lake: load(dump, lake))


@pytest.fixture
def rebuild(dump: Path, tmp_path: Path) -> Scenario:
    """Return the rebuild of tables whose files are damaged or gone."""
    lake = loaded_lake(dump, tmp_path / "before")
    for table in (tables.ANALYSES, tables.ATTRIBUTES):
        first, *_, last = lake.tables.files(table)
        first.write_bytes(first.read_bytes()[:-50])
        last.unlink()
    return Scenario(
        tmp_path / "before", dump, lambda lake: refresh_analyses(lake, MAIN, rebuild=True)
    )


ON_A_DISK = pytest.mark.parametrize("places", ["disk"], indirect=True)
ON_EACH = pytest.mark.parametrize(
    "places", ["disk", pytest.param("object store", marks=pytest.mark.long)], indirect=True
)
SCENARIOS = pytest.mark.parametrize(
    "name", ["first_load", "second_load", "another_flattener", "rebuild"]
)


@pytest.fixture
def scenario(request: pytest.FixtureRequest, name: str) -> Scenario:
    return request.getfixturevalue(name)


@pytest.fixture
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(aind_etl.changelog.comparison, "COMPARED_DOCUMENTS", 5)
    monkeypatch.setattr(aind_etl.changelog.log_writer, "_BATCH_BYTES", 1)


@pytest.fixture
def undisturbed(scenario: Scenario, places: Places) -> Lake:
    lake = scenario.lake(places)
    scenario.run(lake)
    assert places.files(lake) != places.files(scenario.lake(places))
    return lake


@pytest.mark.usefixtures("_small_batches")
@SCENARIOS
@ON_EACH
def test_a_run_killed_at_any_operation_and_repeated_leaves_the_same_bytes(
    scenario, places, undisturbed
):
    expect_the_same_when_killed_at(count(1), scenario, places, undisturbed)


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("places", ["object store"], indirect=True)
@pytest.mark.parametrize("name", ["second_load"])
def test_a_run_killed_at_some_requests_and_repeated_leaves_the_same_objects(
    scenario, places, undisturbed
):
    expect_the_same_when_killed_at(count(5, 20), scenario, places, undisturbed)


def expect_the_same_when_killed_at(
    operations: Iterable[int], scenario: Scenario, places: Places, undisturbed: Lake
) -> None:
    """Kill a run at each operation, repeat it and compare, until a run comes to its end."""
    expected = places.files(undisturbed)
    before = places.files(scenario.lake(places))
    written = [name for name, content in expected.items() if before.get(name) != content]
    for operation in operations:
        lake = scenario.lake(places)
        if not scenario.run_killed_at(places, lake, operation):
            break
        scenario.run(lake)
        assert places.files(lake) == expected, f"killed at operation {operation}"
        places.remove(lake)
    # On a store, a file is one operation, and a rebuild writes four files.
    least = 10 if isinstance(places, OnDisk) else min(10, len(written))
    assert operation > least > 0


@SCENARIOS
@ON_EACH
def test_a_run_killed_twice_and_repeated_leaves_the_same_tables(scenario, places, undisturbed):
    expected = tables_of(undisturbed)
    for first, second in ((3, 2), (9, 9), (20, 5), (20, 19), (35, 3)):
        lake = scenario.lake(places)
        scenario.run_killed_at(places, lake, first)
        scenario.run_killed_at(places, lake, second)
        scenario.run(lake)
        assert_same(tables_of(lake), expected)


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("name", ["second_load", "rebuild"])
@ON_A_DISK
def test_a_run_repeated_after_the_disk_was_full_leaves_the_same_bytes(
    scenario, places, undisturbed
):
    expected = places.files(undisturbed)
    for full_at in count(1, 11):
        lake = scenario.lake(places)
        with pytest.MonkeyPatch.context() as patch:
            disk = FullDisk(patch, full_at)
            with suppress(OSError):
                scenario.run(lake)
        if not disk.is_full:
            break
        scenario.run(lake)
        assert places.files(lake) == expected, f"no room for number {full_at}"
        places.remove(lake)
    assert full_at > 10


@pytest.mark.usefixtures("_small_batches")
@pytest.mark.parametrize("name", ["second_load"])
@ON_A_DISK
def test_a_lake_removed_during_a_run_is_loaded_again_by_the_next(scenario, places, tmp_path):
    expected = contents_of(loaded_lake(scenario.dump, tmp_path / "undisturbed"))
    for cleared_at in count(1, 11):
        lake = scenario.lake(places)
        with pytest.MonkeyPatch.context() as patch:
            disk = ClearedDisk(patch, lake.storage.root, cleared_at)
            with suppress(Exception):
                scenario.run(lake)
        if not disk.is_cleared:
            break
        scenario.run(lake)
        assert_same(contents_of(lake), expected)
        places.remove(lake)
    assert cleared_at > 10


def test_tables_of_a_lost_change_log_are_rebuilt(few, dump, tmp_path):
    lake = loaded_lake(dump, tmp_path / "lake")
    write_dump(dump, few[2:])
    expected = contents_of(loaded_lake(dump, tmp_path / "undisturbed"))
    shutil.rmtree(lake.storage.root / tables.DOCUMENTS.name)
    load(dump, lake)
    assert_same(contents_of(lake), expected)


@pytest.mark.parametrize("name", ["first_load", "second_load", "another_flattener"])
@ON_EACH
def test_a_run_killed_before_the_source_changes_leaves_no_trace(scenario, places, few, tmp_path):
    lakes = []
    for operation in (8, 16, 24, 32):
        lakes.append(scenario.lake(places))
        scenario.run_killed_at(places, lakes[-1], operation)
    first, second, *rest = few
    write_dump(scenario.dump, [second | {"session_date": "2015-05-05"}, *rest[1:], first])
    expected = contents_of(loaded_lake(scenario.dump, tmp_path / "undisturbed"))
    for lake in lakes:
        load(scenario.dump, lake)
        assert_same(contents_of(lake), expected)


@pytest.mark.parametrize("name", ["first_load", "second_load"])
@ON_EACH
def test_a_lake_can_be_read_after_a_killed_run(scenario, places):
    before = tables_of(Lake(scenario.before))[tables.DOCUMENTS.name].height
    for operation in range(1, 60, 7):
        lake = scenario.lake(places)
        is_killed = scenario.run_killed_at(places, lake, operation)
        found = tables_of(lake)
        assert found[tables.DOCUMENTS.name].height >= before
        assert not [name for name in places.files(lake) if name.endswith(".tmp")]
        if not is_killed:
            break


# --- the real thing -----------------------------------------------------------------------------

LOAD = dedent("""\
    import sys
    from pathlib import Path
    from worlds import load
    from aind_etl.lake import Lake

    load(Path(sys.argv[1]), Lake(Path(sys.argv[2])))
""")


def kill_once(command: list[str], lake: Path, files: int) -> bool:
    """Start a run and kill it when the lake has so many files; return whether it was killed."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "support")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=-1) as run:
        while run.poll() is None and sum(len(names) for *_, names in os.walk(lake)) < files:
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.communicate()
    return run.returncode == -signal.SIGKILL


def test_a_run_repairs_what_a_process_killed_at_any_moment_left(built, tmp_path):
    expected = files_of(built.lake.storage.root)
    killed = 0
    for files in (1, 5, 14, 40, 90):
        lake = Lake(tmp_path / str(files))
        command = [sys.executable, "-c", LOAD, str(built.source), str(lake)]
        killed += kill_once(command, lake.storage.root, files)
        # A file that was not yet locked is removed when it is an hour old.
        for path in lake.storage.path("_staging").glob("*.new"):
            os.utime(path, (0, 0))
        load(built.source, lake)
        assert files_of(lake.storage.root) == expected, f"killed at {files} files"
        assert list(lake.storage.path("_staging").iterdir()) == []
    assert killed > 2


def test_the_command_killed_and_repeated_makes_the_same_lake_and_warehouse(
    dump, tmp_path, monkeypatch
):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    expected = loaded_lake(dump, tmp_path / "undisturbed")
    lake = Lake(tmp_path / "lake")
    command = [
        *(sys.executable, "-c", "from aind_etl.cli import main; main()"),
        *("run", "--no-results", "--source", str(dump), "--lake", str(lake)),
    ]
    assert kill_once(command, lake.storage.root, 12)
    assert not (lake.storage.root / "warehouse.duckdb").exists()
    subprocess.run(command, check=True, capture_output=True)
    assert_same(contents_of(lake), contents_of(expected))
    with connect(lake.storage.root / "warehouse.duckdb") as connection:
        for table in (tables.DOCUMENTS, tables.ANALYSES, tables.ATTRIBUTES):
            found = connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()
            assert found == (expected.tables.count_rows(table),)
    with dg.DagsterInstance.get() as instance:
        statuses = [run.status for run in instance.get_runs()]
    assert statuses.count(dg.DagsterRunStatus.FAILURE) == 1, "the one that was killed"
    assert set(statuses) == {dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS}
