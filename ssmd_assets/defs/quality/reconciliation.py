"""Archived trades of a day against the venues' own lists of trades, hour by hour."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
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
# A venue that does not answer costs a minute an hour. Hours are asked newest first: once nothing at all was available
# of two, the venue is away, or its history ends there.
_HOURS_UNAVAILABLE = 2


@dataclass(slots=True)
class _StreamDay:
    """What was found of a stream.

    Attributes:
        reports: of its hours, newest first.
        problem: why no more could be done on our own side, "" if all was.
        left_out: hours that were not asked for, because the venue had nothing of newer ones.
    """

    reports: list["HourReport"] = field(default_factory=list)
    problem: str = ""
    left_out: int = 0


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
    found = {(feed.name, stream): _stream_day(settings, feed, stream, start) for feed, stream in STREAMS}
    for name, day in found.items():
        if day.problem:
            context.log.error(f"trades of {'/'.join(name)} on {start:%Y-%m-%d}: {day.problem}")
    reports = [report for day in found.values() for report in day.reports]
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


def _stream_day(settings: Settings, feed: Feed, stream: str, start: datetime) -> _StreamDay:
    """The hours that have datasets. A stream that cannot be read fails its own check, not the others'."""
    from ssmd_core.datasets.coverage import Manifests
    from ssmd_stream.reconcile.run import reconcile_hour_sync

    found = _StreamDay()
    unavailable = 0
    try:
        built = Manifests(settings.archive_root, settings.dataset_root).datasets(feed.name, stream, start.date())
        hours = sorted(built.hours if built else (), reverse=True)
        for number, name in enumerate(hours):
            report = reconcile_hour_sync(settings, feed, stream, start + timedelta(hours=int(name[:2])))
            found.reports.append(report)
            nothing = bool(report.results) and all(one.status == "unavailable" for one in report.results)
            unavailable = unavailable + 1 if nothing else 0
            if unavailable == _HOURS_UNAVAILABLE:
                found.left_out = len(hours) - number - 1
                break
    except SsmdError as error:
        found.problem = visible(str(error))
    return found


def _check(feed: Feed, stream: str, day: _StreamDay) -> dg.AssetCheckResult:
    results = [one for report in day.reports for one in report.results]
    venue = sum(one.venue_trades for one in results)
    extra = sum(one.extra for one in results)
    wrong = [one for one in results if one.missing or one.differing or one.extra]
    unavailable = sum(one.status in ("unavailable", "partial") for one in results)
    # A trade that only the archive has is as wrong as one that only the venue has.
    rate = Decimal(sum(one.matched for one in results)) / (venue + extra) if venue + extra else None
    if not day.reports:
        text = "No hour of the day has datasets: nothing to compare."
    elif rate is None:
        text = f"Nothing was compared in {len(day.reports)} hours; {unavailable} windows were not available in full."
    else:
        text = f"{100 * rate:.3f} % of {venue + extra:,} trades are archived as the venue lists them."
    if day.left_out:
        text += f" {day.left_out} older hours were not asked for: the venue had nothing of newer ones."
    if wrong:
        first = wrong[0]
        text += (
            f" {visible(first.instrument)} lacks {first.missing}, differs in {first.differing} and has {first.extra} "
            f"extra from {first.started_at:%Y-%m-%d %H:%M}: see `ssmd health trades {feed.name}/{stream}`."
        )
    if day.problem:
        text += f" Not all could be done: {day.problem}. Mend it and materialise the day again."
    return dg.AssetCheckResult(
        check_name=match_check(feed, stream),
        passed=not day.problem and (rate is None or rate >= _WELL),
        severity=dg.AssetCheckSeverity.WARN if rate is None or rate >= _TOLERABLE else dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata={
            "match_rate": "unknown" if rate is None else f"{rate:.6f}",
            "unavailable": unavailable,
            "examples": [visible(f"{one.instrument} {one.started_at:%H:%M}: {one.detail}") for one in wrong[:_SHOWN]],
        },
    )
