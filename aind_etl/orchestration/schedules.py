"""The schedules: what is done at fixed times whether or not anything seems to have changed."""

from collections.abc import Sequence
from datetime import UTC

import dagster as dg

from aind_etl.changelog.passes import Pass
from aind_etl.orchestration.jobs import (
    pass_config,
    refresh_collection,
    refresh_sessions,
    verify_everything,
)
from aind_etl.orchestration.partitions import (
    known_partitions,
    make_partitions,
    partition_of,
    planned_partitions,
)
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import Settings

_WEEKLY = "0 12 * * 6"


def all_schedules(settings: Settings) -> Sequence[dg.ScheduleDefinition]:
    """Return every schedule."""
    at = settings.nightly_at

    @dg.schedule(
        name="nightly_full_pass",
        job=refresh_collection,
        cron_schedule=f"{at.minute} {at.hour} * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reads every collection in full, a run per partition; the warehouse follows.",
    )
    def nightly_full_pass(
        context: dg.ScheduleEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        # The source is not asked: what it has new is found by the sensor.
        make_partitions(context.instance, planned_partitions(etl.lake, etl.lake.collections()))
        only = etl.settings.collections
        wanted = [
            key
            for key in known_partitions(context.instance)
            if not only or partition_of(key)[0] in only
        ]
        if not wanted:
            return dg.SkipReason("There is no collection in the lake yet.")
        night = context.scheduled_execution_time.astimezone(UTC).isoformat()
        return [
            dg.RunRequest(
                run_key=f"{key}:night:{night}",
                partition_key=key,
                run_config=pass_config(Pass.FULL),
            )
            for key in wanted
        ]

    sessions = dg.ScheduleDefinition(
        name="nightly_session_table",
        job=refresh_sessions,
        cron_schedule=f"{at.minute} {at.hour} * * *",
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Reads the session table if it has changed; the warehouse follows.",
    )
    weekly = dg.ScheduleDefinition(
        name="weekly_verification",
        job=verify_everything,
        cron_schedule=_WEEKLY,
        execution_timezone=settings.time_zone,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Compares source, lake and warehouse, content by content.",
    )
    return [nightly_full_pass, sessions, weekly]
