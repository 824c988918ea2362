"""The connector daemon: one stream of one feed, from the venue's sockets into JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import structlog
from prometheus_client import CollectorRegistry

from ssmd_core.alerts import Alerter
from ssmd_core.clock import NS_PER_S
from ssmd_core.errors import ConfigError, PublishError, SsmdError, StreamMismatchError
from ssmd_core.settings import Settings
from ssmd_stream.capture.alarms import Alarms
from ssmd_stream.capture.connection import Setting
from ssmd_stream.capture.epoch import Epoch
from ssmd_stream.capture.lookups import Lookups
from ssmd_stream.capture.metrics import ConnectorCollector, Subscriptions
from ssmd_stream.capture.options import ConnectorOptions, make_plan
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.capture.sessions.base import ALL, Session
from ssmd_stream.capture.shard import Shard
from ssmd_stream.capture.shards import Shards
from ssmd_stream.capture.stats import CONTROL
from ssmd_stream.capture.universe import Change
from ssmd_stream.capture.universe_follow import Cause, Follower
from ssmd_stream.capture.universe_notes import note_wanted
from ssmd_stream.capture.universe_venues import UNIVERSES
from ssmd_stream.capture.venue_time import venue_times
from ssmd_stream.drift.live import Sentinel, open_sentinel
from ssmd_stream.health import Health, HealthServer

log = structlog.get_logger()

EXIT_DRAINED = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_REFUSED = 3

# The connector's own epoch, for ticks and for what happens while no connection is open.
OWN_CONNECTION = "k0"
NS_PER_HOUR = 3600 * NS_PER_S
_MIN_TICK_S = 0.25
# The security master or its changes may be away for so long before /health says so.
_SECMASTER_GRACE_S = 30.0
_SOCKETS_S = 4.0
_CANCELLED_S = 1.0
_ALERTS_S = 1.0
# Ticks alone bring an acknowledgement every five seconds.
_ACK_PATIENCE_S = 30.0
# A restart of NATS is over by then.
_NATS_GRACE_S = 5.0
_SAVE_S = 60.0


class Connector:
    """Captures one stream.

    Raises:
        ConfigError: the options, a configuration file or a credential cannot be used.
    """

    def __init__(self, options: ConnectorOptions, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self.plan = plan = make_plan(options, settings)
        self._make_session = self._session_factory(plan.channels)
        session = self._make_session()
        quiet = session.quiet_channels
        known = {*plan.channels, *quiet, *session.groups.values()}
        for name in (*plan.group_timeouts_s, *plan.channel_options):
            if name not in known:
                raise ConfigError(f"{plan.feed.name!r} has no channel {name!r}; known: {', '.join(sorted(known))}")
        defaults = {name: None if name in quiet else plan.liveness.group_timeout_s for name in plan.channels}
        self._group_timeouts_s = defaults | {
            name: timeout_s for name, timeout_s in plan.group_timeouts_s.items() if name in defaults
        }
        self.publisher = Publisher(
            nats_url=settings.nats_url,
            stream=plan.stream,
            spool=settings.spool_root / plan.stream.prefix,
            on_pressure=self._on_pressure,
            on_failure=partial(self.stop, EXIT_FAILED),
        )
        # A channel that takes no list says the same on every connection: one is enough.
        self._listed_channels = tuple(name for name in plan.channels if session.listed(name)) or plan.channels
        limits = plan.feed.limits
        most = (plan.secmaster.max_shards or limits.connections) if plan.secmaster else None
        self._shards = Shards(
            self._make_shard, size=limits.instruments_per_connection, most=most, spacing_s=limits.connect_spacing_s
        )
        self.shards = self._shards.all
        self.follower: Follower | None = None
        if plan.secmaster is not None:
            if not any(session.listed(name) for name in plan.channels):
                raise ConfigError(f"secmaster: no channel of {', '.join(plan.channels)} takes a list of instruments")
            self.follower = Follower(
                UNIVERSES[plan.feed.name](plan.secmaster),
                settings,
                name=f"connector {plan.stream.jetstream}",
                reconcile_s=plan.secmaster.reconcile_s,
                on_change=self._on_change,
                on_reconciled=self._on_reconciled,
            )
        self.registry = CollectorRegistry()
        self.health_server: HealthServer | None = None
        self._lookups = Lookups(plan, options.backoff)
        self._pair_map: dict[str, str] | None = {} if plan.feed.name == "kraken" else None
        self._waiting_for = "starting"
        self._started_s = time.monotonic()
        self._paused = False
        self._stop = asyncio.Event()
        self._exit_code = EXIT_DRAINED
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: Epoch | None = None
        #: Knows what messages look like; replaced before `run` where that is known already.
        self.sentinel: Sentinel = open_sentinel(plan.feed, plan.stream.stream, settings.data / "shapes")
        self.alerter = Alerter.from_environment(f"connector-{plan.feed.name}-{plan.stream.stream}", settings)
        self._alarms = Alarms(plan.feed.name, plan.stream.stream, self.alerter)
        self._times = venue_times(plan.feed)
        self._nats_well_s = time.monotonic()
        self._log = log.bind(feed=plan.feed.name, stream=plan.stream.stream)

    # -- life

    async def run(self) -> int:
        """Capture until `stop`, a fatal refusal or a failure; then drain.

        Returns:
            Exit code, see `run_connector`.

        Raises:
            ConfigError, StreamMismatchError: found out only at start: the health port, the stream.
        """
        options, plan = self._options, self.plan
        collector = ConnectorCollector(
            plan.feed.name,
            plan.stream.stream,
            lambda: self.shards,
            self.publisher,
            plan.feed.limits.instruments_per_connection,
            refresh=self._refresh,
            healthy=lambda: self.health().ok,
            subscriptions=lambda: self._subscriptions,
        )
        self.registry.register(collector)
        if options.health_port is not None:
            server = HealthServer(options.health_host, options.health_port, self.health, self.registry)
            await server.start()
            self.health_server = server
        try:
            await self.publisher.start()
            subject = plan.stream.subject(CONTROL, OWN_CONNECTION)
            self._own = Epoch(OWN_CONNECTION, subject, self._settings.clock, self.publisher.publish)
            self._own.control("open", url=plan.url, channels=plan.channels)
            self._spawn(self._tick())
            self._spawn(self._start_shards())
            await self._stop.wait()
        finally:
            drained = await self._shut_down()
        if self._exit_code == EXIT_DRAINED and not drained:
            return EXIT_FAILED
        return self._exit_code

    def stop(self, exit_code: int = EXIT_DRAINED) -> None:
        """Begin to shut down; the first call decides the exit code."""
        if not self._stop.is_set():
            self._exit_code = exit_code
            self._stop.set()

    def _spawn(self, work: Awaitable[None]) -> None:
        """Run a part of the daemon; if it fails, the process ends with a code that is not 0."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._log.error("connector failed", error=f"{type(error).__name__}: {error}", exc_info=error)
            self.stop(EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_FAILED)

    async def _shut_down(self) -> bool:
        """Close sockets, say so, drain; True if NATS acknowledged everything."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._options.drain_timeout_s
        self._log.info("stopping", exit_code=self._exit_code)
        for shard in self.shards:
            shard.stop("connector stops")
        tasks = list(self._tasks)
        closing = [task for task in tasks if task.get_name().startswith("shard")]
        if any(shard.stats.connected for shard in self.shards):
            await asyncio.wait(closing, timeout=min(_SOCKETS_S, self._options.drain_timeout_s / 2))
        for task in tasks:
            task.cancel()
        if tasks:
            # A database that has gone silent holds its task for 10 s; draining does not wait for it.
            await asyncio.wait(tasks, timeout=_CANCELLED_S)
        if self._own is not None:
            self._own.close(reason="connector stops", code=self._exit_code)
        drained = True
        try:
            if self._own is not None:
                # One second is kept for closing the publisher and the health server.
                drained = await self.publisher.drain(max(deadline_s - loop.time() - 1.0, 0.1))
                await self.publisher.close()
        except PublishError as error:
            drained = False
            self._log.error("messages lost: neither NATS nor the spool took them", error=str(error))
        self.sentinel.save()
        await asyncio.to_thread(self.alerter.close, _ALERTS_S)
        if self.health_server is not None:
            await self.health_server.stop()
        self._log.info("stopped", drained=drained, published=self.publisher.stats.published)
        return drained

    async def _tick(self) -> None:
        """Events that let a reader close idle slots, also while no connection is open."""
        assert self._own is not None
        loop, clock = asyncio.get_running_loop(), self._settings.clock
        tick_s = self._options.tick_s
        # The clock may run fast; it is looked at every quarter of a second at most.
        look_s = min(_MIN_TICK_S, tick_s)
        last_s, last_ns = loop.time(), clock.now_ns()
        hour = last_ns // NS_PER_HOUR
        saved_s = last_s
        saving: asyncio.Future[None] | None = None
        while True:
            await asyncio.sleep(look_s)
            self._own.turn(clock.now_ns())
            self._watch_nats()
            self._alarms.expire()
            if loop.time() - saved_s >= _SAVE_S:
                saved_s = loop.time()
                content = self.sentinel.content()
                # A disk that is slow, or hangs, must not hold up what comes off the sockets.
                if saving is None or saving.done():
                    saving = loop.run_in_executor(None, self.sentinel.write, content)
            if clock.now_ns() // NS_PER_HOUR != hour:
                hour = clock.now_ns() // NS_PER_HOUR
                self._note_coverage()
            if loop.time() - last_s < tick_s and clock.now_ns() - last_ns < tick_s * NS_PER_S:
                continue
            last_s, last_ns = loop.time(), clock.now_ns()
            self._own.control("tick", connected=sum(shard.stats.connected for shard in self.shards))

    def _watch_nats(self) -> None:
        """Tell people when what is captured does not reach the stream for a while; it is spooled meanwhile."""
        problem = self.publisher.problem or ("" if self.publisher.connected else "not connected to NATS")
        if not problem:
            self._nats_well_s = time.monotonic()
            self._alarms.clear("NATS", OWN_CONNECTION)
        elif time.monotonic() - self._nats_well_s > _NATS_GRACE_S:
            self._alarms.raise_("NATS", OWN_CONNECTION, f"messages go to the spool: {problem}", "critical")

    # -- look-ups and shards

    async def _start_shards(self) -> None:
        plan = self.plan
        instruments: Sequence[str] = plan.instruments
        if plan.feed.name == "kraken":
            await self._load_pair_map()
        if self.follower is not None:
            if len(self._listed_channels) < len(plan.channels):
                self._shards.open()
            self._waiting_for = "reading the security master"
            await self.follower.run()
            return
        if plan.feed.name == "polymarket" and not instruments:
            instruments = await self._lookups.tokens(self._wait_for)
        self._waiting_for = ""
        self._note_wanted("wanted", "start", dict.fromkeys(instruments or (ALL,), "configured"))
        if instruments:
            self._shards.add(instruments)
        else:
            self._shards.open()

    def _session_factory(self, channels: Sequence[str]) -> Callable[[], Session]:
        plan = self.plan
        return session_factory(
            plan.feed, channels, plan.channel_options, plan.url, plan.credentials, takes_all=plan.secmaster is None
        )

    def _make_shard(self, number: int, instruments: Sequence[str], delay_s: float) -> Shard:
        plan = self.plan
        setting = Setting(
            feed=plan.feed,
            url=plan.url,
            transport=plan.transport,
            clock=self._settings.clock,
            publish=self.publisher.publish,
            liveness=plan.liveness,
            group_timeouts_s=self._group_timeouts_s,
            alarms=self._alarms,
            sentinel=self.sentinel,
            times=self._times,
        )
        assert self._own is not None
        own = self._own
        shard = Shard(
            f"c{number}",
            instruments,
            setting,
            stream=plan.stream,
            make_session=self._make_session if not number else self._session_factory(self._listed_channels),
            pair_map=self._pair_map,
            backoff=self._options.backoff,
            note_failure=lambda **fields: own.control("error", **fields),
            changed=self._check_refusals,
            delay_s=delay_s,
        )
        shard.pause(self._paused)
        task = asyncio.create_task(shard.run(), name=f"shard {shard.name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return shard

    async def _load_pair_map(self) -> None:
        """Kraken: subjects carry AssetPairs keys. Capture does not wait for them longer than the first tries take."""
        pairs = await self._lookups.pair_map_soon()
        if pairs is None:
            self._spawn(self._load_pair_map_late())
        else:
            self._use_pair_map(pairs)

    async def _load_pair_map_late(self) -> None:
        self._use_pair_map(await self._lookups.pair_map())

    def _use_pair_map(self, pairs: dict[str, str]) -> None:
        assert self._pair_map is not None
        self._pair_map.update(pairs)
        for shard in self.shards:
            shard.router.forget()
        self._log.info("pair map loaded", pairs=len(pairs))

    def _wait_for(self, what: str) -> None:
        self._waiting_for = what

    def _check_refusals(self) -> None:
        if self.follower is None and self.shards and all(shard.stats.all_refused for shard in self.shards):
            self._log.error("every subscription was refused", reasons=sorted(set(self.shards[0].refusals.values())))
            self.stop(EXIT_REFUSED)

    # -- what others may ask of a running connector

    def add(self, instruments: Sequence[str]) -> None:
        """Subscribe more instruments: on the shards with room, then on new ones. Known ones are left alone."""
        self._note_wanted("wanted", "asked", dict.fromkeys(instruments, "asked"))
        self._shards.add(instruments)

    def remove(self, instruments: Sequence[str]) -> None:
        """Unsubscribe instruments; unknown ones are left alone."""
        self._note_wanted("unwanted", "asked", dict.fromkeys(instruments, "asked"))
        self._shards.remove(instruments)

    # -- the security master

    def _on_change(self, change: Change, cause: Cause) -> None:
        self._waiting_for = ""
        self._note_wanted("wanted", cause, change.added)
        self._note_wanted("unwanted", cause, change.removed)
        self._shards.remove(change.removed)
        self._shards.add(change.added)
        if change.added or change.removed:
            self._log.info("instruments changed", cause=cause, added=len(change.added), removed=len(change.removed))

    def _on_reconciled(self) -> None:
        assert self.follower is not None
        self.follower.healed += self._shards.tidy(self.follower.universe.wanted)

    def _note_wanted(self, event: Literal["wanted", "unwanted"], cause: str, why: Mapping[str, str]) -> None:
        assert self._own is not None
        note_wanted(self._own, event, cause, why, self.plan.secmaster)

    def _note_coverage(self) -> None:
        """Repeat, at the start of an hour, what is wanted, asked for and acknowledged."""
        wanted = self.follower.universe.wanted if self.follower else self._shards.instruments or (ALL,)
        self._note_wanted("wanted", "hour", dict.fromkeys(wanted, "standing"))
        for shard in self.shards:
            shard.note_coverage()

    @property
    def _subscriptions(self) -> Subscriptions:
        follower = self.follower
        return Subscriptions(
            wanted=len(follower.universe.wanted) if follower else self._shards.placed,
            subscribed=sum(shard.subscribed for shard in self.shards),
            overflow=len(self._shards.overflow),
            waiting=len(follower.universe.waiting) if follower else 0,
            healed=follower.healed if follower else 0,
            pending_changes=follower.pending if follower else 0,
            change_lag_s=follower.lag_s if follower else 0.0,
            read_age_s=(follower.read_age_s if follower else None) or 0.0,
            bad_changes=follower.bad_rows if follower else 0,
            cdc_silent_s=follower.cdc.silent_s if follower else 0.0,
        )

    # -- health, pressure

    def _on_pressure(self, paused: bool) -> None:
        self._paused = paused
        self._log.warning("reading paused" if paused else "reading resumed", backlog=self.publisher.backlog_bytes)
        for shard in self.shards:
            shard.pause(paused)

    def _refresh(self) -> None:
        for shard in self.shards:
            shard.refresh()

    def health(self) -> Health:
        """Whether the connector does its work, and if not, why."""
        self._refresh()
        problems = [self._waiting_for] if self._waiting_for else []
        watched = any(timeout_s is not None for timeout_s in self._group_timeouts_s.values())
        data_timeout_s = self.plan.liveness.data_timeout_s if watched and not self._paused else None
        problems += [
            problem for shard in self.shards if (problem := shard.problem(data_timeout_s, self._options.down_grace_s))
        ]
        if self.publisher.problem is not None:
            problems.append(f"publisher: {self.publisher.problem}")
        stats = self.publisher.stats
        silent_s = time.monotonic() - max(stats.last_ack_monotonic, self._started_s)
        if self.publisher.connected and self.publisher.backlog_bytes and silent_s > _ACK_PATIENCE_S:
            problems.append(f"publisher: no acknowledgement for {silent_s:.0f} s")
        problems += self._secmaster_problems()
        if self._stop.is_set():
            problems.append("stopping")
        open_ = bool(self.shards) or self.follower is not None
        ready = not problems and open_ and all(shard.stats.connected for shard in self.shards)
        body: dict[str, Any] = {
            "status": "ok" if not problems else "bad",
            "feed": self.plan.feed.name,
            "stream": self.plan.stream.stream,
            "reason": "; ".join(problems),
            "problems": problems,
            "reading_paused": self._paused,
            "nats_connected": self.publisher.connected,
            "backlog_bytes": self.publisher.backlog_bytes,
            "spool_bytes": stats.spool_bytes,
            "subscriptions": self._subscriptions._asdict(),
            "shards": {shard.name: shard.describe() for shard in self.shards},
            "alerts": self.alerter.status(),
        }
        if self.follower is not None and not self.follower.universe.wanted:
            body["note"] = "no instruments wanted yet" if self.follower.loaded else ""
        return Health(not problems, ready, body)

    def _secmaster_problems(self) -> list[str]:
        problems = []
        if self.follower is not None and (problem := self.follower.problem(_SECMASTER_GRACE_S)):
            problems.append(problem)
        if overflow := self._shards.overflow:
            problems.append(
                f"{len(overflow)} instruments have no room on {len(self.shards)} shards, {next(iter(overflow))} first"
            )
        return problems


async def run_connector(options: ConnectorOptions, settings: Settings) -> int:
    """Run a connector until SIGTERM, SIGINT or a failure.

    Returns:
        0: stopped and drained. 1: a part failed, or what was captured lies in the spool and not yet in NATS.
        2: the configuration cannot be used. 3: the venue refused every subscription.
    """
    loop = asyncio.get_running_loop()
    try:
        connector = Connector(options, settings)
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.add_signal_handler(number, connector.stop)
        return await connector.run()
    except (ConfigError, StreamMismatchError) as error:
        log.error("connector cannot start", feed=options.feed, stream=options.stream, reason=str(error))
        return EXIT_CONFIG
    except (SsmdError, OSError) as error:
        log.error("connector failed", feed=options.feed, stream=options.stream, reason=str(error))
        return EXIT_FAILED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
                loop.remove_signal_handler(number)
