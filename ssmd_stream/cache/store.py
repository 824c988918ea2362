"""The Redis side: one connection, one writer at a time, and writes that only land on the data they were meant for.

Two things stand between a write and the wrong data:

- The *lease* (`secmaster:lease`) lets one process write. It lapses 10 s after its holder is gone; whoever starts
  meanwhile waits.
- The *state* (`secmaster:state`) says whose data this is and how far CDC has been applied. Every write is a transaction
  that watches it and sets it. If it is not what this process wrote last (a flush, a restart that lost the newest
  writes, another process that took over), nothing is written and `ResyncError` says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis.asyncio as redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_stream.cache import layout
from ssmd_stream.cache.layout import Hash

LEASE_S = 10.0
SCAN_COUNT = 1000
_TIMEOUT_S = 10.0
_SCHEMES = ("redis", "rediss", "unix")

# KEYS lease, ARGV run, milliseconds: 1 if the lease is held by this run, taken if it was free.
_HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class ResyncError(SsmdError):
    """What stands in Redis is not what this process wrote last.

    Attributes:
        reason: short, for a metric's label.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class State:
    """Whose data stands in Redis, and how far CDC has been applied.

    Attributes:
        run: id of the process that writes.
        version: of the layout; "" while the first warm-up has not ended.
        created: when the CDC stream was made, RFC 3339; another stream of its name has another.
        seq: last sequence of the CDC stream that has been applied.
        snapshot: `pg_current_snapshot()` of the warm-up: what it has seen already; "" once CDC is past it.
        snapshot_lsn: a position of the WAL before which all that the snapshot has seen was committed.
        columns: fingerprint of the tables' columns in the warm-up.
        evicted: keys that Redis had evicted when the warm-up began, see `Evictions`.
    """

    run: str
    version: str = ""
    created: str = ""
    seq: int = 0
    snapshot: str = ""
    snapshot_lsn: str = ""
    columns: str = ""
    evicted: int = 0

    def fields(self) -> Hash:
        """As they stand in Redis."""
        return {
            "run": self.run,
            "version": self.version,
            "created": self.created,
            "seq": str(self.seq),
            "snapshot": self.snapshot,
            "snapshot_lsn": self.snapshot_lsn,
            "columns": self.columns,
            "evicted": str(self.evicted),
        }

    @classmethod
    def of(cls, fields: Mapping[Any, Any]) -> State | None:
        """From Redis; None if there is none, or none that this version of ssmd can read."""
        texts = {text(name): text(value) for name, value in fields.items()}
        try:
            return cls(
                run=texts["run"],
                version=texts["version"],
                created=texts["created"],
                seq=int(texts["seq"]),
                snapshot=texts["snapshot"],
                snapshot_lsn=texts["snapshot_lsn"],
                columns=texts["columns"],
                evicted=int(texts["evicted"]),
            )
        except (KeyError, ValueError):
            return None


class Evictions(NamedTuple):
    """Keys that Redis removed, or may remove, for want of memory.

    Attributes:
        policy: by which it may remove rows; "" if it may not.
        keys: removed since the server started; 0 where only keys that expire can go: of ours, the lease.
    """

    policy: str
    keys: int


