"""Connectors that take their instruments from the security master, with real NATS, Postgres and played venues."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import psycopg
import pytest
from nats.errors import Error as NatsError
from prometheus_client import generate_latest

from ssmd_core import feeds
from ssmd_core.archive.members import salvage_lines
from ssmd_core.clock import Clock
from ssmd_core.config import SecmasterConfig
from ssmd_core.errors import SsmdError
from ssmd_core.messages.control import is_control
from ssmd_core.messages.headers import read_stamp
from ssmd_core.messages.lines import parse_line
from ssmd_core.settings import Settings
from ssmd_stream.archive.archiver import StreamArchiver
from ssmd_stream.capture import universe_follow, universe_rows
from ssmd_stream.capture.connector import EXIT_DRAINED, Connector
from ssmd_stream.capture.options import Backoff, ConnectorOptions
from ssmd_stream.capture.universe_follow import Follower
from ssmd_stream.capture.universe_venues import KalshiUniverse
from ssmd_stream.catalogue.intervals import Interval
from ssmd_stream.catalogue.ledger import Ledger
from ssmd_stream.cdc import watch as cdc_watch
from ssmd_stream.cdc.daemon import CdcOptions, keep_streaming
from ssmd_stream.cdc.stats import CdcStats
from ssmd_stream.cdc.stream import Record, ensure_streams, write_record
from ssmd_stream.jetstream import connect, read_stored
from ssmd_stream.replay.faults import Fault, Faults
from ssmd_stream.replay.generator.kalshi_calendar import ScheduledMarket
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.kalshi import make_test_key
from ssmd_stream.secmaster.sweep import sweep
from ssmd_stream.servers.nats import NatsServer
from ssmd_stream.tasks import end_tasks

KEY = make_test_key()
_LSN = itertools.count(1)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALSHI_API_KEY", KEY.access_key)
    monkeypatch.setenv("KALSHI_PRIVATE_KEY", KEY.private_pem)


@pytest.fixture
def settings(tmp_path: Path, nats_server: NatsServer, database_url: str) -> Settings:
    return Settings(
        data=tmp_path, env="t", nats_url=nats_server.url, database_url=database_url, redis_url="", clock=Clock()
    )


class AdvancedClock(Clock):
    """Shows the system's time, and more once told so."""

    ahead_ns = 0

    def now_ns(self) -> int:
        return super().now_ns() + self.ahead_ns


