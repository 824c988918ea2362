"""The connector against played venues and a real NATS: what was sent is what is stored, and faults are survived."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import orjson
import pytest
from websockets.asyncio.server import ServerConnection, serve

from ssmd_core import feeds
from ssmd_core.clock import Clock
from ssmd_core.errors import ConfigError
from ssmd_core.feeds.base import Liveness
from ssmd_core.messages.frames import split_frame
from ssmd_core.messages.headers import read_stamp
from ssmd_core.settings import Settings
from ssmd_stream.capture import rest
from ssmd_stream.capture.connector import EXIT_CONFIG, EXIT_DRAINED, EXIT_REFUSED, Connector, run_connector
from ssmd_stream.capture.options import Backoff, ConnectorOptions
from ssmd_stream.jetstream import connect, read_stored
from ssmd_stream.replay.faults import Fault, Faults
from ssmd_stream.replay.recording import Recording, read_frames
from ssmd_stream.replay.sent_log import read_sent_log
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.kalshi import make_test_key
from ssmd_stream.secmaster import rest as client

_NUMBERS = itertools.count()
QUICK = Backoff(min_s=0.02, max_s=0.2, healthy_s=60)
# Long enough that nothing trips by accident on a busy machine.
PATIENT = Liveness(ping_interval_s=30, ping_text=None, pong_timeout_s=20, data_timeout_s=20, group_timeout_s=20)
KEY = make_test_key()

# feed -> (sample file, its first frames, channels, instruments)
CAPTURES: dict[str, tuple[str, int, tuple[str, ...], tuple[str, ...]]] = {
    "kalshi": ("ws/gold15m_orderbook_trade_2026-08-05.jsonl.gz", 5_000, ("orderbook_delta", "trade"), ("KXGOLD15M",)),
    "kraken": ("ws/book_btcusd_depth25_2026-08.jsonl.gz", 2_104, ("book",), ("BTC/USD",)),
    "kraken-futures": ("ws/book_trade_tickerlite_2021-07-22.jsonl.gz", 1_325, ("book", "trade"), ("PF_XBTUSD",)),
    "polymarket": ("ws/session_btc5m_2026-08-16_excerpt.jsonl", 70, ("market",), ("1", "2")),
}


class Stored(NamedTuple):
    subject: str
    payload: bytes
    epoch: str
    ordinal: int
    recv_ns: int

    @property
    def event(self) -> dict[str, Any]:
        """ssmd's own event, {} if it is not one."""
        document = orjson.loads(self.payload) if self.payload.startswith(b'{"ssmd":') else {"ssmd": {}}
        event: dict[str, Any] = document["ssmd"]
        return event


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KALSHI_API_KEY", KEY.access_key)
    monkeypatch.setenv("KALSHI_PRIVATE_KEY", KEY.private_pem)


@pytest.fixture
def settings(tmp_path: Path, nats_url: str) -> Settings:
    """Settings with an environment, and so a stream, of the test's own."""
    env = f"t{os.getpid()}-{next(_NUMBERS)}"
    return Settings(data=tmp_path, env=env, nats_url=nats_url, database_url="", redis_url="", clock=Clock())


def _options(feed: str, server: ReplayServer | None = None, **over: Any) -> ConnectorOptions:
    values: dict[str, Any] = {
        "stream": feeds.get(feed).default_stream,
        "url": server.url if server else "",
        "rest_url": server.rest_url if server else "",
        "backoff": QUICK,
        "liveness": dataclasses.replace(PATIENT, ping_text=feeds.get(feed).liveness.ping_text),
        "tick_s": 0.1,
        "health_port": 0,
    }
    return ConnectorOptions(feed, **(values | over))


@asynccontextmanager
async def _running(options: ConnectorOptions, settings: Settings) -> AsyncIterator[Connector]:
    connector = Connector(options, settings)
    task = asyncio.create_task(connector.run())
    try:
        yield connector
        connector.stop()
        assert await asyncio.wait_for(task, 15) == EXIT_DRAINED
    finally:
        connector.stop()
        await asyncio.gather(task, return_exceptions=True)


