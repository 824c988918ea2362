"""Replay servers, seen from real WebSocket clients: verbatim playing, replies, faults."""

from __future__ import annotations

import asyncio
import base64
import functools
import gzip
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import orjson
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ssmd_core.errors import ConfigError, TornFileError
from ssmd_core.feeds import get
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import format_line, needs_wrapping
from ssmd_stream.replay.faults import Fault, Faults
from ssmd_stream.replay.generator.frames import ALL_CHANNELS, generate_frames
from ssmd_stream.replay.recording import Recording, parse_frame, read_frames
from ssmd_stream.replay.run import parse_speed, run
from ssmd_stream.replay.sent_log import read_sent_log
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues.kalshi import ClientKey, KalshiSession, make_test_key
from ssmd_stream.replay.venues.registry import subscribe_commands


def asynchronous(test: Callable[..., Coroutine[None, None, None]]) -> Callable[..., None]:
    """Run an async test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


REPLIES = {"kalshi": 1, "kraken": 2, "kraken-futures": 2, "polymarket": 0}  # frames before the recording's first


async def subscribe(server: ReplayServer, feed: str) -> ClientConnection:
    client = await connect(server.url, max_size=None, ping_interval=None, compression=None)
    for command in subscribe_commands(feed, ALL_CHANNELS[feed][:1], ["A"]):
        await client.send(command.decode())
    return client


async def receive(client: ClientConnection, count: int) -> list[bytes]:
    async with asyncio.timeout(20):
        return [await client.recv(decode=False) for _ in range(count)]


async def drain(client: ClientConnection, quiet_s: float = 0.3) -> list[bytes]:
    """Everything until nothing came for `quiet_s` or the connection closed."""
    got: list[bytes] = []
    try:
        while True:
            got.append(await asyncio.wait_for(client.recv(decode=False), quiet_s))
    except (TimeoutError, ConnectionClosed):
        return got


@pytest.mark.parametrize(
    ("feed", "name"),
    [
        ("kalshi", "gold15m_orderbook_trade_2026-08-05.jsonl.gz"),
        ("kalshi", "gold15m_with_recv_ms_2026-08-05.jsonl.gz"),
        ("kraken", "book_btcusd_depth25_2026-08.jsonl.gz"),
        ("kraken-futures", "book_trade_tickerlite_2021-07-22.jsonl.gz"),
        ("polymarket", "session_btc5m_2026-08-16_excerpt_with_recv_ms.jsonl"),
        ("polymarket", "control_text_frames.txt"),
    ],
)
@asynchronous
async def test_recording_is_played_byte_for_byte(samples: Path, tmp_path: Path, feed: str, name: str) -> None:
    path = samples / feed / "ws" / name
    plain = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    lines = plain.splitlines()
    if "recv_ms" in name:  # an independent way to the inner bytes: they are the wrapper's last member
        key = b'"event":' if feed == "kalshi" else b'"raw":'
        lines = [line[line.index(key) + len(key) : -1] for line in lines]
    log = tmp_path / "sent.bin"
    async with ReplayServer(get(feed), Recording.from_files([path]), sent_log=log) as server:
        client = await subscribe(server, feed)
        got = await receive(client, REPLIES[feed] + len(lines))
        await server.finished()
        port = client.local_address[1]
        await client.close()
    assert got[REPLIES[feed] :] == lines
    sent = list(read_sent_log(log))
    assert [frame.payload for frame in sent[: len(got)]] == got
    assert {(frame.connection, frame.peer_port) for frame in sent} == {(0, port)}


def test_recording_reads_the_archive(tmp_path: Path) -> None:
    frames = [b'{"a":1}', b"PONG", b"[]", b'{"_raw":2}', b"\xff\x00", b"{}"]
    epoch = "c0-20261122T121602123-9f3a"
    lines = [
        format_line(frame, 1_700_000_000_000_000 + i, 10 + i, epoch, i, wrapped=needs_wrapping(frame))
        for i, frame in enumerate([*frames, control_event("tick", "c0")])
    ]
    path = tmp_path / "1215.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(line + b"\n") for line in lines))
    assert [tuple(frame) for frame in read_frames(path)] == [
        (frame, (1_700_000_000_000_000 + i) * 1000) for i, frame in enumerate(frames)
    ]


@pytest.mark.parametrize("damage", ["cut", "flipped", "junk"])
def test_torn_recording_gives_its_whole_lines_then_says_where(tmp_path: Path, damage: str) -> None:
    lines = [orjson.dumps({"n": n, "pad": "x" * (n % 50)}) for n in range(20_000)]
    half = len(lines) // 2
    first, second = (gzip.compress(b"\n".join(part) + b"\n") for part in (lines[:half], lines[half:]))
    whole = first + second
    path = tmp_path / "torn.jsonl.gz"
    middle = len(first) + len(second) // 2
    path.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:],
            "junk": whole + b"not a member",
        }[damage]
    )
    got: list[bytes] = []
    with pytest.raises(TornFileError, match=r"torn\.jsonl\.gz") as error:
        got.extend(frame.payload for frame in read_frames(path))
    assert error.value.offset == (len(whole) if damage == "junk" else len(first))
    assert got == lines[: len(got)]
    assert len(got) >= half


@asynchronous
async def test_recording_keeps_its_timing() -> None:
    start = 1_700_000_000_000
    wrapped = [b'{"recv_ms":%d,"event":{"n":%d}}' % (start + 100 * n, n) for n in range(6)]
    recording = Recording([frame for line in wrapped if (frame := parse_frame(line)) is not None])
    async with ReplayServer(get("polymarket"), recording, speed=2.0) as server:
        client = await subscribe(server, "polymarket")
        await receive(client, 1)
        started = time.monotonic()
        await receive(client, 5)
        assert 0.2 < time.monotonic() - started < 0.6  # 500 ms at double speed
        await client.close()


@pytest.mark.parametrize("mode", ["continue", "restart"])
@asynchronous
async def test_reconnect_continues_or_restarts(mode: str) -> None:
    frames = [b'{"n":%d}' % n for n in range(2_000)]
    recording = Recording.from_frames(frames)
    async with ReplayServer(
        get("polymarket"),
        recording,
        speed=1.0,
        frames_per_s=4_000,
        on_reconnect="restart" if mode == "restart" else "continue",
    ) as server:
        first = await subscribe(server, "polymarket")
        before = await receive(first, 200)
        first.transport.abort()
        second = await subscribe(server, "polymarket")
        after = await receive(second, 200)
        await second.close()
    assert before == frames[:200]
    start = frames.index(after[0])
    assert after == frames[start : start + 200]
    assert start == 0 if mode == "restart" else start >= 200  # what was written into the dead socket is lost


# -- Kalshi ------------------------------------------------------------------------------------------------------


def kalshi_headers(key: ClientKey, *, pem: str | None = None, skew_ms: int = 0) -> dict[str, str]:
    """Signed independently of the code under test, from the venue's description."""
    private = serialization.load_pem_private_key((pem or key.private_pem).encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    timestamp = str(time.time_ns() // 1_000_000 + skew_ms)
    signature = private.sign(
        f"{timestamp}GET/trade-api/ws/v2".encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()
    )
    return {
        "KALSHI-ACCESS-KEY": key.access_key,
        "KALSHI-ACCESS-TIMESTAMP": timestamp,
        "KALSHI-ACCESS-SIGNATURE": base64.b64encode(signature).decode(),
    }


@asynchronous
async def test_kalshi_handshake() -> None:
    key, other = make_test_key(), make_test_key()
    async with ReplayServer(get("kalshi"), Recording.from_frames([]), key=key) as server:
        async with connect(server.url, additional_headers=kalshi_headers(key)) as client:
            await client.ping()
        wrong: Sequence[dict[str, str]] = (
            {},
            kalshi_headers(key, pem=other.private_pem),
            kalshi_headers(key, skew_ms=-120_000),
            kalshi_headers(key) | {"KALSHI-ACCESS-KEY": "someone"},
            kalshi_headers(key) | {"KALSHI-ACCESS-SIGNATURE": "&"},
        )
        for headers in wrong:
            with pytest.raises(InvalidStatus) as refused:
                await connect(server.url, additional_headers=headers)
            assert refused.value.response.status_code == 401
        assert server.handshakes_refused == len(wrong)


async def ask(client: ClientConnection, command: object, replies: int) -> list[dict[str, object]]:
    await client.send(orjson.dumps(command).decode())
    return [orjson.loads(frame) for frame in await receive(client, replies)]


@asynchronous
async def test_kalshi_commands() -> None:
    # No traffic of its own (limit 0), but an exchange behind it.
    async with ReplayServer(get("kalshi"), Generated(limit=0)) as server, connect(server.url) as client:
        exchange_ticker = "KXBTC15M-26NOV2212-00"
        subscribed = await ask(
            client,
            {
                "id": 1,
                "cmd": "subscribe",
                "params": {"channels": ["orderbook_delta", "nope"], "market_ticker": exchange_ticker},
            },
            3,
        )
        assert subscribed[0] == {"id": 1, "type": "subscribed", "msg": {"channel": "orderbook_delta", "sid": 1}}
        assert subscribed[1] == {"id": 1, "type": "error", "msg": {"code": 8, "msg": "Unknown channel name"}}
        assert (subscribed[2]["type"], subscribed[2]["sid"], subscribed[2]["seq"]) == ("orderbook_snapshot", 1, 1)
        update = {"id": 2, "cmd": "update_subscription"}
        assert await ask(
            client, update | {"params": {"sid": 1, "market_tickers": ["X"], "action": "add_markets"}}, 1
        ) == [{"id": 2, "sid": 1, "seq": 2, "type": "ok", "msg": {"market_tickers": [exchange_ticker, "X"]}}]
        assert await ask(
            client, update | {"params": {"sids": [1], "market_tickers": ["X"], "action": "delete_markets"}}, 1
        ) == [{"id": 2, "sid": 1, "seq": 3, "type": "ok", "msg": {"market_tickers": [exchange_ticker]}}]
        (snapshot,) = await ask(
            client, update | {"params": {"sids": [1], "market_tickers": [exchange_ticker], "action": "get_snapshot"}}, 1
        )
        assert (snapshot["id"], snapshot["seq"], snapshot["type"]) == (2, 4, "orderbook_snapshot")
        # A second subscribe on a live channel adds markets and is answered by ok.
        (added,) = await ask(
            client,
            {"id": 3, "cmd": "subscribe", "params": {"channels": ["orderbook_delta"], "market_tickers": ["Y"]}},
            1,
        )
        assert (added["type"], added["seq"]) == ("ok", 5)
        assert await ask(client, {"id": 4, "cmd": "list_subscriptions"}, 1) == [
            {"id": 4, "type": "ok", "msg": [{"channel": "orderbook_delta", "sid": 1}]}
        ]
        assert await ask(client, {"id": 5, "cmd": "unsubscribe", "params": {"sids": [1, 9]}}, 2) == [
            {"id": 5, "sid": 1, "seq": 6, "type": "unsubscribed"},
            {"id": 5, "type": "error", "msg": {"code": 7, "msg": "Unknown subscription ID"}},
        ]
        for command, code in (
            ({"cmd": "dance"}, 5),
            ({"cmd": "subscribe"}, 2),
            ({"cmd": "subscribe", "params": {}}, 3),
            ({"cmd": "subscribe", "params": {"channels": ["orderbook_delta"]}}, 14),
            ({"cmd": "unsubscribe", "params": {}}, 4),
            ({"cmd": "update_subscription", "params": {"sids": [1, 2]}}, 12),
        ):
            (error,) = await ask(client, {"id": 6, **command}, 1)
            assert error["msg"]["code"] == code, command  # type: ignore[index]


# -- the other venues --------------------------------------------------------------------------------------------


@asynchronous
async def test_kraken_commands_and_rest() -> None:
    async with ReplayServer(get("kraken"), Generated(limit=0)) as server, connect(server.url, max_size=None) as client:
        (status,) = [orjson.loads(frame) for frame in await receive(client, 1)]
        assert status["channel"] == "status"
        book = {
            "method": "subscribe",
            "params": {"channel": "book", "symbol": ["BTC/USD", "NOPE/USD"], "depth": 25},
            "req_id": 7,
        }
        ack, refusal, snapshot = await ask(client, book, 3)
        assert ack["success"] is True
        assert ack["req_id"] == 7
        assert ack["result"] == {"channel": "book", "depth": 25, "snapshot": True, "symbol": "BTC/USD"}
        assert (refusal["error"], refusal["symbol"]) == ("Currency pair not supported NOPE/USD", "NOPE/USD")
        assert (snapshot["channel"], snapshot["type"]) == ("book", "snapshot")
        (depth,) = await ask(
            client, {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 7}}, 1
        )
        assert depth["error"] == "Subscription depth not supported"
        (pong,) = await ask(client, {"method": "ping", "req_id": 3}, 1)
        assert (pong["method"], pong["req_id"]) == ("pong", 3)
        ack, instruments = await ask(client, {"method": "subscribe", "params": {"channel": "instrument"}}, 2)
        assert {"assets", "pairs"} == set(instruments["data"])  # type: ignore[call-overload]
        assert orjson.loads((await receive(client, 1))[0]) == {"channel": "heartbeat"}  # after a second of nothing
        async with aiohttp.ClientSession() as rest, rest.get(f"{server.rest_url}/AssetPairs") as answer:
            document = await answer.json()
        assert document["error"] == []
        assert document["result"]["XXBTZUSD"]["wsname"] == "XBT/USD"


@asynchronous
async def test_kraken_futures_commands() -> None:
    async with ReplayServer(get("kraken-futures"), Generated(limit=0)) as server, connect(server.url) as client:
        assert orjson.loads((await receive(client, 1))[0]) == {"event": "info", "version": 1}
        products = ["PF_XBTUSD", "PF_NOPE", "PF_ETHUSD"]
        replies = await ask(client, {"event": "subscribe", "feed": "book", "product_ids": products}, 5)
        assert replies[:3] == [
            {"event": "subscribed", "feed": "book", "product_ids": ["PF_XBTUSD"]},
            {"event": "error", "message": "Invalid product id"},
            {"event": "subscribed", "feed": "book", "product_ids": ["PF_ETHUSD"]},
        ]
        assert [reply["feed"] for reply in replies[3:]] == ["book_snapshot", "book_snapshot"]
        assert await ask(client, {"event": "subscribe", "feed": "nope"}, 1) == [
            {"event": "alert", "message": "Couldn't subscribe to invalid feed"}
        ]
        assert await ask(client, {"event": "unsubscribe", "feed": "book", "product_ids": ["PF_XBTUSD"]}, 1) == [
            {"event": "unsubscribed", "feed": "book", "product_ids": ["PF_XBTUSD"]}
        ]


@asynchronous
async def test_polymarket_commands_and_gamma() -> None:
    async with (
        ReplayServer(get("polymarket"), Generated(limit=0, markets=5)) as server,
        connect(server.url, max_size=None) as client,
        aiohttp.ClientSession() as rest,
    ):
        tokens: list[str] = []
        cursor: dict[str, str] = {}
        for _ in range(3):
            async with rest.get(f"{server.rest_url}/markets/keyset", params={"limit": "2", **cursor}) as answer:
                page = await answer.json()
            tokens += [token for market in page["markets"] for token in orjson.loads(market["clobTokenIds"])]
            cursor = {"after_cursor": page.get("next_cursor", "")}
        assert len(set(tokens)) == 10
        assert cursor == {"after_cursor": ""}
        await client.send(orjson.dumps({"type": "market", "assets_ids": [*tokens[:4], "1"]}).decode())
        books = orjson.loads((await receive(client, 1))[0])
        assert [book["asset_id"] for book in books] == tokens[:4]
        await client.send(orjson.dumps({"operation": "subscribe", "assets_ids": ["1", "2"]}).decode())
        await client.send("PING")
        assert [frame.strip() for frame in await receive(client, 2)] == [b"[]", b"PONG"]


# -- faults ------------------------------------------------------------------------------------------------------

FRAMES = [b'{"event_type":"n","n":%d}' % n for n in range(20)]


async def played(fault: Fault) -> tuple[list[bytes], ClientConnection]:
    """What a client gets of `FRAMES` with one fault."""
    server = ReplayServer(get("polymarket"), Recording.from_frames(FRAMES), faults=Faults((fault,)))
    async with server:
        client = await subscribe(server, "polymarket")
        got = await drain(client)
        assert fault.kind in ("refuse", "mute") or list(server.struck) == [fault]
        await client.close()
    return got, client


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault("drop", 5, count=2), [*FRAMES[:5], *FRAMES[7:]]),
        (Fault("duplicate", 5), [*FRAMES[:6], *FRAMES[5:]]),
        (Fault("reorder", 5), [*FRAMES[:5], FRAMES[6], FRAMES[5], *FRAMES[7:]]),
        (Fault("malformed", 5), [*FRAMES[:5], FRAMES[5][:-1] + b",,", *FRAMES[5:]]),
        (Fault("close", 5, code=1001), FRAMES[:5]),
        (Fault("reset", 5), FRAMES[:5]),
        (Fault("silence", 5), FRAMES[:5]),
        (Fault("mute"), []),
        (Fault("refuse"), [b"[]\n"]),
        (Fault("silence", 5, duration_s=0.1), FRAMES),
    ],
)
@asynchronous
async def test_fault(fault: Fault, expected: list[bytes]) -> None:
    got, client = await played(fault)
    assert got == expected
    if fault.kind == "close":
        assert client.close_code == 1001
    if fault.kind == "reset":
        assert client.close_code == 1006


