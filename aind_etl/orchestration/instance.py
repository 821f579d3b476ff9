"""Which Dagster instance runs are written to, and how runs are made in this process."""

import errno
import logging
import os
import shutil
from collections.abc import Sequence
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
from aind_etl.orchestration.assets.report import is_drawn
from aind_etl.orchestration.definitions import build_defs
from aind_etl.orchestration.jobs import PUBLISH, REFRESH_COLLECTION, SESSIONS, pass_config
from aind_etl.orchestration.lost_runs import (
    COMMAND_TAG,
    command_lock,
    command_tags,
    fail_lost_runs,
)
from aind_etl.orchestration.partitions import make_partitions, planned_partitions
from aind_etl.orchestration.resources import Etl, ResultStoreError
from aind_etl.settings import write_traceback
from aind_etl.warehouse.build import is_current

_CONFIG = "dagster.yaml"
# SQLAlchemy takes them for escapes and parameters of its URL.
_NOT_IN_PATHS = "%?"
# Launcher and storage that configurations of earlier builds name.
_REMOVED_MODULES = "module: aind_etl.orchestration."
_NO_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def dagster_home(lake: Path) -> Path:
    """Return the folder of the Dagster instance, ready for use.

    The environment's ``DAGSTER_HOME`` if it is set, else a folder of the lake's own: runs of one
    lake do not appear in another's history.

    Raises
    ------
    ConfigurationError
        Dagster cannot use its path.
    """
    named = os.environ.get("DAGSTER_HOME")
    home = (Path(named) if named else lake / "_dagster").absolute()
    if any(character in str(home) for character in _NOT_IN_PATHS):
        raise ConfigurationError(
            f"Dagster cannot keep its history in {str(home)!r}: the path must not contain '%' or "
            "'?'. Set DAGSTER_HOME to another folder."
        )
    home.mkdir(parents=True, exist_ok=True)
    config = home / _CONFIG
    if config.exists() and _REMOVED_MODULES in config.read_text():
        config.replace(config.with_suffix(".yaml.old"))
    if not config.exists():
        shutil.copy(bundled(_CONFIG), config)
    return home


def run_everything(etl: Etl, pass_kind: Pass, *, with_results: bool = True) -> list[str]:
    """Materialise every asset in this process, as runs of the instance.

    A run per collection, as the sensor makes them, and then one that publishes. A collection that
    cannot be read does not keep the others from being published.

    Parameters
    ----------
    etl
        The settings, and the receiver of progress.
    pass_kind
        How thoroughly the collections are compared with the change log.
    with_results
        Whether the result folders are checked as well.

    Returns
    -------
    list of str
        The ids of the runs.

    Raises
    ------
    AindEtlError
        What went wrong, as the assets raised it; only after what could be read is published.
    """
    os.environ["DAGSTER_HOME"] = str(dagster_home(etl.settings.folder))
    # The runs report progress themselves; Dagster's log is kept in the instance.
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    try:
        with (
            command_lock(etl.lake),
            etl.keeping_source_open() as opened,
            dg.DagsterInstance.get() as instance,
        ):
            # This process holds the lock: no earlier command is alive.
            fail_lost_runs(
                instance,
                etl.lake,
                now=datetime.now(UTC),
                silent_for=timedelta(0),
                tags={COMMAND_TAG: str(etl.lake)},
            )
            return _run_all(opened, pass_kind, instance, with_results=with_results)
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except (duckdb.Error, SQLAlchemyError) as error:
        # A full or read-only disk reaches the databases first.
        raise DataError(
            f"A database file could not be written: {str(error).splitlines()[0]}. Check the free "
            "space and the rights to the lake, the warehouse and DAGSTER_HOME, and run again."
        ) from None
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"A file of the lake is damaged: {str(error).splitlines()[0]}. 'aind-etl rebuild' "
            "makes the tables again from the change log; 'aind-etl verify' names a damaged file of "
            "that."
        ) from None


