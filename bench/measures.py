"""The measures of ``make bench``: what is done, what beside, and what is to be reached.

Here belongs what is measured; how it is run and written down belongs to ``compare.py``.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
from measuring import others, ours, run
from serving import serving
from trials import LATENCY_SECONDS, ResultFiles
from world import Original, Sizes, insert, originals

Figures = dict[str, float]
Commands = tuple[list[str], list[str]]
SUBJECTS = 5
"""So many are asked for, one after the other, where calls of a notebook are measured."""


@dataclass(frozen=True)
class World:
    """A database, and what was made of it.

    Attributes
    ----------
    source
        Address of the database.
    folder
        Where everything of it lies.
    smaller
        A world a tenth the size, where there is one.
    gateway
        URL of a gateway to the database, where there is one.
    result_files
        Result files, where there are some.
    store
        URL of an S3 endpoint that has them.
    """

    source: str
    folder: Path
    smaller: "World | None" = None
    gateway: str = ""
    result_files: ResultFiles | None = None
    store: str = ""

    @property
    def loaded(self) -> Path:
        """A lake that holds the database, with its warehouse."""
        return self.folder / "loaded"

    @property
    def fresh(self) -> Path:
        """Where a lake may be made, or a copy of the loaded one."""
        return self.folder / "fresh"

    @property
    def canonical(self) -> Path:
        """The documents as canonical JSON, in a parquet file."""
        return self.folder / "canonical.parquet"

    @property
    def warehouse(self) -> Path:
        """The warehouse of the loaded lake."""
        return self.loaded / "warehouse.duckdb"

    def load(self) -> None:
        """Fill the lake, and build its warehouse."""
        run(ours("load", self.source, self.loaded))

    def empty(self) -> None:
        """Leave no lake behind where one may be made."""
        shutil.rmtree(self.fresh, ignore_errors=True)

    def copy(self) -> None:
        """Make a copy of the loaded lake: of links, as no file of a lake is ever written to."""
        self.empty()
        shutil.copytree(self.loaded, self.fresh, copy_function=os.link)


@dataclass(frozen=True)
class Target:
    """What is to be reached.

    Attributes
    ----------
    of
        From the figures of both sides to the one that counts.
    least, most
        Its bound; one of the two.
    unit
        What stands behind it.
    """

    of: Callable[[Figures, Figures], float]
    unit: str
    least: float | None = None
    most: float | None = None

    @property
    def bound(self) -> str:
        """The bound for people."""
        number, sign = (self.most, "≤") if self.least is None else (self.least, "≥")
        return f"{sign} {number:g}{self.unit}"

    def is_reached(self, value: float) -> bool:
        """Return whether a value is within the bound."""
        if self.least is not None:
            return value >= self.least
        return self.most is not None and value <= self.most


def _nothing(world: World) -> None:
    pass


@dataclass(frozen=True)
class Measure:
    """One comparison.

    Attributes
    ----------
    name, against
        What is done, and what it is compared with.
    world
        Name of the world it is measured on.
    commands
        Of both sides.
    targets
        What is to be reached.
    prepare
        Done before each run of both.
    has_answers
        Whether both sides must give the same answer.
    is_rehearsed
        Whether it is run on the smallest world first, where answers are compared before anything
        is timed.
    runs
        How often each side is run, where it is not as often as others.
    """

    name: str
    against: str
    world: str
    commands: Callable[[World], Commands]
    targets: tuple[Target, ...]
    prepare: Callable[[World], object] = _nothing
    has_answers: bool = True
    is_rehearsed: bool = True
    runs: tuple[int | None, int | None] = (None, None)


def _ratio(name: str) -> Callable[[Figures, Figures], float]:
    return lambda one, other: one[name] / max(other[name], 1e-9)


def _faster(name: str) -> Callable[[Figures, Figures], float]:
    """Return how many times as many documents in a second, of the wall or of a processor."""
    return lambda one, other: (one["documents"] / one[name]) / (other["documents"] / other[name])


SPEED, PROCESSOR_SPEED = _faster("wall_seconds"), _faster("cpu_seconds")
TIME, PROCESSOR_TIME = _ratio("wall_seconds"), _ratio("cpu_seconds")
MEMORY = _ratio("peak_megabytes")
DOCUMENTS = " × documents/s"


def _more(name: str) -> Callable[[Figures, Figures], float]:
    return lambda one, other: one[name] - other[name]


@dataclass(frozen=True)
class Worlds:
    """Everything that is measured on.

    Attributes
    ----------
    by_name
        ``plain``, ``histories``, ``large``, ``largest``, ``files`` and ``rehearsal``.
    sizes
        How much there is.
    base
        What documents are copies of.
    """

    by_name: dict[str, World] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=Sizes)
    base: tuple[Original, ...] = ()

    def add_documents(self, world: World) -> None:
        """Add new documents to a world and to the smaller one, where they are not there yet."""
        first = self.sizes.largest
        for one in (world, world.smaller):
            assert one is not None
            one.copy()
            mark = one.folder / "added"
            if not mark.exists():
                insert(one.source, self.base, first, first + self.sizes.added)
                mark.touch()

    def grow(self, world: World) -> None:
        """Make the large world the largest."""
        world.empty()
        insert(world.source, self.base, self.sizes.large, self.sizes.largest)


def all_measures(worlds: Worlds) -> list[Measure]:
    """Return all comparisons, in the order in which they are shown."""
    sizes = worlds.sizes
    small, large = f"{sizes.documents:,}", f"{sizes.large:,}"
    etl = str(Path(sys.executable).with_name("aind-etl"))
    import_duckdb = [sys.executable, "-c", "import duckdb"]

    def starting(*arguments: str) -> Callable[[World], Commands]:
        return lambda world: (
            [etl, *(str(world.warehouse) if one == "FILE" else one for one in arguments)],
            import_duckdb,
        )

    def loading(world: World) -> Commands:
        return ours("load", world.source, world.fresh), others("raw", world.source, "-")

    def tables_alone(world: World) -> Commands:
        return (
            ours("analyses", world.source, world.fresh),
            others("project", world.source, world.folder / "project"),
        )

    def flattening(world: World) -> Commands:
        return ours("flatten", world.canonical, "-"), others("normalize", world.canonical, "-")

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
        assert world.smaller is not None
        return (
            ours("new_documents", world.source, world.fresh),
            ours("new_documents", world.smaller.source, world.smaller.fresh),
        )

    histories = f"{small} with histories"
    return [
        Measure(
            f"full load, mongod to parquet and warehouse, {small}",
            "dlt 1.31 into DuckDB, the same documents",
            "plain",
            lambda world: (
                ours("load", world.source, world.fresh),
                others("dlt", world.source, world.folder / "dlt"),
            ),
            (Target(SPEED, DOCUMENTS, least=50), Target(MEMORY, " × peak memory", most=0.1)),
            World.empty,
            runs=(None, 1),
        ),
        *(
            Measure(
                f"`analyses` and children, mongod to parquet, {size}",
                "server-side `$project` and pymongoarrow, main columns",
                world,
                tables_alone,
                (Target(SPEED, DOCUMENTS, least=1),),
                World.empty,
            )
            for world, size in (("plain", small), ("histories", histories))
        ),
        Measure(
            f"full load, {large}",
            "reading raw BSON batches, doing nothing",
            "large",
            loading,
            (
                Target(PROCESSOR_TIME, " × processor time", most=4),
                Target(lambda one, _: one["peak_megabytes"], " MB", most=1000),
            ),
            World.empty,
        ),
        Measure(
            f"full load, {sizes.largest:,}",
            f"full load, {large}",
            "largest",
            lambda world: (ours("load", world.source, world.fresh), []),
            (
                Target(MEMORY, " × peak memory", most=1.1),
                Target(lambda one, _: one["peak_megabytes"], " MB", most=1000),
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
            lambda world: (
                ours("new_pass", world.source, world.loaded),
                others("ids", world.source, "-"),
            ),
            (Target(TIME, " × time", most=3),),
        ),
        Measure(
            f"*new* pass, {sizes.added} new documents, {large}",
            f"the same, {sizes.large // 10:,}",
            "large",
            with_new_documents,
            (Target(TIME, " × time", most=1.5), Target(PROCESSOR_TIME, " × processor", most=1.5)),
            worlds.add_documents,
            is_rehearsed=False,
        ),
        Measure(
            f"*full* pass, nothing changed, {large}",
            "reading raw BSON batches, doing nothing",
            "large",
            lambda world: (
                ours("full_pass", world.source, world.loaded),
                others("raw", world.source, "-"),
            ),
            (Target(TIME, " × time", most=3),),
        ),
        *(
            Measure(
                f"flatten, from canonical JSON, {size}",
                "`pandas.json_normalize`, parsing included",
                world,
                flattening,
                (Target(PROCESSOR_SPEED, " × documents/s of a core", least=20),),
            )
            for world, size in (("plain", small), ("histories", histories))
        ),
        Measure(
            f"warehouse build, with views and marts, {large}",
            "DuckDB `CREATE TABLE AS` of the same parquet",
            "large",
            lambda world: (
                ours("warehouse", "-", world.loaded),
                others("copy", world.loaded, world.folder / "copy"),
            ),
            (Target(TIME, " × time", most=3),),
        ),
        Measure(
            f"fits by subject, warm, {large}, {SUBJECTS} subjects",
            "paging a REST gateway, parsed with pandas",
            "large",
            asking,
            (Target(SPEED, " × calls/s", least=100),),
        ),
        Measure(
            f"trials from S3, {1000 * LATENCY_SECONDS:.0f} ms a request, "
            f"{sizes.result_files:,} records",
            "ten threads of exists, get, json.loads",
            "files",
            reading,
            (
                Target(SPEED, " × records/s", least=8),
                Target(lambda one, _: 1e3 * one["cpu_seconds"] / one["documents"], " ms", most=5),
            ),
        ),
        *(
            Measure(
                f"`aind-etl {shown}`, from start to end",
                '`python -c "import duckdb"`',
                "plain",
                starting(*arguments),
                (Target(_more("process_seconds"), " s more", most=0.3),),
                has_answers=False,
                runs=(7, 7),
            )
            for shown, arguments in (
                ("--help", ["--help"]),
                ('sql "select 1"', ["sql", "select 1", "--warehouse", "FILE"]),
            )
        ),
        Measure(
            f"`analyses` and children as parquet, {small}",
            "the same rows as CSV",
            "plain",
            lambda world: (
                ours("parquet_size", "-", world.loaded),
                ours("csv_size", "-", world.loaded),
            ),
            (Target(lambda one, other: other["bytes"] / one["bytes"], " × smaller", least=10),),
            runs=(1, 1),
        ),
    ]


def _subjects(warehouse: Path) -> list[str]:
    """Return some subjects of a warehouse: neither those with the most fits nor the fewest."""
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
    """Give the worlds, with the servers before them.

    Parameters
    ----------
    address
        Of the server.
    folder
        Where what is made of them lies.
    documents
        What their documents are copies of.
    sizes
        How much there is to be.
    say
        Told what is being made.
    """
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
        "large": replace(
            make("large", sizes.large), smaller=make("tenth", max(sizes.large // 10, 50))
        ),
    }
    say(f"Making {sizes.result_files:,} result files …")
    made["files"] = replace(
        made["rehearsal"],
        result_files=ResultFiles(folder / "many-files", sizes.result_files),
    )
    say("Loading the worlds …")
    for world in (made["rehearsal"], made["plain"], made["large"], made["large"].smaller):
        assert world is not None
        world.load()
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
        yield Worlds(made, sizes, tuple(base))
