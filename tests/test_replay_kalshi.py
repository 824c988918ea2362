"""Kalshi's replay: markets that live by the clock, on the WebSocket and over REST."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect

from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.feeds import get
from ssmd_stream.replay.generator.kalshi import KalshiExchange
from ssmd_stream.replay.generator.kalshi_calendar import ScheduledMarket
from ssmd_stream.replay.server import Generated, ReplayServer
from ssmd_stream.replay.venues_rest.kalshi_listing import KalshiListing

START_S = 1_795_348_800
OPENS, SETTLES, CREATED = (f"KXBTC15M-26NOV22{minute}-15" for minute in ("1215", "1200", "1230"))
CALENDAR = (
    ScheduledMarket(OPENS, opens_s=20, closes_s=50),
    ScheduledMarket(SETTLES, opens_s=-60, closes_s=25, determined_s=27, settled_s=30, result="no"),
    ScheduledMarket(CREATED, created_s=10, opens_s=60, closes_s=960),
)


async def _subscribe(client: ClientConnection, channels: list[str], tickers: list[str]) -> None:
    params: dict[str, Any] = {"channels": channels}
    if tickers:
        params["market_tickers"] = tickers
    await client.send(orjson.dumps({"id": 1, "cmd": "subscribe", "params": params}).decode())


async def _read(client: ClientConnection, clock: Clock, got: list[tuple[float, dict[str, Any]]]) -> None:
    async for frame in client:
        got.append((clock.now_ns() / NS_PER_S - START_S, orjson.loads(frame)))


async def _status(rest: aiohttp.ClientSession, ticker: str) -> str:
    async with rest.get(f"markets/{ticker}") as response:
        answer = await response.json()
    return str(answer["market"]["status"]) if response.status == 200 else str(answer["error"]["code"])


def test_markets_open_close_and_settle_by_the_clock() -> None:
    async def run() -> None:
        clock = Clock(START_S * NS_PER_S, rate=20)
        got: list[tuple[float, dict[str, Any]]] = []
        statuses: list[tuple[str, ...]] = []
        source = Generated(markets=2, calendar=CALENDAR, frames_per_s=300)
        async with (
            ReplayServer(get("kalshi"), source, clock=clock) as server,
            connect(server.url, ping_interval=None) as client,
            aiohttp.ClientSession(server.rest_url + "/") as rest,
        ):
            assert SETTLES in server.instruments
            assert OPENS not in server.instruments
            await _subscribe(client, ["market_lifecycle_v2"], [])
            await _subscribe(client, ["orderbook_delta", "ticker"], [OPENS, SETTLES])
            reader = asyncio.create_task(_read(client, clock, got))
            # 62 seconds of the venue's.
            while clock.now_ns() < (START_S + 62) * NS_PER_S:
                statuses.append(tuple([await _status(rest, ticker) for ticker in (OPENS, SETTLES, CREATED)]))
                await asyncio.sleep(0.02)
            reader.cancel()
        _check_statuses(statuses)
        _check_frames(got)

    asyncio.run(run())


def _check_statuses(seen: list[tuple[str, ...]]) -> None:
    for index, words in enumerate(
        (
            ["initialized", "active", "closed", "determined", "finalized"],
            ["active", "closed", "determined", "finalized"],
            ["not_found", "initialized", "active"],
        )
    ):
        order = list(dict.fromkeys(each[index] for each in seen))
        assert order == [word for word in words if word in order]
        assert (order[0], order[-1]) == (words[0], words[-1])


def _check_frames(got: list[tuple[float, dict[str, Any]]]) -> None:
    books = [(at, frame) for at, frame in got if frame["type"].startswith("orderbook") or frame["type"] == "ticker"]
    of = {
        ticker: [(at, frame) for at, frame in books if frame["msg"]["market_ticker"] == ticker]
        for ticker in (OPENS, SETTLES)
    }
    first_at, first = of[OPENS][0]
    # Acknowledged, then silence until it opens, then its book.
    assert [frame["type"] for _, frame in got[:2]] == ["subscribed", "subscribed"]
    assert first["type"] == "orderbook_snapshot"
    assert "yes_dollars_fp" in first["msg"]
    assert first_at >= 20
    # At the close an empty book, and nothing more.
    closing = [frame for _, frame in of[SETTLES][-2:]]
    assert [frame["type"] for frame in closing] == ["orderbook_snapshot", "ticker"]
    assert "yes_dollars_fp" not in closing[0]["msg"]
    assert closing[1]["msg"]["yes_ask_dollars"] == "1.0000"
    lifecycle = [
        (frame["msg"]["event_type"], frame["msg"])
        for _, frame in got
        if frame["type"] == "market_lifecycle_v2" and frame["msg"]["market_ticker"] in (OPENS, SETTLES, CREATED)
    ]
    told = [(kind, message["market_ticker"]) for kind, message in lifecycle]
    # Opening and closing are not told.
    assert told == [
        ("created", CREATED), ("determined", SETTLES), ("settled", SETTLES), ("determined", OPENS), ("settled", OPENS)
    ]  # fmt: skip
    created, determined = lifecycle[0][1], lifecycle[1][1]
    assert (created["open_ts"], created["close_ts"]) == (START_S + 60, START_S + 960)
    assert created["additional_metadata"]["event_ticker"] == CREATED.rpartition("-")[0]
    assert (determined["result"], determined["settlement_value"]) == ("no", "0.0000")


def test_the_calendar_does_not_change_other_traffic_and_a_thousand_markets_are_quick() -> None:
    began = time.perf_counter()
    with_calendar = KalshiExchange(3, lambda: START_S * NS_PER_S, 1_000, CALENDAR[2:])
    without = KalshiExchange(3, lambda: START_S * NS_PER_S, 1_000)
    assert time.perf_counter() - began < 2
    channels = frozenset({"orderbook_delta", "ticker", "trade", "market_lifecycle_v2"})
    for _ in range(2_500):
        assert not with_calendar.due()
        assert with_calendar.step(channels, with_calendar.instruments) == without.step(channels, without.instruments)
    short_lived = [life.status(START_S * NS_PER_S) for ticker, life in without.lives.items() if "26NOV23" in ticker]
    assert short_lived == ["finalized", "active"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "abcdem"), ({"mve_filter": "exclude"}, "abcde"), ({"mve_filter": "only"}, "m"),
        ({"status": "unopened"}, "a"), ({"status": "open"}, "bm"), ({"status": "closed"}, "cd"),
        ({"status": "settled"}, "e"), ({"status": "closed", "min_close_ts": "150"}, "d"),
        ({"min_close_ts": "150", "max_close_ts": "350"}, "bd"), ({"status": "open", "min_close_ts": "1"}, ""),
        ({"status": "settled", "min_settled_ts": "100"}, "e"), ({"min_settled_ts": "100", "min_close_ts": "1"}, ""),
        ({"tickers": "S1-E-a,S1-E-e,nope"}, "ae"), ({"event_ticker": "S1-F"}, "d"), ({"series_ticker": "S1"}, "abcde"),
    ],
)  # fmt: skip
def test_filters_of_markets(query: dict[str, str], found: str) -> None:
    def record(name: str, status: str, close_s: int, event: str = "S1-E", **more: str) -> dict[str, Any]:
        return {"ticker": f"{event}-{name}", "event_ticker": event, "status": status, "close_time": close_s, **more}

    listing = KalshiListing(
        markets=[
            record("a", "initialized", 400), record("b", "active", 300), record("c", "closed", 100),
            record("d", "determined", 200, "S1-F"), record("e", "finalized", 50, settlement_ts="120"),
            record("m", "active", 500, "KXMVE-1"),
        ]
    )  # fmt: skip

    async def run() -> str:
        names = ""
        async with (
            ReplayServer(get("kalshi"), Generated(markets=1), listing=listing) as server,
            aiohttp.ClientSession() as rest,
        ):
            params = {**query, "limit": "2"}
            while True:
                async with rest.get(f"{server.rest_url}/markets", params=params) as response:
                    answer = await response.json()
                names += "".join(each["ticker"][-1] for each in answer["markets"])
                if not answer["cursor"]:
                    return names
                params["cursor"] = answer["cursor"]

    assert asyncio.run(run()) == found


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/markets/NOPE", 404), ("/events/NOPE", 404), ("/series/NOPE", 404), ("/historical/markets/NOPE", 404),
        ("/markets?limit=1001", 400), ("/events?limit=201", 400), ("/markets?status=finalized", 400),
        ("/markets?cursor=%21%21", 400), ("/markets?min_close_ts=soon", 400), ("/exchange/status", 200),
        ("/historical/cutoff", 200), ("/series/fee_changes", 200), ("/events/fee_changes", 200),
    ],
)  # fmt: skip
def test_answers_to_odd_requests(path: str, code: int) -> None:
    async def run() -> None:
        async with (
            ReplayServer(get("kalshi"), Generated(markets=2)) as server,
            aiohttp.ClientSession() as rest,
            rest.get(server.rest_url + path) as response,
        ):
            answer = await response.json()
            assert (response.status, "error" in answer) == (code, code != 200)

    asyncio.run(run())
