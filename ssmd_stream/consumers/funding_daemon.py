"""The funding-rate daemon: every five minutes the newest ticker of each product goes to `pair_snapshots`.

It is a sampler: a ticker is acknowledged as it is taken, before it is stored. A crash costs one interval's sample, and
the product's next ticker, at most a second later, is a better one than any that could be delivered again. Holding
back five minutes of acknowledgements would be some 100,000 messages. Every ticker is in the archive anyway.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import NamedTuple

import psycopg
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from psycopg import sql

from ssmd_core.db.connect import check_url, now_of
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.settings import Settings
from ssmd_stream.consumers.database import BadWorkError, Session, hello
from ssmd_stream.consumers.funding_rates import COLUMNS, Sampler, Ticker, read_ticker
from ssmd_stream.consumers.pull import RETRY_S, DurableConsumer, PullError, connect_patiently, flush, sleep_or_stop
from ssmd_stream.consumers.service import HealthPort, run_service
from ssmd_stream.health import Health
from ssmd_stream.jetstream import abort
from ssmd_stream.secmaster.fields import FieldError

log = structlog.get_logger()

FEED = "kraken-futures"
DURABLE = "funding-rates"
BATCH = 1_000
TAKE_S = 1.0
INTERVAL_S = 300.0
CLEANUP_S = 3600.0
# How soon /health knows that the database is away.
CHECK_S = 30.0
# A ticker older than two intervals is no sample of now; never less, lest a slow minute cost one.
MIN_STALE_S = 60.0
RETENTION = timedelta(days=7)
# A tenth of a second of locks and WAL at a time; an hour brings some 5,000 rows.
CLEANUP_ROWS = 2_000
UNKNOWN_SHOWN = 50

_PAIRS = """
SELECT upper(native_id), pair_id FROM pairs WHERE exchange = 'kraken' AND market_type IN ('perpetual', 'future')
"""
_INSERT = sql.SQL("INSERT INTO pair_snapshots (pair_id, snapshot_at, {}) VALUES ({})").format(
    sql.SQL(", ").join(map(sql.Identifier, COLUMNS)), sql.SQL(", ").join([sql.Placeholder()] * (len(COLUMNS) + 2))
)
_CLEAN = """
DELETE FROM pair_snapshots WHERE id = ANY(ARRAY(
  SELECT id FROM pair_snapshots WHERE snapshot_at < %s ORDER BY snapshot_at LIMIT %s))
