"""Commands that run the pipeline, rebuild tables, open the Dagster UI and write the sample."""

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from aind_etl.cli.options import (
    INTERRUPTED,
    SHOWN_ROWS,
    CollectionOption,
    LakeOption,
    SourceOption,
    WarehouseOption,
    absolute,
    make_settings,
    progress_bars,
    show_rows,
)
from aind_etl.cli.terminal import err, out, say, show_table
from aind_etl.errors import ConfigurationError
from aind_etl.sources.kinds import kind_of

if TYPE_CHECKING:
    from aind_etl.settings import Settings


def run(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    pass_kind: Annotated[
        Literal["new", "full"],
        typer.Option(
            "--pass",
            help="`new` compares ids and reads missing and recent documents; `full` reads every "
            "document and compares contents.",
        ),
    ] = "new",
    max_deleted_share: Annotated[
        float | None,
        typer.Option(
            metavar="SHARE",
            help="Largest share of a collection, 0 to 1, that may be missing from a pass; if more "
            "is missing, nothing is deleted. Environment: `AIND_ETL_MAX_DELETED_SHARE`; default "
            "0.2.",
        ),
    ] = None,
    results: Annotated[
        bool,
        typer.Option(
            "--results/--no-results",
            help="Also read the result folders: their list of files, and the trial-by-trial "
            "variables.",
        ),
    ] = True,
) -> None:
    """Bring lake and warehouse up to date with the source.

    Runs the same assets as the Dagster UI, in this process. A second run writes only changes; after
    an interruption, the next run continues.

    Load a dump: `aind-etl run --source dump/analysis --lake my-lake`.
    Compare contents, not only ids: `aind-etl run --pass full`.
    """
    settings = make_settings(
        source=source,
        lake=lake,
        warehouse=warehouse,
        collections=collection,
        max_deleted_share=max_deleted_share,
    )
    with progress_bars() as progress:
        from aind_etl.changelog.passes import Pass
        from aind_etl.orchestration.instance import run_everything
        from aind_etl.orchestration.resources import Etl, ResultStoreError

        failure = None
        try:
            run_everything(Etl(settings, progress), Pass(pass_kind), with_results=results)
        except ResultStoreError as error:
            failure = error  # Everything else was published.
        except KeyboardInterrupt:
            progress.say("Interrupted. Everything written is complete; run again to continue.")
            raise typer.Exit(INTERRUPTED) from None
    _show_result(settings)
    if failure is not None:
        raise failure


def sample(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="An empty or new folder.")],
    sessions: Annotated[int, typer.Option(min=1, help="Number of behaviour sessions.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", metavar="jsonl|bson", help="Dump format; may be given twice."),
    ] = None,
    results: Annotated[
        bool, typer.Option(help="Also write the result folders (JSON, figures).")
    ] = True,
) -> None:
    """Write the sample world: a dump that can be loaded, and its result folders.

    Subjects, sessions, choices, fits and documents are simulated; the same seed gives the same
    files.
    """
    from aind_etl.sample import write_world

    chosen = tuple(dict.fromkeys(formats or ["jsonl"]))
    if not set(chosen) <= {"jsonl", "bson"}:
        raise ConfigurationError(f"--format takes jsonl or bson, not {', '.join(chosen)!r}.")
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ConfigurationError(f"{str(directory)!r} is not an empty folder; name another.")
    with progress_bars() as progress:
        progress.step("simulate", total=sessions, unit="sessions")
        counts = write_world(
            directory,
            sessions=sessions,
            seed=seed,
            formats=chosen,  # type: ignore[arg-type]
            results=results,
            progress=lambda *_: progress.advance(1),
        )
    for collection, count in counts.items():
        say(out, f"{count:>9,}  {collection}")
    folder = shlex.quote(str(directory.absolute()))
    variable = f"AIND_ETL_RESULTS_ROOT={folder}/results " if results else ""
    option = "" if results else " --no-results"
    say(out, f"\nLoad it with: {variable}{_command_line()} run --source {folder}{option}")


def rebuild(
    lake: LakeOption = None, warehouse: WarehouseOption = None, collection: CollectionOption = None
) -> None:
    """Derive every table and the warehouse again from the change log.

    Repairs a lake with damaged or missing files, without reading the source. After a change of the
    flattener no rebuild is needed: the next run detects it.
    """
    settings = make_settings(lake=lake, warehouse=warehouse, collections=collection)
    from aind_etl.client.status import warehouse_status
    from aind_etl.flatten.refresh import refresh_analyses
    from aind_etl.lake import Lake
    from aind_etl.warehouse.build import build_warehouse

    store = Lake(settings.lake)
    if not store.collections():
        raise ConfigurationError(
            f"There is nothing in the lake {str(settings.lake)!r} to rebuild. Name another with "
            "--lake, or load it with 'aind-etl run'."
        )
    with progress_bars() as progress:
        for name in settings.choose(store.collections()):
            for shard in store.shards(name):
                progress.step(f"flatten {shard.name_of(name)}")
                with shard.lock(name):
                    report = refresh_analyses(shard, name, rebuild=True, progress=progress.advance)
                files = report.partitions_written
                written = f"{files:,} {'file' if files == 1 else 'files'} written"
                progress.say(
                    f"{shard.name_of(name)}: {report.flattened:,} documents flattened, "
                    f"{report.rejected:,} rejected, {report.rejected_values:,} values rejected; "
                    f"{written if files else 'all files were already correct'}"
                )
        progress.step("build the warehouse")
        build_warehouse(store, settings.warehouse_path)
    say(out, warehouse_status(settings.warehouse_path))


