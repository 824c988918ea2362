"""Kalshi's series, events and markets, brought into Postgres.

**Status of events.** The venue's event records have none. It comes from the listing in which an event stood: with a
market that closes in the future, `settled`, `closed`, `open`, asked for in this order, the later one wins. So an
event that closes while it is being listed is in the first listing or in a later one, and an event with one settled
and one open market is active. An event that is asked for alone comes with its markets and is where the liveliest of
them is.

**Modes.** `full` lists everything and may delete (see `SyncRun.finish`). `incremental` lists what can have changed
since the last successful run: watermarks, not fixed times, say since when, so a week's outage is caught up with.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Any

import structlog

from ssmd_core.db.merge import Reject, Sweep, SyncReport, SyncRun
from ssmd_core.db.tables import ID_CHARS, SYNCED, Synced
from ssmd_core.secmaster.status import kalshi_status
from ssmd_stream.secmaster.fields import Census, FieldError, Record, clean, reject_key
from ssmd_stream.secmaster.kalshi_client import KalshiClient
from ssmd_stream.secmaster.kalshi_mapping import (
    EVENT_COLUMNS,
    EVENT_EXPECTED,
    MARKET_COLUMNS,
    MARKET_EXPECTED,
    SERIES_COLUMNS,
    SERIES_EXPECTED,
    Row,
    event_row,
    event_status,
    market_row,
    series_row,
)
from ssmd_stream.secmaster.rest import RestClient, RestError
from ssmd_stream.secmaster.sync import Mode, SyncTask

__all__ = ["TASKS", "KalshiClient"]

log = structlog.get_logger()

_SERIES, _EVENTS, _MARKETS = SYNCED["series"], SYNCED["events"], SYNCED["markets"]

# The first incremental run has no watermark.
FIRST_LOOK_BACK = timedelta(days=7)
# Watermarks are our clock's: this much for a venue's clock that differs and for answers that lag behind.
OVERLAP = timedelta(hours=1)
CLOSING_SOON = timedelta(hours=48)
CREATED_LATELY = timedelta(days=7)
# At 20 requests a second, two minutes. More are missing only if events have never been synced.
MAX_EVENTS_ALONE = 2_500
MAX_LATE_SETTLEMENTS = 5_000


@dataclass(slots=True)
class _Stage:
    """Brings listings into a run's temporary table, page by page.

    Attributes:
        listed: records so far, the refused ones included.
    """

    run: SyncRun
    table: Synced
    columns: Sequence[str]
    expected: Iterable[tuple[str, ...]]
    census: Census = field(init=False)
    listed: int = 0

    def __post_init__(self) -> None:
        self.census = Census(*self.expected)

    async def take(self, pages: AsyncIterator[list[Any]], read: Callable[[Record], Row]) -> None:
        """Stage a listing to its end; records that cannot be read are noted."""
        # A row that a lifecycle message changed after the venue was asked must win over the answer.
        asked_at = self.run.now()
        async for page in pages:
            await self.records(page, read, asked_at)
            asked_at = self.run.now()

    async def records(self, records: Iterable[Any], read: Callable[[Record], Row], asked_at: datetime) -> None:
        """Stage some records."""
        rows: list[Row] = []
        for raw in records:
            self.listed += 1
            try:
                record = Record(raw)
                rows.append(read(record))
            except FieldError as error:
                key = raw.get(self.table.key) if isinstance(raw, dict) else None
                self.run.reject(Reject(self.table.name, reject_key(key), str(error)))
                continue
            self.census.add(record)
        if rows:
            await self.run.stage(self.table, self.columns, rows, asked_at)

    def must_not_be_empty(self, path: str) -> None:
        """To be called after a full listing.

        Raises:
            RestError: nothing was listed; the venue has never been without.
        """
        if not self.listed:
            raise RestError(f"GET {path}: no {self.table.name} are listed")


async def _sync_series(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    del mode
    stage = _Stage(run, _SERIES, SERIES_COLUMNS, SERIES_EXPECTED)
    await stage.take(KalshiClient(rest).series(), series_row)
    stage.must_not_be_empty("/series")
    stage.census.report(run, "series")
    return await run.finish(sweeps=[Sweep(_SERIES)])


async def _sync_events(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    client = KalshiClient(rest)
    stage = _Stage(run, _EVENTS, EVENT_COLUMNS, EVENT_EXPECTED)
    began = run.now()
    category_of = await _categories(run)
    settled = {"status": "settled"}
    if mode == "incremental":
        settled["min_close_ts"] = _s(await _since(run, "last_closed_ts"))
    listings = (
        ("active", {"min_close_ts": _s(began)}),
        ("settled", settled),
        ("closed", {"status": "closed"}),
        ("active", {"status": "open"}),
    )
    for status, filters in listings:
        asked_at = run.now()
        async for page in client.events(filters):
            settled_ones = await _all_settled(run, page) if status == "closed" else frozenset()
            await stage.records(page, _event_reader(status, category_of, settled_ones), asked_at)
            asked_at = run.now()
    if mode == "full":
        stage.must_not_be_empty("/events")
    else:
        await _unlisted_events(client, run, stage, category_of)
    stage.census.report(run, "events")
    return await run.finish(sweeps=[Sweep(_EVENTS)] if mode == "full" else [], watermarks={"last_closed_ts": began})


async def _sync_markets(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    client = KalshiClient(rest)
    stage = _Stage(run, _MARKETS, MARKET_COLUMNS, MARKET_EXPECTED)
    began = run.now()
    for filters in [{}] if mode == "full" else await _recent_markets(run, began):
        await stage.take(client.markets(filters), market_row)
    if mode == "full":
        stage.must_not_be_empty("/markets")
        await _late_settlements(client, run, stage)
    await _missing_parents(client, run)
    stage.census.report(run, "markets")
    return await run.finish(
        sweeps=[Sweep(_MARKETS)] if mode == "full" else [],
        watermarks={"last_closed_ts": began, "last_settled_ts": began, "last_updated_ts": began},
    )


async def _recent_markets(run: SyncRun, now: datetime) -> list[dict[str, str]]:
    """Filters that together show what can have changed since the last run."""
    closed_since, settled_since = await _since(run, "last_closed_ts"), await _since(run, "last_settled_ts")
    return [
        {"min_updated_ts": _s(await _since(run, "last_updated_ts"))},
        # What opens by itself, without a message: it must be known before.
        {"status": "unopened"},
        {"status": "open", "min_created_ts": _s(now - CREATED_LATELY)},
        # What closed since, whatever it is by now, and what will have closed before the next run.
        {"min_close_ts": _s(closed_since), "max_close_ts": _s(now + CLOSING_SOON)},
        # Everything between its close and its settlement.
        {"status": "closed"},
        {"status": "settled", "min_settled_ts": _s(settled_since)},
    ]


async def _late_settlements(client: KalshiClient, run: SyncRun, stage: _Stage) -> None:
    """Ask the venue's history for markets that should have settled and that its list no longer shows."""
    rows = await run.query(
        "SELECT ticker, count(*) OVER () FROM markets m "
        "WHERE deleted_at IS NULL AND status <> 'settled' AND close_time < ssmd_now() "
        + await _not_staged(run, "markets", "ticker", "m")
        + "ORDER BY hashtextextended(ticker, %s) LIMIT %s",
        (_turn(run), MAX_LATE_SETTLEMENTS),
    )
    if rows:
        _warn_of_limit(run, "markets", rows)
        await stage.take(client.historical_markets([row[0] for row in rows]), market_row)