async def _until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def _stored(connector: Connector, settings: Settings) -> dict[str, list[Stored]]:
    """Everything in the stream, by epoch; the ordinals of each are checked to be 0, 1, 2, …"""
    client = await connect(settings.nats_url, name="test")
    epochs: dict[str, list[Stored]] = {}
    async for _, message in read_stored(client, connector.plan.stream.jetstream, after_seq=0):
        stamp = read_stamp(message.headers)
        stored = Stored(message.subject, message.data, stamp.epoch, stamp.ordinal, stamp.recv_ns)
        epochs.setdefault(stamp.epoch, []).append(stored)
    await client.close()
    for name, messages in epochs.items():
        assert [each.ordinal for each in messages] == list(range(len(messages))), name
        assert messages[0].event.get("event") == "open", name
        assert messages[-1].event.get("event") == "closed", name
        assert messages[-1].event["messages"] == len(messages), name
        assert re.fullmatch(r"[ck]\d+-\d{8}T\d{9}-[0-9a-f]{4}", name)
    return epochs


def _events(epochs: dict[str, list[Stored]], event: str) -> list[dict[str, Any]]:
    return [each.event for messages in epochs.values() for each in messages if each.event.get("event") == event]


def _assert_as_sent(log: Path, epochs: dict[str, list[Stored]], *, upto_reset: bool = False) -> None:
    """Every connection's stored messages are the frames that the server wrote to it, split and in order."""
    sent: dict[int, list[bytes]] = {}
    for frame in read_sent_log(log):
        sent.setdefault(frame.peer_port, []).extend(split_frame(frame.payload))
    captured = {
        int(messages[0].event["local"].rpartition(":")[2]): [each.payload for each in messages if not each.event]
        for messages in epochs.values()
        if "local" in messages[0].event
    }
    assert captured.keys() == sent.keys()
    for port, payloads in captured.items():
        if upto_reset:
            assert payloads == sent[port][: len(payloads)]
        else:
            assert payloads == sent[port]


async def _get(connector: Connector, path: str) -> tuple[int, str]:
    assert connector.health_server is not None
    async with (
        aiohttp.ClientSession() as session,
        session.get(connector.health_server.url + path) as response,
    ):
        return response.status, await response.text()


@pytest.mark.parametrize("transport", ["picows", "websockets"])
@pytest.mark.parametrize("feed", CAPTURES)
def test_what_the_venue_sent_is_what_is_stored(
    feed: str, transport: str, samples: Path, settings: Settings, tmp_path: Path
) -> None:
    file, count, channels, instruments = CAPTURES[feed]
    frames = [frame.payload for frame in itertools.islice(read_frames(samples / feed / file), count)]
    # What no parser knows must come through as well: text, an array, broken JSON, an unknown type, NaN, depth.
    hostile = [b"[]\n", b"{not json", b'{"type":"brand_new","channel":"brand_new"}', b'{"a":NaN}', b'{"a":' * 2000]

    async def run() -> tuple[Connector, dict[str, list[Stored]]]:
        recording = Recording.from_frames(frames + hostile)
        async with ReplayServer(feeds.get(feed), recording, sent_log=tmp_path / "sent", key=KEY) as server:
            options = _options(feed, server, channels=channels, instruments=instruments, transport=transport)
            async with _running(options, settings) as connector:
                await asyncio.wait_for(server.finished(), 20)
                await _until(lambda: connector.shards[0].settled)
                await _until(lambda: connector.shards[0].stats.frames == server.frames_sent)
                assert connector.health().ok
            return connector, await _stored(connector, settings)

    connector, epochs = asyncio.run(run())
    assert len(epochs) == 2  # one connection, and the connector's own
    _assert_as_sent(tmp_path / "sent", epochs)
    stats = connector.shards[0].stats
    assert stats.unparsed.messages >= len(hostile) - 1
    total = sum(each.messages for each in stats.by_type.values()) + stats.unparsed.messages + stats.keepalives.messages
    assert total == sum(not each.event for messages in epochs.values() for each in messages)
    prefix = connector.plan.stream.prefix + ".json."
    for messages in epochs.values():
        for each in messages:
            token, _, id_ = each.subject.removeprefix(prefix).partition(".")
            if not each.event and token not in ("control", "unparsed"):
                route = connector.plan.feed.route(each.payload)
                assert connector.plan.feed.message_types[route.type].token == token
                assert id_ == ({"BTC/USD": "XXBTZUSD"}.get(route.id) or route.id.replace("/", "-") or "unknown")
    assert _events(epochs, "subscribe")[0]["instruments"] == list(instruments)


