"""Alerts of what only Dagster sees: a run that failed, and a stream that nobody archives or builds. Each is told once,
not at every tick: see `ssmd_core.alerts`."""

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.keys import STREAMS
from ssmd_assets.lib.text import visible
from ssmd_core.settings import Settings

_OWNER = "dagster"
_REASON_CHARS = 1_000
_PARTITION = "dagster/partition"


@dg.run_failure_sensor(
    name="run_failures",
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells by ntfy and mail that a run failed, once for each job and partition.",
)
def run_failures(context: dg.RunFailureSensorContext) -> None:
    """One failed run."""
    from ssmd_core.alerts import Alert, Alerter

    run = context.dagster_run
    partition = run.tags.get(_PARTITION, "")
    what = f"{run.job_name} {partition}".strip()
    alert = Alert(
        key=f"run:{what}",
        title=f"Run failed: {what}",
        text=f"{visible(_reason(context))[:_REASON_CHARS]}\nRun {run.run_id}. Look at it in Dagster, and run it again.",
        severity="critical",
    )
    with Alerter.from_environment(_OWNER, Settings.from_environment()) as alerter:
        alerter.send_now(alert)


@dg.sensor(
    name="stale_feeds",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    target=None,
    description="Tells by ntfy and mail that a stream is no longer archived or built, and when it is again.",
)
def stale_feeds(environment: Environment) -> dg.SkipReason:
    """One look at every stream that was captured in the last days."""
    from ssmd_core.alerts import Alert, Alerter
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.quality.stale import behind

    settings = environment.settings()
    now = now_of(settings.clock)
    manifests = Manifests(settings.archive_root, settings.dataset_root)
    told = []
    with Alerter.from_environment(_OWNER, settings) as alerter:
        for feed, stream in STREAMS:
            found = behind(manifests, feed, stream, now)
            if found is None:
                continue
            name = f"{feed.name}/{stream}"
            key = f"stale:{name}"
            complaint = visible(found.complaint(now))
            if not complaint:
                alerter.clear(key)
                continue
            told.append(f"{name}: {complaint}")
            if environment.asks_venues():
                alerter.send_now(Alert(key, f"{name} is behind", complaint, "critical", feed.name, stream))
    return dg.SkipReason("; ".join(told) if told else "Every stream that is captured is archived and built.")


def _reason(context: dg.RunFailureSensorContext) -> str:
    """The message of the step that failed, else that of the run."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error is not None:
            return f"{event.step_key}: {error.cause.message if error.cause else error.message}".strip()
    return context.failure_event.message or "no reason is known"
