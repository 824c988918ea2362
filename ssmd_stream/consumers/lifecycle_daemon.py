"""The lifecycle daemon: streams of lifecycle messages into the database, and the sweep of what opens and closes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ssmd_core.db.connect import check_url
from ssmd_core.errors import ConfigError, StreamMismatchError
from ssmd_core.feeds.subjects import StreamName
from ssmd_core.settings import Settings
from ssmd_stream.consumers.database import BadWorkError, Session, hello
from ssmd_stream.consumers.dead_letters import DeadLetters
from ssmd_stream.consumers.lifecycle import KNOWN_EVENTS, LifecycleMessage, read_message
from ssmd_stream.consumers.lifecycle_store import Applied, apply
from ssmd_stream.consumers.pull import (
    RETRY_S,
    DurableConsumer,
    Message,
    PullError,
    connect_patiently,
    flush,
    sleep_or_stop,
)
from ssmd_stream.consumers.service import HealthPort, run_service
from ssmd_stream.health import Health
from ssmd_stream.jetstream import abort
from ssmd_stream.secmaster.fields import FieldError
from ssmd_stream.secmaster.sweep import SweepReport, sweep

log = structlog.get_logger()

DURABLE = "lifecycle"
MESSAGE_TYPES = ("market_lifecycle_v2", "event_lifecycle", "event_fee_update")
# One transaction; small enough for a redelivery after a crash to be cheap.
BATCH = 200
TAKE_S = 1.0
MAX_TRIES = 5
# Before the second, third, fourth and fifth try.
NAK_DELAYS_S = (1.0, 2.0, 4.0, 8.0)
SWEEP_S = 10.0
# Six sweeps missed: markets open and nobody subscribes to them.
SWEEP_STALE_S = 60.0
_STREAM_CHARS = 64
_LATE_BUCKETS_S = (1, 2, 5, 10, 15, 30, 60, 300, 3600)


@dataclass
class LifecycleStats:
    """What has been done since the start.

    Attributes:
        kept, written, statuses: see `Applied`.
        duplicates, unknown_series, unknown_markets, unreadable: likewise.
        retried: messages put back for another try.
        dead: messages given up, written to the dead letters.
        pending: messages of the stream still to come, as of the last delivery.
    """

    kept: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    unknown_series: int = 0
    unknown_markets: int = 0
    unreadable: int = 0
    retried: int = 0
    dead: int = 0
    pending: int = 0

    def add(self, done: Applied) -> None:
        """Count a batch."""
        self.kept += done.kept
        self.written += done.written
        self.statuses += done.statuses
        self.duplicates += done.duplicates
        self.unknown_series += done.unknown_series
        self.unknown_markets += done.unknown_markets
        self.unreadable += done.unreadable


class LifecycleFollower:
    """Takes one stream's lifecycle messages into the database.

    Args:
        name: the stream.
        settings: of the process.

    Attributes:
        stats: counts.
        problem: why nothing can be done right now; "" if it can.
    """

    def __init__(self, name: StreamName, settings: Settings) -> None:
        types = name.feed.message_types
        if missing := [kind for kind in MESSAGE_TYPES if kind not in types]:
            raise ConfigError(f"feed {name.feed.name} has no lifecycle messages: {', '.join(missing)}")
        self.name = name
        self._filters = [f"{name.prefix}.json.{types[kind].token}.>" for kind in MESSAGE_TYPES]
        self._settings = settings
        self._session = Session(settings.database_url, f"lifecycle {name.folder}", settings.clock)
        self._consumer: DurableConsumer | None = None
        self._stop = asyncio.Event()
        self._letters: DeadLetters | None = None
        self.stats = LifecycleStats()

    @property
    def problem(self) -> str:
        """See the class."""
        database = f"database: {self._session.problem}" if self._session.problem else ""
        nats = self._consumer.problem if self._consumer else "not connected to NATS"
        return "; ".join(filter(None, (nats, database)))

    async def run(self, stop: asyncio.Event) -> None:
        """Follow the stream until `stop`.

        Raises:
            StreamMismatchError: the stream, its consumer or the dead letters' stream is not what is needed.
            DatabaseBrokenError: the database answers with errors.
        """
        self._stop = stop
        client = await connect_patiently(self._settings.nats_url, f"lifecycle {self.name.folder}", stop)
        if client is None:
            return
        try:
            self._letters = DeadLetters(client, DURABLE)
            consumer = DurableConsumer(client, self.name.jetstream, DURABLE, self._filters, "all")
            self._consumer = consumer
            # While the database is away nothing is taken: a delivery that only waits would count as a try.
            await self._session.run(hello, stop)
            while not stop.is_set():
                try:
                    messages = await consumer.take(BATCH, TAKE_S)
                    if messages:
                        await self._process(consumer, messages)
                except PullError as error:
                    consumer.problem = str(error)
                    await sleep_or_stop(stop, RETRY_S)
            await flush(client)
        finally:
            await self._session.close()
            await abort(client)

    async def _process(self, consumer: DurableConsumer, messages: Sequence[Message]) -> None:
        """Store what can be stored, acknowledge it, and see to the rest."""
        source = self._source(consumer)
        read: list[tuple[Message, LifecycleMessage]] = []
        failed: list[tuple[Message, str]] = []
        for message in messages:
            try:
                parsed = read_message(
                    message.payload, stream=source, nats_seq=message.stream_seq, received_at=message.received_at
                )
            except FieldError as error:
                failed.append((message, str(error)))
            else:
                read.append((message, parsed))
        failed += await self._store(consumer, read)
        for message, reason in failed:
            await self._put_back(consumer, message, reason)
        self.stats.pending = messages[-1].pending

    async def _store(
        self, consumer: DurableConsumer, batch: Sequence[tuple[Message, LifecycleMessage]]
    ) -> list[tuple[Message, str]]:
        """Store and acknowledge; those that the database refuses, with its reason."""
        if not batch:
            return []
        work = partial(apply, batch=[parsed for _, parsed in batch], clock=self._settings.clock)
        try:
            done = await self._session.run(work, self._stop)
        except BadWorkError as error:
            if len(batch) == 1:
                return [(batch[0][0], str(error))]
            # One of them spoils the transaction of all: each gets its own.
            return [refused for one in batch for refused in await self._store(consumer, [one])]
        if done is None:  # stopped while the database was away: not acknowledged, so it comes again
            return []
        self.stats.add(done)
        for message, _ in batch:
            await consumer.ack(message)
        return []

    async def _put_back(self, consumer: DurableConsumer, message: Message, reason: str) -> None:
        if message.deliveries < MAX_TRIES:
            self.stats.retried += 1
            log.warning("will be tried again", subject=message.subject, seq=message.stream_seq, reason=reason)
            await consumer.nak(message, NAK_DELAYS_S[min(message.deliveries, len(NAK_DELAYS_S)) - 1])
            return
        assert self._letters is not None
        await self._letters.ensure()
        await self._letters.put(message, self.name.jetstream, consumer.created, reason)
        self.stats.dead += 1
        await consumer.ack(message)

    def _source(self, consumer: DurableConsumer) -> str:
        """What messages are kept under, beside their sequence."""
        # A stream that is made anew (a lost disk) counts from 1 again: its messages must not pass for known ones.
        source = f"{self.name.jetstream}@{consumer.created[:19].replace(':', '').replace('-', '')}"
        if len(source) > _STREAM_CHARS:
            raise StreamMismatchError(f"{source!r} is longer than {_STREAM_CHARS} characters")
        return source


class Sweeper:
    """Opens and closes markets every ten seconds.

    Attributes:
        opened, closed, events: rows changed since the start.
        last_s: monotonic time of the last sweep that was done.
        late: histogram of how late openings were noticed.
    """

    def __init__(self, settings: Settings, registry: CollectorRegistry) -> None:
        self._clock = settings.clock
        self._session = Session(settings.database_url, "sweep", settings.clock)
        self.opened = 0
        self.closed = 0
        self.events = 0
        self.last_s = time.monotonic()
        self.late = Histogram(
            "ssmd_lifecycle_opening_late_seconds",
            "From a market's open_time to the sweep that noticed it",
            registry=registry,
            buckets=_LATE_BUCKETS_S,
        )

    @property
    def problem(self) -> str:
        """Why nothing is swept; "" if it is."""
        if self._session.problem:
            return f"database: {self._session.problem}"
        idle_s = time.monotonic() - self.last_s
        return f"no sweep for {idle_s:.0f} s" if idle_s > SWEEP_STALE_S else ""

    async def run(self, stop: asyncio.Event) -> None:
        """Sweep until `stop`.

        Raises:
            DatabaseBrokenError: the database answers with errors.
        """
        try:
            while not stop.is_set():
                due_s = time.monotonic() + SWEEP_S
                report = await self._session.run(partial(sweep, clock=self._clock), stop)
                if report is not None:
                    self._count(report)
                await sleep_or_stop(stop, due_s - time.monotonic())
        finally:
            await self._session.close()

    def _count(self, report: SweepReport) -> None:
        self.last_s = time.monotonic()
        self.opened += report.opened
        self.closed += report.closed
        self.events += report.events
        for late_s in report.late_s:
            self.late.observe(late_s)
        if report.opened or report.closed:
            log.info("swept", opened=report.opened, closed=report.closed, events=report.events)


async def run_lifecycle(streams: Sequence[StreamName], settings: Settings, where: HealthPort) -> int:
    """Follow the streams and sweep, until SIGTERM or SIGINT.

    Returns:
        See `run_service`.

    Raises:
        ConfigError: a stream without lifecycle messages, or no DATABASE_URL.
    """
    check_url(settings.database_url)
    followers = [LifecycleFollower(name, settings) for name in streams]
    registry = CollectorRegistry()
    sweeper = Sweeper(settings, registry)
    registry.register(_LifecycleCollector(followers, sweeper))
    children = {f"lifecycle {follower.name.folder}": follower.run for follower in followers}
    return await run_service({**children, "sweep": sweeper.run}, partial(_health, followers, sweeper), registry, where)


def _health(followers: Sequence[LifecycleFollower], sweeper: Sweeper) -> Health:
    found = {follower.name.folder: follower.problem for follower in followers} | {"sweep": sweeper.problem}
    problems = [f"{name}: {problem}" for name, problem in found.items() if problem]
    body = {
        "status": "bad" if problems else "ok",
        "reason": "; ".join(problems),
        "streams": {
            follower.name.folder: {
                "kept": follower.stats.kept.total(),
                "dead": follower.stats.dead,
                "pending": follower.stats.pending,
                "problem": follower.problem,
            }
            for follower in followers
        },
        "sweep": {"idle_s": round(time.monotonic() - sweeper.last_s, 1), "problem": sweeper.problem},
    }
    return Health(ok=not problems, ready=not problems, body=body)


class _LifecycleCollector(Collector):
    """Metrics of every stream; every series is there from the first scrape, at 0."""

    def __init__(self, followers: Sequence[LifecycleFollower], sweeper: Sweeper) -> None:
        self._followers = followers
        self._sweeper = sweeper

    def collect(self) -> Iterator[Metric]:
        labels = ["feed", "stream"]
        families = {
            "messages": ("Messages kept", "event_type", "kept", (*KNOWN_EVENTS, "unknown")),
            "rows_written": ("Rows inserted or changed", "table", "written", ("events", "markets")),
            "status_changes": (
                "Markets that got this status by a message",
                "status",
                "statuses",
                ("initialized", "active", "closed", "settled"),
            ),
        }
        for name, (text, label, attribute, known) in families.items():
            family = CounterMetricFamily(f"ssmd_lifecycle_{name}", text, labels=[*labels, label])
            for follower in self._followers:
                for word, count in (dict.fromkeys(known, 0) | getattr(follower.stats, attribute)).items():
                    family.add_metric([*_labels(follower), word], count)
            yield family
        counters = {
            "duplicates": "Messages that had been kept before",
            "unknown_series": "Events made of a series that is not in the database",
            "unknown_markets": "Messages about a market that has no row",
            "unreadable": "Members that could not be read",
            "retried": "Messages put back for another try",
            "dead": "Messages given up and written to the dead letters",
        }
        for name, text in counters.items():
            counter = CounterMetricFamily(f"ssmd_lifecycle_{name}", text, labels=labels)
            for follower in self._followers:
                counter.add_metric(_labels(follower), getattr(follower.stats, name))
            yield counter
        pending = GaugeMetricFamily("ssmd_lifecycle_pending", "Messages still to come", labels=labels)
        healthy = GaugeMetricFamily("ssmd_lifecycle_healthy", "1 without a problem", labels=labels)
        for follower in self._followers:
            pending.add_metric(_labels(follower), follower.stats.pending)
            healthy.add_metric(_labels(follower), int(not follower.problem))
        yield pending
        yield healthy
        swept = CounterMetricFamily("ssmd_lifecycle_swept", "Rows changed by the sweep", labels=["what"])
        for what in ("opened", "closed", "events"):
            swept.add_metric([what], getattr(self._sweeper, what))
        yield swept


def _labels(follower: LifecycleFollower) -> list[str]:
    return [follower.name.feed.name, follower.name.stream]
