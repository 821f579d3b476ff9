"""How runs are started, and how it is noticed that one has died.

Here belongs what Dagster's monitoring of runs asks a launcher. The monitoring marks a run that
died as failed; the sensors ask again for what it was to bring.
"""

import json
import time
from collections.abc import Mapping
from typing import Any, Self

import dagster as dg
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import GRPC_INFO_TAG
from dagster._grpc.client import DagsterGrpcClient
from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult
from dagster._serdes import ConfigurableClass, ConfigurableClassData, deserialize_value

from aind_etl.errors import ConfigurationError
from aind_etl.settings import Engine, load_settings

PATIENCE = {"patience_seconds": dg.Field(int, is_required=False, default_value=120)}
"""What may be configured of a launcher that misses runs."""

_ANSWER_SECONDS = 10


class LauncherOfTheSettings(RunLauncher, ConfigurableClass):
    """What ``dagster.yaml`` names; it is never made itself, but what ``AIND_ETL_ENGINE`` asks for.

    One ``dagster.yaml`` thus serves a laptop and a set of Celery workers. On Kubernetes Dagster's
    chart writes that file, and names a launcher of its own.
    """

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Return what may be configured."""
        return PATIENCE

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        """Return the launcher that the settings ask for.

        Raises
        ------
        ConfigurationError
            Celery is asked for, and is not installed or has no broker; or Kubernetes is.
        """
        settings = load_settings()
        if settings.engine is Engine.KUBERNETES:
            raise ConfigurationError(
                "AIND_ETL_ENGINE is 'kubernetes', and this dagster.yaml is not that of Dagster's "
                "Helm chart. Install with docker/helm-values.yaml, or choose another engine."
            )
        if settings.engine is not Engine.CELERY:
            return WatchfulRunLauncher.from_config_value(  # type: ignore[return-value]
                inst_data, config_value
            )
        try:
            from aind_etl.orchestration.celery_runs import (  # noqa: PLC0415 - optional
                WatchfulCeleryRunLauncher,
            )
        except ImportError:
            raise ConfigurationError(
                "AIND_ETL_ENGINE is 'celery', and dagster-celery is not installed. Install it "
                "with: pip install 'aind-etl[celery]'."
            ) from None
        return WatchfulCeleryRunLauncher.from_config_value(  # type: ignore[return-value]
            inst_data, config_value
        )


class Patience:
    """How long runs may give no sign of life before they count as dead.

    Parameters
    ----------
    seconds
        How long a run may be unknown to those who should know it, while it writes no event
        either.
    """

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._missed_since: dict[str, float] = {}

    def found(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return that a run lives."""
        self._missed_since.pop(run.run_id, None)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def missed(
        self, run: dg.DagsterRun, instance: dg.DagsterInstance, reason: str
    ) -> CheckRunHealthResult:
        """Return that a run was missed, and died for a reason if that was so for too long."""
        now = time.time()
        last_sign = max(
            self._missed_since.setdefault(run.run_id, now), _last_event_at(instance, run.run_id)
        )
        if now - last_sign < self._seconds:
            return CheckRunHealthResult(WorkerStatus.RUNNING, "missed", transient=True)
        del self._missed_since[run.run_id]
        return CheckRunHealthResult(WorkerStatus.NOT_FOUND, reason)


class WatchfulRunLauncher(dg.DefaultRunLauncher):
    """Starts runs as processes of the code location, and misses those that died with it.

    Dagster's own does the first only: the code location itself reports a process that died, and
    nobody reports the processes of a code location that was killed.

    Parameters
    ----------
    inst_data
        What ``dagster.yaml`` says of it, kept for the processes that Dagster starts.
    patience_seconds
        How long a run may be unknown to its code location, or that one not answer, while the run
        writes no event either, before it counts as dead. A code location that loads its code
        anew does not know the runs that it started before; they go on.
    """

    def __init__(
        self, inst_data: ConfigurableClassData | None = None, patience_seconds: int = 120
    ) -> None:
        super().__init__(inst_data)
        self._patience = Patience(patience_seconds)

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

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Whether the monitoring of runs may ask."""
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        """Return whether the process of a run lives, as far as can be known.

        A run that no code location started, as those of ``aind-etl run``, counts as alive.
        """
        address = run.tags.get(GRPC_INFO_TAG)
        if address is None or _is_known(json.loads(address), run.run_id):
            return self._patience.found(run)
        return self._patience.missed(
            run, self._instance, "its process ended together with the code location's"
        )


def _last_event_at(instance: dg.DagsterInstance, run_id: str) -> float:
    entries = instance.event_log_storage.get_logs_for_run(run_id, limit=1, ascending=False)
    return max((entry.timestamp for entry in entries), default=0.0)


def _is_known(address: dict[str, Any], run_id: str) -> bool:
    """Return whether a code location answers, and has a process for a run."""
    client = DagsterGrpcClient(
        port=address.get("port"),
        socket=address.get("socket"),
        host=address["host"],
        use_ssl=bool(address.get("use_ssl", False)),
    )
    try:
        answer = client.can_cancel_execution(
            CanCancelExecutionRequest(run_id=run_id), timeout=_ANSWER_SECONDS
        )
    except DagsterUserCodeUnreachableError:
        return False
    return deserialize_value(answer, CanCancelExecutionResult).can_cancel