def text(value: Any) -> str:
    """What Redis answered, as text; others may have put anything there."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def check_url(redis_url: str) -> str:
    """A URL that redis-py takes: `redis[s]://[[user]:password@]host[:port][/db]` or `unix:///path?db=0`.

    Raises:
        ConfigError: there is none, or it is not Redis's. The URL is not repeated: it may hold a password.
    """
    if not redis_url:
        raise ConfigError("REDIS_URL is not set; `ssmd up --no-capture` starts a Valkey, `ssmd status` shows it")
    try:
        parts = urlsplit(redis_url)
        _ = parts.port
    except ValueError as error:
        raise ConfigError(f"REDIS_URL cannot be read: {error}") from error
    if parts.scheme not in _SCHEMES:
        raise ConfigError(f"REDIS_URL has scheme {parts.scheme!r}, not redis, rediss or unix")
    if parts.scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdigit():
        raise ConfigError(f"REDIS_URL names database {parts.path.strip('/')!r}, which is no number")
    return redis_url


def client(redis_url: str, *, name: str) -> redis.Redis:
    """A client that connects when it is used, and fails rather than retry: who asks knows whether to ask again.

    Args:
        name: what `CLIENT LIST` shows; letters, digits and dashes.

    Raises:
        ConfigError: see `check_url`.
    """
    made: redis.Redis = redis.Redis.from_url(
        check_url(redis_url),
        client_name=f"ssmd-{name}",
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    return made


class Store:
    """The cache's writer.

    Args:
        connection: from `client`; the store closes it.
        run: id of this process.
    """

    def __init__(self, connection: redis.Redis, run: str) -> None:
        self.redis = connection
        self.run = run
        self.state = State(run)

    async def close(self) -> None:
        """Give the lease back, as far as Redis can still be reached, and disconnect."""
        try:
            await self.redis.eval(_RELEASE, 1, layout.LEASE, self.run)
        except (RedisError, OSError):
            pass  # it lapses by itself
        finally:
            await self.redis.aclose()

    async def hold_lease(self) -> bool:
        """Take or renew the lease; False if another process has it.

        Raises:
            RedisError: Redis cannot be reached.
        """
        return bool(await self.redis.eval(_HOLD, 1, layout.LEASE, self.run, str(int(LEASE_S * 1000))))

    async def take_over(self) -> State | None:
        """Put this process's name on what stands in Redis; call it with the lease held.

        Returns:
            What stood there; None if nothing whole did. An earlier owner cannot write from now on.
        """
        try:
            found = State.of(await self.redis.hgetall(layout.STATE))
        except ResponseError:  # it is no hash
            found = None
        self.state = State(self.run) if found is None else replace(found, run=self.run)
        async with self.redis.pipeline(transaction=True) as pipe:
            pipe.delete(layout.STATE)
            pipe.hset(layout.STATE, mapping=self.state.fields())
            await pipe.execute()
        return found if found is not None and found.version else None

    async def check(self) -> None:
        """Whether Redis still holds what this process wrote last.

        Raises:
            ResyncError: it does not.
            RedisError: Redis cannot be reached.
        """
        self._compare(await self.redis.hgetall(layout.STATE))

    def _compare(self, fields: Mapping[Any, Any]) -> None:
        found = State.of(fields)
        if found == self.state:
            return
        if found is None:
            raise ResyncError("flushed", "Redis has lost the cache: it was flushed, or restarted without its data")
        if found.run != self.run:
            raise ResyncError("taken_over", f"another cache ({found.run}) writes to this Redis")
        raise ResyncError("rolled_back", f"Redis went back to sequence {found.seq} from {self.state.seq}")

    @asynccontextmanager
    async def transaction(self, state: State | None = None) -> AsyncIterator[Pipeline]:
        """Commands that are executed together at the end of the block, or not at all.

        Reads in the block go through `self.redis`; nobody else writes meanwhile.

        Args:
            state: what to set with them; default it stays.

        Raises:
            ResyncError: see `check`; nothing was written.
            RedisError: Redis cannot be reached, or refused a command.
        """
        async with self.redis.pipeline(transaction=True) as pipe:
            await pipe.watch(layout.STATE)
            self._compare(await pipe.hgetall(layout.STATE))
            pipe.multi()  # type: ignore[no-untyped-call]  # redis-py leaves it untyped
            yield pipe
            if state is not None:
                pipe.hset(layout.STATE, mapping=state.fields())
            try:
                await pipe.execute()
            except WatchError as error:
                raise ResyncError("flushed", "the cache was changed by another during a write") from error
        if state is not None:
            self.state = state

    async def scan(self, pattern: str) -> AsyncIterator[list[str]]:
        """Keys that match, in portions; a key may come twice. Never KEYS: it blocks the server for all of them."""
        cursor = 0
        while True:
            cursor, found = await self.redis.scan(cursor, match=pattern, count=SCAN_COUNT)
            if found:
                yield [text(key) for key in found]
            if not cursor:
                return

    async def unlink(self, keys: Sequence[str]) -> None:
        """Remove keys, in a transaction of its own."""
        if keys:
            async with self.transaction() as pipe:
                pipe.unlink(*keys)

    async def evictions(self) -> Evictions:
        """What Redis says of evictions; nothing where it does not answer such questions.

        Raises:
            RedisError: Redis cannot be reached.
        """
        try:
            memory: dict[str, Any] = await self.redis.info("memory")
            stats: dict[str, Any] = await self.redis.info("stats")
        except ResponseError:
            return Evictions("", 0)
        policy = str(memory.get("maxmemory_policy", "noeviction"))
        may = policy if memory.get("maxmemory") and policy.startswith("allkeys") else ""
        return Evictions(may, 0 if policy.startswith("volatile") else int(stats.get("evicted_keys", 0)))
