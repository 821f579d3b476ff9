"""Which run failed last, for ``aind-etl status``."""

import os
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg


def last_failed_run(home: Path) -> str:
    """Return the run that failed last and was not followed by one that succeeded, in words.

    Parameters
    ----------
    home
        The folder of the Dagster instance.

    Returns
    -------
    str
        Its job, its partition and when; empty where there is none.
    """
    os.environ["DAGSTER_HOME"] = str(home.absolute())
    with dg.DagsterInstance.get() as instance:
        failed = instance.get_run_records(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]), limit=_LOOKED_AT
        )
        for record in failed:
            run = record.dagster_run
            partition = run.tags.get("dagster/partition")
            same = dg.RunsFilter(
                job_name=run.job_name,
                tags={"dagster/partition": partition} if partition else {},
                statuses=[dg.DagsterRunStatus.SUCCESS],
                created_after=record.create_timestamp,
            )
            if not instance.get_run_records(same, limit=1):
                when = datetime.fromtimestamp(record.create_timestamp.timestamp(), UTC)
                name = f"{run.job_name} of {partition}" if partition else run.job_name
                return f"{name}, {when:%Y-%m-%d %H:%M} UTC,"
    return ""


_LOOKED_AT = 20
