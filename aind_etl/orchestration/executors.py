"""What makes the steps of a run, by the engine that the settings ask for."""

import dagster as dg

from aind_etl.errors import ConfigurationError
from aind_etl.settings import Engine


def executor_of(engine: Engine) -> dg.ExecutorDefinition:
    """Return what makes the steps of a run.

    The steps of a run follow each other, each on what the one before has written; runs go side
    by side. A run on Celery is therefore one task, whose worker makes its steps in one process.

    Raises
    ------
    ConfigurationError
        Kubernetes is asked for, and its client is not installed.
    """
    if engine is Engine.MULTIPROCESS:
        return dg.multiprocess_executor
    if engine is not Engine.KUBERNETES:
        return dg.in_process_executor
    try:
        from dagster_k8s import k8s_job_executor  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigurationError(
            "AIND_ETL_ENGINE is 'kubernetes', and dagster-k8s is not installed. Install it with: "
            "pip install 'aind-etl[kubernetes]'."
        ) from None
    return k8s_job_executor
