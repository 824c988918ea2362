"""Daily scores of the feeds, from the hourly ones; and the list of hours that are still not right."""

from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.checks import daily_check
from ssmd_assets.lib.database import with_database
from ssmd_assets.lib.keys import OWNERS, STREAMS, identifier, ledger_key
from ssmd_assets.lib.text import visible
from ssmd_assets.partitions import DAILY
from ssmd_core.feeds import FEEDS

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.quality.collect import Scored
    from ssmd_core.quality.daily import FeedScore
    from ssmd_core.quality.failing import FailingHour

SCORES_KEY = dg.AssetKey(["quality", "daily_scores"])
GROUP = "quality"
# Written at six, after the day's last hours; whoever looks at nine finds them.
FRESHNESS = dg.FreshnessPolicy.cron("0 9 * * *", lower_bound_delta=timedelta(hours=8), timezone="UTC")
_FAILING_DAYS = 7
_SHOWN = 50


def score_check(feed: str) -> str:
    """Name of the check that shows a feed's score."""
    return f"score_{identifier(feed)}"


@dg.asset(
    key=SCORES_KEY,
    deps=[ledger_key(feed, stream) for feed, stream in STREAMS],
    partitions_def=DAILY,
    description=(
        "Quality scores of a UTC day: of every hour and message type (`dq_hourly_scores`), of every feed "
        "(`dq_daily_scores`), and what the parquet footers say (`dq_parquet_stats`). Formula: docs/quality.md."
    ),
    group_name=GROUP,
    owners=OWNERS,
    kinds={"postgres"},
    freshness_policy=FRESHNESS,
    check_specs=[
        *(
            daily_check(score_check(name), SCORES_KEY, f"{feed.display_name}: GREEN from 85, RED only with evidence.")
            for name, feed in FEEDS.items()
        ),
        daily_check("hours_still_failing", SCORES_KEY, "No hour of the last seven days waits for being put right."),
    ],
)
def daily_scores(context: dg.AssetExecutionContext, environment: Environment) -> Iterator[dg.MaterializeResult[None]]:
    """Score one day and write it down."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.quality.collect import score_and_store
    from ssmd_core.quality.failing import failing_hours

    settings = environment.settings()
    day = date.fromisoformat(context.partition_key)
    after = datetime.combine(day, time(), UTC) + timedelta(days=1)

    async def work(connection: "psycopg.AsyncConnection") -> tuple["Scored", list["FailingHour"]]:
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        scored = await score_and_store(connection, manifests, day, now_of(settings.clock))
        return scored, await failing_hours(connection, after, _FAILING_DAYS)

    scored, failing = with_database(settings, f"scores of {day}", work)
    rows = "\n".join(
        f"| {one.feed} | {one.score} | {one.grade} | {one.status} | {visible('; '.join(one.issues)) or '-'} |"
        for one in scored.day.feeds
    )
    yield dg.MaterializeResult(
        metadata={
            "composite": scored.day.composite if scored.day.composite is not None else "no feed is captured",
            "status": scored.day.status,
            "scores": dg.MetadataValue.md(f"| feed | score | grade | status | issues |\n|---|---|---|---|---|\n{rows}"),
            "hours_scored": len(scored.hours),
            "files": len(scored.files),
            "not_captured": list(scored.day.not_captured),
        },
        check_results=[
            *(_feed_check(name, scored.day.feeds) for name in FEEDS),
            _failing_check(failing),
        ],
    )


def _feed_check(name: str, feeds: Sequence["FeedScore"]) -> dg.AssetCheckResult:
    found = next((one for one in feeds if one.feed == name), None)
    if found is None:
        text = "Not captured in the week before: nothing to score."
        return dg.AssetCheckResult(check_name=score_check(name), passed=True, description=text)
    text = f"{found.score} of 100 ({found.grade}), {found.status}."
    if found.issues:
        text += f" {visible(found.issues[0])}. See `ssmd health daily --date {found.day}` and the ledgers of the hours."
    return dg.AssetCheckResult(
        check_name=score_check(name),
        passed=found.status == "GREEN",
        severity=dg.AssetCheckSeverity.ERROR if found.status == "RED" else dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={"components": dict(found.components), "issues": [visible(issue) for issue in found.issues]},
    )


def _failing_check(failing: Sequence["FailingHour"]) -> dg.AssetCheckResult:
    mendable = [hour for hour in failing if hour.mendable]
    if mendable:
        text = (
            f"{len(mendable)} hours of the last {_FAILING_DAYS} days can still be put right, the newest is "
            f"{mendable[0].name} ({', '.join(mendable[0].reasons)}). Mend the cause and materialise the hour again."
        )
    else:
        text = f"No hour waits for being put right; {len(failing)} stay degraded, which nothing can change."
    return dg.AssetCheckResult(
        check_name="hours_still_failing",
        passed=not mendable,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={"hours": [f"{hour.name}: {', '.join(hour.reasons)}" for hour in failing[:_SHOWN]]},
    )
