"""Everything that Dagster loads: `dagster dev`, or `dagster asset materialize -m ssmd_assets.definitions`."""

from __future__ import annotations

import dagster as dg

from ssmd_assets.defs.archives.assets import archive_specs
from ssmd_assets.defs.archives.sensors import sealed_hours
from ssmd_assets.defs.archives.upload import archive_upload, upload_job, upload_schedule
from ssmd_assets.defs.datasets.assets import dataset_assets
from ssmd_assets.defs.datasets.jobs import hourly_datasets
from ssmd_assets.defs.quality.jobs import daily_quality, daily_quality_schedule
from ssmd_assets.defs.quality.reconciliation import trade_reconciliation
from ssmd_assets.defs.quality.reports import diagnosis_report, volume_report
from ssmd_assets.defs.quality.scores import daily_scores
from ssmd_assets.defs.quality.sensors import run_failures, run_recoveries, stale_feeds
from ssmd_assets.defs.resources import Environment
from ssmd_assets.defs.secmaster.assets import rest_specs, secmaster_assets
from ssmd_assets.defs.secmaster.first_syncs import first_syncs, secmaster_first
from ssmd_assets.defs.secmaster.schedules import sync_schedules
from ssmd_assets.defs.streams.assets import stream_specs

defs = dg.Definitions(
    assets=[
        *stream_specs(),
        *archive_specs(),
        *dataset_assets(),
        *rest_specs(),
        *secmaster_assets(),
        archive_upload,
        trade_reconciliation,
        daily_scores,
        diagnosis_report,
        volume_report,
    ],
    jobs=[hourly_datasets, secmaster_first, upload_job, daily_quality],
    schedules=[*sync_schedules(), upload_schedule, daily_quality_schedule],
    sensors=[sealed_hours, first_syncs, run_failures, run_recoveries, stale_feeds],
    resources={"environment": Environment()},
    # A process for each step costs more than the step: 3.6-4.9 s against 12-20 s for one asset with two checks.
    executor=dg.in_process_executor,
)