@asynchronous
async def test_fault_truncated() -> None:
    got, _ = await played(Fault("truncate", 5))
    assert got[:5] + got[6:] == FRAMES[:5] + FRAMES[6:]
    assert FRAMES[5].startswith(got[5])
    assert got[5] != FRAMES[5]


@asynchronous
async def test_fault_invalid_utf8_is_sent_as_it_is() -> None:
    got, _ = await played(Fault("invalid_utf8", 5))
    assert got[:5] == FRAMES[:5]
    assert b"\xff\xfe" in got[5]
    assert got[6:] == FRAMES[5:]


@asynchronous
async def test_fault_oversized() -> None:
    got, _ = await played(Fault("oversized", 5))
    assert len(got[5]) > 20 * 1024 * 1024
    assert got[:5] + got[6:] == FRAMES


@asynchronous
async def test_silence_leaves_heartbeats() -> None:
    faults = Faults((Fault("silence", 5),))
    async with ReplayServer(get("kraken"), Recording.from_frames(FRAMES), faults=faults) as server:
        client = await subscribe(server, "kraken")
        got = await receive(client, REPLIES["kraken"] + 5 + 1)
        assert got[REPLIES["kraken"] :] == [*FRAMES[:5], b'{"channel":"heartbeat"}']
        # Only a new connection gets the rest.
        again = await subscribe(server, "kraken")
        rest = await receive(again, REPLIES["kraken"] + 15)
        assert rest[REPLIES["kraken"] :] == FRAMES[5:]
        await client.close()
        await again.close()


