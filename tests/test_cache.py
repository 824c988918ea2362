"""The cache on real Postgres, NATS and Valkey. Changes are published as CDC would, so that each fault can be placed."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import os
import random
import secrets
import signal
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import orjson
import psycopg
import pytest
import redis
from typer.testing import CliRunner

from ssmd_api.cli.main import app
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.db.values import RowEncoder, text_session
from ssmd_core.settings import Settings
from ssmd_stream import jetstream
from ssmd_stream.cache import cache as cache_module
from ssmd_stream.cache import layout
from ssmd_stream.cache.cache import Cache
from ssmd_stream.cache.layout import PLACES
from ssmd_stream.cache.read import CacheReader
from ssmd_stream.cache.source import Source
from ssmd_stream.cache.stats import CacheCollector
from ssmd_stream.cache.store import Store, client
from ssmd_stream.cache.warm import warm
from ssmd_stream.cdc import watch as cdc_watch
from ssmd_stream.cdc.daemon import CdcOptions, keep_streaming
from ssmd_stream.cdc.names import STATE_STREAM, STREAM
from ssmd_stream.cdc.session import Pace
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.cdc.stream import Record, ensure_streams, write_record
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.servers.ports import choose_port
from ssmd_stream.servers.valkey import ValkeyServer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def asynchronous(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey of one's own."""
    server = ValkeyServer(tmp_path / "valkey", port=None)
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
def rig(
    database_url: str, nats_server: NatsServer, valkey: ValkeyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    """All that a cache needs, with a clock that a test moves."""
    monkeypatch.setattr(cache_module, "TICK_S", 0.1)
    monkeypatch.setattr(cache_module, "BACKOFF_S", (0.1, 0.5))
    with psycopg.connect(database_url, autocommit=True) as database:
        clock = HandClock()
        settings = Settings(tmp_path, "prod", nats_server.url, database_url, valkey.url, clock)
        with redis.Redis.from_url(valkey.url) as connection:
            yield Rig(settings, nats_server, valkey, database, connection, clock)


class HandClock(Clock):
    """Stands at `NOW` until it is moved."""

    def __init__(self) -> None:
        super().__init__(start_ns=1)
        self.now = NOW

    def now_ns(self) -> int:
        return int(self.now.timestamp() * NS_PER_S)


@dataclass
class Rig:
    """The servers, and what CDC would do."""

    settings: Settings
    nats: NatsServer
    valkey: ValkeyServer
    database: psycopg.Connection[Any]
    redis: redis.Redis
    clock: HandClock
    published: int = 0
    caches: list[Cache] = field(default_factory=list)

    def sql(self, query: str, *values: Any) -> None:
        self.database.execute("SELECT set_config('ssmd.now', %s, false)", (self.clock.now.isoformat(),))
        self.database.execute(query.encode(), values or None)

    def put(self, table: str, **columns: Any) -> None:
        """Insert or update a row."""
        names = list(columns)
        changes = ", ".join(f"{name} = excluded.{name}" for name in names)
        self.sql(
            f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(['%s'] * len(names))}) "
            f"ON CONFLICT ({PLACES[table].key}) DO UPDATE SET {changes}",
            *columns.values(),
        )

    def market(self, ticker: str, event: str = "KXA-1", **columns: Any) -> None:
        """Insert or update a market, with its event."""
        self.put("events", event_ticker=event, series_ticker="KXA", title="e")
        self.put("markets", **{"ticker": ticker, "event_ticker": event, "title": ticker, "status": "active", **columns})

    def condition(self, condition_id: str, *tokens: str, **columns: Any) -> None:
        """Insert a Polymarket condition with its tokens."""
        self.put(
            "polymarket_conditions", **{"condition_id": condition_id, "question": "q", "status": "active"} | columns
        )
        for index, token in enumerate(tokens):
            self.put("polymarket_tokens", token_id=token, condition_id=condition_id, outcome="o", outcome_index=index)

    async def row(self, table: str, key: str) -> bytes:
        """The row as CDC prints it."""
        async with await psycopg.AsyncConnection.connect(self.settings.database_url, autocommit=True) as connection:
            await text_session(connection)
            query = f"SELECT * FROM {table} WHERE {PLACES[table].key} = %s"
            cursor = await connection.execute(query.encode(), (key,))
            found = await cursor.fetchone()
            assert found is not None and cursor.description is not None
            return RowEncoder.of(cursor.description).row(found)

    async def publish(self, op: str, table: str, key: str = "", *, data: bytes | None = None, without: str = "") -> int:
        """Publish a change as CDC would, and return its sequence."""
        if data is None and op in ("insert", "update"):
            data = await self.row(table, key)
        committed = self.database.execute(
            "SELECT pg_current_wal_insert_lsn()::text, txid_current() % 4294967296"
        ).fetchone()
        assert committed is not None
        change: dict[str, Any] = {
            "table": table,
            "op": op,
            "key": {} if op == "truncate" else {PLACES[table].key: key},
            "data": None,
            "commit_lsn": committed[0],
            "ordinal": self.published,
            "lsn": committed[0],
            "xid": committed[1],
            "commit_ts": "2026-11-22T12:00:00Z",
            "timestamp": "2026-11-22T12:00:00Z",
        }
        if data is not None:
            fields = PLACES[table].fields(data)
            if without:
                change["unchanged"] = [without]
                del fields[without]
            change["data"] = orjson.Fragment(msgspec.json.encode(fields))
        return await self.send(orjson.dumps(change), f"cdc.{table}.{op}")

    async def send(self, payload: bytes, subject: str = "cdc.markets.update") -> int:
        """Publish whatever it is."""
        self.published += 1
        nats = await jetstream.connect(self.nats.url, name="test", reconnect=False)
        try:
            id_ = {"Nats-Msg-Id": f"test:0/0:{secrets.token_hex(8)}"}
            return (await nats.jetstream().publish(subject, payload, headers=id_)).seq
        finally:
            await nats.close()

    async def make_stream(self) -> None:
        """The streams as CDC leaves them once its slot stands."""
        nats = await jetstream.connect(self.nats.url, name="test", reconnect=False)
        await ensure_streams(nats)
        await write_record(nats, Record("running", "test", "1", "", 0))
        await nats.close()

    async def stream_api(self, verb: str, request: dict[str, Any] | None = None, stream: str = STREAM) -> None:
        nats = await jetstream.connect(self.nats.url, name="test", reconnect=False)
        await jetstream.api(nats, f"STREAM.{verb}.{stream}", request)
        await nats.close()

    @contextlib.asynccontextmanager
    async def cache(self) -> AsyncIterator[Cache]:
        """A cache that has warmed up and follows."""
        cache, stop = Cache(self.settings), asyncio.Event()
        running = asyncio.create_task(cache.run(stop))
        try:
            await until(lambda: cache.stats.ready or running.done())
            yield cache
        finally:
            stop.set()
            await asyncio.wait_for(running, 10)

    def rows(self, table: str, parent: str | None) -> dict[str, bytes]:
        """The rows of a parent in Redis."""
        found: dict[bytes, bytes] = self.redis.hgetall(PLACES[table].hash_of(parent))  # type: ignore[assignment]  # redis-py: may be awaitable
        return {key.decode(): row for key, row in found.items()}

    def dump(self) -> dict[str, Any]:
        """All that stands in Redis but for whose it is."""
        content: dict[str, Any] = {}
        for key in sorted(self.redis.scan_iter("secmaster:*")):
            name = key.decode()
            if name == layout.EXPIRY:
                content[name] = self.redis.zrange(key, 0, -1, withscores=True)
            elif name not in (layout.STATE, layout.LEASE):
                content[name] = self.redis.hgetall(key)
        return content