async def _all_settled(run: SyncRun, page: list[Any]) -> frozenset[str]:
    """Events of which every known market is settled, as we count it.

    The venue's listing `closed` holds them until they are paid out, for us a known result is the end.
    """
    tickers = [str(raw.get("event_ticker"))[:ID_CHARS] for raw in page if isinstance(raw, dict)]
    rows = await run.query(
        "SELECT event_ticker FROM markets WHERE event_ticker = ANY(%s) AND deleted_at IS NULL "
        "GROUP BY 1 HAVING bool_and(status = 'settled')",
        ([clean(ticker) for ticker in tickers],),
    )
    return frozenset(row[0] for row in rows)


async def _unlisted_events(
    client: KalshiClient, run: SyncRun, stage: _Stage, category_of: Callable[[str], str]
) -> None:
    """Ask for events that were not settled and are in no listing: they settled long after they had closed."""
    rows = await run.query(
        "SELECT event_ticker, count(*) OVER () FROM events e WHERE deleted_at IS NULL AND status <> 'settled' "
        + await _not_staged(run, "events", "event_ticker", "e")
        + "ORDER BY hashtextextended(event_ticker, %s) LIMIT %s",
        (_turn(run), MAX_EVENTS_ALONE),
    )
    _warn_of_limit(run, "events", rows)
    await _take_events(client, run, stage, [row[0] for row in rows], category_of)