"""


@dataclass
class FundingStats:
    """What has been done since the start.

    Attributes:
        messages: taken from the stream.
        ignored: of them no tickers.
        unreadable: of them none of the venue's, and members that could not be read.
        flushes, flush_errors, snapshots: flushes done, flushes that a row spoiled, rows written.
        refused: rows that the database refused.
        deleted: rows removed by age.
        last_snapshot_s: monotonic time of the last flush that wrote rows, at first of the start.
        last_flush_ts: epoch seconds of the same, 0 for never.
    """

    messages: int = 0
    ignored: int = 0
    unreadable: int = 0
    flushes: int = 0
    flush_errors: int = 0
    snapshots: int = 0
    refused: int = 0
    deleted: int = 0
    last_snapshot_s: float = field(default_factory=time.monotonic)
    last_flush_ts: float = 0.0


class FundingSampler:
    """Takes tickers of one or several streams and writes samples of them.

    Args:
        names: the streams; a product that is in two of them is one product.
        settings: of the process.
        interval_s: between two flushes.

    Raises:
        ConfigError: a stream is not one of Kraken Futures, or the interval is none.
    """

    def __init__(self, names: Sequence[StreamName], settings: Settings, interval_s: float) -> None:
        for name in names:
            if name.feed.name != FEED:
                raise ConfigError(f"{name.folder}: funding rates come from {FEED} only")
        if not interval_s > 0:  # NaN too
            raise ConfigError(f"interval {interval_s} s is not above 0")
        self.names = names
        self.interval_s = interval_s
        self._settings = settings
        self._session = Session(settings.database_url, "funding rates", settings.clock)
        self._consumers: dict[str, DurableConsumer] = {}
        self.sampler = Sampler()
        self.stats = FundingStats()

    @property
    def problem(self) -> str:
        """Why nothing is sampled; "" if it is."""
        if self._session.problem:
            return f"database: {self._session.problem}"
        for name in self.names:
            consumer = self._consumers.get(name.folder)
            if consumer is None or consumer.problem:
                return f"{name.folder}: {consumer.problem if consumer else 'not connected to NATS'}"
        idle_s = time.monotonic() - self.stats.last_snapshot_s
        if idle_s > 2 * self.interval_s:
            # Also while everything runs: no ticker comes, or every product lacks its row in `pairs`.
            return f"no snapshot for {idle_s:.0f} s; {len(self.sampler.unknown)} products unknown"
        return ""

    async def take(self, name: StreamName, stop: asyncio.Event) -> None:
        """Take the tickers of one of the streams until `stop`.

        Raises:
            StreamMismatchError: the stream or its consumer is not what is needed.
        """
        client = await connect_patiently(self._settings.nats_url, f"funding rates {name.folder}", stop)
        if client is None:
            return
        try:
            subjects = f"{name.prefix}.json.{name.feed.message_types['ticker'].token}.>"
            consumer = DurableConsumer(client, name.jetstream, DURABLE, [subjects], "new")
            self._consumers[name.folder] = consumer
            while not stop.is_set():
                try:
                    for message in await consumer.take(BATCH, TAKE_S):
                        self.stats.messages += 1
                        try:
                            ticker = read_ticker(message.payload, message.received_at)
                        except FieldError as error:
                            self.stats.unreadable += 1
                            log.warning("not a ticker", subject=message.subject, seq=message.stream_seq, why=str(error))
                        else:
                            self._note(ticker)
                        await consumer.ack(message)
                except PullError as error:
                    consumer.problem = str(error)
                    await sleep_or_stop(stop, RETRY_S)
            await flush(client)
        finally:
            await abort(client)

    def _note(self, ticker: Ticker | None) -> None:
        if ticker is None:
            self.stats.ignored += 1
            return
        self.stats.unreadable += len(ticker.problems)
        self.sampler.take(ticker)

    async def write(self, stop: asyncio.Event) -> None:
        """Flush every interval and clean up every hour until `stop`; then flush once more.

        Raises:
            DatabaseBrokenError: the database answers with errors.
        """
        try:
            clean_due_s = time.monotonic()
            flush_due_s = clean_due_s + self.interval_s
            while not stop.is_set():
                await self._session.run(hello, stop)  # so that /health knows of an outage between two flushes
                now_s = time.monotonic()
                if now_s >= clean_due_s:
                    await self._clean(stop)
                    clean_due_s = now_s + CLEANUP_S
                if now_s >= flush_due_s:
                    await self.flush(stop)
                    flush_due_s = now_s + self.interval_s
                await sleep_or_stop(stop, min(CHECK_S, max(flush_due_s - time.monotonic(), 0)))
            await self.flush(stop)
        finally:
            await self._session.close()

    async def flush(self, stop: asyncio.Event) -> None:
        """Write the newest tickers since the last flush; while the database is away they go on being replaced."""
        try:
            flushed = await self._session.run(self._insert, stop)
        except BadWorkError:
            self.stats.flush_errors += 1
            await self._flush_singly(stop)
            return
        if flushed is not None:
            self.stats.flushes += 1
            self._count(flushed)

    async def _flush_singly(self, stop: asyncio.Event) -> None:
        """One row spoils the transaction of all: each gets its own."""
        for ticker in self.sampler.tickers():
            try:
                flushed = await self._session.run(partial(self._insert, only=ticker), stop)
            except BadWorkError as error:
                self.stats.refused += 1
                log.error("snapshot refused", product=ticker.product_id, error=str(error))
                self.sampler.forget([ticker], ticker.received_at)
            else:
                if flushed is not None:
                    self._count(flushed)

    async def _insert(self, connection: psycopg.AsyncConnection, only: Ticker | None = None) -> _Flushed:
        """Work of one transaction; every attempt takes what is newest then."""
        now = now_of(self._settings.clock)
        oldest = now - timedelta(seconds=max(2 * self.interval_s, MIN_STALE_S))
        pair_ids: dict[str, str] = dict(await (await connection.execute(_PAIRS)).fetchall())
        seen = self.sampler.tickers() if only is None else [only]
        rows = [row for row in self.sampler.due(pair_ids, oldest) if only is None or row[1] is only]
        if rows:
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    _INSERT,
                    [(pair_id, now, *(ticker.values[name] for name in COLUMNS)) for pair_id, ticker in rows],
                )
        return _Flushed(seen, len(rows), oldest, now.timestamp())

    def _count(self, flushed: _Flushed) -> None:
        self.sampler.forget(flushed.seen, flushed.oldest)
        self.stats.snapshots += flushed.rows
        if flushed.rows:
            self.stats.last_snapshot_s = time.monotonic()
            self.stats.last_flush_ts = flushed.ts

    async def _clean(self, stop: asyncio.Event) -> None:
        before = now_of(self._settings.clock) - RETENTION
        while not stop.is_set():
            deleted = await self._session.run(partial(_delete_before, before=before), stop) or 0
            self.stats.deleted += deleted
            if deleted < CLEANUP_ROWS:
                return


class _Flushed(NamedTuple):
    """What a flush looked at and wrote."""

    seen: Sequence[Ticker]
    rows: int
    oldest: datetime
    ts: float


async def _delete_before(connection: psycopg.AsyncConnection, before: datetime) -> int:
    return (await connection.execute(_CLEAN, (before, CLEANUP_ROWS))).rowcount


async def run_funding_rates(
    names: Sequence[StreamName], settings: Settings, where: HealthPort, *, interval_s: float = INTERVAL_S
) -> int:
    """Sample the streams' tickers until SIGTERM or SIGINT.

    Returns:
        See `run_service`.

    Raises:
        ConfigError: not a stream of Kraken Futures, an interval that is none, or no DATABASE_URL.
    """
    check_url(settings.database_url)
    sampler = FundingSampler(names, settings, interval_s)
    registry = CollectorRegistry()
    registry.register(_FundingCollector(sampler))
    children = {f"take {name.folder}": partial(sampler.take, name) for name in names}
    return await run_service({**children, "write": sampler.write}, partial(_health, sampler), registry, where)


def _health(sampler: FundingSampler) -> Health:
    problem, unknown = sampler.problem, sampler.sampler.unknown
    body = {
        "status": "bad" if problem else "ok",
        "reason": problem,
        "streams": [name.folder for name in sampler.names],
        "snapshots": sampler.stats.snapshots,
        "products": len(sampler.sampler),
        "last_snapshot_s": round(time.monotonic() - sampler.stats.last_snapshot_s, 1),
        "unknown": len(unknown),
        "unknown_products": unknown[:UNKNOWN_SHOWN],
    }
    return Health(ok=not problem, ready=not problem, body=body)


class _FundingCollector(Collector):
    """Metrics; every series is there from the first scrape, at 0."""

    def __init__(self, sampler: FundingSampler) -> None:
        self._sampler = sampler

    def collect(self) -> Iterator[Metric]:
        stats, buffer = self._sampler.stats, self._sampler.sampler
        counters: dict[str, tuple[str, float]] = {
            "messages": ("Messages taken from the stream", stats.messages),
            "ignored": ("Messages that are no ticker", stats.ignored),
            "unreadable": ("Messages and members that could not be read", stats.unreadable),
            "flushes": ("Flushes", stats.flushes),
            "flush_errors": ("Flushes that a row spoiled", stats.flush_errors),
            "snapshots": ("Rows written", stats.snapshots),
            "refused": ("Rows that the database refused", stats.refused),
            "empty": ("Tickers with neither mark, last price nor funding", buffer.empty),
            "stale": ("Tickers too old to be a sample", buffer.stale),
            "overflow": ("Tickers of more products than can be kept", buffer.overflow),
            "deleted": ("Rows removed by age", stats.deleted),
        }
        gauges: dict[str, tuple[str, float]] = {
            "products_tracked": ("Products with a ticker since the last flush", len(buffer)),
            "unknown_products": ("Products without a row in pairs, as of the last flush", len(buffer.unknown)),
            "last_flush_timestamp": ("Last flush that wrote rows, epoch seconds, 0 for never", stats.last_flush_ts),
            "connected": ("1 without a problem", int(not self._sampler.problem)),
        }
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"ssmd_funding_rate_{name}", text)
            counter.add_metric([], value)
            yield counter
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"ssmd_funding_rate_{name}", text)
            gauge.add_metric([], value)
            yield gauge