async def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not true():
            await asyncio.sleep(0.02)


async def applied(cache: Cache, seq: int) -> None:
    await until(lambda: cache.stats.sequence >= seq)


LARGE = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ñ☃", k=9000))  # too large to stay in its row
HOSTILE = ["a:b", "a%3Ab", "a.b", "*", "[a]?", "", "ñ ☃ 名", "x\n\r\n*1", "secmaster:state", ":tmp:", "%none", '"\\{}']


@asynchronous
async def test_warm_up_is_the_tables_and_nothing_else(rig: Rig) -> None:
    day = timedelta(days=1)
    rig.sql("INSERT INTO series (ticker, title, category) VALUES ('KXA', 's', 'Crypto'), ('KXB', 's', 'Crypto:%')")
    rig.sql("INSERT INTO series (ticker, title, category, deleted_at) VALUES ('KXC', 's', 'Gone', now())")
    for number, event in enumerate(HOSTILE):
        rig.market(f"{event}-{number}", event, title='Über "5" \\ ☃', volume="12.50", custom_strike='{"a": 1.10}')
        rig.market(event, "same for all")
    rig.market("over", close_time=NOW - 1.01 * day, status="settled")
    rig.market("over yet to go", close_time=NOW - 0.99 * day, status="settled")
    rig.market("settled early", close_time=NOW + 900 * day, status="settled")
    rig.market("forgotten", close_time=NOW - 31 * day, status="closed")
    rig.market("closed", close_time=NOW - 29 * day, status="closed")
    rig.market("endless", close_time="infinity", status="settled")
    rig.market("deleted", deleted_at=NOW)
    rig.put(
        "series_fees",
        source_id="f:1",
        series_ticker="KXA",
        fee_type="quadratic",
        fee_multiplier="0.50",
        effective_from=NOW,
    )
    texts = ("native_id", "base", "quote", "base_raw", "quote_raw", "ws_name", "symbol", "market_type", "status")
    rig.put("pairs", pair_id="kraken:X", exchange="kraken", **dict.fromkeys(texts, "x"))
    rig.condition("0x1", "1", "2")
    rig.condition("0x2", event_id="")
    rig.condition("0x3", "3", deleted_at=NOW)
    rig.redis.hset("secmaster:markets:OLD", "stale", "{}")
    rig.redis.set("secmaster:series:wrong type", "x")
    rig.redis.hset("secmaster:markets:KXA-1:tmp:dead", "x", "{}")
    rig.redis.set("other:key", "kept")

    await rig.make_stream()
    async with rig.cache() as cache:
        stats = cache.stats
        assert dict(stats.warm_ups) == {"empty": 1}
        for number, event in enumerate(HOSTILE):
            ticker = f"{event}-{number}"
            assert rig.rows("markets", event) == {ticker: await rig.row("markets", ticker)}
            assert list(rig.rows("events", "KXA")) and event in rig.rows("events", "KXA")
        assert set(rig.rows("markets", "same for all")) == set(HOSTILE)
        assert set(rig.rows("markets", "KXA-1")) == {"over yet to go", "settled early", "closed", "endless"}
        assert (
            b'"volume":"12.50"' in (row := await rig.row("markets", "a:b-0")) and b'"custom_strike":{"a": 1.10}' in row
        )
        assert rig.rows("series_fees", "KXA") == {"f:1": await rig.row("series_fees", "f:1")}
        assert set(rig.rows("pairs", "kraken")) >= {"kraken:X"}
        assert set(rig.rows("polymarket_conditions", None)) == {"0x1"}
        assert set(rig.rows("polymarket_conditions", "")) == {"0x2"}
        assert set(rig.rows("polymarket_tokens", "0x1")) == {"1", "2"} and not rig.rows("polymarket_tokens", "0x3")
        assert rig.redis.hgetall(layout.CATEGORIES) == {b"Crypto": b"1", b"Crypto:%": b"1"}
        assert rig.redis.get("other:key") == b"kept"
        keys = {key.decode() for key in rig.redis.scan_iter("secmaster:*")}
        assert not {key for key in keys if "OLD" in key or layout.TEMPORARY in key or "wrong" in key}
        reader = CacheReader(connection := client(rig.settings.redis_url, name="test"))
        assert await reader.categories() == {"Crypto": 1, "Crypto:%": 1}
        assert await reader.row("markets", "a:b-0") == row and await reader.row("markets", "none") is None
        await connection.aclose()


