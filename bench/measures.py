"""The measures of ``make bench``: what is run, what it is compared with, and the targets.

``compare.py`` runs them and writes the results down.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
from measuring import Figures, others, ours, run
from serving import serving
from trials import LATENCY_SECONDS, ResultFiles
from world import Original, Sizes, insert, originals

Commands = tuple[list[str], list[str]]
SUBJECTS = 5
"""Number of subjects that a notebook asks for, one after the other."""


@dataclass(frozen=True)
class World:
    """A database, and what was made from it.

    ``gateway`` is the URL of a gateway to the database, and ``store`` that of an S3 endpoint with
    the result files; each where a measure needs it.
    """

    source: str
    folder: Path
    gateway: str = ""
    result_files: ResultFiles | None = None
    store: str = ""

    @property
    def loaded(self) -> Path:
        """A lake that holds the database, with its warehouse."""
        return self.folder / "loaded"

    @property
    def fresh(self) -> Path:
        """An empty place for a lake, or for a copy of the loaded one."""
        return self.folder / "fresh"

    @property
    def canonical(self) -> Path:
        """The documents as canonical JSON, in a parquet file."""
        return self.folder / "canonical.parquet"

    @property
    def warehouse(self) -> Path:
        """The warehouse of the loaded lake."""
        return self.loaded / "warehouse.duckdb"

    def empty(self) -> None:
        """Remove the fresh lake."""
        shutil.rmtree(self.fresh, ignore_errors=True)

    def copy(self) -> None:
        """Copy the loaded lake as hard links, since no file of a lake is written in place."""
        self.empty()
        shutil.copytree(self.loaded, self.fresh, copy_function=os.link)


@dataclass(frozen=True)
class Target:
    """A bound, with ``sign`` ≥ or ≤, of a figure derived from those of both sides."""

    of: Callable[[Figures, Figures], float]
    unit: str
    sign: str
    number: float

    @property
    def bound(self) -> str:
        """The bound as text."""
        return f"{self.sign} {self.number:g}{self.unit}"

    def is_reached(self, value: float) -> bool:
        """Return whether a value is within the bound."""
        return value >= self.number if self.sign == "≥" else value <= self.number


@dataclass(frozen=True)
class Measure:
    """One comparison.

    ``prepare`` runs before both sides. Where ``has_answers``, both sides must give the same
    answer. Where ``is_rehearsed``, the measure first runs on the smallest world, and is timed only
    if the answers agree there. ``runs`` are the runs of each side where they are not as many as
    for other measures.
    """

    name: str
    against: str
    world: str
    commands: Callable[[World], Commands]
    targets: tuple[Target, ...]
    prepare: Callable[[World], object] = lambda _: None
    has_answers: bool = True
    is_rehearsed: bool = True
    runs: tuple[int | None, int | None] = (None, None)


def _ratio(name: str) -> Callable[[Figures, Figures], float]:
    return lambda one, other: one[name] / max(other[name], 1e-9)


def _faster(name: str) -> Callable[[Figures, Figures], float]:
    """Return the ratio of documents per second."""
    return lambda one, other: (one["documents"] / one[name]) / (other["documents"] / other[name])


SPEED, PROCESSOR_SPEED = _faster("wall_seconds"), _faster("cpu_seconds")
TIME, PROCESSOR_TIME = _ratio("wall_seconds"), _ratio("cpu_seconds")
MEMORY = _ratio("peak_megabytes")
DOCUMENTS = " × documents/s"


@dataclass(frozen=True)
class Worlds:
    """The worlds by name, and the documents ``base`` of which theirs are copies."""

    by_name: dict[str, World]
    sizes: Sizes
    base: Sequence[Original]

    def add_documents(self, world: World) -> None:
        """Add new documents to a world and to the tenth of it, unless they were added before."""
        first = self.sizes.largest
        for one in (world, self.by_name["tenth"]):
            one.copy()
            mark = one.folder / "added"
            if not mark.exists():
                insert(one.source, self.base, first, first + self.sizes.added)
                mark.touch()

    def grow(self, world: World) -> None:
        """Fill the large world up to the size of the largest."""
        world.empty()
        insert(world.source, self.base, self.sizes.large, self.sizes.largest)


def all_measures(worlds: Worlds) -> list[Measure]:
    """Return all comparisons, in the order of the table."""
    sizes = worlds.sizes
    small, large = f"{sizes.documents:,}", f"{sizes.large:,}"

    def asking(world: World) -> Commands:
        subjects = ",".join(_subjects(world.warehouse))
        return (
            ours("model_fitting", world.warehouse, subjects),
            others("paging", world.gateway, subjects),
        )

    def reading(world: World) -> Commands:
        assert world.result_files is not None
        return (
            ours("trials", world.store, world.result_files.fresh_lake()),
            others("threads", world.store, world.result_files.dump),
        )

    def with_new_documents(world: World) -> Commands:
        tenth = worlds.by_name["tenth"]
        return (
            ours("new_documents", world.source, world.fresh),
            ours("new_documents", tenth.source, tenth.fresh),
        )

    return [
        Measure(
            f"full load, mongod to parquet and warehouse, {small}",
            "dlt 1.31 into DuckDB, the same documents",
            "plain",
            lambda w: (ours("load", w.source, w.fresh), others("dlt", w.source, w.folder / "dlt")),
            (Target(SPEED, DOCUMENTS, "≥", 50), Target(MEMORY, " × peak memory", "≤", 0.1)),
            World.empty,
            runs=(None, 1),
        ),
        *(
            Measure(
                f"`analyses` and children, mongod to parquet, {size}",
                "server-side `$project` and pymongoarrow, main columns",
                name,
                lambda world: (
                    ours("analyses", world.source, world.fresh),
                    others("project", world.source, world.folder / "project"),
                ),
                (Target(SPEED, DOCUMENTS, "≥", 1),),
                World.empty,
            )
            for name, size in (("plain", small), ("histories", f"{small} with histories"))
        ),
        Measure(
            f"full load, {large}",
            "reading raw BSON batches, doing nothing",
            "large",
            lambda w: (ours("load", w.source, w.fresh), others("raw", w.source, "-")),
            (
                Target(PROCESSOR_TIME, " × processor time", "≤", 4),
                Target(lambda one, _: one["peak_megabytes"], " MB", "≤", 1000),
            ),
            World.empty,
        ),
        Measure(
            f"full load, {sizes.largest:,}",
            f"full load, {large}",
            "largest",
            lambda world: (ours("load", world.source, world.fresh), []),
            (
                Target(MEMORY, " × peak memory", "≤", 1.1),
                Target(lambda one, _: one["peak_megabytes"], " MB", "≤", 1000),
            ),
            worlds.grow,
            has_answers=False,
            is_rehearsed=False,
            runs=(1, 0),
        ),
        Measure(
            f"*new* pass, nothing new, {large}",
            "listing the ids",
            "large",
            lambda w: (ours("new_pass", w.source, w.loaded), others("ids", w.source, "-")),
            (Target(TIME, " × time", "≤", 3),),
        ),
        Measure(
            f"*new* pass, {sizes.added} new documents, {large}",
            f"the same, {sizes.large // 10:,}",
            "large",
            with_new_documents,
            (Target(TIME, " × time", "≤", 1.5), Target(PROCESSOR_TIME, " × processor", "≤", 1.5)),
            worlds.add_documents,
            is_rehearsed=False,
        ),
        Measure(
            f"*full* pass, nothing changed, {large}",
            "reading raw BSON batches, doing nothing",
            "large",
            lambda w: (ours("full_pass", w.source, w.loaded), others("raw", w.source, "-")),
            (Target(TIME, " × time", "≤", 3),),
        ),
        *(
            Measure(
                f"flatten, from canonical JSON, {size}",
                "`pandas.json_normalize`, parsing included",
                name,
                lambda world: (
                    ours("flatten", world.canonical, "-"),
                    others("normalize", world.canonical, "-"),
                ),
                (Target(PROCESSOR_SPEED, " × documents/s of a core", "≥", 20),),
            )
            for name, size in (("plain", small), ("histories", f"{small} with histories"))
        ),
        Measure(
            f"warehouse build, with views and marts, {large}",
            "DuckDB `CREATE TABLE AS` of the same parquet",
            "large",
            lambda world: (
                ours("warehouse", "-", world.loaded),
                others("copy", world.loaded, world.folder / "copy"),
            ),
            (Target(TIME, " × time", "≤", 3),),
        ),
        Measure(
            f"fits by subject, warm, {large}, {SUBJECTS} subjects",
            "paging a REST gateway, parsed with pandas",
            "large",
            asking,
            (Target(SPEED, " × calls/s", "≥", 100),),
        ),
        Measure(
            f"trials from S3, {1000 * LATENCY_SECONDS:.0f} ms a request, "
            f"{sizes.result_files:,} records",
            "ten threads of exists, get, json.loads",
            "files",
            reading,
            (
                Target(SPEED, " × records/s", "≥", 8),
                Target(lambda one, _: 1e3 * one["cpu_seconds"] / one["documents"], " ms", "≤", 5),
            ),
        ),
        _start("--help", lambda _: ["--help"]),
        _start(
            'sql "select 1"',
            lambda world: ["sql", "select 1", "--warehouse", str(world.warehouse)],
        ),
        Measure(
            f"`analyses` and children as parquet, {small}",
            "the same rows as CSV",
            "plain",
            lambda w: (ours("parquet_size", "-", w.loaded), ours("csv_size", "-", w.loaded)),
            (Target(lambda one, other: other["bytes"] / one["bytes"], " × smaller", "≥", 10),),
            runs=(1, 1),
        ),
    ]


def _start(shown: str, arguments: Callable[[World], list[str]]) -> Measure:
    """Return the measure of how long a command takes to start."""
    etl = str(Path(sys.executable).with_name("aind-etl"))
    return Measure(
        f"`aind-etl {shown}`, from start to end",
        '`python -c "import duckdb"`',
        "plain",
        lambda world: ([etl, *arguments(world)], [sys.executable, "-c", "import duckdb"]),
        (
            Target(
                lambda one, other: one["process_seconds"] - other["process_seconds"],
                " s more",
                "≤",
                0.3,
            ),
        ),
        has_answers=False,
        runs=(7, 7),
    )


def _subjects(warehouse: Path) -> list[str]:
    """Return subjects of a warehouse, spread over the numbers of fits that subjects have."""
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        found = connection.execute(
            "SELECT subject_id FROM analyses WHERE subject_id IS NOT NULL AND "
            "analysis_name = 'MLE fitting' AND outcome = 'success' "
            "GROUP BY ALL ORDER BY count(*), subject_id"
        ).fetchall()
    step = len(found) / (SUBJECTS + 1)
    return [found[int(step * number)][0] for number in range(1, SUBJECTS + 1)]


@contextmanager
def making_worlds(
    address: str,
    folder: Path,
    documents: Sequence[dict[str, Any]],
    sizes: Sizes,
    say: Callable[[str], None],
) -> Iterator[Worlds]:
    """Give the worlds, whose documents are copies of ``documents``, with their servers running."""
    base, with_histories = originals(documents), originals(documents, with_histories=True)

    def make(name: str, count: int, copied: Sequence[Original] = base) -> World:
        say(f"Making the world {name!r} of {count:,} documents …")
        world = World(f"{address}{name}", folder / name)
        world.folder.mkdir()
        insert(world.source, copied, 0, count)
        return world

    made = {
        "rehearsal": replace(
            make("rehearsal", sizes.rehearsal),
            result_files=ResultFiles(folder / "few-files", sizes.rehearsal // 10),
        ),
        "plain": make("plain", sizes.documents),
        "histories": make("histories", sizes.documents, with_histories),
        "large": make("large", sizes.large),
        "tenth": make("tenth", max(sizes.large // 10, 50)),
    }
    say(f"Making {sizes.result_files:,} result files …")
    made["files"] = replace(
        made["rehearsal"],
        result_files=ResultFiles(folder / "many-files", sizes.result_files),
    )
    say("Loading the worlds …")
    for name in ("rehearsal", "plain", "large", "tenth"):
        run(ours("load", made[name].source, made[name].loaded))
    for name in ("rehearsal", "plain", "histories"):
        run(ours("canonical", made[name].source, made[name].canonical))
    with ExitStack() as servers:
        for name in ("rehearsal", "large"):
            url = servers.enter_context(serving("gateway", made[name].source))
            made[name] = replace(made[name], gateway=url)
        for name in ("rehearsal", "files"):
            files = made[name].result_files
            assert files is not None
            url = servers.enter_context(serving("s3", files.root, LATENCY_SECONDS))
            made[name] = replace(made[name], store=url)
        made["largest"] = made["large"]
        yield Worlds(made, sizes, base)
