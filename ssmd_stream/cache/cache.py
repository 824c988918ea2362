"""Keeps the cache: waits for its turn, warms up where it must, follows CDC, begins again after whatever breaks."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import random
import secrets
import time

import msgspec
import structlog
from nats.errors import Error as NatsError
from redis.exceptions import RedisError

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.cache import layout
from ssmd_stream.cache.applier import BATCH, Applier, ColumnsChangedError
from ssmd_stream.cache.feed import CacheFeed
from ssmd_stream.cache.layout import PLACES
from ssmd_stream.cache.source import Columns, Source
from ssmd_stream.cache.stats import CacheStats
from ssmd_stream.cache.store import LEASE_S, ResyncError, State, Store, check_url, client
from ssmd_stream.cache.warm import warm
from ssmd_stream.cdc.consume import Change, ChangesLostError
from ssmd_stream.cdc.names import STATE_STREAM, STATE_SUBJECTS, STREAM
from ssmd_stream.cdc.stream import Record
from ssmd_stream.cdc.watch import CdcWatch
from ssmd_stream.tasks import end_tasks

log = structlog.get_logger()

TICK_S = 1.0  # rows that are over leave, and a flush is noticed, within this
LEASE_RENEWAL_S = LEASE_S / 3
BACKOFF_S = (0.2, 15.0)
# A warm-up goes back this many changes before the end of the stream. A commit is in the WAL, and may be in the stream,
# a moment before new snapshots see it; what they have seen is skipped exactly, so the overlap costs 0.3 s.
OVERLAP = 10_000
_NOT_FOUND = 404


class Cache:
    """See module.

    Args:
        settings: `nats_url`, `database_url`, `redis_url` and `clock` are used.

    Attributes:
        stats: for /health and /metrics.

    Raises:
        ConfigError: a URL is missing or cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.stats = CacheStats(CdcWatch(settings.nats_url, name="cache"))
        self._nats_url = settings.nats_url
        self._redis_url = settings.redis_url
        self._clock = settings.clock
        self._source = Source(settings.database_url, settings.clock)
        self._run = secrets.token_hex(8)
        self._warmed = False
        self._why = ""  # reason for the next warm-up, if it is known already
        self._columns: Columns | None = None  # of the tables, as far as this process knows
        check_url(self._redis_url)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the cache until `stop` is set.

        Raises:
            ConfigError: a server refuses what is configured for good.
        """
        watching = asyncio.create_task(self.stats.cdc.run())
        try:
            await self._keep(stop)
        finally:
            await end_tasks(watching)

    async def _keep(self, stop: asyncio.Event) -> None:
        least_s, most_s = BACKOFF_S
        wait_s = least_s
        while not stop.is_set():
            started_s = time.monotonic()
            try:
                await self._session(stop)
                continue
            except ResyncError as error:
                log.warning("cache_lost", reason=error.reason, error=str(error))
            except ConfigError:
                raise
            except (RedisError, NatsError, SsmdError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
                if reason != self.stats.problem:
                    log.warning("cache_interrupted", error=reason)
                self.stats.problem = reason
                if "WRONGTYPE" in reason:  # somebody else wrote to the cache's keys; building anew replaces any type
                    self._why = "damaged"
            finally:
                self.stats.ready = False
            self.stats.interruptions += 1
            wait_s = least_s if time.monotonic() - started_s > most_s else min(wait_s * 2, most_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), wait_s * random.uniform(0.5, 1.0))

    async def _session(self, stop: asyncio.Event) -> None:
        """One life of the connections."""
        store = Store(client(self._redis_url, name="cache"), self._run)
        keeper: asyncio.Task[None] | None = None
        try:
            if not await self._wait_for_lease(store, stop):
                return
            keeper = asyncio.create_task(_keep_lease(store))
            found = await store.take_over()
            evicted = await self._evicted(store)
            reason = self._why or await self._reason(found, evicted)
            while not stop.is_set():
                if reason:
                    await self._warm_up(store, reason)
                reason = await self._follow(store, stop, keeper)
        finally:
            await end_tasks(keeper)
            await store.close()

    async def _reason(self, found: State | None, evicted: int) -> str:
        """Why what stands in Redis must be built anew; "" if it can be gone on with."""
        if found is None:
            return "flushed" if self._warmed else "empty"
        if found.version != layout.VERSION:
            return "layout"
        if evicted != found.evicted:
            return "evicted"
        self._columns = self._columns or await self._source.columns()
        return "" if self._columns.fingerprint == found.columns else "columns"

    async def _evicted(self, store: Store) -> int:
        """Keys that Redis has evicted; health says whether it may evict more."""
        evictions, before = await store.evictions(), self.stats.memory
        self.stats.memory = (
            f"Redis may evict rows: set maxmemory-policy to noeviction, not {evictions.policy}"
            if evictions.policy
            else ""
        )
        if self.stats.memory and not before:
            log.error("redis_may_evict", reason=self.stats.memory)
        return evictions.keys

    async def _wait_for_lease(self, store: Store, stop: asyncio.Event) -> bool:
        while not await store.hold_lease():
            self.stats.problem, self.stats.waiting = "", "another cache writes to this Redis"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), TICK_S)
            if stop.is_set():
                return False
        self.stats.waiting = ""
        return True

    async def _warm_up(self, store: Store, reason: str) -> None:
        self.stats.problem, self.stats.waiting, self.stats.ready = "", f"building the cache: {reason}", False
        self._why = reason  # until it is done
        stream = await self._stream_state()
        seq = max(stream.first_seq - 1, stream.last_seq - OVERLAP, 0)
        done = await warm(store, self._source, created=stream.created, seq=seq)
        self._why, self._warmed, self._columns = "", True, done.columns
        self.stats.warm_ups[reason] += 1
        self.stats.warm_up_s = done.seconds
        self.stats.waiting = ""
        log.info(
            "cache_built",
            reason=reason,
            seconds=round(done.seconds, 3),
            rows=sum(done.rows.values()),
            broken=done.broken,
            removed_keys=done.removed_keys,
            sequence=seq,
        )

    async def _stream_state(self) -> jetstream.StreamState:
        """Where the stream is, once changes are sure to come into it.

        A slot that is made after the tables were read would never tell what changed in between.
        """
        nats = await jetstream.connect(self._nats_url, name="ssmd-cache-state", reconnect=False)
        try:
            answer = await jetstream.api(nats, f"STREAM.MSG.GET.{STATE_STREAM}", {"last_by_subj": STATE_SUBJECTS})
            record = msgspec.json.decode(base64.b64decode(answer["message"]["data"]), type=Record)
            if record.phase != "creating":
                return await jetstream.stream_state(nats, STREAM)
        except jetstream.ApiError as error:
            if error.code != _NOT_FOUND:
                raise
        except (KeyError, ValueError, msgspec.MsgspecError) as error:
            raise SsmdError(f"{STATE_STREAM} cannot be read: {error}") from error
        finally:
            await jetstream.abort(nats)
        raise SsmdError("CDC has not begun: start `ssmd cdc run`")

    async def _follow(self, store: Store, stop: asyncio.Event, keeper: asyncio.Task[None]) -> str:
        """Apply changes until the stop, or until the cache must be built anew; then the reason."""
        assert self._columns is not None
        applier = Applier(store, self._source, self._columns, self._clock, self.stats)
        state = store.state
        async with CacheFeed(self._nats_url, after_seq=state.seq, created=state.created, stats=self.stats) as feed:
            batches = feed.batches()
            stopping = asyncio.create_task(stop.wait())
            arrival: asyncio.Task[list[Change]] | None = None
            ticked_s = 0.0
            try:
                while not stop.is_set():
                    if time.monotonic() - ticked_s >= TICK_S:
                        if keeper.done():
                            keeper.result()
                        await self._tick(store, applier)
                        ticked_s = time.monotonic()
                    arrival = arrival or asyncio.ensure_future(anext(batches))
                    await asyncio.wait([arrival, stopping], timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
                    self.stats.problem = feed.problem
                    self.stats.ready = self.stats.ready and feed.connected
                    if not arrival.done():
                        self.stats.pending = feed.pending
                        self.stats.ready = feed.connected and not feed.pending
                        continue
                    changes, arrival = arrival.result(), None
                    if missing := feed.count(changes):
                        log.error("changes_missing", before=feed.seq, messages=missing)
                        return "gap"
                    await self._apply(applier, store, changes, feed.pending)
                    self.stats.ready = self.stats.ready or not feed.pending
            except ChangesLostError as error:
                log.error("changes_lost", error=str(error))
                return "gap"
            except ColumnsChangedError as error:
                log.warning("columns_changed", error=str(error))
                return "columns"
            finally:
                await end_tasks(stopping, arrival)
        return ""

    async def _apply(self, applier: Applier, store: Store, changes: list[Change], pending: int) -> None:
        for start in range(0, len(changes), BATCH):
            portion = changes[start : start + BATCH]
            await applier.apply(portion)
            self.stats.sequence = store.state.seq
            self.stats.pending = pending + len(changes) - start - len(portion)
            self.stats.last_commit_ts = portion[-1].commit_ts

    async def _tick(self, store: Store, applier: Applier) -> None:
        await store.check()
        evicted, known = await self._evicted(store), store.state.evicted
        if evicted != known:
            raise ResyncError("evicted", f"Redis has evicted {evicted} keys in all, {known} when the cache was built")
        while await applier.sweep() == BATCH:
            pass
        self.stats.sequence = store.state.seq
        async with store.redis.pipeline(transaction=False) as pipe:
            for place in PLACES.values():
                pipe.hlen(place.where)
            self.stats.rows = dict(zip(PLACES, await pipe.execute(), strict=True))


async def _keep_lease(store: Store) -> None:
    """Renew the lease for ever.

    Raises:
        ResyncError: another process has it.
        RedisError: Redis cannot be reached.
    """
    while True:
        await asyncio.sleep(LEASE_RENEWAL_S)
        if not await store.hold_lease():
            raise ResyncError("taken_over", "another cache took the lease")
