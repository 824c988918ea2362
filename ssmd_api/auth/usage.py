"""What each key does on a day: counted in the process, added to `api_usage_daily` every few seconds and at its end.

A crash loses at most these few seconds; a stop loses nothing. While Postgres is away the counts wait.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime

import psycopg
import structlog
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from ssmd_core.clock import Clock
from ssmd_core.db.connect import now_of

log = structlog.get_logger()

_INTERVAL_S = 3.0
# A Postgres that hangs must not keep the process from ending.
_END_S = 5.0

_WRITABLE = b"SET TRANSACTION READ WRITE"
_ADD = b"""
INSERT INTO api_usage_daily AS u (key_prefix, date, requests, rate_limit_hits, response_bytes)
SELECT * FROM unnest(%s::text[], %s::date[], %s::bigint[], %s::bigint[], %s::bigint[])
ON CONFLICT (key_prefix, date) DO UPDATE SET requests = u.requests + excluded.requests,
  rate_limit_hits = u.rate_limit_hits + excluded.rate_limit_hits,
  response_bytes = u.response_bytes + excluded.response_bytes
"""
# Locked in one order by every process. Only this column: its change is told to nobody.
_USED = b"""
WITH used AS (SELECT * FROM unnest(%s::text[], %s::timestamptz[]) AS used (key_prefix, moment)),
locked AS (
  SELECT key_prefix, moment FROM used JOIN api_keys USING (key_prefix) ORDER BY key_prefix
  FOR NO KEY UPDATE OF api_keys
)
UPDATE api_keys k SET last_used_at = greatest(k.last_used_at, locked.moment)
FROM locked WHERE k.key_prefix = locked.key_prefix
"""


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    rate_limit_hits: int = 0
    response_bytes: int = 0
    last_used_at: datetime | None = None

    def add(self, other: _Counts) -> None:
        self.requests += other.requests
        self.rate_limit_hits += other.rate_limit_hits
        self.response_bytes += other.response_bytes
        self.last_used_at = self.last_used_at or other.last_used_at


class Usage:
    """Counts of one process. See module."""

    def __init__(self, pool: AsyncConnectionPool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock
        self._counts: dict[tuple[str, date], _Counts] = {}
        self._writing = asyncio.Lock()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def request(self, key_prefix: str, *, allowed: bool) -> None:
        """Count a request, or one that its limit refused."""
        now = now_of(self._clock)
        counts = self._of(key_prefix, now)
        if allowed:
            counts.requests += 1
        else:
            counts.rate_limit_hits += 1
        counts.last_used_at = now

    def response(self, key_prefix: str, size_bytes: int) -> None:
        """Count what was sent of an answer's body."""
        self._of(key_prefix, now_of(self._clock)).response_bytes += size_bytes

    def _of(self, key_prefix: str, now: datetime) -> _Counts:
        return self._counts.setdefault((key_prefix, now.date()), _Counts())

    async def flush(self) -> None:
        """Add what was counted to the database.

        Raises:
            psycopg.Error: Postgres refused or went away; the counts are kept. Had it only lost the word of its commit,
                they would be added twice: rather that than lose them.
        """
        async with self._writing:
            counts, self._counts = self._counts, {}
            if not counts:
                return
            try:
                await self._write(counts)
            except BaseException:
                for name, kept in counts.items():
                    self._counts.setdefault(name, _Counts()).add(kept)
                raise

    async def _write(self, counts: dict[tuple[str, date], _Counts]) -> None:
        ordered = sorted(counts.items(), key=lambda item: item[0])
        used: dict[str, datetime] = {}
        for (key_prefix, _), one in ordered:
            if one.last_used_at is not None:
                used[key_prefix] = one.last_used_at  # the latest day comes last
        columns = (
            [key_prefix for (key_prefix, _), _ in ordered],
            [day for (_, day), _ in ordered],
            [one.requests for _, one in ordered],
            [one.rate_limit_hits for _, one in ordered],
            [one.response_bytes for _, one in ordered],
        )
        async with self._pool.connection() as connection, connection.transaction():
            await connection.execute(_WRITABLE)
            await connection.execute(_ADD, columns)
            await connection.execute(_USED, (list(used), list(used.values())))

    def start(self) -> None:
        """Write every few seconds from now on."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left; what cannot be written is logged, for nobody else has it."""
        self._ended.set()
        if self._task is not None:
            # Not cancelled before: the commit under way would be counted twice.
            await asyncio.wait({self._task}, timeout=_END_S)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._counts:
            requests = {f"{key_prefix} {day}": one.requests for (key_prefix, day), one in self._counts.items()}
            log.error("usage_lost", requests=requests)

    async def _run(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), _INTERVAL_S)
            try:
                await self.flush()
            except (psycopg.Error, PoolTimeout) as error:
                log.warning("usage_waits", keys=len(self._counts), error=str(error).strip())