class Secmaster:
    """Writes rows and tells of them as CDC does."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = psycopg.connect(settings.database_url, autocommit=True)

    async def start(self) -> None:
        self._nats = await connect(self._settings.nats_url, name="test cdc")
        await ensure_streams(self._nats)
        self.speak()

    def speak(self) -> None:
        """Write the record again and again."""
        self._speaking = asyncio.create_task(self._speak())

    async def _speak(self) -> None:
        while True:
            with contextlib.suppress(NatsError, SsmdError, TimeoutError):
                await write_record(self._nats, Record("running", "test", "1", "", 0))
            await asyncio.sleep(0.2)

    async def hush(self) -> None:
        await end_tasks(self._speaking)

    async def stop(self) -> None:
        await self.hush()
        await self._nats.close()
        self.close()

    def close(self) -> None:
        self._database.close()

    def write(self, table: str, key: str, rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
        """Insert or update rows with the same columns; what CDC would tell."""
        columns = list(rows[0])
        update = ", ".join(f"{name} = EXCLUDED.{name}" for name in columns if name != key) or f"{key} = EXCLUDED.{key}"
        sql = (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('%s' for _ in columns)}) "
            f"ON CONFLICT ({key}) DO UPDATE SET {update}"
        )
        with self._database.cursor() as cursor:
            cursor.executemany(sql.encode(), [tuple(row.values()) for row in rows])
            names = [row[key] for row in rows]
            cursor.execute(f"SELECT to_jsonb(t) FROM {table} t WHERE {key} = ANY(%s)".encode(), (names,))
            return [(table, key, found) for (found,) in cursor.fetchall()]

    async def tell(self, changes: Sequence[tuple[str, str, dict[str, Any]]], op: str = "update") -> None:
        for table, key, data in changes:
            number = next(_LSN)
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            texts = {name: str(value) if isinstance(value, float) else value for name, value in data.items()}
            change = {
                "table": table, "op": op, "key": {key: data[key]}, "data": texts, "lsn": f"0/{number:X}",
                "commit_lsn": f"0/{number:X}", "ordinal": 0, "xid": number, "commit_ts": now, "timestamp": now,
            }  # fmt: skip
            headers = {"Nats-Msg-Id": f"s:0/{number:X}:0"}
            await self._nats.publish(f"cdc.{table}.{op}", orjson.dumps(change), headers=headers)
        await self._nats.flush()

    async def put(self, table: str, key: str, *rows: Mapping[str, Any]) -> None:
        await self.tell(self.write(table, key, rows))

    def kalshi_parents(self, tickers: Sequence[str]) -> list[tuple[str, str, dict[str, Any]]]:
        events = dict.fromkeys(ticker.rpartition("-")[0] for ticker in tickers)
        series = dict.fromkeys(event.partition("-")[0] for event in events)
        told = self.write("series", "ticker", [{"ticker": one, "title": one, "category": "Crypto"} for one in series])
        return told + self.write(
            "events",
            "event_ticker",
            [{"event_ticker": one, "series_ticker": one.partition("-")[0], "title": one} for one in events],
        )

    def kalshi_markets(self, tickers: Sequence[str], status: str = "active") -> list[tuple[str, str, dict[str, Any]]]:
        rows = [
            {"ticker": one, "event_ticker": one.rpartition("-")[0], "title": one, "status": status} for one in tickers
        ]
        return self.write("markets", "ticker", rows)


@asynccontextmanager
async def _secmaster(settings: Settings) -> AsyncIterator[Secmaster]:
    secmaster = Secmaster(settings)
    await secmaster.start()
    try:
        yield secmaster
    finally:
        await secmaster.stop()


@asynccontextmanager
async def _running(
    feed: str, server: ReplayServer, settings: Settings, *, shard: int = 500, **filters: Any
) -> AsyncIterator[Connector]:
    root = settings.config_root
    (root / "environments").mkdir(parents=True, exist_ok=True)
    (root / "feeds").mkdir(exist_ok=True)
    stream = feeds.get(feed).streams[0]
    env = {"name": "x", "feed": feed, "stream": stream, "secmaster": {"close_grace_s": 0.5} | filters}
    (root / "environments" / f"{feed}-{stream}.yaml").write_bytes(orjson.dumps(env))
    version = {
        "version": "1",
        "effective_from": "2020-01-01",
        "endpoint": feeds.get(feed).websocket_urls["prod"],
        "max_symbols_per_connection": shard,
    }
    (root / "feeds" / f"{feed}.yaml").write_bytes(orjson.dumps({"name": feed, "versions": [version]}))
    options = ConnectorOptions(
        feed, stream, url=server.url, rest_url=server.rest_url, backoff=Backoff(0.02, 0.2), tick_s=0.2
    )
    connector = Connector(options, settings)
    task = asyncio.create_task(connector.run())
    try:
        yield connector
        connector.stop()
        assert await asyncio.wait_for(task, 15) == EXIT_DRAINED
    finally:
        connector.stop()
        await asyncio.gather(task, return_exceptions=True)


async def _until(condition: Callable[[], object], timeout_s: float = 15.0) -> float:
    """Seconds until it held."""
    start_s = time.monotonic()
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)
    return time.monotonic() - start_s


async def _messages(connector: Connector, settings: Settings) -> list[tuple[str, str, bytes]]:
    """(subject, epoch, payload) of everything in the stream."""
    client = await connect(settings.nats_url, name="test")
    found = []
    async for _, message in read_stored(client, connector.plan.stream.jetstream, after_seq=0):
        found.append((message.subject, read_stamp(message.headers).epoch, message.data))
    await client.close()
    return found


def _events(messages: Sequence[tuple[str, str, bytes]], *names: str) -> list[dict[str, Any]]:
    events = [orjson.loads(payload)["ssmd"] for _, _, payload in messages if is_control(payload)]
    return [event for event in events if event["event"] in names]


def _counts(connector: Connector) -> tuple[int, int, int]:
    subscriptions = connector.health().body["subscriptions"]
    return subscriptions["wanted"], subscriptions["subscribed"], subscriptions["overflow"]


def _kalshi(markets: int, faults: Faults | None = None) -> ReplayServer:
    source = Generated(frames_per_s=2_000, markets=markets)
    return ReplayServer(feeds.get("kalshi"), source, key=KEY, faults=faults)


def test_markets_open_and_settle_while_the_connector_runs(settings: Settings) -> None:
    """An empty start; what opens is subscribed, what settles is not, and the archive says what was wanted when."""

    async def run() -> list[tuple[str, str, bytes]]:
        async with _secmaster(settings) as secmaster, _kalshi(4) as server:
            first, second, other, last = server.instruments
            await secmaster.tell(secmaster.kalshi_parents(server.instruments))
            async with _running("kalshi", server, settings, series=["KXBTC15M"]) as connector:
                await _until(lambda: connector.follower and connector.follower.loaded)
                health = connector.health()
                assert health.ok, health.body
                assert health.body["note"] == "no instruments wanted yet"
                await secmaster.tell(secmaster.kalshi_markets([first, second, last], "initialized"), "insert")
                await asyncio.sleep(0.5)
                assert _counts(connector) == (0, 0, 0)
                await secmaster.tell(secmaster.kalshi_markets([first, second, other]))
                assert await _until(lambda: _counts(connector) == (2, 2, 0)) < 5
                await _until(lambda: connector.shards[0].stats.by_type["ticker"].messages > 20)
                await secmaster.tell(secmaster.kalshi_markets([first], "settled"))
                assert await _until(lambda: _counts(connector) == (1, 1, 0)) < 5
                # Once more the same market: a removal leaves nothing behind that hinders it.
                await secmaster.tell(secmaster.kalshi_markets([first]))
                await _until(lambda: _counts(connector) == (2, 2, 0))
                await secmaster.tell(secmaster.kalshi_markets([first], "settled"))
                await _until(lambda: _counts(connector) == (1, 1, 0))
                asked = server.connections[0].session.interest
                assert len(server.connections) == 1
                assert connector.health().ok, connector.health().body
            assert asked.channels == {"ticker", "trade", "market_lifecycle_v2"}
            return await _messages(connector, settings)

    messages = asyncio.run(run())
    first, second = "KXBTC15M-26NOV2212-00", "KXBTC15M-26NOV2212-02"
    subjects = {subject for subject, _, _ in messages}
    assert {f"t.kalshi.crypto.json.ticker.{first}", f"t.kalshi.crypto.json.ticker.{second}"} <= subjects
    assert not any("KXBTCD" in subject for subject in subjects)
    changes = [
        (event["event"], event["reason"], *sorted(event["instruments"]))
        for event in _events(messages, "wanted", "unwanted")
    ]
    assert changes == [
        ("wanted", "active", first, second),
        ("unwanted", "status settled", first),
        ("wanted", "active", first),
        ("unwanted", "status settled", first),
    ]
    assert all(event["filter"] == {"series": ["KXBTC15M"]} for event in _events(messages, "wanted"))
    unsubscribed = _events(messages, "unsubscribe")
    assert [(event["channel"], *event["instruments"]) for event in unsubscribed[:2]] == [
        ("ticker", first),
        ("trade", first),
    ]
    assert not _events(messages, "refused")


def test_market_opens_by_the_clock_and_its_first_frame_is_archived(settings: Settings) -> None:
    """The whole chain: a sweep finds that a market has opened, CDC tells, the connector asks, the archive holds it."""
    opens_s, closes_s = 2.5, 5.0
    ticker = "KXBTC15M-26NOV221200-00"
    calendar = (ScheduledMarket(ticker, opens_s, closes_s, determined_s=closes_s + 0.2, settled_s=closes_s + 0.4),)
    source = Generated(frames_per_s=300, markets=2, calendar=calendar)

    async def sweep_often(database: psycopg.AsyncConnection) -> None:
        while True:
            async with database.transaction():
                await sweep(database, settings.clock)
            await asyncio.sleep(0.5)

    async def run() -> tuple[float, list[tuple[str, int, bytes]]]:
        stopped = asyncio.Event()
        async with ReplayServer(feeds.get("kalshi"), source, key=KEY) as server:
            start_s = time.time()
            opens, closes = (datetime.fromtimestamp(start_s + at, UTC) for at in (opens_s, closes_s))
            secmaster = Secmaster(settings)
            secmaster.kalshi_parents([ticker])
            market = {"ticker": ticker, "event_ticker": ticker.rpartition("-")[0], "title": "x"}
            times = {"status": "initialized", "open_time": opens, "close_time": closes}
            database = await psycopg.AsyncConnection.connect(settings.database_url, autocommit=True)
            work = [
                asyncio.create_task(keep_streaming(CdcOptions(), settings, CdcStats(), stopped)),
                asyncio.create_task(sweep_often(database)),
            ]
            name = feeds.parse_stream("kalshi/crypto", settings.env)
            try:
                async with _running("kalshi", server, settings, close_grace_s=0.5) as connector:
                    await _until(lambda: connector.follower and connector.follower.loaded)
                    work.append(
                        asyncio.create_task(StreamArchiver(name, settings.archive_root, settings.nats_url).run(stopped))
                    )
                    await _until(lambda: connector.follower and connector.follower.problem(0.0) == "")
                    secmaster.write("markets", "ticker", [market | times])
                    await _until(lambda: _counts(connector) == (1, 1, 0))
                    await _until(lambda: time.time() > start_s + closes_s)
                    await _until(lambda: _counts(connector) == (0, 0, 0))
                    assert connector.follower is not None
                    assert connector.follower.healed == 0
                    assert connector.health().ok, connector.health().body
                await asyncio.sleep(1.5)
            finally:
                stopped.set()
                work[1].cancel()
                await asyncio.gather(*work, return_exceptions=True)
                await database.close()
                secmaster.close()
            lines = [parse_line(raw) for path in settings.archive_root.rglob("*.part") for raw in salvage_lines(path)]
            return start_s, [(line.epoch, line.recv_us, line.payload) for line in lines]

    start_s, lines = asyncio.run(run())
    told = [
        (recv_us / 1e6 - start_s, payload)
        for _, recv_us, payload in lines
        if ticker.encode() in payload and not is_control(payload)
    ]
    frames = [at_s for at_s, payload in told if b"lifecycle" not in payload]
    assert opens_s < min(frames) < opens_s + 15
    assert max(frames) > closes_s - 0.5
    # Its end is on record as well, also what the venue says after the close.
    ends = {
        orjson.loads(payload)["msg"]["event_type"]
        for at_s, payload in told
        if at_s > closes_s and b"lifecycle" in payload
    }
    assert {"determined", "settled"} <= ends
    unsubscribed = [us / 1e6 - start_s for _, us, payload in lines if b'"event":"unsubscribe"' in payload]
    assert closes_s < unsubscribed[0] < closes_s + 5
    # The catalogue reads the same from the same files.
    ledger = Ledger(feeds.get("kalshi"), Interval(int(start_s * 1e6), int((start_s + 60) * 1e6)))
    ledger.read(settings.archive_root.rglob("*.part"))
    ledger.finish()
    assert ledger.channels == ["ticker", "trade"]
    ((since, to),) = ledger.wanted[ticker]
    for channel in ledger.channels:
        ((asked_from, asked_to),), ((acknowledged_from, _),) = ledger.times(channel, ticker)
        assert since <= asked_from <= acknowledged_from < since + 1_000_000
        assert to <= asked_to < to + 1_000_000
    assert ledger.frames[ticker] == len(frames)


def test_a_thousand_markets_on_shards_of_two_hundred_and_what_has_no_room(settings: Settings) -> None:
    async def run() -> list[tuple[str, str, bytes]]:
        async with _secmaster(settings) as secmaster, _kalshi(1_010) as server:
            tickers = server.instruments
            secmaster.kalshi_parents(tickers)
            secmaster.kalshi_markets(tickers[:1_000])
            async with _running("kalshi", server, settings, shard=200, max_shards=5) as connector:
                await _until(lambda: _counts(connector) == (1_000, 1_000, 0))
                assert [shard.requested for shard in connector.shards] == [200] * 5
                await _until(lambda: connector.health().ok)
                await secmaster.tell(secmaster.kalshi_markets(tickers[1_000:]))
                await _until(lambda: _counts(connector) == (1_010, 1_000, 10))
                assert "10 instruments have no room on 5 shards" in connector.health().body["reason"]
                # Room is given to what waits for it.
                await secmaster.tell(secmaster.kalshi_markets(tickers[:50], "settled"))
                await _until(lambda: _counts(connector) == (960, 960, 0))
                await _until(lambda: connector.health().ok)
                sessions = [connection.session.interest for connection in server.connections]
                # The lifecycle channel takes no list: it is asked for once.
                assert sum("market_lifecycle_v2" in session.channels for session in sessions) == 1
                metrics = generate_latest(connector.registry).decode()
            for name, value in {"wanted": 960, "subscribed": 960, "overflow": 0, "reconcile_healed_total": 0}.items():
                assert f'ssmd_connector_{name}{{category="crypto",feed="kalshi"}} {value:.1f}' in metrics
            return await _messages(connector, settings)

    messages = asyncio.run(run())
    (start,) = [event for event in _events(messages, "wanted") if event["cause"] == "start"][:1]
    assert len(start["instruments"]) == 500
    assert {event["connection"] for event in _events(messages, "unsubscribe")} <= {f"c{n}" for n in range(5)}


def test_what_no_change_tells_is_healed_and_what_was_refused_is_asked_again(settings: Settings) -> None:
    async def run() -> list[tuple[str, str, bytes]]:
        async with _secmaster(settings) as secmaster:
            faults = Faults()
            async with _kalshi(6, faults) as server:
                first, second, third, *_ = server.instruments
                secmaster.kalshi_parents(server.instruments)
                secmaster.kalshi_markets([first, second])
                async with _running("kalshi", server, settings, reconcile_s=1, shard=1) as connector:
                    await _until(lambda: _counts(connector) == (2, 2, 0))
                    assert len(connector.shards) == 2
                    # Nothing tells of these: the next read does.
                    secmaster.kalshi_markets([third])
                    secmaster.kalshi_markets([second], "closed")
                    await _until(lambda: _counts(connector) == (2, 2, 0) and len(connector.shards) == 2)
                    assert connector.follower is not None
                    await _until(lambda: connector.follower and connector.follower.healed == 2)
                    await _until(lambda: "c1" not in {shard.name for shard in connector.shards})
                    assert connector.health().ok, connector.health().body
                return await _messages(connector, settings)

    messages = asyncio.run(run())
    reconciled = [event for event in _events(messages, "wanted") if event["cause"] == "reconcile"]
    assert [event["instruments"] for event in reconciled] == [["KXBTC15M-26NOV2212-02"]]
    closed = [event["reason"] for event in _events(messages, "closed") if event["connection"] == "c1"]
    assert closed == ["no instruments left"]


def test_refused_market_is_asked_for_again_and_the_others_are_not_lost(settings: Settings) -> None:
    """The venue refuses the command that names a market it does not take: alone it costs nobody else."""

    async def run() -> list[tuple[str, str, bytes]]:
        async with _secmaster(settings) as secmaster:
            bad = "KXBTC15M-26NOV2212-02"
            clock = AdvancedClock()
            over = dataclasses.replace(settings, clock=clock)
            faults = Faults((Fault("refuse", instruments=frozenset({bad})),))
            async with _kalshi(8, faults) as server:
                secmaster.kalshi_parents(server.instruments)
                secmaster.kalshi_markets(server.instruments)
                async with _running("kalshi", server, over, reconcile_s=0.5) as connector:
                    await _until(lambda: _counts(connector)[:2] == (8, 7), 20)
                    refused = connector.health().body["shards"]["c0"]["refused"]
                    assert set(refused) == {f"ticker {bad}", f"trade {bad}"}
                    clock.ahead_ns = 3600 * 10**9
                    await asyncio.sleep(0.6)
                return await _messages(connector, settings)

    messages = asyncio.run(run())
    assert max(len(event["instruments"]) for event in _events(messages, "refused")) == 8
    # What a reader of the new hour alone must know.
    repeated = [event for event in _events(messages, "wanted") if event["cause"] == "hour"]
    assert [len(event["instruments"]) for event in repeated] == [8]
    states = {(event["channel"], event["state"]): len(event["instruments"]) for event in _events(messages, "coverage")}
    assert states == {
        ("ticker", "acknowledged"): 7,
        ("ticker", "refused"): 1,
        ("trade", "acknowledged"): 7,
        ("trade", "refused"): 1,
        ("market_lifecycle_v2", "acknowledged"): 1,
    }


def test_nats_and_postgres_may_go_and_come_back(settings: Settings, nats_server: NatsServer) -> None:
    async def run() -> None:
        database = settings.database_url.rpartition("/")[2].partition("?")[0]
        async with _secmaster(settings) as secmaster, _kalshi(6) as server:
            first, second, third, *_ = server.instruments
            secmaster.kalshi_parents(server.instruments)
            secmaster.kalshi_markets([first])
            with psycopg.connect(settings.database_url.replace(database, "postgres"), autocommit=True) as admin:
                async with _running("kalshi", server, settings, reconcile_s=0.5) as connector:
                    await _until(lambda: _counts(connector) == (1, 1, 0))
                    follower = connector.follower
                    assert follower is not None
                    changes = secmaster.kalshi_markets([second])
                    secmaster_news = secmaster.kalshi_markets([third])
                    admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS false".encode())
                    admin.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (database,)
                    )
                    await _until(lambda: "not read" in follower.problem(0.0))
                    assert connector.health().ok  # within the grace
                    await secmaster.tell(changes)
                    await _until(lambda: _counts(connector) == (2, 2, 0))
                    nats_server.kill()
                    await _until(lambda: "do not come" in follower.problem(0.0))
                    assert _counts(connector) == (2, 2, 0)
                    await nats_server.start()
                    await _until(lambda: "do not come" not in follower.problem(0.0))
                    await secmaster.tell(secmaster_news)
                    await _until(lambda: _counts(connector) == (3, 3, 0))
                    admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
                    await _until(lambda: follower.problem(0.0) == "")
                    assert _counts(connector) == (3, 3, 0)

    asyncio.run(run())


def test_tokens_of_new_conditions(settings: Settings) -> None:
    async def run() -> list[tuple[str, str, bytes]]:
        source = Generated(frames_per_s=500, markets=4)
        async with _secmaster(settings) as secmaster, ReplayServer(feeds.get("polymarket"), source) as server:
            conditions: dict[str, list[str]] = {}
            exchange: Any = server._exchange
            for token, book in exchange.by_token.items():
                conditions.setdefault(book.condition, []).append(token)
            first, second, third, dull = conditions

            def rows(condition: str, status: str, category: str = "Crypto") -> dict[str, Any]:
                return {
                    "condition_id": condition,
                    "question": "?",
                    "status": status,
                    "category": category,
                    "volume": 20,
                }

            def tokens(condition: str) -> list[dict[str, Any]]:
                return [
                    {"token_id": token, "condition_id": condition, "outcome": str(index), "outcome_index": index}
                    for index, token in enumerate(conditions[condition])
                ]

            for condition, status in ((first, "active"), (second, "inactive")):
                secmaster.write("polymarket_conditions", "condition_id", [rows(condition, status)])
                secmaster.write("polymarket_tokens", "token_id", tokens(condition))
            async with _running("polymarket", server, settings, categories=["Crypto"], min_volume=20) as connector:
                await _until(lambda: _counts(connector) == (2, 2, 0))
                # Its tokens were read at the start: nothing tells of them.
                await secmaster.put("polymarket_conditions", "condition_id", rows(second, "active"))
                await _until(lambda: _counts(connector) == (4, 4, 0))
                for condition, category in ((third, "Crypto"), (dull, "Weather")):
                    await secmaster.put("polymarket_conditions", "condition_id", rows(condition, "active", category))
                    await secmaster.put("polymarket_tokens", "token_id", *tokens(condition))
                await _until(lambda: _counts(connector) == (6, 6, 0))
                await secmaster.put("polymarket_conditions", "condition_id", rows(first, "closed"))
                await _until(lambda: _counts(connector) == (4, 4, 0))
                left = {*conditions[second], *conditions[third]}
                await _until(lambda: set(server.connections[0].session.interest.instruments or ()) == left)
                frames = connector.shards[0].stats.frames
                await _until(lambda: connector.shards[0].stats.frames > frames + 50)
            return await _messages(connector, settings)

    messages = asyncio.run(run())
    assert {event["reason"] for event in _events(messages, "unwanted")} == {"status closed"}


class Proxy:
    """A way to Postgres that falls silent after so many bytes, without closing anything."""

    def __init__(self, database_url: str) -> None:
        self._port = urlsplit(database_url).port
        self._pumps: set[asyncio.Task[None]] = set()
        self.left_bytes = 10**9
        self.silent = asyncio.Event()

    @asynccontextmanager
    async def serving(self, settings: Settings) -> AsyncIterator[Settings]:
        server = await asyncio.start_server(self._accept, "127.0.0.1")
        port = server.sockets[0].getsockname()[1]
        try:
            url = settings.database_url.replace(f":{self._port}/", f":{port}/")
            yield dataclasses.replace(settings, database_url=url)
        finally:
            server.close()
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reader_of_postgres, postgres = await asyncio.open_connection("127.0.0.1", self._port)
        for pair in ((reader, postgres), (reader_of_postgres, writer)):
            self._pumps.add(asyncio.create_task(self._pump(*pair)))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4096):
                self.left_bytes -= len(data)
                while self.left_bytes < 0:
                    self.silent.set()
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def test_database_that_falls_silent_in_a_read_is_told_and_read_again(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(universe_rows, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(universe_follow, "_RECENT_MOST", 20)
    monkeypatch.setattr(universe_follow, "_READ_SPACING_S", 0.1)

    async def run() -> None:
        proxy = Proxy(settings.database_url)
        async with _secmaster(settings) as secmaster, proxy.serving(settings) as proxied:
            tickers = [f"KXBTC15M-26NOV2212-{number}" for number in range(2_000)]
            secmaster.kalshi_parents(tickers)
            secmaster.kalshi_markets(tickers[:1_900])
            follower = Follower(
                KalshiUniverse(SecmasterConfig()),
                proxied,
                name="test",
                reconcile_s=0.1,
                on_change=lambda change, cause: None,
                on_reconciled=lambda: None,
            )
            task = asyncio.create_task(follower.run())
            await _until(lambda: len(follower.universe.wanted) == 1_900)
            proxy.left_bytes = 20_000
            await proxy.silent.wait()
            await secmaster.tell(secmaster.kalshi_markets(tickers[1_900:]))
            await _until(lambda: len(follower.universe.wanted) == 2_000)
            assert len(follower._recent) <= 20
            await _until(lambda: "not read for" in follower.problem(0.5))
            await asyncio.sleep(1.0)  # until it is given up; the server is then asked to cancel, and can hear that
            proxy.left_bytes = 10**9
            await _until(lambda: "not read within 1 s" in follower.problem(0.0))
            await _until(lambda: follower.problem(2.0) == "" and (follower.read_age_s or 9) < 1)
            assert len(follower.universe.wanted) == 2_000
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_silent_database_does_not_hold_up_the_end(settings: Settings) -> None:
    async def run() -> float:
        proxy = Proxy(settings.database_url)
        async with _secmaster(settings) as secmaster, proxy.serving(settings) as proxied, _kalshi(1_000) as server:
            secmaster.kalshi_parents(server.instruments)
            secmaster.kalshi_markets(server.instruments)
            async with _running("kalshi", server, proxied, reconcile_s=0.1) as connector:
                await _until(lambda: _counts(connector) == (1_000, 1_000, 0))
                proxy.left_bytes = 20_000
                await proxy.silent.wait()
                start_s = time.monotonic()
            return time.monotonic() - start_s

    assert asyncio.run(run()) < 4


def test_while_cdc_is_silent_the_database_is_read_often(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc_watch, "LOOK_S", 0.1)
    monkeypatch.setattr(cdc_watch, "LATE_S", 1.0)
    monkeypatch.setattr(cdc_watch, "SILENT_S", 2.0)
    monkeypatch.setattr(universe_follow, "_READ_SPACING_S", 0.5)

    async def run() -> None:
        async with _secmaster(settings) as secmaster, _kalshi(4) as server:
            first, second, third, _ = server.instruments
            secmaster.kalshi_parents(server.instruments)
            secmaster.kalshi_markets([first])
            async with _running("kalshi", server, settings) as connector:
                await _until(lambda: _counts(connector) == (1, 1, 0) and connector.health().ok)
                await secmaster.hush()
                for number, opened in enumerate((second, third), 2):
                    secmaster.kalshi_markets([opened])
                    await _until(lambda number=number: _counts(connector) == (number, number, 0))  # type: ignore[misc]  # a default
                await _until(lambda: "CDC silent" in connector.health().body["reason"])
                metrics = generate_latest(connector.registry).decode()
                name = 'ssmd_connector_cdc_silent_seconds{category="crypto",feed="kalshi"} '
                assert 2 < float(metrics.partition(name)[2].partition("\n")[0]) < 15
                secmaster.speak()
                await _until(lambda: connector.health().ok)

    asyncio.run(run())
