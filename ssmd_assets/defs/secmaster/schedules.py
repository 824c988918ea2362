"""Jobs of the security master and when they run.

What opens by the clock alone, ten seconds after its open time at the latest, is the lifecycle daemon's: Dagster's
schedules tick by the minute.
"""

from collections.abc import Sequence

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster.assets import SyncConfig
from ssmd_assets.defs.secmaster.syncs import JOBS, Sync, SyncJob
from ssmd_core import config
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def sync_schedules() -> list[dg.ScheduleDefinition]:
    """One job a schedule, one run a tick; the job's name is the schedule's without `_schedule`."""
    return [_schedule(job) for job in JOBS]


def _schedule(job: SyncJob) -> dg.ScheduleDefinition:
    definition = dg.define_asset_job(
        job.name,
        selection=dg.AssetSelection.assets(*(key for sync in job.syncs for key in sync.keys)),
        config=_run_config(job, job.syncs),
        description=job.description,
    )

    @dg.schedule(
        name=f"{job.name}_schedule",
        job=definition,
        cron_schedule=job.cron,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=job.description,
    )
    def tick(context: dg.ScheduleEvaluationContext, environment: Environment) -> dg.RunRequest | dg.SkipReason:
        if not environment.asks_venues():
            return dg.SkipReason("SSMD_SCHEDULES is off: nothing is asked of the venues by itself.")
        settings = environment.settings()
        if not settings.database_url:
            return dg.SkipReason("DATABASE_URL is not set where Dagster runs: there is no security master to fill.")
        syncs = [sync for sync in job.syncs if not is_disabled(settings, sync.feed)]
        if not syncs:
            return dg.SkipReason(f"feed.yaml says that {job.syncs[0].feed.name} is disabled.")
        unfinished = dg.RunsFilter(job_name=job.name, statuses=_UNFINISHED)
        if context.instance.get_runs_count(unfinished):
            return dg.SkipReason(f"An earlier run of {job.name} is still going.")
        return dg.RunRequest(
            asset_selection=[key for sync in syncs for key in sync.keys], run_config=_run_config(job, syncs)
        )

    return tick


def _run_config(job: SyncJob, syncs: Sequence[Sync]) -> dg.RunConfig:
    return dg.RunConfig(ops={sync.step: SyncConfig(mode=job.mode) for sync in syncs})


def is_disabled(settings: Settings, feed: Feed) -> bool:
    """Whether the feed's feed.yaml switches it off.

    Raises:
        ConfigError: the file is broken.
    """
    file = config.find_feed(settings.config_root, feed)
    return file is not None and file.status == "disabled"
