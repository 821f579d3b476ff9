"""The factory of all definitions of the code location."""

import dagster as dg

from aind_etl.orchestration import jobs
from aind_etl.orchestration.asset_checks import warnings
from aind_etl.orchestration.assets import all_assets
from aind_etl.orchestration.resources import Etl
from aind_etl.orchestration.schedules import all_schedules
from aind_etl.orchestration.sensors import all_sensors
from aind_etl.settings import load_settings


def build_defs(etl: Etl | None = None) -> dg.Definitions:
    """Return the definitions, by default with the settings of the environment."""
    etl = etl or Etl(load_settings(), source_retries=3)
    return dg.Definitions(
        assets=all_assets(),
        asset_checks=[warnings],
        jobs=jobs.ALL_JOBS,
        sensors=all_sensors(etl.settings),
        schedules=all_schedules(etl.settings),
        resources={"etl": etl},
        # Runs are executed in parallel, and the steps of a run one after the other.
        executor=dg.in_process_executor,
    )