@pytest.mark.parametrize("feed", CAPTURES)
def test_live_traffic_of_every_feed_over_a_connection_loss(feed: str, settings: Settings, tmp_path: Path) -> None:
    faults = Faults((Fault("reset", at=300), Fault("close", at=900, code=1013)))
    source = Generated(frames_per_s=3_000, limit=1_500, markets=4)

    async def run() -> tuple[Connector, dict[str, list[Stored]]]:
        async with ReplayServer(feeds.get(feed), source, faults=faults, sent_log=tmp_path / "sent", key=KEY) as server:
            async with _running(_options(feed, server), settings) as connector:
                await asyncio.wait_for(server.finished(), 20)
                await _until(lambda: connector.shards[0].stats.connects == 3 and connector.shards[0].settled)
                health = connector.health()
                assert health.ok, health.body
                assert health.body["shards"]["c0"]["reconnects"] == 2
            return connector, await _stored(connector, settings)

    connector, epochs = asyncio.run(run())
    _assert_as_sent(tmp_path / "sent", epochs, upto_reset=True)
    closed = [event for event in _events(epochs, "closed") if event["connection"] == "c0"]
    assert [event["code"] for event in closed] == [1006, 1013, 1000]
    assert connector.shards[0].stats.unparsed.messages == 0
    if feed != "polymarket":
        acknowledged = {event["channel"] for event in _events(epochs, "acknowledged")}
        assert acknowledged == set(connector.plan.channels)


def test_a_refused_symbol_costs_only_itself(settings: Settings) -> None:
    faults = Faults((Fault("refuse", instruments=frozenset({"ETH/USD"})),))

    async def run() -> dict[str, list[Stored]]:
        source = Generated(frames_per_s=500)
        async with ReplayServer(feeds.get("kraken"), source, faults=faults) as server:
            options = _options("kraken", server, channels=("trade", "ticker"), instruments=("BTC/USD", "ETH/USD"))
            async with _running(options, settings) as connector:
                await _until(lambda: connector.shards and connector.shards[0].refused == 2)
                await _until(lambda: connector.shards[0].stats.by_type["trade"].messages)
                health = connector.health()
                assert health.ok
                assert set(health.body["shards"]["c0"]["refused"]) == {"trade ETH/USD", "ticker ETH/USD"}
                _, metrics = await _get(connector, "/metrics")
                assert 'refused_instruments{category="spot",feed="kraken",shard="c0"} 2.0' in metrics
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    assert {(event["channel"], *event["instruments"]) for event in _events(epochs, "refused")} == {
        ("trade", "ETH/USD"),
        ("ticker", "ETH/USD"),
    }


@pytest.mark.parametrize("feed", ["kalshi", "kraken", "kraken-futures"])
def test_everything_refused_ends_the_process_with_its_own_code(feed: str, settings: Settings) -> None:
    async def run() -> int:
        async with ReplayServer(
            feeds.get(feed), Generated(frames_per_s=100), faults=Faults((Fault("refuse"),)), key=KEY
        ) as server:
            options = _options(feed, server, channels=("trade",), instruments=("A",), ack_timeout_s=0.3)
            return await asyncio.wait_for(run_connector(options, settings), 15)

    assert asyncio.run(run()) == EXIT_REFUSED


def test_half_open_connection_is_given_up(settings: Settings) -> None:
    liveness = dataclasses.replace(PATIENT, ping_interval_s=0.1, pong_timeout_s=0.6)

    async def run() -> dict[str, list[Stored]]:
        source = Generated(frames_per_s=1_000)
        faults = Faults((Fault("half_open", at=200, connection=0),))
        async with ReplayServer(feeds.get("kraken-futures"), source, faults=faults) as server:
            async with _running(_options("kraken-futures", server, liveness=liveness), settings) as connector:
                await _until(lambda: len(server.connections) == 2)
                await _until(lambda: server.data_frames > 400)
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    assert any("no frame and no pong for 0.6 s" in event["reason"] for event in _events(epochs, "closed"))