@asynchronous
async def test_every_change_arrives_as_warming_up_again_would_have_it(rig: Rig) -> None:
    rig.sql("INSERT INTO series (ticker, title, category) VALUES ('KXA', 's', 'Crypto'), ('KXB', 's', 'Crypto')")
    rig.market("M1", "KXA-1")
    rig.market("M2", "KXA-1")
    rig.market("M3", "KXA-2")
    rig.condition("0x1", "1")
    rig.condition("0x2", "2")
    await rig.make_stream()
    async with rig.cache() as cache:
        rig.market("M4", "KXA-3", title=LARGE, yes_bid="0.0100")
        await rig.publish("insert", "events", "KXA-3")
        await rig.publish("insert", "markets", "M4")
        rig.market("M1", "KXA-1", yes_bid="0.55")
        await rig.publish("update", "markets", "M1")
        rig.market("M2", "KXA-2")  # moves
        await rig.publish("update", "markets", "M2")
        rig.market("M3", "KXA-2", deleted_at=NOW)
        await rig.publish("update", "markets", "M3")
        rig.market("M3", "KXA-1", deleted_at=None)  # comes back, elsewhere
        await rig.publish("update", "markets", "M3")
        rig.market("M4", "KXA-3", title=LARGE, yes_bid="0.02")  # the title is large and did not change
        await applied(cache, await rig.publish("update", "markets", "M4", without="title"))
        assert rig.rows("markets", "KXA-3") == {"M4": await rig.row("markets", "M4")}
        assert rig.rows("markets", "KXA-2") == {"M2": await rig.row("markets", "M2")}
        assert rig.rows("markets", "KXA-1") == {m: await rig.row("markets", m) for m in ("M1", "M3")}

        rig.market("M4", "KXA-3", title=LARGE, deleted_at=NOW)
        await applied(cache, await rig.publish("update", "markets", "M4", without="title"))
        assert not rig.rows("markets", "KXA-3")
        rig.market("M4", "KXA-3", title=LARGE, deleted_at=None)  # comes back, and not all of it is told
        await applied(cache, await rig.publish("update", "markets", "M4", without="title"))
        assert rig.rows("markets", "KXA-3") == {"M4": await rig.row("markets", "M4")} and cache.stats.fetched == 1

        rig.sql("UPDATE series SET category = 'Politics' WHERE ticker = 'KXA'")
        await rig.publish("update", "series", "KXA")
        rig.sql("UPDATE polymarket_conditions SET deleted_at = ssmd_now()")
        await rig.publish("update", "polymarket_conditions", "0x2")
        await applied(cache, await rig.publish("update", "polymarket_conditions", "0x1"))
        assert not rig.rows("polymarket_tokens", "0x1") and not rig.redis.hgetall(PLACES["polymarket_tokens"].where)
        await rig.publish("update", "polymarket_tokens", "2")  # of a condition that is not there
        rig.sql("UPDATE polymarket_conditions SET deleted_at = NULL WHERE condition_id = '0x1'")
        await rig.publish("update", "polymarket_conditions", "0x1")
        rig.sql("DELETE FROM markets WHERE ticker = 'M1'")
        await applied(cache, await rig.publish("delete", "markets", "M1"))
        assert set(rig.rows("polymarket_tokens", "0x1")) == {"1"}
        assert rig.redis.hgetall(layout.CATEGORIES) == {b"Crypto": b"1", b"Politics": b"1"}
        assert cache.stats.applied["markets", "update"] == 7 and cache.stats.applied["markets", "delete"] == 1

        by_changes = rig.dump()
        rig.redis.flushall()
        await until(lambda: cache.stats.warm_ups["flushed"] == 1 and cache.stats.ready)
        assert rig.dump() == by_changes

        rig.sql("TRUNCATE markets")
        rig.market("M9", "KXA-9")
        await rig.publish("update", "markets", "M2", data=by_changes["secmaster:markets:KXA-2"][b"M2"])
        await rig.publish("truncate", "markets")
        await rig.publish("insert", "events", "KXA-9")
        await applied(cache, await rig.publish("insert", "markets", "M9"))
        by_changes = rig.dump()
        assert [key for key in by_changes if "markets" in key] == ["secmaster:markets:KXA-9", "secmaster:where:markets"]
        rig.redis.flushall()
        await until(lambda: cache.stats.warm_ups["flushed"] == 2 and cache.stats.ready)
        assert rig.dump() == by_changes


