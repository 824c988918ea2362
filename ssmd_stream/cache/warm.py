"""Build the cache anew from Postgres while readers keep the old one.

1. Everything is built under temporary keys from one REPEATABLE READ snapshot, read through server-side cursors, a
   thousand rows in memory at a time.
2. Each temporary key is renamed over the live one, markets before their events before their series, so that whoever
   walks down the tree finds what the level above promised.
3. Live keys that were not built are removed, found with SCAN.
4. The state is set: from here CDC goes on at the position that was read *before* the snapshot was taken. What both
   have seen is applied twice or skipped (`apply.Seen`), never missed.

A crash between any two steps leaves whole hashes, old or new, and a state that makes the next start warm up again or
go on from the old position, which brings every row to its last state all the same. Until the old hashes are replaced
the server holds both: a warm-up needs twice the memory. Measured on two busy cores: 100,000 markets in 6 s.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import structlog

from ssmd_stream.cache import layout
from ssmd_stream.cache.apply import Id, member
from ssmd_stream.cache.layout import PLACES, SERIES, Hash, Place, RowError, temporary, unescape
from ssmd_stream.cache.source import Columns, Source
from ssmd_stream.cache.store import State, Store

log = structlog.get_logger()

_SWAP = 1000  # keys renamed or removed in one transaction: blocks the server for a few milliseconds


@dataclass(slots=True)
class WarmUp:
    """What a warm-up did.

    Attributes:
        rows: by table.
        broken: rows that are not what their table holds, left out.
        removed_keys: live keys that stood for nothing any more.
        seconds: how long it took.
        columns: of the tables as they were read; None until the end.
    """

    rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PLACES, 0))
    broken: int = 0
    removed_keys: int = 0
    seconds: float = 0.0
    columns: Columns | None = None


async def warm(store: Store, source: Source, *, created: str, seq: int) -> WarmUp:
    """Build the cache anew; see the module.

    Args:
        created: when the CDC stream was made.
        seq: position of the CDC stream, read before this is called: what comes after it will be applied.

    Raises:
        DatabaseError: Postgres cannot be reached, or refused.
        ResyncError: Redis lost the data under way, or another cache took over.
        RedisError: Redis cannot be reached, or refused.
    """
    started_s = time.monotonic()
    done = WarmUp()
    evicted = (await store.evictions()).keys  # before: what goes during the warm-up is missing after it
    async for keys in store.scan(f"{layout.PREFIX}*{layout.TEMPORARY}*"):  # left by one that did not end
        await store.unlink(keys)
    builder = _Builder(store, done)
    async with source.reading() as reading:
        for place in PLACES.values():
            async for portion in reading.rows(place):
                await builder.add(place, portion)
    await builder.count_series()
    # Children first; what no reader follows comes last.
    for place in reversed(PLACES.values()):
        for keys in _portions(builder.hashes[place.table]):
            async with store.transaction() as pipe:
                for key in keys:
                    pipe.rename(temporary(key, store.run), key)
    built = builder.indexes.union({layout.STATE, layout.LEASE}, *builder.hashes.values())
    async for keys in store.scan(f"{layout.PREFIX}*"):
        stale = [key for key in keys if key not in built and layout.TEMPORARY not in key]
        await store.unlink(stale)
        done.removed_keys += len(stale)
    snapshot = reading.snapshot
    done.columns = snapshot.columns
    fingerprint = snapshot.columns.fingerprint
    state = State(store.run, layout.VERSION, created, seq, snapshot.text, snapshot.lsn, fingerprint, evicted)
    async with store.transaction(state) as pipe:
        for key in builder.indexes:
            pipe.rename(temporary(key, store.run), key)
    done.seconds = time.monotonic() - started_s
    return done


class _Builder:
    """Writes rows under temporary keys.

    Attributes:
        hashes: keys of hashes with rows, by table.
        indexes: the other keys.
    """

    def __init__(self, store: Store, done: WarmUp) -> None:
        self.hashes: dict[str, set[str]] = {table: set() for table in PLACES}
        self.indexes: set[str] = set()
        self._store = store
        self._done = done
        self._series: Counter[str] = Counter()

    async def add(self, place: Place, portion: list[bytes]) -> None:
        hashes: defaultdict[str, Hash] = defaultdict(dict)
        where: Hash = {}
        expiry: dict[str, float] = {}
        for json in portion:
            try:
                row = place.read(json)
            except RowError as error:
                log.error("row left out", table=place.table, error=str(error))
                self._done.broken += 1
                continue
            hashes[place.hash_key(row.parent)][row.key] = row.json
            where[row.key] = row.parent
            if row.expires_s is not None:
                expiry[member(Id(place.table, row.key))] = row.expires_s
            if place is SERIES:
                self._series[unescape(row.parent) or ""] += 1
        self.hashes[place.table].update(hashes)
        self._done.rows[place.table] += len(where)
        async with self._store.redis.pipeline(transaction=False) as pipe:
            for key, rows in hashes.items():
                pipe.hset(temporary(key, self._store.run), mapping=rows)
            if where:
                pipe.hset(self._index(place.where), mapping=where)
            if expiry:
                pipe.zadd(self._index(layout.EXPIRY), expiry)
            await pipe.execute()

    async def count_series(self) -> None:
        if self._series:
            await self._store.redis.hset(self._index(layout.CATEGORIES), mapping=dict[Any, Any](self._series))

    def _index(self, key: str) -> str:
        self.indexes.add(key)
        return temporary(key, self._store.run)


def _portions(keys: set[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    while portion := list(islice(remaining, _SWAP)):
        yield portion
