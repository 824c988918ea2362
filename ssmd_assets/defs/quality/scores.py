"""Daily scores of the feeds, from the hourly ones; and the list of hours that are still not right."""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.checks import daily_check
from ssmd_assets.lib.database import with_database
from ssmd_assets.lib.keys import OWNERS, STREAMS, identifier, ledger_key
from ssmd_assets.lib.mail import send_mail
from ssmd_assets.lib.text import cell, visible
from ssmd_assets.partitions import DAILY
from ssmd_core.feeds import FEEDS

if TYPE_CHECKING:
    import psycopg

    from ssmd_core.mail.render import Mail
    from ssmd_core.quality.collect import Scored
    from ssmd_core.quality.daily import FeedScore
    from ssmd_core.quality.failing import FailingHour

SCORES_KEY = dg.AssetKey(["quality", "daily_scores"])
GROUP = "quality"
# Written at six, after the day's last hours; whoever looks at nine finds them.
FRESHNESS = dg.FreshnessPolicy.cron("0 9 * * *", lower_bound_delta=timedelta(hours=8), timezone="UTC")
_FAILING_DAYS = 7
_SHOWN = 50
_ISSUES_SHOWN = 5


class ScoresConfig(dg.Config):
    """Run config.

    Attributes:
        mail: send the health mail if a mail server is set.
    """

    mail: bool = True


def score_check(feed: str) -> str:
    """Name of the check that shows a feed's score."""
    return f"score_{identifier(feed)}"


@dg.asset(
    key=SCORES_KEY,
    deps=[ledger_key(feed, stream) for feed, stream in STREAMS],
    partitions_def=DAILY,
    # Steps run one after the other: what needs no network comes before what may wait for a venue for an hour.
    op_tags={"dagster/priority": "1"},
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
def daily_scores(
    context: dg.AssetExecutionContext, config: ScoresConfig, environment: Environment
) -> Iterator[dg.MaterializeResult[None]]:
    """Score one day, write it down and mail it."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_core.db.connect import now_of
    from ssmd_core.quality.collect import score_and_store
    from ssmd_core.quality.failing import failing_hours
    from ssmd_core.quality.mails import health_mail_of
    from ssmd_stream.proved import load_missing

    settings = environment.settings()
    day = date.fromisoformat(context.partition_key)
    now = now_of(settings.clock)

    async def work(connection: "psycopg.AsyncConnection") -> tuple[int, "Scored", list["FailingHour"], "Mail"]:
        loaded = await load_missing(connection, settings, day - timedelta(days=_FAILING_DAYS - 1), day)
        manifests = Manifests(settings.archive_root, settings.dataset_root)
        scored = await score_and_store(connection, manifests, day, now)
        failing = await failing_hours(connection, manifests, day, _FAILING_DAYS, now)
        return loaded, scored, failing, await health_mail_of(connection, scored)

    loaded, scored, failing, mail = with_database(settings, f"scores of {day}", work)
    told = "not sent: not asked for"
    if config.mail:
        told = send_mail(context, mail) if scored.day.feeds else "not sent: no feed is captured"
    yield dg.MaterializeResult(
        metadata={
            "composite": scored.day.composite if scored.day.composite is not None else "no feed is captured",
            "status": scored.day.status,
            "scores": dg.MetadataValue.md(_table(scored.day.feeds)),
            "hours_scored": len({(one.feed, one.stream, one.hour) for one in scored.hours}),
            "files": len(scored.files),
            "not_captured": ", ".join(scored.day.not_captured) or "none",
            "ledgers_loaded_late": loaded,
            "mail": told,
        },
        check_results=[
            *(_feed_check(name, scored.day.feeds) for name in FEEDS),
            _failing_check(failing),
        ],
    )


def _table(feeds: Sequence["FeedScore"]) -> str:
    rows = [f"| {one.feed} | {one.score} | {one.grade} | {one.status} | {_issues(one)} |" for one in feeds]
    return "\n".join(["| feed | score | grade | status | what is wrong |", "|---|--:|---|---|---|", *rows])


def _issues(one: "FeedScore") -> str:
    shown = [cell(issue) for issue in one.issues[:_ISSUES_SHOWN]]
    more = len(one.issues) - len(shown)
    return "; ".join([*shown, *([f"and {more} more"] if more else [])]) or "nothing"


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
        metadata={"components": dict(found.components), "issues": [visible(issue) for issue in found.issues[:_SHOWN]]},
    )


def _failing_check(failing: Sequence["FailingHour"]) -> dg.AssetCheckResult:
    mendable = [hour for hour in failing if hour.mendable]
    text = f"No hour waits for being put right; {len(failing)} stay degraded, which nothing can change."
    if mendable:
        first = mendable[0]
        text = (
            f"{len(mendable)} hours of the last {_FAILING_DAYS} days can still be put right, the newest is "
            f"{first.name} ({', '.join(first.reasons)}). Materialise an hour that is not_proved or archive_changed; "
            f"for rejects and null_column mend the schema first; for damaged run `ssmd verify`."
        )
    return dg.AssetCheckResult(
        check_name="hours_still_failing",
        passed=not mendable,
        severity=dg.AssetCheckSeverity.WARN,
        description=text,
        metadata={
            "mendable": [f"{hour.name}: {', '.join(hour.reasons)}" for hour in mendable[:_SHOWN]],
            "lasting": [f"{hour.name}: {', '.join(hour.reasons)}" for hour in failing if not hour.mendable][:_SHOWN],
        },
    )