@asynchronous
async def test_what_is_no_change_is_counted_and_passed_over(rig: Rig) -> None:
    rig.market("M1")
    await rig.make_stream()
    async with rig.cache() as cache:
        for payload in (b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"table":"markets"}', b"null"):
            await rig.send(payload)
        await rig.publish("delete", "markets", "M1")
        await rig.send(orjson.dumps({**orjson.loads(b"{}"), "table": "orders"}))
        rig.market("M2")
        await applied(cache, await rig.publish("insert", "markets", "M2"))
        assert set(rig.rows("markets", "KXA-1")) == {"M2"}
        assert cache.stats.poison["json"] == 7
        assert cache.stats.interruptions == 0


@asynchronous
async def test_rows_that_are_over_leave_by_the_clock_of_the_process(rig: Rig) -> None:
    hour = timedelta(hours=1)
    rig.market("M1", close_time=NOW)
    rig.market("M2", close_time=NOW)
    rig.condition("0x1", "1", status="settled")
    await rig.make_stream()
    async with rig.cache() as cache:
        rig.clock.now = NOW + hour
        rig.market("M1", status="settled")
        rig.market("M2", status="settled")
        await rig.publish("update", "markets", "M1")
        await applied(cache, await rig.publish("update", "markets", "M2"))
        rig.clock.now = NOW + 23.9 * hour
        rig.market("M2", status="active")  # it was a mistake
        await applied(cache, await rig.publish("update", "markets", "M2"))
        await asyncio.sleep(0.5)
        assert set(rig.rows("markets", "KXA-1")) == {"M1", "M2"} and rig.rows("polymarket_tokens", None) == {}
        assert rig.rows("polymarket_tokens", "0x1")
        rig.clock.now = NOW + 24.1 * hour
        await until(lambda: cache.stats.expired == 3)
        assert set(rig.rows("markets", "KXA-1")) == {"M2"}
        assert not [key for key in rig.dump() if "conditions" in key or "tokens" in key or key == layout.EXPIRY]
        await applied(cache, await rig.publish("update", "markets", "M1"))  # comes too late
        assert set(rig.rows("markets", "KXA-1")) == {"M2"}
    assert rig.redis.hgetall(PLACES["markets"].where).keys() == {b"M2"}


