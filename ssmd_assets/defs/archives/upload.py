"""The archive, the datasets and their proof in an object store, every six hours where there is one."""

import os
from collections.abc import Iterator
from typing import Any

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.keys import OWNERS, STREAMS, hour_keys
from ssmd_assets.lib.text import visible

UPLOAD_KEY = dg.AssetKey("archive_upload")
_SHOWN = 50
_FINISHED = {dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED}
_UNFINISHED = [status for status in dg.DagsterRunStatus if status not in _FINISHED]
_NO_STORE = "SSMD_STORAGE_URL is not set where Dagster runs: there is no object store to upload to."


@dg.asset(
    key=UPLOAD_KEY,
    deps=[key for feed, stream in STREAMS for key in hour_keys(feed, stream)],  # which depend on the archives
    description=(
        "Sealed files, datasets, proofs, backfills and manifests in the object store that `SSMD_STORAGE_URL` names, "
        "each read back after its upload. Nothing is deleted."
    ),
    group_name="storage",
    owners=OWNERS,
    kinds={"gcs"},
    retry_policy=dg.RetryPolicy(max_retries=2, delay=120, backoff=dg.Backoff.EXPONENTIAL),
)
def archive_upload(context: dg.AssetExecutionContext, environment: Environment) -> Iterator[dg.MaterializeResult[None]]:
    """Upload what is new; a failure names what does not hold."""
    from ssmd_core.db.connect import DatabaseError
    from ssmd_core.errors import SsmdError
    from ssmd_core.storage.store import Storage
    from ssmd_stream.upload.log import write_log
    from ssmd_stream.upload.sync import sync_archive

    url = os.environ.get("SSMD_STORAGE_URL", "")
    if not url:
        raise dg.Failure(_NO_STORE, allow_retries=False)
    settings = environment.settings()
    try:
        report = sync_archive(settings.data, Storage.open(url, os.environ))
    except SsmdError as error:
        raise dg.Failure(visible(str(error))) from error
    try:
        write_log(settings, report)
    except DatabaseError as error:
        context.log.warning(f"archiver_sync_log was not written: {visible(str(error))}")
    metadata: dict[str, Any] = {
        "storage": visible(report.storage),
        "uploaded": report.uploaded,
        "uploaded_bytes": report.uploaded_bytes,
        "read_back": report.proved,
        "unchanged": report.unchanged,
        "problems": [visible(problem) for problem in report.problems[:_SHOWN]],
        "notes": [visible(note) for note in report.notes[:_SHOWN]],
    }
    if not report.holds:
        raise dg.Failure(
            f"{len(report.problems)} objects are not right in the store", metadata=metadata, allow_retries=False
        )
    yield dg.MaterializeResult(metadata=metadata)


upload_job = dg.define_asset_job("upload", selection=dg.AssetSelection.assets(UPLOAD_KEY))


@dg.schedule(
    name="upload_schedule",
    job=upload_job,
    cron_schedule="40 */6 * * *",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every six hours, if SSMD_STORAGE_URL is set.",
)
def upload_schedule(context: dg.ScheduleEvaluationContext, environment: Environment) -> dg.RunRequest | dg.SkipReason:
    """One run, where there is an object store."""
    if not environment.asks_venues():
        return dg.SkipReason("SSMD_SCHEDULES is off: nothing is uploaded by itself.")
    if not os.environ.get("SSMD_STORAGE_URL"):
        return dg.SkipReason(_NO_STORE)
    if context.instance.get_runs_count(dg.RunsFilter(job_name=upload_job.name, statuses=_UNFINISHED)):
        return dg.SkipReason("An earlier upload is still going.")
    return dg.RunRequest()
