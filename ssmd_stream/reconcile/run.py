"""Reconcile an hour of a stream: from Dagster, from the command line, from a test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, ParamSpec

import structlog

from ssmd_core.db.connect import check_url, connect, now_of
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Feed
from ssmd_core.settings import Settings
from ssmd_stream.reconcile.archived import ArchivedTrades
from ssmd_stream.reconcile.backfill import Backfill
from ssmd_stream.reconcile.instrument import NOT_BUILT, Found, InstrumentReconciler
from ssmd_stream.reconcile.instruments import BUSIEST, choose
from ssmd_stream.reconcile.kalshi import KalshiTrades
from ssmd_stream.reconcile.kraken import KrakenTrades
from ssmd_stream.reconcile.kraken_futures import KrakenFuturesTrades
from ssmd_stream.reconcile.polymarket import DATA_API, PACE_PER_S, PolymarketTrades
from ssmd_stream.reconcile.report import HourReport
from ssmd_stream.reconcile.store import store
from ssmd_stream.reconcile.trades import VenueTrades
from ssmd_stream.secmaster.rest import RestClient, Timing
from ssmd_stream.secmaster.sync import rest_url_of

log = structlog.get_logger()

P = ParamSpec("P")

# A venue that answers every second attempt after the minute that it asks to wait would take days. Kraken's 80
# instruments, at a request a second, take some three minutes.
MAX_INSTRUMENT_S, MAX_RUN_S = 300.0, 1_800.0
# A venue that has failed so many instruments in a row, each after all attempts, is not asked for the others.
_GIVEN_UP_AFTER = 2


async def reconcile_hour(
    settings: Settings,
    feed: Feed,
    stream: str,
    hour: datetime,
    *,
    window: tuple[datetime, datetime] | None = None,
    instruments: Sequence[str] = (),
    backfill: bool = True,
    busiest: int = BUSIEST,
    seed: int = 0,
    rest_url: str = "",
    timing: Timing | None = None,
) -> HourReport:
    """Compare one hour's archived trades with the venue's, keep what is missing, store the result.

    Nothing of a venue's makes it raise: what cannot be had is `unavailable`. Rows go to `trade_reconciliations` if
    there is a DATABASE_URL, otherwise nowhere, and the log says so.

    Args:
        feed, stream: whose.
        hour: UTC, a full hour.
        window: a part of it, [from, to) of the venue's time; None: all of it.
        instruments: only these; empty: the busiest ones, and the others in turn (see `instruments.choose`).
        backfill: fetch what is missing into the backfill dataset.
        busiest, seed: see `instruments.choose`.
        rest_url: base instead of the configured one.
        timing: of the REST client.

    Raises:
        ConfigError: a window outside of the hour, a broken feed.yaml, an unusable DATABASE_URL.
        ArchiveError, DatasetError: a manifest or a dataset cannot be read.
        DatabaseError: Postgres refused or cannot be reached.
    """
    start, end = window or (hour, hour + timedelta(hours=1))
    if not hour <= start < end <= hour + timedelta(hours=1):
        raise ConfigError(f"window {start.isoformat()} to {end.isoformat()} is not a part of hour {hour.isoformat()}")
    if settings.database_url:
        check_url(settings.database_url)
    archive = ArchivedTrades(settings.dataset_root, feed, stream, hour)
    report = HourReport(feed.name, stream, hour)
    chosen = tuple(dict.fromkeys(instruments))
    report.bound = f"{len(chosen)} instruments that were asked for"
    if not chosen:
        choice = choose(archive.instruments(), hour, busiest=busiest, seed=seed)
        chosen, report.bound = choice.chosen, choice.bound if archive.built else NOT_BUILT
    keep = Backfill(settings.backfill_root, feed, stream, hour)
    reason = f"reconciliation {start:%Y-%m-%dT%H:%M:%SZ}/{end:%Y-%m-%dT%H:%M:%SZ}"
    async with _venue(settings, feed, rest_url, timing) as (venue, rest):
        one = InstrumentReconciler(archive, venue, feed.name, stream, hour, start, end)
        failures = 0
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + MAX_RUN_S
        for name in chosen:
            if failures == _GIVEN_UP_AFTER:
                found = one.unavailable(name, "not asked: the venue did not answer for those before")
            elif (left_s := deadline_s - loop.time()) <= 0:
                found = one.unavailable(name, f"not asked: the run took longer than {MAX_RUN_S:g} s")
            else:
                found = await _in_time(one, name, min(MAX_INSTRUMENT_S, left_s))
                failures = failures + 1 if found.no_answer else 0
            if backfill and found.missing:
                report.backfill_added += keep.add(found.missing, reason, now_of(settings.clock))
                found.result.backfilled = len(found.missing)
            report.results.append(found.result)
        report.requests = rest.requests
    if keep.path.is_file():
        report.backfill_path = str(keep.path.relative_to(settings.data))
    await _store(settings, report)
    return report


async def _in_time(one: InstrumentReconciler, name: str, limit_s: float) -> Found:
    try:
        async with asyncio.timeout(limit_s):
            return await one.reconcile(name)
    except TimeoutError:
        found = one.unavailable(name, f"no whole answer within {limit_s:.0f} s")
        found.no_answer = True
        return found


def _blocking(work: Callable[P, Coroutine[Any, Any, HourReport]]) -> Callable[P, HourReport]:
    def run(*args: P.args, **kwargs: P.kwargs) -> HourReport:
        return asyncio.run(work(*args, **kwargs))

    return run


#: `reconcile_hour` for callers without an event loop; same arguments, same errors.
reconcile_hour_sync = _blocking(reconcile_hour)


@asynccontextmanager
async def _venue(
    settings: Settings, feed: Feed, rest_url: str, timing: Timing | None
) -> AsyncIterator[tuple[VenueTrades, RestClient]]:
    base = rest_url or rest_url_of(settings, feed)
    if feed.name == "polymarket":
        # Trades have a host of their own; a base that is not the venue's, a replay's or a proxy's, serves both.
        base = DATA_API if base == feed.rest_url else base
        client = RestClient(base, (("", PACE_PER_S),), timing)
    else:
        client = RestClient.for_feed(feed.name, base, timing)
    async with client as rest:
        match feed.name:
            case "kalshi":
                yield KalshiTrades(rest), rest
            case "kraken":
                yield KrakenTrades(rest), rest
            case "kraken-futures":
                yield KrakenFuturesTrades(rest), rest
            case "polymarket":
                yield PolymarketTrades(rest), rest
            case _:
                raise ConfigError(f"feed {feed.name!r} has no REST trades to compare with")


async def _store(settings: Settings, report: HourReport) -> None:
    if not settings.database_url:
        log.warning("reconciliation_not_stored", feed=report.feed, stream=report.stream, reason="no DATABASE_URL")
        return
    async with await connect(settings.database_url, name="reconcile", clock=settings.clock) as connection:
        await store(connection, report.results, now_of(settings.clock))