@asynchronous
async def test_a_restart_goes_on_where_the_last_one_stopped_or_builds_anew_what_it_missed(rig: Rig) -> None:
    rig.market("M1")
    await rig.make_stream()
    async with rig.cache():
        pass
    rig.market("M0")
    await rig.publish("insert", "markets", "M0")
    await rig.stream_api("PURGE")  # as old messages age out
    await rig.publish("update", "markets", "M1")
    async with rig.cache() as cache:  # it had applied nothing: only the hole before what comes shows what is missing
        assert dict(cache.stats.warm_ups) == {"gap": 1} and "M0" in rig.rows("markets", "KXA-1")
    rig.sql("DELETE FROM markets WHERE ticker = 'M0'")
    await rig.publish("delete", "markets", "M0")
    rig.market("M1", yes_bid="0.5")
    await rig.publish("update", "markets", "M1")
    rig.market("M2")
    seq = await rig.publish("insert", "markets", "M2")
    async with rig.cache() as cache:
        await applied(cache, seq)
        assert not cache.stats.warm_ups and cache.stats.applied.total() == 3
        assert rig.rows("markets", "KXA-1") == {m: await rig.row("markets", m) for m in ("M1", "M2")}

    rig.market("M3")
    await rig.publish("insert", "markets", "M3")
    await rig.stream_api("PURGE")
    async with rig.cache() as cache:
        assert dict(cache.stats.warm_ups) == {"gap": 1}
        assert set(rig.rows("markets", "KXA-1")) == {"M1", "M2", "M3"}

        rig.market("M4")
        await rig.stream_api("DELETE")
        await rig.make_stream()
        await until(lambda: cache.stats.warm_ups["gap"] == 2 and cache.stats.ready)
        assert set(rig.rows("markets", "KXA-1")) == {"M1", "M2", "M3", "M4"}
        rig.market("M5")
        await rig.publish("insert", "markets", "M5")
        await until(lambda: "M5" in rig.rows("markets", "KXA-1"))

    rig.redis.hset(layout.STATE, "version", "0")
    rig.sql("DELETE FROM markets WHERE ticker = 'M5'")
    async with rig.cache() as cache:
        assert dict(cache.stats.warm_ups) == {"layout": 1} and "M5" not in rig.rows("markets", "KXA-1")