async def _missing_parents(client: KalshiClient, run: SyncRun) -> None:
    """Fetch events that markets name and nobody has listed.

    Markets of events that the venue denies are rejected, unless the event is stored as deleted: it stays deleted and
    the market is taken, because the venue lists it.
    """
    missing = await run.orphans(_MARKETS)
    if len(missing) > MAX_EVENTS_ALONE:
        run.warn(f"{len(missing)} events are missing, {MAX_EVENTS_ALONE} were fetched: sync kalshi/events first")
        Random(_turn(run)).shuffle(missing)
    stage = _Stage(run, _EVENTS, EVENT_COLUMNS, ())
    await _take_events(client, run, stage, missing[:MAX_EVENTS_ALONE], await _categories(run))
    stage.census.report(run, "events")


async def _take_events(
    client: KalshiClient, run: SyncRun, stage: _Stage, tickers: Iterable[str], category_of: Callable[[str], str]
) -> None:
    """Stage those of the events that the venue knows."""
    for event_ticker in tickers:
        asked_at = run.now()
        found = await client.event(event_ticker)
        if found is not None:
            event, markets = found
            words = (each.get("status") for each in markets if isinstance(each, dict))
            status = event_status(kalshi_status(word) for word in words if isinstance(word, str))
            await stage.records([event], _event_reader(status, category_of), asked_at)


async def _categories(run: SyncRun) -> Callable[[str], str]:
    known: dict[str, str] = dict(await run.query("SELECT ticker, category FROM series WHERE category <> ''"))
    return lambda series_ticker: known.get(series_ticker, "")


def _event_reader(
    status: str, category_of: Callable[[str], str], settled: frozenset[str] = frozenset()
) -> Callable[[Record], Row]:
    def read(record: Record) -> Row:
        return event_row(record, "settled" if record.id("event_ticker") in settled else status, category_of)

    return read


async def _since(run: SyncRun, name: str) -> datetime:
    watermark = await run.watermark(name)
    return watermark - OVERLAP if watermark is not None else run.now() - FIRST_LOOK_BACK


async def _not_staged(run: SyncRun, table: str, key: str, alias: str) -> str:
    """A condition on a query's table, or none if nothing has been staged for it."""
    exists = await run.query("SELECT to_regclass(%s) IS NOT NULL", (f"staged_{table}",))
    return f"AND NOT EXISTS (SELECT FROM staged_{table} s WHERE s.{key} = {alias}.{key}) " if exists[0][0] else ""


def _turn(run: SyncRun) -> int:
    """Seed of the order in which a run asks when it cannot ask for all, another one each second.

    With the oldest first, those that the venue never knows would stand before all others for ever.
    """
    return int(run.now().timestamp())


def _warn_of_limit(run: SyncRun, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows and rows[0][1] > len(rows):
        run.warn(f"{table}: {rows[0][1]} are in no listing and not settled, {len(rows)} of them were asked for")


def _s(moment: datetime) -> str:
    """Epoch seconds, as the venue's filters take them."""
    return str(int(moment.timestamp()))


TASKS: tuple[SyncTask, ...] = (
    SyncTask("kalshi", "series", ("series",), _sync_series),
    SyncTask("kalshi", "events", ("events",), _sync_events, ("full", "incremental"), after=("series",)),
    SyncTask(
        "kalshi", "markets", ("events", "markets"), _sync_markets, ("full", "incremental"), after=("series", "events")
    ),
)
