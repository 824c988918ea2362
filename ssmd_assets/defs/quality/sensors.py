"""Alerts of what only Dagster sees: a run that failed, and a stream that nobody archives or builds. Each is told once,
not at every tick, and so is its end: see `ssmd_core.alerts`."""

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.alerts import tell
from ssmd_assets.lib.keys import STREAMS
from ssmd_assets.lib.text import visible
from ssmd_core.settings import Settings

_RUNS, _STREAMS = "dagster-runs", "dagster-streams"
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
    from ssmd_core.alerts import Alert

    run = context.dagster_run
    what = _what(run)
    alert = Alert(
        key=f"run:{what}",
        title=f"Run failed: {what}",
        text=f"{visible(_reason(context))[:_REASON_CHARS]}\nRun {run.run_id}. Look at it in Dagster, and run it again.",
        severity="critical",
    )
    tell(_RUNS, Settings.from_environment(), [alert])


@dg.run_status_sensor(
    run_status=dg.DagsterRunStatus.SUCCESS,
    name="run_recoveries",
    monitor_all_code_locations=True,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Tells that a job whose run had failed has succeeded for the same partition.",
)
def run_recoveries(context: dg.RunStatusSensorContext) -> None:
    """One run that succeeded."""
    tell(_RUNS, Settings.from_environment(), [], [f"run:{_what(context.dagster_run)}"])


@dg.sensor(
    name="stale_feeds",
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    target=None,
    description="Tells by ntfy and mail that a stream is no longer archived or built, and when it is again.",
)
def stale_feeds(environment: Environment) -> dg.SkipReason:
    """One look at every stream that was captured in the last days."""
    from ssmd_core.alerts import Alert
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.quality.stale import behind

    settings = environment.settings()
    now = now_of(settings.clock)
    manifests = Manifests(settings.archive_root, settings.dataset_root)
    raised: list[Alert] = []
    over: list[str] = []
    for feed, stream in STREAMS:
        found = behind(manifests, feed, stream, now)
        if found is None:
            continue
        name = f"{feed.name}/{stream}"
        key = f"stale:{name}"
        complaint = visible(found.complaint(now))
        if complaint:
            raised.append(Alert(key, f"{name} is behind", complaint, "critical", feed.name, stream))
        else:
            over.append(key)
    if environment.asks_venues():
        tell(_STREAMS, settings, raised, over)
    told = "; ".join(f"{alert.feed}/{alert.stream}: {alert.text}" for alert in raised)
    return dg.SkipReason(told or "Every stream that is captured is archived and built.")


def _what(run: dg.DagsterRun) -> str:
    return f"{run.job_name} {run.tags.get(_PARTITION, '')}".strip()


def _reason(context: dg.RunFailureSensorContext) -> str:
    """The message of the step that failed, else that of the run."""
    for event in context.get_step_failure_events():
        error = event.step_failure_data.error
        if error is not None:
            return f"{event.step_key}: {error.cause.message if error.cause else error.message}".strip()
    return context.failure_event.message or "no reason is known"