@asynchronous
async def test_with_cdc_whatever_is_flushed_or_killed_the_cache_is_what_the_tables_say(rig: Rig) -> None:
    rng = random.Random(7)
    cdc_stop, cdc_stats = asyncio.Event(), CdcStats()
    pace = Pace(record_s=0.05, idle_record_s=0.2)
    cdc = asyncio.create_task(keep_streaming(CdcOptions("ssmd_test", pace=pace), rig.settings, cdc_stats, cdc_stop))
    for number in range(3):
        rig.market(f"M{number}", f"KXA-{number}", title=LARGE)

    def change_something() -> None:
        ticker, event = f"M{rng.randrange(20)}", f"KXA-{rng.randrange(3)}"
        kind = rng.random()
        if kind < 0.1:
            rig.sql("DELETE FROM markets WHERE ticker = %s", ticker)
        elif kind < 0.2:
            rig.sql("UPDATE markets SET deleted_at = ssmd_now() WHERE ticker = %s", ticker)
        elif kind < 0.3:
            rig.condition("0x1", "1", "2", deleted_at=rng.choice([None, NOW]))
        elif kind < 0.6:  # leaves large columns out
            rig.sql("UPDATE markets SET yes_bid = %s, deleted_at = NULL WHERE ticker = %s", rng.random(), ticker)
        else:
            rig.market(ticker, event, title=LARGE, yes_bid=f"0.{rng.randrange(100)}0", deleted_at=None)

    async with rig.cache() as cache:
        for number in range(400):
            change_something()
            await asyncio.sleep(0)
            if number in (20, 150):  # in a thread: it waits for a warm-up's snapshot
                await asyncio.to_thread(rig.sql, "TRUNCATE markets")
            if number in (100, 101, 250):
                rig.redis.flushall()
            if number == 180:
                rig.valkey.kill()
                await rig.valkey.start()
            if number == 320:
                rig.nats.kill()
                await rig.nats.start()
            if number % 20 == 0:
                await asyncio.sleep(0.05)
        rig.market("last")
        rig.sql("UPDATE markets SET title = 'last' WHERE ticker = 'last'")
        await until(lambda: b"last" in rig.redis.hgetall(PLACES["markets"].where), 30)
        rig.sql("DELETE FROM markets WHERE ticker = 'last'")
        await until(lambda: b"last" not in rig.redis.hgetall(PLACES["markets"].where) and cache.stats.ready)
        assert cache.stats.warm_ups["flushed"] >= 1 and not cache.stats.poison.total()
        assert cache.stats.applied["markets", "update"] and cache.stats.applied["markets", "truncate"]
        by_changes = rig.dump()
        assert len(by_changes["secmaster:where:markets"]) > 5
        warmed = cache.stats.warm_ups["flushed"]
        rig.redis.flushall()
        await until(lambda: cache.stats.warm_ups["flushed"] > warmed and cache.stats.ready)
        assert rig.dump() == by_changes
    cdc_stop.set()
    await asyncio.wait_for(cdc, 10)


@asynchronous
async def test_keys_that_another_program_overwrote_are_built_anew(rig: Rig) -> None:
    rig.market("M1")
    await rig.make_stream()
    async with rig.cache() as cache:
        for key in ("secmaster:markets:KXA-1", PLACES["markets"].where, layout.EXPIRY, layout.STATE):
            rig.redis.set(key, "x")
            if key == "secmaster:markets:KXA-1":  # nobody looks at it before something is written to it
                await rig.publish("update", "markets", "M1")
            await until(lambda key=key: rig.redis.type(key) in (b"hash", b"none") and cache.stats.ready)  # type: ignore[misc]  # a default
        assert cache.stats.warm_ups["damaged"] == 4
        assert rig.rows("markets", "KXA-1") == {"M1": await rig.row("markets", "M1")}


@asynchronous
async def test_rows_that_redis_evicted_are_built_anew_and_health_says_that_it_may_evict(rig: Rig) -> None:
    rig.sql(
        "INSERT INTO series (ticker, title, category) SELECT 'S' || n, repeat('t', 200), 'c' || n % 200 "
        "FROM generate_series(1, 2000) n"
    )
    await rig.make_stream()

    def limit(policy: str, maxmemory: int) -> None:
        rig.redis.config_set("maxmemory-policy", policy)
        rig.redis.config_set("maxmemory", maxmemory)

    def evict() -> None:
        """A few of the keys that are read least: not the state, whose loss would be taken for a flush."""
        rig.redis.config_set("maxmemory-samples", 64)
        for _ in range(500):
            rig.redis.hgetall(layout.STATE)
        before, limit_bytes = evicted(), rig.redis.info("memory")["used_memory"]  # type: ignore[index]  # redis-py: may be awaitable
        while evicted() == before:
            limit_bytes -= 20_000
            limit("allkeys-lfu", limit_bytes)
            rig.redis.set("other:key", "x")
        limit("allkeys-lfu", 0)

    def evicted() -> int:
        return int(rig.redis.info("stats")["evicted_keys"])  # type: ignore[index]  # redis-py: may be awaitable

    limit("allkeys-lfu", 0)  # from the first key on: counts of another policy mean nothing to this one
    async with rig.cache() as cache:
        whole = rig.dump()
        limit("volatile-lfu", 10**9)  # only keys that expire: no row does
        await asyncio.sleep(0.3)
        assert cache.stats.health().ready
        limit("allkeys-lfu", 10**9)
        await until(lambda: not cache.stats.health().ok)
        health = cache.stats.health()
        assert not health.ready and "allkeys-lfu" in health.body["reason"]
        evict()
        await until(lambda: cache.stats.warm_ups["evicted"] == 1 and cache.stats.health().ready)
        assert rig.dump() == whole
        await asyncio.sleep(0.3)
        assert dict(cache.stats.warm_ups) == {"empty": 1, "evicted": 1}
    evict()  # while no cache looks
    async with rig.cache() as cache:
        assert dict(cache.stats.warm_ups) == {"evicted": 1} and rig.dump() == whole