@asynchronous
async def test_refused_instrument_leaves_the_others() -> None:
    faults = Faults((Fault("refuse", instruments=frozenset({"ETH/USD"})),))
    async with ReplayServer(get("kraken"), Generated(limit=0), faults=faults) as server, connect(server.url) as client:
        await receive(client, 1)
        command = {"method": "subscribe", "params": {"channel": "trade", "symbol": ["ETH/USD", "BTC/USD"]}}
        refused, accepted = await ask(client, command, 2)
        assert (refused["success"], refused["symbol"], accepted["success"]) == (False, "ETH/USD", True)
    async with (
        ReplayServer(get("kalshi"), Generated(limit=0), faults=Faults((Fault("refuse"),))) as server,
        connect(server.url) as client,
    ):
        (error,) = await ask(client, {"id": 1, "cmd": "subscribe", "params": {"channels": ["ticker"]}}, 1)
        assert error == {"id": 1, "type": "error", "msg": {"code": 1, "msg": "Unable to process message"}}


@asynchronous
async def test_fault_of_one_connection_spares_the_others() -> None:
    faults = Faults((Fault("close", 100, connection=1, code=1013),))
    async with (
        ReplayServer(get("kraken-futures"), Generated(limit=3_000, frames_per_s=None), faults=faults) as server,
        connect(server.url, max_queue=None) as first,
        connect(server.url, max_queue=None) as second,
    ):
        for client in (first, second):
            await client.send('{"event":"subscribe","feed":"book","product_ids":["PF_XBTUSD"]}')
        await server.finished()
        await drain(first)
        await drain(second)
        assert second.close_code == 1013
        assert first.close_code is None
        assert server.data_frames == 3_000