def test_silence_is_answered_by_a_resubscription_and_then_by_a_new_connection(settings: Settings) -> None:
    """Heartbeats go on while data stops: only the data watchdogs can see it."""
    liveness = dataclasses.replace(PATIENT, group_timeout_s=0.4)

    async def run() -> dict[str, list[Stored]]:
        faults = Faults((Fault("mute", connection=0),))
        async with ReplayServer(feeds.get("kraken"), Generated(frames_per_s=2_000), faults=faults) as server:
            options = _options("kraken", server, channels=("trade", "instrument"), liveness=liveness)
            async with _running(options, settings) as connector:
                await _until(lambda: len(server.connections) == 2)
                await _until(lambda: connector.shards[0].stats.by_type["trade"].messages > 100)
                assert connector.health().ok
                assert connector.shards[0].stats.resubscribes == 1
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    (resubscribed,) = _events(epochs, "resubscribe")
    assert resubscribed["channel"] == "trade"
    reasons = [event["reason"] for event in _events(epochs, "closed") if event["connection"] == "c0"]
    assert reasons == ["no trade data for 0.4 s, again after resubscribing", "connector stops"]


def test_mute_connection_that_still_answers_pings_is_given_up(settings: Settings) -> None:
    liveness = dataclasses.replace(PATIENT, ping_text="PING", ping_interval_s=0.1, data_timeout_s=0.5)

    async def run() -> dict[str, list[Stored]]:
        faults = Faults((Fault("silence", at=200, connection=0),))
        async with ReplayServer(feeds.get("polymarket"), Generated(frames_per_s=2_000), faults=faults) as server:
            async with _running(_options("polymarket", server, liveness=liveness), settings) as connector:
                await _until(lambda: len(server.connections) == 2)
                await _until(lambda: server.data_frames > 500)
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    reasons = [event["reason"] for event in _events(epochs, "closed") if event["connection"] == "c0"]
    assert reasons == ["no market data for 0.5 s", "connector stops"]
    first = min((name for name in epochs if name.startswith("c0")), key=lambda name: epochs[name][0].recv_ns)
    assert sum(each.payload == b"PONG" for each in epochs[first]) >= 3


def test_overflow_of_a_kalshi_subscription_is_answered_by_a_new_one(settings: Settings) -> None:
    commands: list[dict[str, Any]] = []
    overflow = {"type": "error", "sid": 1, "seq": 2, "msg": {"code": 25, "msg": "Subscription buffer overflow"}}

    async def venue(connection: ServerConnection) -> None:
        async for text in connection:
            commands.append(orjson.loads(text))
            reply = {"id": commands[-1]["id"], "type": "subscribed", "msg": {"channel": "trade", "sid": 1}}
            await connection.send(orjson.dumps(reply), text=True)
            if len(commands) == 1:
                await connection.send(b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"M"}}', text=True)
            if len(commands) <= 3:
                await connection.send(orjson.dumps(overflow), text=True)

    async def run() -> dict[str, list[Stored]]:
        async with serve(venue, "127.0.0.1", 0) as server:
            url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/trade-api/ws/v2"
            options = _options("kalshi", url=url, channels=("trade",), instruments=("M",))
            async with _running(options, settings) as connector:
                await _until(lambda: len(commands) == 4)
                await _until(lambda: connector.shards[0].settled)
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    # The first overflow is answered on the connection; the second, with no data in between, by a new connection.
    assert [command["id"] for command in commands] == [1, 2, 1, 2]
    assert len(_events(epochs, "resubscribe")) == 2
    reasons = [event["reason"] for event in _events(epochs, "closed") if event["connection"] == "c0"]
    assert "Subscription buffer overflow, again after resubscribing" in reasons[0]


