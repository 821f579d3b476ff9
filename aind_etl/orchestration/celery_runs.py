"""Runs as tasks of Celery: how the broker is spoken to, and how it is noticed that one has died.

Celery is a queue here and nothing more. Which run is made, when, and what is made again stays
with Dagster: a task that is lost leaves a run that its monitoring misses, and a task that is
delivered twice finds that its run is under way, and does nothing.
"""

import math
import time
import warnings
from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from celery.exceptions import DuplicateTaskNameWarning
from dagster._core.launcher.base import CheckRunHealthResult
from dagster._serdes import ConfigurableClassData
from dagster_celery.config import DEFAULT_CONFIG
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.tags import DAGSTER_CELERY_TASK_ID_TAG
from kombu.exceptions import OperationalError

from aind_etl.errors import ConfigurationError
from aind_etl.orchestration.launcher import PATIENCE, Patience
from aind_etl.settings import load_settings

# dagster-celery describes the same task anew for every run that it starts.
warnings.filterwarnings("ignore", category=DuplicateTaskNameWarning)

QUEUE = "dagster"
"""The one queue. Deployments that share a broker have a database or virtual host each."""

_PUBLISHING: dict[str, Any] = DEFAULT_CONFIG["broker_transport_options"]  # type: ignore[assignment]
_LONGEST_TASK_SECONDS = 18_000
_ANSWER_SECONDS = 3.0
_REMEMBER_SECONDS = 10.0

CELERY: dict[str, Any] = {
    # A worker that dies has done nothing to the queue: where the broker notices, as RabbitMQ
    # does, another worker gets what had been handed to it and not yet begun.
    "task_acks_late": True,
    # One at a time for each process of a worker: nothing waits behind a long run while another
    # worker is idle.
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": {
        **_PUBLISHING,
        # Redis does not notice that a worker died, and hands a task out again after so long. It
        # must be longer than any run (`max_runtime_seconds` in dagster.yaml is shorter).
        "visibility_timeout": _LONGEST_TASK_SECONDS,
    },
    # What comes of a run stands in Dagster's database alone.
    "task_ignore_result": True,
    # A broker that is away is waited for, however long.
    "broker_connection_max_retries": None,
    "broker_connection_retry_on_startup": True,
    # The workers' own log keeps its format; what steps print is Dagster's.
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
}
"""Celery's configuration, the same for those who ask for runs and those who make them."""


def celery_arguments() -> dict[str, Any]:
    """Return what :func:`dagster_celery.make_app.make_app` is to know.

    Raises
    ------
    ConfigurationError
        There is no address of a broker.
    """
    broker = load_settings().celery_broker_url
    if broker is None:
        raise ConfigurationError(
            "AIND_ETL_ENGINE is 'celery', and AIND_ETL_CELERY_BROKER_URL is not set. Expected is "
            "the address of a broker, such as redis://redis.example.org:6379/0 or "
            "amqp://user:password@rabbitmq.example.org:5672/vhost."
        )
    return {
        "broker": broker.get_secret_value(),
        "backend": None,
        "config_source": {**DEFAULT_CONFIG, **CELERY},
        "task_default_queue": QUEUE,
    }


class WatchfulCeleryRunLauncher(CeleryRunLauncher):
    """Starts runs as tasks of Celery, and misses those whose worker died.

    Dagster's own asks what a task last said of itself, and a worker that was killed says
    nothing: here the workers are asked.

    Parameters
    ----------
    inst_data
        What ``dagster.yaml`` says of it, kept for the processes that Dagster starts.
    patience_seconds
        How long a run may be unknown to every worker that answers, while the run writes no event
        either, before it counts as dead.

    Raises
    ------
    ConfigurationError
        There is no address of a broker.
    """

    def __init__(
        self, inst_data: ConfigurableClassData | None = None, patience_seconds: int = 120
    ) -> None:
        given = celery_arguments()
        super().__init__(
            default_queue=given["task_default_queue"],
            broker=given["broker"],
            config_source=given["config_source"],
            inst_data=inst_data,
        )
        self._patience = Patience(patience_seconds)
        self._asked_at = -math.inf
        self._in_hand: frozenset[str] | None = None

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return what may be configured."""
        return PATIENCE

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return a launcher as configured."""
        return cls(inst_data, **config_value)

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether a worker has a run in hand, as far as can be known.

        A run that is no task, as those of ``aind-etl run``, counts as alive; so does every run
        while the broker cannot be asked.
        """
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        in_hand = self._ask_workers()
        if task is None or in_hand is None or task in in_hand:
            return self._patience.found(run)
        return self._patience.missed(run, self._instance, "no worker has it in hand any more")

    def _ask_workers(self) -> frozenset[str] | None:
        """Return the tasks that workers have in hand, or None where the broker is away.

        All runs are looked at one after the other, and every worker has the time to answer: what
        was answered a moment ago is good for the next run as well.
        """
        if time.monotonic() - self._asked_at > _REMEMBER_SECONDS:
            self._in_hand = self._ask_workers_now()
            self._asked_at = time.monotonic()
        return self._in_hand

    def _ask_workers_now(self) -> frozenset[str] | None:
        with self.celery.connection_for_write() as connection:
            inspect = self.celery.control.inspect(timeout=_ANSWER_SECONDS, connection=connection)
            try:
                answers = inspect.active() or {}
            except (OperationalError, *connection.connection_errors):
                return None
        return frozenset(task["id"] for tasks in answers.values() for task in tasks)

    def terminate(self, run_id: str) -> bool:
        """End a run: its task is taken from the queue, or the process that has it in hand ends."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished or DAGSTER_CELERY_TASK_ID_TAG not in run.tags:
            return False
        self._instance.report_run_canceling(run)
        return super().terminate(run_id)

    def get_run_worker_debug_info(
        self,
        run: dg.DagsterRun,
        include_container_logs: bool | None = True,  # noqa: ARG002 - Dagster passes it
    ) -> str | None:
        """Return which task a run is."""
        task = run.tags.get(DAGSTER_CELERY_TASK_ID_TAG)
        return task and f"It is the task {task} of Celery."