@asynchronous
async def test_kalshi_pings_with_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KalshiSession, "ping_interval_s", 0.1)
    async with ReplayServer(get("kalshi"), Recording.from_frames([])) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(server.url).port)
        writer.write(
            b"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(2):
            assert await reader.readexactly(11) == b"\x89\x09heartbeat"
        writer.close()


@asynchronous
async def test_torn_recording_is_played_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(frame + b"\n" for frame in FRAMES)) + gzip.compress(b"x" * 99)[:15])
    async with ReplayServer(get("polymarket"), Recording.from_files([path])) as server:
        client = await subscribe(server, "polymarket")
        assert await receive(client, len(FRAMES)) == FRAMES
        with pytest.raises(TornFileError, match=r"torn\.jsonl\.gz"):
            await server.finished()
        await client.close()


@asynchronous
async def test_run_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    path = tmp_path / "recording.jsonl"
    path.write_bytes(b"".join(frame + b"\n" for frame in FRAMES))
    ready: asyncio.Future[ReplayServer] = asyncio.get_running_loop().create_future()
    running = asyncio.create_task(run(get("polymarket"), [path], speed=parse_speed("max"), on_ready=ready.set_result))
    client = await subscribe(await ready, "polymarket")
    assert await receive(client, len(FRAMES)) == FRAMES
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 5) == 0
    with pytest.raises(ConfigError, match="no such recording"):
        await run(get("polymarket"), [tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="speed '-1'"):
        parse_speed("-1")


@asynchronous
async def test_half_open_neither_reads_nor_closes() -> None:
    faults = Faults((Fault("half_open", 5),))
    async with ReplayServer(get("polymarket"), Recording.from_frames(FRAMES), faults=faults) as server:
        client = await subscribe(server, "polymarket")
        assert await drain(client) == FRAMES[:5]
        await client.send("PING")
        pong = await client.ping()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pong, 0.5)
        assert client.state.name == "OPEN"
        client.transport.abort()


