"""Which Dagster instance runs are written to, and how a run is started in this process."""

import logging
import os
import shutil
import warnings
from pathlib import Path

import dagster as dg
import duckdb
from sqlalchemy.exc import SQLAlchemyError

from aind_etl.bundle import bundled
from aind_etl.errors import DataError
from aind_etl.extract import Pass
from aind_etl.orchestration.definitions import EVERYTHING, build_defs
from aind_etl.orchestration.resources import Etl

_CONFIG = "dagster.yaml"


def dagster_home(lake: Path) -> Path:
    """Return the folder of the Dagster instance, ready for use.

    The environment's ``DAGSTER_HOME`` if it is set; else ``dagster_home`` of the working folder
    if it has one; else a folder of the lake's own.
    """
    named = os.environ.get("DAGSTER_HOME")
    beside = Path("dagster_home")
    if named:
        home = Path(named)
    elif (beside / _CONFIG).is_file():
        home = beside
    else:
        home = lake / "_dagster"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / _CONFIG).exists():
        shutil.copy(bundled(_CONFIG), home / _CONFIG)
    return home.absolute()


def run_everything(etl: Etl, pass_kind: Pass) -> str:
    """Materialise every asset in this process, as a run of the instance.

    Returns
    -------
    str
        The run's id.

    Raises
    ------
    AindEtlError
        What went wrong, as the asset raised it.
    """
    os.environ["DAGSTER_HOME"] = str(dagster_home(etl.settings.lake))
    # Progress is told by the run itself; Dagster's own log stands in the instance.
    logging.getLogger("dagster").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=dg.BetaWarning)
    job = build_defs({"etl": etl}).resolve_job_def(EVERYTHING)
    try:
        with (
            etl.lake.storage.lock("run", f"the lake {etl.lake}"),
            dg.DagsterInstance.get() as instance,
        ):
            result = job.execute_in_process(
                instance=instance,
                run_config={
                    "ops": {"documents": {"config": {"pass_kind": pass_kind.value}}},
                    "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                },
            )
    except dg.DagsterExecutionInterruptedError:
        raise KeyboardInterrupt from None
    except (duckdb.Error, SQLAlchemyError) as error:
        # A full or read-only disk reaches the databases first.
        raise DataError(
            f"A database file could not be written: {str(error).splitlines()[0]}. Check the free "
            "space and the rights to the lake, the warehouse and DAGSTER_HOME, and run again."
        ) from None
    return result.run_id
