"""Brings CDC events and the passing of time into Redis, batch by batch."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import replace
from typing import cast

import structlog
from redis.asyncio.client import Pipeline

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.errors import SsmdError
from ssmd_stream.cache.apply import (
    Batch,
    Commands,
    Event,
    Id,
    PoisonError,
    Seen,
    commands,
    condition_of,
    fold,
    parse,
    row_of,
    stays,
)
from ssmd_stream.cache.layout import CATEGORIES, CONDITIONS, EXPIRY, PLACES, SERIES, TOKENS, Place, Row, unescape
from ssmd_stream.cache.source import Columns, Source
from ssmd_stream.cache.stats import CacheStats
from ssmd_stream.cache.store import State, Store, text
from ssmd_stream.cdc.consume import Change

log = structlog.get_logger()

BATCH = 500  # messages, or rows that are over, in one transaction

# KEYS a category's series, the categories; ARGV the category.
_COUNT = """
local n = redis.call('HLEN', KEYS[1])
if n == 0 then redis.call('HDEL', KEYS[2], ARGV[1]) else redis.call('HSET', KEYS[2], ARGV[1], n) end
"""


class ColumnsChangedError(SsmdError):
    """The tables have other columns than the rows in the cache."""


class Applier:
    """See module.

    Args:
        store: taken over, and warm.
        source: asked for what events leave out.
        columns: of the rows in the cache.
        clock: says which rows are over.
        stats: counts what is done.
    """

    def __init__(self, store: Store, source: Source, columns: Columns, clock: Clock, stats: CacheStats) -> None:
        self._store = store
        self._source = source
        self._columns = columns
        self._clock = clock
        self._stats = stats
        state = store.state
        self._seen = Seen(state.snapshot, state.snapshot_lsn) if state.snapshot else None

    async def apply(self, changes: Sequence[Change]) -> None:
        """Apply changes, and set the position behind the last of them.

        One that says nothing is counted, logged and passed over: it would say nothing the next time either.

        Args:
            changes: in order, at most `BATCH`.

        Raises:
            ResyncError: Redis does not hold what was written last; nothing was applied, or not all.
            ColumnsChangedError: the cache must be built anew; nothing was applied, or not all.
            DatabaseError, RedisError: Postgres or Redis cannot be reached, or refused.
        """
        events: list[Event] = []
        compared = False
        for change in changes:
            if not change.table:  # no change at all: the feed has said so
                continue
            try:
                event = parse(change)
            except PoisonError as error:
                self._stats.poison[error.reason] += 1
                log.error("change_passed_over", sequence=change.stream_seq, reason=error.reason, error=str(error))
                continue
            if self._seen is not None and self._seen.over(event):
                self._seen = None  # for good: after a restore, positions and transaction ids come again
            if self._seen is not None and self._seen.has(event):
                self._stats.seen += 1
            elif event.op == "truncate":
                await self._change(events, change.stream_seq - 1)
                events = []
                await self._truncate(event.place, change.stream_seq)
                self._stats.applied[event.place.table, event.op] += 1
            elif event.columns is None or event.columns == self._columns.names[event.place.table]:
                events.append(event)
            else:
                if not compared:
                    await self._compare_columns()
                    compared = True
                # It is older than the tables' last change: Postgres has the row as it is now.
                events.append(replace(event, row=None, changed=None))
        await self._change(events, changes[-1].stream_seq)

    async def _compare_columns(self) -> None:
        found = await self._source.columns()
        if found.fingerprint != self._columns.fingerprint:
            changed = [table for table, names in found.names.items() if names != self._columns.names.get(table)]
            raise ColumnsChangedError(f"columns have changed: {', '.join(changed) or 'their types'}")

    async def sweep(self) -> int:
        """Remove rows that are over.

        Returns:
            How many were due, at most `BATCH`.

        Raises:
            See `apply`.
        """
        due = await self._store.redis.zrangebyscore(EXPIRY, "-inf", self._now_s(), start=0, num=BATCH)
        members = [text(found) for found in due]
        if members:
            ids = [row_id for found in members if (row_id := row_of(found)) is not None]
            done = await self._write(Batch(rows=dict.fromkeys(ids)), await self._where(ids), None, members)
            self._stats.expired += sum(done.removed.values())
        return len(members)

    def _state(self, seq: int) -> State:
        state = replace(self._store.state, seq=seq)
        return state if self._seen is not None else replace(state, snapshot="", snapshot_lsn="")

    def _now_s(self) -> float:
        return self._clock.now_ns() / NS_PER_S

    async def _change(self, events: list[Event], seq: int) -> None:
        """Apply events that are no truncates, and set the position."""
        if seq <= self._store.state.seq:
            return
        where = await self._where(event.id for event in events)
        stored = await self._stored([event.id for event in events if event.changed is not None], where)
        batch = fold(events, stored)
        for row_id, row in (await self._read(batch.incomplete)).items():
            batch.rows[row_id] = row
        await self._write(batch, where, seq)
        for event in events:
            self._stats.applied[event.place.table, event.op] += 1

    async def _write(self, batch: Batch, where: dict[Id, str], seq: int | None, due: Sequence[str] = ()) -> Commands:
        """Bring rows into their last state; conditions take their tokens with them."""
        now_s = self._now_s()
        await self._add_tokens(batch, where, now_s)
        conditions = {condition_of(row) for row_id, row in batch.rows.items() if row and row_id.table == TOKENS.table}
        where |= await self._where((conditions | batch.rows.keys()) - where.keys())
        plan = commands(batch.rows, where, now_s)
        state = None if seq is None else self._state(seq)
        async with self._store.transaction(state) as pipe:
            _queue(pipe, plan)
            if due:
                pipe.zrem(EXPIRY, *due)
        return plan

    async def _add_tokens(self, batch: Batch, where: dict[Id, str], now_s: float) -> None:
        """Add the tokens of conditions that leave, and of those that come: no event need say so."""
        gone, come = [], []
        for row_id, row in batch.rows.items():
            if row_id.table == CONDITIONS.table and stays(row, now_s) != (row_id in where):
                if row_id in where:
                    gone.append(row_id)
                else:
                    come.append(row_id.key)
        for condition in gone:
            for key in await cast("Awaitable[list[bytes]]", self._store.redis.hkeys(TOKENS.hash_of(condition.key))):
                batch.rows.setdefault(Id(TOKENS.table, text(key)), None)
        if come:
            for row in await self._fetch(TOKENS, TOKENS.parent, come):
                batch.rows.setdefault(Id(TOKENS.table, row.key), row)

    async def _read(self, ids: set[Id]) -> dict[Id, Row | None]:
        """Rows as Postgres has them now; None if it has not."""
        found: dict[Id, Row | None] = dict.fromkeys(ids)
        for table in sorted({row_id.table for row_id in ids}):
            place = PLACES[table]
            for row in await self._fetch(place, place.key, [row_id.key for row_id in ids if row_id.table == table]):
                found[Id(table, row.key)] = row
        return found

    async def _fetch(self, place: Place, column: str, values: list[str]) -> list[Row]:
        rows = [place.read(json) for json in await self._source.rows(place, column, values)]
        self._stats.fetched += len(rows)
        return rows

    async def _where(self, ids: Iterable[Id]) -> dict[Id, str]:
        """In which hash rows stand; without those that stand in none."""
        by_table: dict[str, list[str]] = {}
        for row_id in dict.fromkeys(ids):
            by_table.setdefault(row_id.table, []).append(row_id.key)
        async with self._store.redis.pipeline(transaction=False) as pipe:
            for table, keys in by_table.items():
                pipe.hmget(PLACES[table].where, keys)
            answers = await pipe.execute()
        return {
            Id(table, key): text(parent)
            for (table, keys), parents in zip(by_table.items(), answers, strict=True)
            for key, parent in zip(keys, parents, strict=True)
            if parent is not None
        }

    async def _stored(self, ids: list[Id], where: dict[Id, str]) -> dict[Id, bytes]:
        """Rows as Redis has them."""
        known = [row_id for row_id in dict.fromkeys(ids) if row_id in where]
        async with self._store.redis.pipeline(transaction=False) as pipe:
            for row_id in known:
                pipe.hget(PLACES[row_id.table].hash_key(where[row_id]), row_id.key)
            answers = await pipe.execute()
        return {row_id: json for row_id, json in zip(known, answers, strict=True) if json is not None}

    async def _truncate(self, place: Place, seq: int) -> None:
        """Remove all rows of a table; what stands in the expiry set finds nothing when it is due."""
        places = [place, TOKENS] if place is CONDITIONS else [place]
        for one in places:
            async for keys in self._store.scan(one.pattern):
                await self._store.unlink(keys)
        async with self._store.transaction(self._state(seq)) as pipe:
            pipe.unlink(*(one.where for one in places))
            if place is SERIES:
                pipe.unlink(CATEGORIES)


def _queue(pipe: Pipeline, plan: Commands) -> None:
    for key, fields in plan.hdel.items():
        pipe.hdel(key, *fields)
    for key, rows in plan.hset.items():
        pipe.hset(key, mapping=rows)
    if plan.zadd:
        pipe.zadd(EXPIRY, plan.zadd)
    if plan.zrem:
        pipe.zrem(EXPIRY, *plan.zrem)
    for category in plan.categories:
        pipe.eval(_COUNT, 2, SERIES.hash_key(category), CATEGORIES, unescape(category) or "")