@asynchronous
async def test_columns_that_come_and_go_are_in_every_row(rig: Rig) -> None:
    for ticker in ("M1", "M2", "M3"):
        rig.market(ticker)
    await rig.make_stream()

    async def rows() -> dict[str, bytes]:
        return {ticker: await rig.row("markets", ticker) for ticker in ("M1", "M2", "M3")}

    async with rig.cache() as cache:
        before = await rig.row("markets", "M3")
        rig.sql("ALTER TABLE markets ADD COLUMN venue_rank integer DEFAULT 7")
        await rig.publish("update", "markets", "M1")
        await until(lambda: cache.stats.warm_ups["columns"] == 1 and cache.stats.ready)
        assert rig.rows("markets", "KXA-1") == await rows() and b'"venue_rank":7' in await rig.row("markets", "M2")
        # One from before that no snapshot has surely seen, as after a restore.
        await applied(cache, await rig.publish("update", "markets", "M3", data=before))
        assert rig.rows("markets", "KXA-1") == await rows() and cache.stats.fetched == 1
        await applied(cache, await rig.publish("update", "markets", "M2", without="title"))
        assert rig.rows("markets", "KXA-1") == await rows()
        assert dict(cache.stats.warm_ups) == {"empty": 1, "columns": 1} and not cache.stats.interruptions
    async with rig.cache() as cache:
        assert not cache.stats.warm_ups
    rig.sql("ALTER TABLE markets DROP COLUMN venue_rank")
    async with rig.cache() as cache:
        assert dict(cache.stats.warm_ups) == {"columns": 1} and rig.rows("markets", "KXA-1") == await rows()


@asynchronous
async def test_cdc_that_is_silent_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc_watch, "LOOK_S", 0.05)
    await rig.make_stream()
    async with rig.cache() as cache:
        assert cache.stats.health().ready
        monkeypatch.setattr(cdc_watch, "SILENT_S", 1.0)
        await until(lambda: not cache.stats.health().ok)
        health = cache.stats.health()
        assert health.body["reason"].startswith("CDC silent for 1 s") and not health.ready
        silent = next(found for found in CacheCollector(cache.stats).collect() if "cdc_silent" in found.name)
        assert silent.name == "ssmd_cache_cdc_silent_seconds" and silent.samples[0].value > 1.0
        await rig.make_stream()  # writes the record anew
        await until(lambda: cache.stats.health().ready)
        await rig.stream_api("DELETE", stream=STATE_STREAM)
        await until(lambda: "left no record: start `ssmd cdc run`" in cache.stats.health().body["reason"])
        rig.nats.kill()
        await until(lambda: "not known" in cache.stats.health().body["reason"])
        await rig.nats.start()


@asynchronous
async def test_password_and_database_number_of_the_url_are_used(rig: Rig) -> None:
    rig.market("M1")
    await rig.make_stream()
    rig.redis.config_set("requirepass", "pa ss@:/")
    url = f"redis://:pa%20ss%40%3A%2F@127.0.0.1:{rig.valkey.port}/3"
    rig.settings = dataclasses.replace(rig.settings, redis_url=url)
    async with rig.cache():
        with redis.Redis.from_url(url) as connection:
            assert connection.hkeys("secmaster:markets:KXA-1") == [b"M1"]
    rig.redis.config_set("requirepass", "")
    assert not rig.redis.keys()


@asynchronous
async def test_one_cache_writes_and_another_waits_for_its_turn(rig: Rig) -> None:
    rig.market("M1")
    await rig.make_stream()
    async with contextlib.AsyncExitStack() as second, rig.cache() as first:
        other, stop = Cache(rig.settings), asyncio.Event()
        running = asyncio.create_task(other.run(stop))
        second.push_async_callback(asyncio.wait_for, running, 10)
        second.callback(stop.set)
        await until(lambda: other.stats.waiting != "")
        health = other.stats.health()
        assert health.ok and not health.ready and "another cache" in health.body["reason"]
        rig.redis.delete(layout.LEASE)  # as if the first had been stopped for longer than its lease
        await until(lambda: other.stats.ready)
        await until(lambda: first.stats.waiting != "")
        rig.market("M2")
        await applied(other, await rig.publish("insert", "markets", "M2"))
        assert first.stats.applied.total() == 0 and set(rig.rows("markets", "KXA-1")) == {"M1", "M2"}


