"""The connector daemon: one stream of one feed, from the venue's sockets into JetStream."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry

from ssmd_core.clock import NS_PER_S
from ssmd_core.errors import ConfigError, ConnectError, PublishError, SsmdError, StreamMismatchError
from ssmd_core.settings import Settings
from ssmd_stream.capture import rest
from ssmd_stream.capture.connection import Epoch, Setting
from ssmd_stream.capture.metrics import ConnectorCollector
from ssmd_stream.capture.options import ConnectorOptions, make_plan
from ssmd_stream.capture.publisher import Publisher
from ssmd_stream.capture.sessions import session_factory
from ssmd_stream.capture.sessions.base import chunks
from ssmd_stream.capture.shard import Shard
from ssmd_stream.capture.stats import CONTROL
from ssmd_stream.health import Health, HealthServer

log = structlog.get_logger()

EXIT_DRAINED = 0
EXIT_FAILED = 1
EXIT_CONFIG = 2
EXIT_REFUSED = 3

# The connector's own epoch, for ticks and for what happens while no connection is open.
OWN_CONNECTION = "k0"
_MIN_TICK_S = 0.25
_SOCKETS_S = 4.0
_PAIR_MAP_PATIENCE_S = 10.0
# Ticks alone bring an acknowledgement every five seconds.
_ACK_PATIENCE_S = 30.0

_T = TypeVar("_T")


class Connector:
    """Captures one stream.

    Raises:
        ConfigError: the options, a configuration file or a credential cannot be used.
    """

    def __init__(self, options: ConnectorOptions, settings: Settings) -> None:
        self._options = options
        self._settings = settings
        self.plan = plan = make_plan(options, settings)
        self._make_session = session_factory(plan.feed, plan.channels, plan.channel_options, plan.url, plan.credentials)
        quiet = self._make_session().quiet_channels
        known = {*plan.channels, *quiet, *self._make_session().groups.values()}
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
        self.shards: list[Shard] = []
        self.registry = CollectorRegistry()
        self.health_server: HealthServer | None = None
        self._pair_map: dict[str, str] | None = {} if plan.feed.name == "kraken" else None
        self._waiting_for = "starting"
        self._started_s = time.monotonic()
        self._paused = False
        self._stop = asyncio.Event()
        self._exit_code = EXIT_DRAINED
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: Epoch | None = None
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
        await asyncio.gather(*tasks, return_exceptions=True)
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
        while True:
            await asyncio.sleep(look_s)
            if loop.time() - last_s < tick_s and clock.now_ns() - last_ns < tick_s * NS_PER_S:
                continue
            last_s, last_ns = loop.time(), clock.now_ns()
            self._own.control("tick", connected=sum(shard.stats.connected for shard in self.shards))

    # -- look-ups and shards

    async def _start_shards(self) -> None:
        plan = self.plan
        instruments: Sequence[str] = plan.instruments
        if plan.feed.name == "kraken":
            await self._load_pair_map()
        if plan.feed.name == "polymarket" and not instruments:
            instruments = await self._until_answered("token discovery", self._discover_tokens)
        self._waiting_for = ""
        groups = list(chunks(list(instruments), plan.feed.limits.instruments_per_connection)) or [()]
        for number, group in enumerate(groups):
            if number:
                await asyncio.sleep(plan.feed.limits.connect_spacing_s)
            self._open_shard(group)

    def _open_shard(self, instruments: Sequence[str]) -> Shard:
        plan = self.plan
        setting = Setting(
            feed=plan.feed,
            url=plan.url,
            transport=plan.transport,
            clock=self._settings.clock,
            publish=self.publisher.publish,
            liveness=plan.liveness,
            group_timeouts_s=self._group_timeouts_s,
        )
        assert self._own is not None
        own = self._own
        shard = Shard(
            f"c{len(self.shards)}",
            instruments,
            setting,
            stream=plan.stream,
            make_session=self._make_session,
            pair_map=self._pair_map,
            backoff=self._options.backoff,
            note_failure=lambda **fields: own.control("error", **fields),
            changed=self._check_refusals,
        )
        shard.pause(self._paused)
        self.shards.append(shard)
        task = asyncio.create_task(shard.run(), name=f"shard {shard.name}")
        self._tasks.add(task)
        task.add_done_callback(self._on_done)
        return shard

    async def _load_pair_map(self) -> None:
        """Kraken: subjects carry AssetPairs keys. Capture does not wait for them longer than the first tries take."""

        async def fetch() -> dict[str, str]:
            return await rest.kraken_pair_map(self.plan.rest_url)

        try:
            async with asyncio.timeout(_PAIR_MAP_PATIENCE_S):
                pairs = await fetch()
        except (ConnectError, TimeoutError) as error:
            self._log.warning("capturing without pair map: subjects carry sanitised symbols", reason=repr(error))
            self._spawn(self._load_pair_map_late(fetch))
        else:
            self._use_pair_map(pairs)

    async def _load_pair_map_late(self, fetch: Callable[[], Awaitable[dict[str, str]]]) -> None:
        self._use_pair_map(await self._until_answered("", fetch))

    def _use_pair_map(self, pairs: dict[str, str]) -> None:
        assert self._pair_map is not None
        self._pair_map.update(pairs)
        for shard in self.shards:
            shard.router.forget()
        self._log.info("pair map loaded", pairs=len(pairs))

    async def _discover_tokens(self) -> list[str]:
        discovery = self.plan.discovery
        tokens = await rest.polymarket_tokens(
            self.plan.rest_url, min_volume=discovery.min_volume, min_liquidity=discovery.min_liquidity
        )
        if not tokens:
            raise ConnectError(f"{self.plan.rest_url}: no open market with volume above {discovery.min_volume:g}")
        self._log.info("tokens discovered", tokens=len(tokens))
        return tokens

    async def _until_answered(self, what: str, ask: Callable[[], Awaitable[_T]]) -> _T:
        pause_s = self._options.backoff.min_s
        while True:
            try:
                return await ask()
            except ConnectError as error:
                self._log.warning("look-up failed", reason=str(error), pause_s=pause_s)
                if what:
                    self._waiting_for = f"{what}: {error}"
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, self._options.backoff.max_s)

    def _check_refusals(self) -> None:
        if self.shards and all(shard.stats.all_refused for shard in self.shards):
            self._log.error("every subscription was refused", reasons=sorted(set(self.shards[0].refusals.values())))
            self.stop(EXIT_REFUSED)

    # -- what others may ask of a running connector

    def add(self, instruments: Sequence[str]) -> None:
        """Subscribe more instruments: on the shards with room, then on new ones. Known ones are left alone."""
        known = {instrument for shard in self.shards for instrument in shard.instruments}
        fresh = [instrument for instrument in dict.fromkeys(instruments) if instrument not in known]
        size = self.plan.feed.limits.instruments_per_connection
        while fresh:
            shard = min(self.shards, key=lambda shard: shard.requested, default=None)
            room = size - shard.requested if shard else 0
            if shard is None or room <= 0:
                self._open_shard(fresh[:size])
                fresh = fresh[size:]
            else:
                shard.add(fresh[:room])
                fresh = fresh[room:]

    def remove(self, instruments: Sequence[str]) -> None:
        """Unsubscribe instruments; unknown ones are left alone."""
        for shard in self.shards:
            mine = [instrument for instrument in instruments if instrument in shard.instruments]
            if mine:
                shard.remove(mine)

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
        if self._stop.is_set():
            problems.append("stopping")
        ready = not problems and bool(self.shards) and all(shard.stats.connected for shard in self.shards)
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
            "shards": {shard.name: shard.describe() for shard in self.shards},
        }
        return Health(not problems, ready, body)


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
