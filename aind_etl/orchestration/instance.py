"""The Dagster instance of the command, and the runs that it executes in its own process."""

import errno
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path

import dagster as dg
import duckdb
import polars as pl
from sqlalchemy.exc import SQLAlchemyError

from aind_etl.bundle import bundled
from aind_etl.changelog.passes import Pass
from aind_etl.errors import AindEtlError, ConfigurationError, DataError, UnexpectedError
from aind_etl.lake.resharding import plan_shards
from aind_etl.orchestration.assets import BY_COLLECTION, RESULTS
from aind_etl.orchestration.assets.warehouse import is_drawn
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import PUBLISH, REFRESH_COLLECTION, SESSIONS, pass_config
from aind_etl.orchestration.lost_runs import COMMAND_TAG, command_tags, fail_lost_runs
from aind_etl.orchestration.partitions import make_partitions, planned_partitions
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.settings import write_traceback
from aind_etl.text import first_line
from aind_etl.warehouse.build import is_current

# SQLAlchemy reads them as escapes and parameters of its URL.
_NOT_IN_PATHS = "%?"
# Earlier versions of dagster.yaml name a launcher and a storage that no longer exist.
_REMOVED_MODULES = "module: aind_etl.orchestration."
_NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def dagster_home(folder: Path) -> Path:
    """Return the folder of the Dagster instance, and create its ``dagster.yaml`` if it has none.

    It is ``DAGSTER_HOME`` if set, otherwise a subfolder of ``folder``.
    """
    home = Path(os.environ.get("DAGSTER_HOME") or folder / "_dagster").absolute()
    if any(character in str(home) for character in _NOT_IN_PATHS):
        raise ConfigurationError(
            f"Dagster cannot keep its history in {str(home)!r}: the path must not contain '%' or "
            "'?'. Set DAGSTER_HOME to another folder."
        )
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if config.exists() and _REMOVED_MODULES in config.read_text():
        config.replace(config.with_suffix(".yaml.old"))
    if not config.exists():
        shutil.copy(bundled("dagster.yaml"), config)
    return home


def run_everything(etl: Etl, pass_kind: Pass, *, with_results: bool = True) -> None:
    """Materialise every asset in this process, as runs of the instance.

    There is one run per collection, one for the session table, and then one that publishes. A
    collection that cannot be read does not keep the others from being published; its error is
    raised at the end. Result folders and the session table are read only if ``with_results``.
    """
    os.environ["DAGSTER_HOME"] = str(dagster_home(etl.settings.folder))
    # The runs report progress themselves; the instance keeps Dagster's log.
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    try:
        with (
            etl.lake.storage.lock("run", f"the lake {etl.lake}"),
            etl.open_source() as source,
            dg.DagsterInstance.get() as instance,
        ):
            # This process holds the lock, so no earlier command is alive.
            now, tags = datetime.now(UTC), {COMMAND_TAG: str(etl.lake)}
            fail_lost_runs(instance, etl.lake, now=now, silent_for=timedelta(0), tags=tags)
            shared = replace(etl, opened=source)
            _run_all(shared, pass_kind, instance, with_results=with_results)
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except (duckdb.Error, SQLAlchemyError) as error:
        # The databases are the first to notice a full or read-only disk.
        raise DataError(
            f"A database file could not be written: {first_line(error)}. Check the free space and "
            "the permissions of the lake, the warehouse and DAGSTER_HOME, and run again."
        ) from None
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"A file of the lake is damaged: {first_line(error)}. 'aind-etl rebuild' rebuilds the "
            "tables from the change log; 'aind-etl verify' names a damaged file of the change log."
        ) from None


def _run_all(
    etl: Etl, pass_kind: Pass, instance: dg.DagsterInstance, *, with_results: bool
) -> None:
    definitions = build_defs(etl)
    refresh = definitions.resolve_job_def(REFRESH_COLLECTION)
    without_results = [key for asset in BY_COLLECTION if asset not in RESULTS for key in asset.keys]
    tags = command_tags(etl.lake)
    failures: list[AindEtlError] = []

    planned = _plan(etl, failures)
    make_partitions(instance, planned)
    keys = list(chain.from_iterable(planned.values()))
    for number, key in enumerate(keys, start=1):
        etl.progress.stage(number, len(keys))
        with _collecting(failures, etl, f"the collection {key!r}"):
            refresh.execute_in_process(
                instance=instance,
                run_config=_QUIET | pass_config(pass_kind),
                partition_key=key,
                tags=tags,
                asset_selection=None if with_results else without_results,
            )
        if failures and isinstance(failures[-1], ResultStoreError):
            with_results = False  # The other collections do not wait for the store again.
    etl.progress.stage(0, 0)
    if with_results:
        sessions = definitions.resolve_job_def(SESSIONS)
        with _collecting(failures, etl, "the session table"):
            sessions.execute_in_process(instance=instance, run_config=_QUIET, tags=tags)
    warehouse = etl.settings.warehouse_path
    try:
        if is_current(etl.lake, warehouse) and is_drawn(warehouse):
            etl.progress.say("Nothing has changed since the warehouse was published.")
        else:
            publish = definitions.resolve_job_def(PUBLISH)
            publish.execute_in_process(instance=instance, run_config=_QUIET, tags=tags)
    except AindEtlError:
        raise
    except Exception as error:  # noqa: BLE001 - reported as a defect
        failures.append(_unexpected(etl, "the publication", error))
    if failures:
        # Its class sets the exit code, and may take more arguments than a message.
        first = failures[0]
        first.args = ("\n".join(dict.fromkeys(map(str, failures))),)
        raise first


def _plan(etl: Etl, failures: list[AindEtlError]) -> dict[str, list[str]]:
    """Plan the shards of each collection, and return their partitions; collect the failures."""
    planned: dict[str, list[str]] = {}
    with etl.open_source() as source:
        # Collections that only the lake has are compared too: they may have been deleted.
        present = {*source.list_collections(), *etl.lake.collections()}
        for collection in etl.settings.choose(present):
            try:
                documents = source.count_documents(collection)
            except AindEtlError:
                documents = None  # The pass raises this error again.
            with _collecting(failures, etl, f"the collection {collection!r}"):
                plan_shards(etl.lake, collection, documents, etl.settings.partition_documents)
                planned |= planned_partitions(etl.lake, [collection])
    return planned


@contextmanager
def _collecting(failures: list[AindEtlError], etl: Etl, what: str) -> Iterator[None]:
    """Add an error of a ``with`` block to the failures, so that other work continues."""
    try:
        yield
    except AindEtlError as error:
        failures.append(error)
    except Exception as error:  # noqa: BLE001 - reported as a defect
        failures.append(_unexpected(etl, what, error))


def _unexpected(etl: Etl, what: str, error: Exception) -> UnexpectedError:
    """Write the traceback of a defect to a file, and return the error that names it.

    An error that would stop all other work is raised again: a full or read-only disk.
    """
    if isinstance(error, duckdb.Error | SQLAlchemyError) or (
        isinstance(error, OSError) and error.errno in _NO_DISK
    ):
        raise error
    file = write_traceback(etl.settings.folder / "_errors", error, etl.settings)
    return UnexpectedError(
        etl.settings.without_secrets(
            f"An unexpected error stopped {what}: {type(error).__name__}: "
            f"{first_line(error)[:200]}. Everything else was done. Report it with the file "
            f"{str(file)!r}."
        )
    )