@asynchronous
async def test_the_process_serves_health_survives_kill_and_ends_on_sigterm(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = rig.settings
    urls = {"NATS_URL": settings.nats_url, "DATABASE_URL": settings.database_url, "REDIS_URL": settings.redis_url}
    rig.market("M1")

    async def get(path: str) -> tuple[int, str]:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}{path}") as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError as error:
            return 0, str(error)

    async def answers(path: str, status: int, text: str) -> str:
        async with asyncio.timeout(20):
            while not ((answer := await get(path))[0] == status and text in answer[1]):
                await asyncio.sleep(0.05)
        return answer[1]

    for end in (signal.SIGKILL, signal.SIGTERM):
        port = choose_port(None)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "ssmd_stream.cache", "--health-port", str(port), env={**os.environ, **urls}
        )
        try:
            if end == signal.SIGKILL:
                await answers("/health", 503, "start `ssmd cdc run`")
                await rig.make_stream()
            else:
                await answers("/ready", 503, "another cache")
                rig.redis.delete(layout.LEASE)  # or ten seconds later
            assert orjson.loads(await answers("/ready", 200, '"ready":true'))["reason"] == ""
            rig.market(f"M{end}")
            await rig.publish("insert", "markets", f"M{end}")
            await until(lambda end=end: f"M{end}" in rig.rows("markets", "KXA-1"))  # type: ignore[misc]  # a default
            metrics = await answers(
                "/metrics", 200, 'ssmd_cache_changes_applied_total{op="insert",table="markets"} 1.0'
            )
            warm_ups = float(end == signal.SIGKILL)  # the second process goes on where the first one was killed
            assert f'ssmd_cache_warm_ups_total{{reason="empty"}} {warm_ups}' in metrics
            assert 'ssmd_cache_changes_applied_total{op="truncate",table="pairs"} 0.0' in metrics
        finally:
            process.send_signal(end)
            code = await asyncio.wait_for(process.wait(), 10)
    assert code == 0 and not rig.redis.exists(layout.LEASE)


def test_show_prints_a_branch_of_the_tree(rig: Rig) -> None:
    async def build() -> None:
        await rig.make_stream()
        async with rig.cache():
            pass

    rig.market("M1", title="a [red]title\x1b[31m", yes_bid="0.4")
    asyncio.run(build())
    urls = {"REDIS_URL": rig.settings.redis_url}
    runner = CliRunner()
    for command, shown in (
        (["--event", "KXA-1"], ["M1 active 0.4 / - a [red]title\ufffd[31m"]),
        (["--series", "KXA"], ["KXA-1 active e", "M1 active"]),
    ):
        result = runner.invoke(app, ["cache", "show", *command], env=urls, catch_exceptions=False)
        assert result.exit_code == 0 and all(text in result.output for text in shown), result.output
    assert runner.invoke(app, ["cache", "show", "-e", "none"], env=urls).exit_code == 1
    assert runner.invoke(app, ["cache", "show", "-e", "x"], env={"REDIS_URL": "http://x"}).exit_code == 2


@asynchronous
async def test_reading_an_event_is_fast_and_warming_up_takes_no_memory(rig: Rig) -> None:
    def insert(count: int) -> None:
        rig.sql(
            "INSERT INTO events (event_ticker, series_ticker, title) SELECT 'KXA-' || i, 'KXA', 'e' "
            "FROM generate_series(0, %s) i ON CONFLICT DO NOTHING",
            count // 20,
        )
        rig.sql(
            "INSERT INTO markets (ticker, event_ticker, title, status) SELECT 'KXA-' || i / 20 || '-' || i, "
            "'KXA-' || i / 20, repeat('title ', 20), 'active' FROM generate_series(1, %s) i ON CONFLICT DO NOTHING",
            count,
        )

    async def peak_of(count: int) -> int:
        insert(count)
        tracemalloc.start()
        done = await warm(store, Source(rig.settings.database_url, rig.clock), created="", seq=0)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert done.rows["markets"] == count
        return peak

    store = Store(client(rig.settings.redis_url, name="test"), "run")
    try:
        await store.take_over()
        small, large = await peak_of(2_000), await peak_of(20_000)
        # Ten times the rows: the keys of 900 more events, and nothing of their markets.
        assert large < small + 2_000_000, (small, large)
        times_s = []
        for number in range(200):
            started_s = time.perf_counter()
            assert len(rig.rows("markets", f"KXA-{number + 1}")) == 20
            times_s.append(time.perf_counter() - started_s)
        assert sorted(times_s)[100] < 0.005  # 0.2 ms; a busy machine may take longer
    finally:
        await store.close()