def test_seeded_faults_repeat() -> None:
    assert Faults.seeded(3, 100, 5, ["drop", "close"]) == Faults.seeded(3, 100, 5, ["drop", "close"])


# -- generated traffic over the wire -----------------------------------------------------------------------------


@asynchronous
async def test_generated_traffic_respects_subscriptions_and_pace() -> None:
    async with (
        ReplayServer(get("kraken-futures"), Generated(frames_per_s=2_000)) as server,
        connect(server.url) as book,
        connect(server.url) as trades,
    ):
        await book.send('{"event":"subscribe","feed":"book","product_ids":["PF_XBTUSD"]}')
        await trades.send('{"event":"subscribe","feed":"trade","product_ids":["PF_ETHUSD"]}')
        started = time.monotonic()
        books = [orjson.loads(frame) for frame in await receive(book, 600)][3:]
        assert 0.15 < time.monotonic() - started < 3
        others = [orjson.loads(frame) for frame in await receive(trades, 20)][3:]
        for client in (book, trades):  # a Close would wait behind what nobody reads any more
            client.transport.abort()
    assert {(each["feed"], each["product_id"]) for each in books} == {("book", "PF_XBTUSD")}
    assert {(each["feed"], each["product_id"]) for each in others} == {("trade", "PF_ETHUSD")}


@asynchronous
async def test_slow_reader_is_waited_for() -> None:
    frames = generate_frames("polymarket", 20_000)
    async with ReplayServer(get("polymarket"), Recording.from_frames(frames)) as server:
        client = await subscribe(server, "polymarket")
        await asyncio.sleep(0.3)
        # The sockets' own buffers take some MB; the rest is not piled up in the server.
        assert server.data_frames < len(frames)
        assert server.connections[0].buffered_bytes < 4 * 1024 * 1024
        assert await receive(client, len(frames)) == frames
        await client.close()