def test_kraken_captures_without_pair_map_and_uses_it_once_it_is_there(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ATTEMPTS", 1)
    late = asyncio.Event()
    fetch = rest.kraken_pair_map

    async def fetch_later(rest_url: str) -> dict[str, str]:
        return await fetch(rest_url if late.is_set() else "http://127.0.0.1:1")

    monkeypatch.setattr(rest, "kraken_pair_map", fetch_later)

    async def run() -> dict[str, list[Stored]]:
        async with ReplayServer(feeds.get("kraken"), Generated(frames_per_s=1_000)) as server:
            options = _options("kraken", server, channels=("ticker",), instruments=("BTC/USD",))
            async with _running(options, settings) as connector:
                await _until(lambda: connector.shards and connector.shards[0].stats.by_type["ticker"].messages)
                late.set()
                await _until(lambda: any("XXBTZUSD" in t.subject for t in connector.shards[0].router.targets.values()))
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    subjects = [each.subject for messages in epochs.values() for each in messages if ".ticker." in each.subject]
    assert [subject.rpartition(".")[2] for subject, _ in itertools.groupby(subjects)] == ["BTC-USD", "XXBTZUSD"]


def test_quiet_channels_do_not_trip_the_watchdogs(settings: Settings) -> None:
    liveness = dataclasses.replace(PATIENT, group_timeout_s=0.1, data_timeout_s=0.1)

    async def run() -> None:
        faults = Faults((Fault("mute"),))
        async with ReplayServer(feeds.get("kalshi"), Generated(), faults=faults, key=KEY) as server:
            options = _options("kalshi", server, channels=("market_lifecycle_v2",), liveness=liveness)
            async with _running(options, settings) as connector:
                await _until(lambda: server.connections)
                await asyncio.sleep(1.0)
                assert len(server.connections) == 1
                assert connector.health().ok

    asyncio.run(run())


def test_oversized_frame_is_recorded_and_survived(settings: Settings) -> None:
    async def run() -> tuple[Connector, dict[str, list[Stored]]]:
        faults = Faults((Fault("oversized", at=100, size_bytes=17 * 1024 * 1024),))
        async with ReplayServer(feeds.get("kraken"), Generated(frames_per_s=500), faults=faults) as server:
            async with _running(_options("kraken", server), settings) as connector:
                await _until(lambda: len(server.connections) == 2)
                await _until(lambda: connector.shards[0].stats.connected)
            return connector, await _stored(connector, settings)

    connector, epochs = asyncio.run(run())
    assert connector.shards[0].stats.oversized == 1
    assert 1009 in [event["code"] for event in _events(epochs, "closed")]
    assert any(event.get("code") == 1009 for event in _events(epochs, "error"))


def test_frame_of_sixteen_mebibytes_is_kept(settings: Settings, tmp_path: Path) -> None:
    head = b'{"event_type":"book","market":"0xabc","pad":"'
    frame = head + b"x" * (16 * 1024 * 1024 - len(head) - 2) + b'"}'

    async def run() -> dict[str, list[Stored]]:
        recording = Recording.from_frames([frame])
        async with ReplayServer(feeds.get("polymarket"), recording, sent_log=tmp_path / "sent") as server:
            async with _running(_options("polymarket", server, instruments=("1",)), settings) as connector:
                await _until(lambda: connector.shards and connector.shards[0].stats.by_type["book"].messages)
            return await _stored(connector, settings)

    _assert_as_sent(tmp_path / "sent", asyncio.run(run()))


def test_instruments_come_and_go_and_fill_shards(settings: Settings, tmp_path: Path) -> None:
    path = settings.config_root / "feeds" / "polymarket.yaml"
    path.parent.mkdir(parents=True)
    version = {
        "version": "1",
        "effective_from": "2020-01-01",
        "endpoint": "wss://overridden.polymarket.com/ws",
        "max_symbols_per_connection": 3,
    }
    path.write_bytes(orjson.dumps({"name": "polymarket", "versions": [version]}))

    async def run() -> dict[str, list[Stored]]:
        async with ReplayServer(feeds.get("polymarket"), Generated(frames_per_s=200, markets=4)) as server:
            # Nothing is named: four markets with two tokens each are found over REST.
            async with _running(_options("polymarket", server), settings) as connector:
                await _until(lambda: [shard.requested for shard in connector.shards] == [3, 3, 2])
                await _until(lambda: all(shard.stats.connected for shard in connector.shards), 15)
                gone = next(iter(connector.shards[0].instruments))
                connector.remove([gone, "unknown"])
                connector.add(["901", "902", "903", "903", next(iter(connector.shards[1].instruments))])
                assert [shard.requested for shard in connector.shards] == [3, 3, 3, 1]
                await _until(lambda: len(connector.shards) == 4 and connector.shards[3].stats.connected)
                await _until(lambda: connector.shards[0].subscribed == 3)
            return await _stored(connector, settings)

    epochs = asyncio.run(run())
    assert len(epochs) == 5
    assert len(_events(epochs, "unsubscribe")) == 1
    asked = [instrument for event in _events(epochs, "subscribe") for instrument in event["instruments"]]
    assert len(asked) == len(set(asked)) == 11


def test_metrics_are_there_from_the_start_and_count(settings: Settings) -> None:
    pinging = dataclasses.replace(PATIENT, ping_interval_s=0.1)

    async def run() -> None:
        async with (
            ReplayServer(feeds.get("kraken"), Generated(frames_per_s=1_000, limit=200)) as server,
            _running(_options("kraken", server, liveness=pinging), settings) as connector,
        ):
            await _until(lambda: connector.shards)
            _, first = await _get(connector, "/metrics")
            await asyncio.wait_for(server.finished(), 10)
            await _until(lambda: connector.shards[0].stats.frames >= server.frames_sent)
            await _until(lambda: connector.shards[0].stats.last_pong_ts)
            assert (await _get(connector, "/ready"))[0] == 200
            _, last = await _get(connector, "/metrics")
        labels = '{category="spot",feed="kraken",shard="c0"}'
        for kind in (*feeds.get("kraken").message_types, "unparsed"):
            series = f'{{category="spot",feed="kraken",message_type="{kind}",shard="c0"}}'
            assert f"ssmd_connector_messages_total{series} " in first
        for name in ("reconnects", "unparsed", "oversized_frames", "paused_seconds", "connect_failures"):
            assert f"ssmd_connector_{name}_total{labels} 0.0" in first
        values = dict(line.rsplit(" ", 1) for line in last.splitlines() if not line.startswith("#"))
        assert float(values[f"ssmd_connector_frames_total{labels}"]) == server.frames_sent
        assert float(values[f"ssmd_connector_last_pong_timestamp{labels}"]) > 1.7e9
        assert float(values[f"ssmd_connector_last_activity_timestamp{labels}"]) > 1.7e9
        assert float(values[f"ssmd_connector_websocket_connected{labels}"]) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("ws://nowhere.invalid.local/ws", "nowhere.invalid.local"),
        ("ws://127.0.0.1:1/ws", "refused|Connect call failed"),
    ],
)
def test_unreachable_venue_is_retried_and_told(url: str, problem: str, settings: Settings) -> None:
    async def run() -> dict[str, list[Stored]]:
        options = _options("kraken-futures", url=url, rest_url="http://127.0.0.1:1")
        async with _running(options, settings) as connector:
            await _until(lambda: connector.shards and connector.shards[0].stats.connect_failures >= 3)
            status, body = await _get(connector, "/health")
            assert status == 503
            assert re.search(problem, body)
            assert (await _get(connector, "/ready"))[0] == 503
            await asyncio.sleep(0.3)
        return await _stored(connector, settings)

    epochs = asyncio.run(run())
    assert len(epochs) == 1
    assert _events(epochs, "tick")
    assert all(event["url"] == url for event in _events(epochs, "error"))


