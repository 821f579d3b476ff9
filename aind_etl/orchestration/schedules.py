"""The schedules: work that is done at fixed times, whether or not a change was detected."""

from collections.abc import Sequence
from datetime import UTC

import dagster as dg

from aind_etl.changelog.passes import Pass
from aind_etl.orchestration import jobs
from aind_etl.orchestration.partitions import make_partitions, partition_of, planned_partitions
from aind_etl.orchestration.resources import Etl
from aind_etl.settings import Settings


def all_schedules(settings: Settings) -> Sequence[dg.ScheduleDefinition]:
    """Return every schedule."""
    nightly = f"{settings.nightly_at.minute} {settings.nightly_at.hour} * * *"
    zone, on = settings.time_zone, dg.DefaultScheduleStatus.RUNNING

    @dg.schedule(
        job=jobs.refresh_collection,
        cron_schedule=nightly,
        execution_timezone=zone,
        default_status=on,
        description="Reads every collection in full, one run per partition; then publishes.",
    )
    def nightly_full_pass(
        context: dg.ScheduleEvaluationContext, etl: dg.ResourceParam[Etl]
    ) -> list[dg.RunRequest] | dg.SkipReason:
        # The source is not read: new collections are detected by the sensor.
        planned = planned_partitions(etl.lake, etl.lake.collections())
        chosen = etl.settings.collections
        keys = [
            key
            for key in make_partitions(context.instance, planned)
            if not chosen or partition_of(key)[0] in chosen
        ]
        if not keys:
            return dg.SkipReason("There is no collection in the lake yet.")
        night = context.scheduled_execution_time.astimezone(UTC).isoformat()
        config = jobs.pass_config(Pass.FULL)
        return [
            dg.RunRequest(run_key=f"{key}:night:{night}", partition_key=key, run_config=config)
            for key in keys
        ]

    sessions = dg.ScheduleDefinition(
        name="nightly_session_table",
        job=jobs.refresh_sessions,
        cron_schedule=nightly,
        execution_timezone=zone,
        default_status=on,
        description="Reads the session table if it has changed; then publishes.",
    )
    weekly = dg.ScheduleDefinition(
        name="weekly_verification",
        job=jobs.verify_everything,
        cron_schedule="0 12 * * 6",
        execution_timezone=zone,
        default_status=on,
        description="Compares source, lake and warehouse, content by content.",
    )
    return [nightly_full_pass, sessions, weekly]
