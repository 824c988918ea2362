"""When the day's quality is made: in one run, in the order of its assets, at six o'clock UTC."""

from datetime import timedelta

import dagster as dg

from ssmd_assets.defs.quality.scores import GROUP
from ssmd_assets.defs.resources import Environment

_MAX_RUNTIME_S = 6 * 3600

daily_quality = dg.define_asset_job(
    "daily_quality",
    selection=dg.AssetSelection.groups(GROUP),
    description="Reconciliation, scores, diagnosis and volumes of a day.",
    # Asking four venues for a day's trades, within their limits, takes longer than the hour that other runs may.
    tags={"dagster/max_runtime": str(_MAX_RUNTIME_S)},
)


@dg.schedule(
    name="daily_quality_schedule",
    job=daily_quality,
    # The day's last hour is sealed, built and proved by then with hours to spare.
    cron_schedule="0 6 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="The UTC day that is over, every day at six.",
)
def daily_quality_schedule(
    context: dg.ScheduleEvaluationContext, environment: Environment
) -> dg.RunRequest | dg.SkipReason:
    """One run for yesterday."""
    if not environment.asks_venues():
        return dg.SkipReason("SSMD_SCHEDULES is off: nothing is asked of the venues by itself.")
    if not environment.settings().database_url:
        return dg.SkipReason("DATABASE_URL is not set where Dagster runs: there is nowhere to keep scores.")
    yesterday = f"{context.scheduled_execution_time - timedelta(days=1):%Y-%m-%d}"
    return dg.RunRequest(run_key=yesterday, partition_key=yesterday)