def dev(
    source: SourceOption = None,
    lake: LakeOption = None,
    warehouse: WarehouseOption = None,
    collection: CollectionOption = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the Dagster UI.")] = 3000,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print Dagster's whole log.")] = False,
) -> None:
    """Serve the Dagster UI and daemon on this machine.

    Prints the start and end of runs, and Dagster's warnings and errors.
    """
    settings = make_settings(source=source, lake=lake, warehouse=warehouse, collections=collection)
    _require_free(port)
    if "://" not in settings.source:
        from aind_etl.sources.kinds import open_source

        with open_source(settings):
            pass  # A wrong address is an error here, not in every run.
    from aind_etl.orchestration.dev import serve
    from aind_etl.orchestration.instance import dagster_home

    environment = os.environ | {
        # Dagster warns of the command that replaces `dagster dev`, which is a separate package.
        "PYTHONWARNINGS": "ignore",
        "DAGSTER_HOME": str(dagster_home(settings.folder)),
        "AIND_ETL_SOURCE": settings.source,
        "AIND_ETL_LAKE": absolute(settings.lake),
        "AIND_ETL_WAREHOUSE": absolute(settings.warehouse_path),
        "AIND_ETL_COLLECTIONS": ",".join(settings.collections),
    }
    say(err, f"Dagster UI: http://127.0.0.1:{port} (Ctrl-C to stop)")
    code = serve(port, environment, partial(say, err), verbose=verbose)
    if code:
        raise ConfigurationError(f"Dagster ended with exit code {code}; its output says why.")
    say(err, "Dagster has ended. Everything that runs wrote is complete.")


def _require_free(port: int) -> None:
    """Raise an error if another program uses a port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigurationError(
                f"The page cannot be opened on port {port}: {error.strerror}. Give another port "
                "with --port, or end the program that uses it."
            ) from None


def _command_line() -> str:
    """Return the name by which this command was called."""
    called = Path(sys.argv[0])
    return _relative(called) if _relative(called) != str(called.absolute()) else "aind-etl"


def _relative(location: Path | str) -> str:
    """Return a path, relative if it is below the working folder; a URL as it is."""
    if isinstance(location, str):
        return location
    path, here = location.absolute(), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _show_result(settings: "Settings") -> None:
    """Show the tables that were built, and useful next commands."""
    from aind_etl.client.query import Query

    path = settings.warehouse_path
    with Query(path, _BUILT) as built:
        show_rows(built, "Built")
    with Query(path, _BEST) as best:
        columns, rows, _ = best.head(SHOWN_ROWS)
        if rows:
            say(out, "")
            show_table(columns, rows, "The best agent of the newest sessions, by AIC")
    say(out, f"\nLake       {_relative(settings.lake)}\nWarehouse  {_relative(path)}")
    say(out, "\nNext:")
    for step, meaning in _next_steps(settings):
        say(out, f"  {_command_line()} {step}\n      {meaning}")


def _next_steps(settings: "Settings") -> Iterator[tuple[str, str]]:
    """Yield the arguments of useful commands after a run, each with a description."""
    from aind_etl.settings import load_settings

    environment = load_settings()

    def option(name: str) -> str:
        value = getattr(settings, name)
        if value == getattr(environment, name):
            return ""
        return f" --{name} {shlex.quote(_relative(value))}"

    source, lake, warehouse = map(option, ("source", "lake", "warehouse"))
    query = '"SELECT subject_id, session_date, agent_alias, aic FROM latest_analyses LIMIT 5"'
    yield f"sql {query}{lake}{warehouse}", "query the warehouse"
    yield f"status{lake}{warehouse}", "see how fresh it is"
    # A source with a password in its address is not shown.
    if "@" not in source:
        yield f"dev{source}{lake}{warehouse}", "open the Dagster UI"
    if kind_of(settings.source).is_simulated:
        yield "run --source FOLDER --lake DIR", "load a dump of your own"


_BUILT = """
SELECT
    table_name AS "table",
    estimated_size AS "rows",
    regexp_extract(comment, '^One row per ([^.:]*)', 1) AS "one row per"
FROM duckdb_tables()
WHERE estimated_size > 0 AND table_name <> 'warehouse_info'
ORDER BY table_name
"""

_BEST = """
SELECT session_key AS "session", agent_alias AS "best agent", round(value, 1) AS "AIC",
    round(margin, 1) AS "margin"
FROM best_models
WHERE criterion = 'aic'
ORDER BY session_date DESC, session_key DESC
LIMIT 5
"""