def test_wrong_kalshi_key_is_told_and_never_shown(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def run() -> str:
        async with (
            ReplayServer(feeds.get("kalshi"), Generated(), key=make_test_key()) as server,
            _running(_options("kalshi", server), settings) as connector,
        ):
            await _until(lambda: server.handshakes_refused >= 2)
            status, body = await _get(connector, "/health")
            assert status == 503
            return body

    assert "HTTP 401" in asyncio.run(run())
    printed = capsys.readouterr().out
    secret_line = KEY.private_pem.splitlines()[1]
    assert secret_line not in printed
    monkeypatch.delenv("KALSHI_PRIVATE_KEY")
    with pytest.raises(ConfigError, match=r"KALSHI_API_KEY.*KALSHI_PRIVATE_KEY"):
        Connector(_options("kalshi"), settings)
    assert asyncio.run(run_connector(_options("kalshi"), settings)) == EXIT_CONFIG


def test_connector_that_never_receives_anything_turns_bad(settings: Settings) -> None:
    async def run() -> None:
        faults = Faults((Fault("mute"),))
        liveness = dataclasses.replace(PATIENT, data_timeout_s=0.3)
        async with ReplayServer(feeds.get("polymarket"), Generated(), faults=faults) as server:
            options = _options(
                "polymarket", server, instruments=("1",), liveness=liveness, backoff=Backoff(min_s=5, max_s=5)
            )
            async with _running(options, settings) as connector:
                await _until(lambda: server.connections)
                await _until(lambda: not connector.health().ok)

    asyncio.run(run())


def test_capture_starts_into_the_spool_while_nats_is_away(tmp_path: Path, settings: Settings) -> None:
    settings = dataclasses.replace(settings, nats_url="nats://127.0.0.1:1")

    async def run() -> int:
        async with ReplayServer(feeds.get("kraken-futures"), Generated(frames_per_s=500)) as server:
            connector = Connector(_options("kraken-futures", server, drain_timeout_s=2.0), settings)
            task = asyncio.create_task(connector.run())
            await _until(lambda: connector.shards and connector.shards[0].stats.frames > 200)
            await _until(lambda: connector.publisher.stats.spooled_messages > 100)
            status, body = await _get(connector, "/health")
            assert status == 503
            assert "publisher" in body
            connector.stop()
            return await asyncio.wait_for(task, 6)

    assert asyncio.run(run()) == 1
    assert any(path.stat().st_size for path in settings.spool_root.rglob("*") if path.is_file())


def test_back_pressure_pauses_reading_and_loses_nothing(settings: Settings, tmp_path: Path) -> None:
    liveness = dataclasses.replace(
        PATIENT, ping_interval_s=0.1, pong_timeout_s=0.5, data_timeout_s=0.8, group_timeout_s=0.8
    )

    async def run() -> tuple[Connector, dict[str, list[Stored]]]:
        source = Generated(frames_per_s=5_000, limit=6_000)
        async with ReplayServer(feeds.get("kraken-futures"), source, sent_log=tmp_path / "sent") as server:
            options = _options("kraken-futures", server, liveness=liveness)
            async with _running(options, settings) as connector:
                await _until(lambda: connector.shards and connector.shards[0].stats.frames > 500)
                connector._on_pressure(True)
                await asyncio.sleep(0.1)
                paused_at = connector.shards[0].stats.frames
                await asyncio.sleep(1.0)
                assert connector.shards[0].stats.frames == paused_at
                connector._on_pressure(False)
                await asyncio.wait_for(server.finished(), 20)
                await _until(lambda: connector.shards[0].stats.frames == server.frames_sent)
                assert len(server.connections) == 1
            return connector, await _stored(connector, settings)

    connector, epochs = asyncio.run(run())
    _assert_as_sent(tmp_path / "sent", epochs)
    assert connector.shards[0].stats.paused_s > 0.9


async def _process(arguments: Sequence[str], settings: Settings) -> asyncio.subprocess.Process:
    environment = os.environ | {
        "SSMD_DATA": str(settings.data),
        "SSMD_ENV": settings.env,
        "NATS_URL": settings.nats_url,
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ssmd_stream.capture", *arguments, env=environment, stdout=asyncio.subprocess.DEVNULL
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_the_process(number: signal.Signals, settings: Settings, tmp_path: Path) -> None:
    async def run() -> dict[str, list[Stored]]:
        async with ReplayServer(
            feeds.get("kraken-futures"), Generated(frames_per_s=3_000), sent_log=tmp_path / "sent"
        ) as server:
            options = ["--feed", "kraken-futures", "--stream", "futures", "--url", server.url]
            process = await _process(options, settings)
            try:
                await _until(lambda: server.data_frames > 1_000, 20)
                process.send_signal(number)
                assert await asyncio.wait_for(process.wait(), 10) == EXIT_DRAINED
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        return await _stored(Connector(_options("kraken-futures"), settings), settings)

    epochs = asyncio.run(run())
    _assert_as_sent(tmp_path / "sent", epochs, upto_reset=True)
    assert {event["reason"] for event in _events(epochs, "closed")} == {"connector stops"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--feed", "nyse", "--stream", "x"],
        ["--feed", "kraken", "--stream", "Spot!"],
        ["--feed", "kraken", "--stream", "spot", "--url", "wss://example.com/x"],
    ],
)
def test_unusable_configuration_ends_with_its_own_code(arguments: list[str], settings: Settings) -> None:
    async def run() -> int:
        return await (await _process(arguments, settings)).wait()

    assert asyncio.run(run()) == EXIT_CONFIG
