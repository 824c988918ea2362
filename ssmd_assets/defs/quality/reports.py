"""Diagnosis and volume reports of a day: Markdown in the metadata, the whole in `/v1/reports`, and a mail."""

import os
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from ssmd_assets.defs.quality.reconciliation import RECONCILIATION_KEY
from ssmd_assets.defs.quality.scores import FRESHNESS, GROUP, SCORES_KEY
from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.database import with_database
from ssmd_assets.lib.keys import OWNERS, STREAMS, dataset_key
from ssmd_assets.lib.mail import send_mail
from ssmd_assets.lib.text import visible
from ssmd_assets.partitions import DAILY
from ssmd_core.errors import ConfigError, SsmdError

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.mail.render import Mail
    from ssmd_core.reports.collect import RunFailure
    from ssmd_core.reports.model import ModelSettings
    from ssmd_core.reports.store import Made, Report

DIAGNOSIS_KEY = dg.AssetKey(["quality", "diagnosis_report"])
VOLUME_KEY = dg.AssetKey(["quality", "volume_report"])
_DAYS = 7
_MAX_FAILURES = 200
_REASON_CHARS = 500
# The whole stands in the table `reports`; events are kept for years.
_REPORT_CHARS = 20_000


class ReportConfig(dg.Config):
    """Run config.

    Attributes:
        force: ask the model again for what it was asked before, and also when all is green.
        mail: send the report if a mail server is set.
    """

    force: bool = False
    mail: bool = True


@dg.asset(
    key=DIAGNOSIS_KEY,
    deps=[SCORES_KEY, RECONCILIATION_KEY],
    partitions_def=DAILY,
    description=(
        "What was wrong with a day's data, why, and what to do; every claim cites rows that exist. Written by a model "
        "where ANTHROPIC_API_KEY is set, else by rules."
    ),
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "anthropic"},
    freshness_policy=FRESHNESS,
)
def diagnosis_report(
    context: dg.AssetExecutionContext, config: ReportConfig, environment: Environment
) -> Iterator[dg.MaterializeResult[None]]:
    """Diagnose one day."""
    from ssmd_core.reports.diagnosis import diagnose
    from ssmd_core.reports.mails import diagnosis_mail_of

    settings = environment.settings()
    day = date.fromisoformat(context.partition_key)
    failures = _run_failures(context.instance, day)
    model = _model(context)

    async def work(connection: "psycopg.AsyncConnection") -> "Made":
        return await diagnose(connection, day, model=model, run_failures=failures, force=config.force)

    made = with_database(settings, f"diagnosis of {day}", work)
    yield _result(context, made, diagnosis_mail_of if config.mail else None, forced=config.force)


@dg.asset(
    key=VOLUME_KEY,
    deps=[dataset_key(feed, stream, feed.trades.message_type) for feed, stream in STREAMS],
    partitions_def=DAILY,
    description="What was traded on a day, feed by feed and never summed across them, and what stands out.",
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres", "anthropic"},
    freshness_policy=FRESHNESS,
)
def volume_report(
    context: dg.AssetExecutionContext, config: ReportConfig, environment: Environment
) -> Iterator[dg.MaterializeResult[None]]:
    """Report one day's volume."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.reports.mails import volume_mail_of
    from ssmd_core.reports.volume import analyze_volume
    from ssmd_core.reports.volume_inputs import read_volumes, with_titles

    settings = environment.settings()
    day = date.fromisoformat(context.partition_key)
    now = now_of(settings.clock)
    try:
        volumes = read_volumes(Manifests(settings.archive_root, settings.dataset_root), day, now)
    except SsmdError as error:
        raise dg.Failure(f"volumes of {day}: {visible(str(error))}. Run `ssmd verify`.", allow_retries=False) from error
    model = _model(context)

    async def work(connection: "psycopg.AsyncConnection") -> "Made":
        inputs = await with_titles(connection, volumes, now)
        return await analyze_volume(connection, day, inputs, model=model, force=config.force)

    made = with_database(settings, f"volumes of {day}", work)
    yield _result(context, made, volume_mail_of if config.mail else None, forced=config.force)


def _result(
    context: dg.AssetExecutionContext, made: "Made", mail_of: Callable[["Report"], "Mail"] | None, *, forced: bool
) -> dg.MaterializeResult[None]:
    report = made.report
    metadata: dict[str, Any] = {
        "report": dg.MetadataValue.md(report.markdown[:_REPORT_CHARS]),
        "status": report.status,
        "source": report.source,
        "note": visible(report.note),
        "input_sha256": report.input_sha256,
        "model": report.model or "none",
        "stop_reason": report.stop_reason or "none",
        "input_tokens": report.input_tokens or 0,
        "output_tokens": report.output_tokens or 0,
        "cost_usd": str(report.cost_usd) if report.cost_usd is not None else "unknown",
        "dropped_claims": report.dropped_claims or 0,
        "asked": made.asked,
        "cached": made.cached,
    }
    if mail_of is None:
        metadata["mail"] = "not sent: not asked for"
    elif made.cached or not (made.needed or forced):
        metadata["mail"] = "not sent: nothing changed" if made.cached else "not sent: there is nothing to tell"
    else:
        metadata["mail"] = send_mail(context, mail_of(report))
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(report.input_sha256))


def _model(context: dg.AssetExecutionContext) -> "ModelSettings | None":
    """None without a key, and for settings that cannot be used: then the rules write the report."""
    from ssmd_core.reports.model import ModelSettings

    try:
        return ModelSettings.from_environment(os.environ)
    except ConfigError as error:
        context.log.error(f"no model is asked: {visible(str(error))}")
        return None


def _run_failures(instance: dg.DagsterInstance, day: date) -> list["RunFailure"]:
    """Runs that failed in the week up to the day, newest first."""
    from ssmd_core.reports.collect import RunFailure

    end = datetime.combine(day, time(), UTC) + timedelta(days=1)
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE], created_after=end - timedelta(days=_DAYS), created_before=end
        ),
        limit=_MAX_FAILURES,
    )
    return [
        RunFailure(
            run_id=record.dagster_run.run_id,
            job=record.dagster_run.job_name,
            hour=record.dagster_run.tags.get("dagster/partition", ""),
            error=_reason(instance, record.dagster_run.run_id),
        )
        for record in records
    ]


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.STEP_FAILURE, limit=1).records
    if not records or records[0].event_log_entry.dagster_event is None:
        return "no reason is known"
    error = records[0].event_log_entry.dagster_event.step_failure_data.error
    text = (error.cause.message if error.cause else error.message) if error else "no reason is known"
    return visible(text.strip()[:_REASON_CHARS])