def _run_all(
    etl: Etl, pass_kind: Pass, instance: dg.DagsterInstance, *, with_results: bool
) -> list[str]:
    definitions = build_defs({"etl": etl})
    refresh = definitions.resolve_job_def(REFRESH_COLLECTION)
    sessions = definitions.resolve_job_def(SESSIONS)
    publish = definitions.resolve_job_def(PUBLISH)
    without_results = [key for asset in BY_COLLECTION if asset not in RESULTS for key in asset.keys]
    runs: list[str] = []
    tags = command_tags(etl.lake)

    # What the lake has and the source has not is compared too: it is gone, or misplaced.
    present = {*etl.list_collections(), *etl.lake.collections()}
    collections = etl.settings.choose(present)
    planned, failures = _plan(etl, collections)
    make_partitions(instance, planned)
    keys = list(chain.from_iterable(planned.values()))
    for number, key in enumerate(keys, start=1):
        etl.progress.stage(number, len(keys))
        try:
            result = refresh.execute_in_process(
                instance=instance,
                run_config=_QUIET | pass_config(pass_kind),
                partition_key=key,
                tags=tags,
                asset_selection=None if with_results else without_results,
            )
            runs.append(result.run_id)
        except ResultStoreError as error:
            # One that does not answer is not asked for the other collections.
            with_results = False
            failures.append(error)
        except AindEtlError as error:
            # The other collections need not wait for this one to be mended.
            failures.append(error)
        except Exception as error:  # noqa: BLE001 - contained and reported
            failures.append(_contained(etl, f"the collection {key!r}", error))
    etl.progress.stage(0, 0)
    if with_results:
        try:
            result = sessions.execute_in_process(instance=instance, run_config=_QUIET, tags=tags)
            runs.append(result.run_id)
        except AindEtlError as error:
            failures.append(error)
        except Exception as error:  # noqa: BLE001 - contained and reported
            failures.append(_contained(etl, "the session table", error))
    try:
        if is_current(etl.lake, etl.settings.warehouse_path) and is_drawn(
            etl.settings.warehouse_path
        ):
            etl.progress.say("Nothing has changed since the warehouse was published.")
        else:
            result = publish.execute_in_process(instance=instance, run_config=_QUIET, tags=tags)
            runs.append(result.run_id)
    except AindEtlError:
        raise
    except Exception as error:  # noqa: BLE001 - contained and reported
        failures.append(_contained(etl, "the publication", error))
    if failures:
        raise type(failures[0])("\n".join(dict.fromkeys(map(str, failures))))
    return runs


def _contained(etl: Etl, what: str, error: Exception) -> UnexpectedError:
    """Write the traceback of a defect to a file, and return the error that names it.

    What would stop all other work as well is raised again: a full or read-only disk.
    """
    if isinstance(error, duckdb.Error | SQLAlchemyError) or (
        isinstance(error, OSError) and error.errno in _NO_DISK
    ):
        raise error
    file = write_traceback(etl.settings.folder / "_errors", error, etl.settings)
    first_line = (str(error).splitlines() or [""])[0]
    return UnexpectedError(
        etl.settings.without_secrets(
            f"An unexpected error stopped {what}: {type(error).__name__}: {first_line[:200]}. "
            f"Everything else was done. Report it with the file {str(file)!r}."
        )
    )


def _plan(etl: Etl, collections: Sequence[str]) -> tuple[dict[str, list[str]], list[AindEtlError]]:
    """Decide how many shards each collection is to have.

    Returns
    -------
    dict, list of AindEtlError
        The partitions of each collection, and the failures of those that have none.
    """
    planned: dict[str, list[str]] = {}
    failures: list[AindEtlError] = []
    with etl.open_source() as source:
        for collection in collections:
            try:
                documents = source.count_documents(collection)
            except AindEtlError:
                documents = None  # The pass itself will say what is wrong.
            try:
                plan_shards(etl.lake, collection, documents, etl.settings.partition_documents)
                planned |= planned_partitions(etl.lake, [collection])
            except AindEtlError as error:
                failures.append(error)
            except Exception as error:  # noqa: BLE001 - contained and reported
                failures.append(_contained(etl, f"the collection {collection!r}", error))
    return planned, failures
