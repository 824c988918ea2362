"""Rate limits that all processes of the API share, in Redis or Valkey.

A key's requests are a sorted set, by the server's time in microseconds: whatever the processes' clocks show, there is
one window. Counting and adding are one script, so that nothing comes between them.

Redis may go away. Then each process goes by what it has counted itself, says so in `/health`, and returns to Redis when
that answers again. A process never allows more than the limit by itself, not even across such a change.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any, cast

import redis.asyncio as redis
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ssmd_api.auth.limits import WINDOW_S, Allowance, MemoryLimiter
from ssmd_stream.cache.store import check_url

log = structlog.get_logger()

_PREFIX = "ssmd:ratelimit:"
_WINDOW_US = int(WINDOW_S * 1_000_000)
# A Redis that does not answer must not make every request wait.
_TIMEOUT_S = 0.5
_RETRY_S = 0.5
_MAX_BATCH = 200
_PROBES = 10_000

# KEYS: one per request. ARGV: window in µs; per request its limit and a name that no other request has. Numbers become
# text by `format`: Lua's own would write 1795374300000000 as 1.7953743e+15.
_TAKE = """
local time = redis.call('TIME')
local now, window = time[1] * 1000000 + time[2], tonumber(ARGV[1])
local answers = {}
for i, key in ipairs(KEYS) do
  local limit = tonumber(ARGV[2 * i])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  local count, allowed = redis.call('ZCARD', key), 0
  if count >= limit then
    -- The server's clock was set back: what lies beyond the next window would count until that time comes again.
    redis.call('ZREMRANGEBYSCORE', key, string.format('(%.0f', now + window), '+inf')
    count = redis.call('ZCARD', key)
  end
  if count < limit then
    redis.call('ZADD', key, string.format('%.0f', now), ARGV[2 * i + 1])
    redis.call('PEXPIRE', key, string.format('%.0f', window / 1000))
    count, allowed = count + 1, 1
  end
  local at = math.max(0, count - limit)
  local leaves = redis.call('ZRANGE', key, at, at, 'WITHSCORES')
  answers[i] = {allowed, math.max(0, limit - count), tonumber(leaves[2]) + window - now}
end
return answers
"""
# KEYS: names. ARGV: window in µs.
_USED = """
local time = redis.call('TIME')
local after = string.format('(%.0f', time[1] * 1000000 + time[2] - ARGV[1])
local counts = {}
for i, key in ipairs(KEYS) do counts[i] = redis.call('ZCOUNT', key, after, '+inf') end
return counts
"""

_Answer = tuple[bool, int, float]


class RedisLimiter:
    """See module and `Limiter`. Call `start` before it is used and `close` at the end.

    Args:
        redis_url: `redis[s]://[[user]:password@]host[:port][/db]` or `unix:///path?db=0`.
        memory: what this process has counted itself.

    Raises:
        ConfigError: the URL cannot be used.
    """

    def __init__(self, redis_url: str, memory: MemoryLimiter) -> None:
        self._memory = memory
        self._redis: redis.Redis = redis.Redis.from_url(
            check_url(redis_url),
            client_name="ssmd-api",
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            socket_keepalive=True,
            retry=Retry(NoBackoff(), 0),
        )
        self._take = self._redis.register_script(_TAKE)
        self._used = self._redis.register_script(_USED)
        self._run = secrets.token_hex(8)
        self._numbers = itertools.count()
        self._waiting: list[tuple[str, int, asyncio.Future[_Answer | None]]] = []
        self._sending: asyncio.Task[None] | None = None
        self._returning: asyncio.Task[None] | None = None

    @property
    def where(self) -> str:
        """See `Limiter`."""
        return "in Redis" if self._returning is None else "in this process: Redis does not answer"

    async def start(self) -> None:
        """See whether Redis answers."""
        try:
            await self._probe()
        except (RedisError, OSError) as error:
            self._away(error)

    async def close(self) -> None:
        """Disconnect."""
        tasks = [task for task in (self._sending, self._returning) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._redis.aclose()

    async def take(self, name: str, limit: int) -> Allowance:
        """See `Limiter`."""
        # Here first: a client that hammers costs no way to Redis, and this count is what holds when Redis goes away.
        own = self._memory.count(name, limit)
        if not own.allowed or self._returning is not None:
            return own
        future: asyncio.Future[_Answer | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((name, limit, future))
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())
        if (answer := await future) is None:
            return own
        allowed, remaining, reset_s = answer
        if not allowed:
            self._memory.give_back(name)
        return Allowance(allowed, limit, min(remaining, own.remaining), reset_s)

    async def used(self, names: Sequence[str]) -> dict[str, int]:
        """See `Limiter`."""
        own = await self._memory.used(names)
        if self._returning is not None or not names:
            return own
        try:
            counts = await cast(
                "Awaitable[list[int]]", self._used(keys=[_PREFIX + name for name in names], args=[_WINDOW_US])
            )
        except (RedisError, OSError) as error:
            self._away(error)
            return own
        return dict(zip(names, counts, strict=True))

    async def _send(self) -> None:
        """Ask for all that wait, in one script: while one is on its way, the next ones gather."""
        batch: list[tuple[str, int, asyncio.Future[_Answer | None]]] = []
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MAX_BATCH], self._waiting[_MAX_BATCH:]
                answers = await self._ask([(name, limit) for name, limit, _ in batch])
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    if not future.done():  # its client may have gone
                        future.set_result(answer)
        except (RedisError, OSError) as error:
            self._away(error)
        finally:
            self._sending = None
            for _, _, future in (*batch, *self._waiting):
                if not future.done():
                    future.set_result(None)
            self._waiting = []

    async def _ask(self, requests: Sequence[tuple[str, int]]) -> list[_Answer]:
        arguments: list[Any] = [_WINDOW_US]
        for _, limit in requests:
            arguments += [limit, f"{self._run}:{next(self._numbers)}"]
        answers = await cast(
            "Awaitable[list[list[int]]]",
            self._take(keys=[_PREFIX + name for name, _ in requests], args=arguments),
        )
        return [(bool(allowed), remaining, reset_us / 1e6) for allowed, remaining, reset_us in answers]

    async def _probe(self) -> None:
        # It writes: a replica, or a server that is out of memory, would answer a PING.
        await self._ask([("", _PROBES)])

    def _away(self, error: Exception) -> None:
        if self._returning is None:
            log.warning("limits_without_redis", error=str(error).strip() or type(error).__name__)
            self._returning = asyncio.create_task(self._return())

    async def _return(self) -> None:
        while True:
            await asyncio.sleep(_RETRY_S)
            try:
                await self._probe()
            except (RedisError, OSError):
                continue  # said when it went away
            log.info("limits_in_redis_again")
            self._returning = None
            return
