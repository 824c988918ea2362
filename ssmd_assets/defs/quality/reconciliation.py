"""Archived trades of a day against the venues' own lists of trades, hour by hour."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from datetime import date as day_of
from decimal import Decimal
from typing import TYPE_CHECKING

import dagster as dg

from ssmd_assets.defs.resources import Environment
from ssmd_assets.lib.checks import daily_check
from ssmd_assets.lib.keys import OWNERS, STREAMS, dataset_key, identifier
from ssmd_assets.lib.text import visible
from ssmd_assets.partitions import DAILY
from ssmd_core.errors import SsmdError
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings

if TYPE_CHECKING:
    from ssmd_stream.reconcile.report import HourReport

RECONCILIATION_KEY = dg.AssetKey(["quality", "trade_reconciliation"])
_FRESHNESS = dg.FreshnessPolicy.cron("0 9 * * *", lower_bound_delta=timedelta(hours=8), timezone="UTC")
# The numbers of the reference system's reports: at 99.9 % the few that differ are the edges of windows.
_WELL, _TOLERABLE = Decimal("0.999"), Decimal("0.99")
_SHOWN = 20


def match_check(feed: Feed, stream: str) -> str:
    """Name of the check that shows a stream's match rate."""
    return f"trades_{identifier(feed.name)}_{identifier(stream)}"


@dg.asset(
    key=RECONCILIATION_KEY,
    deps=[dataset_key(feed, stream, feed.trades.message_type) for feed, stream in STREAMS],
    partitions_def=DAILY,
    description=(
        "Archived trades against the venues' REST: matched, missing, extra, differing. What is missing is fetched into "
        "`backfill/`, marked as such and never mixed into the capture. Table `trade_reconciliations`."
    ),
    group_name="quality",
    owners=OWNERS,
    kinds={"postgres", "parquet"},
    freshness_policy=_FRESHNESS,
    check_specs=[
        daily_check(
            match_check(feed, stream), RECONCILIATION_KEY, f"{feed.display_name}: the venue's trades are archived."
        )
        for feed, stream in STREAMS
    ],
)
def trade_reconciliation(
    context: dg.AssetExecutionContext, environment: Environment
) -> Iterator[dg.MaterializeResult[None]]:
    """Reconcile one day; a venue that does not answer is `unavailable`, which is no fault of the archive."""
    settings = environment.settings()
    start = datetime.combine(day_of.fromisoformat(context.partition_key), time(), UTC)
    found: dict[tuple[str, str], list[HourReport]] = {}
    for feed, stream in STREAMS:
        found[feed.name, stream] = list(_hours(context, settings, feed, stream, start))
    reports = [report for of_stream in found.values() for report in of_stream]
    yield dg.MaterializeResult(
        metadata={
            "hours": len(reports),
            "statuses": dict(sum((report.statuses for report in reports), Counter[str]())),
            "requests": sum(report.requests for report in reports),
            "backfilled": sum(report.backfill_added for report in reports),
            "bounds": sorted({visible(report.bound) for report in reports})[:_SHOWN],
        },
        check_results=[_check(feed, stream, found[feed.name, stream]) for feed, stream in STREAMS],
    )


def _hours(
    context: dg.AssetExecutionContext, settings: Settings, feed: Feed, stream: str, start: datetime
) -> Iterator["HourReport"]:
    """The hours that have datasets of the feed's trades."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_stream.reconcile.run import reconcile_hour_sync

    try:
        built = Manifests(settings.archive_root, settings.dataset_root).datasets(feed.name, stream, start.date())
        for name in sorted(built.hours if built else ()):
            yield reconcile_hour_sync(settings, feed, stream, start + timedelta(hours=int(name[:2])))
    except SsmdError as error:
        raise dg.Failure(f"trades of {feed.name}/{stream} on {start:%Y-%m-%d}: {visible(str(error))}") from error
    if built is None:
        context.log.info(f"{feed.name}/{stream} has no datasets of {start:%Y-%m-%d}: nothing to compare")


def _check(feed: Feed, stream: str, reports: Sequence["HourReport"]) -> dg.AssetCheckResult:
    results = [one for report in reports for one in report.results]
    venue = sum(one.venue_trades for one in results)
    missing = [one for one in results if one.missing or one.differing]
    unavailable = sum(one.status in ("unavailable", "partial") for one in results)
    rate = Decimal(sum(one.matched for one in results)) / venue if venue else None
    name = match_check(feed, stream)
    if rate is None:
        text = f"Nothing was compared in {len(reports)} hours; {unavailable} windows were not available at the venue."
        return dg.AssetCheckResult(check_name=name, passed=True, description=text)
    text = f"{100 * rate:.3f} % of {venue:,} trades of the venue are archived as it lists them."
    if missing:
        first = missing[0]
        text += (
            f" {visible(first.instrument)} lacks {first.missing} and differs in {first.differing} from "
            f"{first.started_at:%Y-%m-%d %H:%M}: see `ssmd health trades {feed.name}/{stream}`."
        )
    return dg.AssetCheckResult(
        check_name=name,
        passed=rate >= _WELL,
        severity=dg.AssetCheckSeverity.WARN if rate >= _TOLERABLE else dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata={
            "match_rate": f"{rate:.6f}",
            "unavailable": unavailable,
            "examples": [visible(f"{one.instrument} {one.started_at:%H:%M}: {one.detail}") for one in missing[:_SHOWN]],
        },
    )
