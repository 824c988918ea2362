"""What every stream does now: states from a real JetStream, prices, and the stream of events."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from api_rig import ApiRig, api_settings
from hypothesis import given
from hypothesis import strategies as st
from little_archive import TICKER, TRADE, LittleArchive

from ssmd_api.status.archive import ArchiveLook
from ssmd_api.status.board import MAX_CLIENTS_PER_KEY
from ssmd_api.status.events import Chosen
from ssmd_api.status.prices import MAX_INSTRUMENTS, PriceReader, Prices, Quote
from ssmd_api.status.states import State, judge
from ssmd_api.status.streams import StreamLook
from ssmd_core.clock import NS_PER_S, Clock
from ssmd_core.feeds import FEEDS, get
from ssmd_core.feeds.subjects import StreamName, subject_id
from ssmd_core.messages.control import control_event
from ssmd_core.messages.headers import Stamp, stamp_headers
from ssmd_stream.jetstream import connect, ensure_stream
from ssmd_stream.servers.nats import NatsServer

_NUMBERS = itertools.count()
_ORDINALS = itertools.count()
_EPOCH = "c0-20261120T105900000-0001"


def tell(url: str, name: StreamName, *messages: bytes, age_s: float = 0.0, clock: Clock | None = None) -> None:
    """Publish messages of a feed, or ssmd's own events, as a connector does."""

    recv_ns = (clock or Clock()).now_ns() - int(age_s * NS_PER_S)

    async def publish() -> None:
        nc = await connect(url, name="test")
        await ensure_stream(nc, name)
        for message in messages:
            if message.startswith(b'{"ssmd":'):
                subject = name.subject("control", "c0")
            else:
                kind, instrument = name.feed.route(message)
                subject = name.subject(name.feed.message_types[kind].token, subject_id(instrument))
            stamp = Stamp(_EPOCH, next(_ORDINALS), recv_ns)
            await nc.jetstream().publish(subject, message, headers=stamp_headers(stamp))
        await nc.close()

    asyncio.run(publish())


TICK = control_event("tick", "c0")


@pytest.fixture
def watched(database_url: str, tmp_path: Path, nats_url: str) -> Iterator[ApiRig]:
    """An API with a NATS, in an environment of its own."""
    settings = api_settings(
        database_url, tmp_path / "data", NATS_URL=nats_url, SSMD_ENV=f"s{os.getpid()}-{next(_NUMBERS)}"
    )
    with ApiRig(settings).running() as rig:
        yield rig


def _stream(rig: ApiRig, feed: str) -> StreamName:
    return StreamName(rig.settings.core.env, get(feed), get(feed).streams[0])


def _states(rig: ApiRig, key: str) -> dict[str, dict[str, Any]]:
    rig.services.board._looked_at_s = -1e9  # a look is shared for a second
    return {each["feed"]: each for each in rig.json("/v1/status", key)["streams"]}


@contextmanager
def _events(rig: ApiRig, key: str, **parameters: Any) -> Iterator[Iterator[tuple[str, Any]]]:
    headers = {"X-API-Key": key}
    with rig.http.stream("GET", "/v1/status/live", params=parameters, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _parsed(response)


def _parsed(response: httpx2.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, orjson.loads(line.removeprefix("data: "))


LIVENESS = get("kraken").liveness  # 60 s and 300 s
ARCHIVED = ArchiveLook(sealed_until=datetime(2026, 11, 20, 13, tzinfo=UTC))


@pytest.mark.parametrize(
    ("market_age_s", "sign_age_s", "state"),
    [
        (0, 0, "live"),
        (60, None, "live"),
        (61, 5, "quiet"),
        (300, 30, "quiet"),
        (61, 31, "down"),
        (301, 5, "stale"),
        (301, None, "down"),
        (None, 5, "stale"),
        (None, None, "down"),
        (-3600, 0, "live"),  # the clock went back
    ],
)
def test_states(market_age_s: float | None, sign_age_s: float | None, state: State) -> None:
    now_ns = 1_800_000_000 * NS_PER_S

    def at(age_s: float | None) -> int | None:
        return None if age_s is None else now_ns - int(age_s * NS_PER_S)

    found, reason = judge(LIVENESS, StreamLook(9, at(market_age_s), at(sign_age_s), 0.0), ARCHIVED, now_ns)
    assert found == state and reason


def test_without_a_stream() -> None:
    assert judge(LIVENESS, None, ArchiveLook(), 0) == ("unknown", "never captured here")
    assert judge(LIVENESS, None, ARCHIVED, 0)[0] == "down"


def test_status_from_jetstream_and_archive(watched: ApiRig, nats_url: str) -> None:
    now = datetime.now(UTC)
    archive = LittleArchive(watched.data / "archive")
    archive.seal(now - timedelta(minutes=15), [TICKER, TRADE])
    manifest = next((watched.data / "archive").rglob("manifest.json"))
    tell(nats_url, _stream(watched, "kraken"), TICKER, TRADE, TRADE, TICK, TICK)
    tell(nats_url, _stream(watched, "kraken-futures"), TICK)
    key = watched.key("datasets:read")
    found = _states(watched, key)
    assert list(found) == list(FEEDS)
    kraken = found["kraken"]
    assert (kraken["state"], kraken["source"], kraken["name"]) == ("live", "jetstream", "Kraken")
    # ssmd's own two events count neither as messages nor as life of the market.
    assert kraken["messagesPerS"] == 0.3 and kraken["lastMessageAgeS"] < 10
    assert kraken["sealedUntil"].endswith(":00.000Z") and not kraken["problems"] and kraken["gapsToday"] == 0
    assert found["kraken-futures"]["state"] == "stale" and found["kraken-futures"]["lastMessageAt"] is None
    assert found["kalshi"]["state"] == "unknown" and found["kalshi"]["reason"] == "never captured here"
    manifest.write_bytes(b"{}")
    problems = _states(watched, key)["kraken"]["problems"]
    assert len(problems) == 1 and "damaged" in problems[0] and str(watched.data) not in problems[0]


def test_old_messages_are_no_life(watched: ApiRig, nats_url: str) -> None:
    tell(nats_url, _stream(watched, "kraken"), TICKER, age_s=400)
    key = watched.key("datasets:read", feeds=["kraken"])
    assert _states(watched, key)["kraken"]["state"] == "down"
    tell(nats_url, _stream(watched, "kraken"), TICK)
    found = _states(watched, key)
    assert list(found) == ["kraken"] and found["kraken"]["state"] == "stale"
    assert "though connected" in found["kraken"]["reason"]


def test_without_nats_the_archive_tells(api: ApiRig) -> None:
    LittleArchive(api.data / "archive").seal(datetime.now(UTC) - timedelta(hours=2), [TICKER])
    began_s = time.monotonic()
    found = _states(api, api.key("datasets:read"))
    assert time.monotonic() - began_s < 1.5
    assert {each["source"] for each in found.values()} == {"archive"}
    assert found["kraken"]["state"] == "stale" and found["kraken"]["reason"].startswith("NATS ")
    assert found["kalshi"]["state"] == "unknown"


def test_nats_that_goes_and_comes_back(database_url: str, tmp_path: Path, nats_server: NatsServer) -> None:
    with ApiRig(api_settings(database_url, tmp_path / "data", NATS_URL=nats_server.url)).running() as rig:
        key, name = rig.key("datasets:read"), StreamName("prod", get("kraken"), "spot")
        tell(nats_server.url, name, TICKER)
        assert _states(rig, key)["kraken"]["state"] == "live"
        nats_server.kill()
        began_s = time.monotonic()
        away = _states(rig, key)["kraken"]
        assert away["source"] == "archive" and "NATS" in away["reason"]
        assert time.monotonic() - began_s < 1.5
        asyncio.run(nats_server.start())
        deadline_s = time.monotonic() + 10
        while _states(rig, key)["kraken"]["source"] != "jetstream":
            assert time.monotonic() < deadline_s
            time.sleep(0.05)


def test_a_key_sees_its_own_feeds_and_today(watched: ApiRig) -> None:
    past = (date(2026, 1, 1), date(2026, 1, 2))
    for path in ("/v1/status", "/v1/status/live"):
        assert watched.get(path).status_code == 401
        assert watched.get(path, watched.key("secmaster:read")).status_code == 403
        assert watched.get(path, watched.key("datasets:read", days=past)).status_code == 403
        narrow = watched.key("datasets:read", feeds=["kalshi"])
        assert watched.get(path, narrow, feed="kraken").status_code == 403
        assert watched.get(path, narrow, feed="nyse").status_code == 400
    assert watched.get("/v1/status/live", narrow, instruments=101).status_code == 400
    assert [each["feed"] for each in watched.json("/v1/status", narrow)["streams"]] == ["kalshi"]


def test_events_tell_states_and_prices_as_they_change(watched: ApiRig, nats_url: str) -> None:
    name = _stream(watched, "kraken")
    tell(nats_url, name, TICKER, TICK)
    with _events(watched, watched.key("datasets:read", feeds=["kraken"])) as events:
        kind, first = next(events)
        assert kind == "status" and [each["state"] for each in first["streams"]] == ["live"]
        kind, prices = next(events)
        assert kind == "prices"
        (quote,) = prices["prices"]
        assert quote["instrument"] == "BTC/USD" and (quote["bid"], quote["ask"]) == ("86210.1", "86210.2")
        assert next(events)[0] == "status"  # and no prices: none has changed
        tell(nats_url, name, TICKER.replace(b"86210.1", b"86209.9"), TRADE)
        changed = next(data for kind, data in events if kind == "prices")
        assert [each["bid"] for each in changed["prices"]] == ["86209.9"]
        assert watched.services.board.clients.total() == 1
    deadline_s = time.monotonic() + 5
    while watched.services.board.clients or watched.services.board._task is not None:
        assert time.monotonic() < deadline_s, "a client that has gone is still served"
        time.sleep(0.02)


def test_names_come_from_the_security_master(installed_api: ApiRig) -> None:
    names = installed_api.services.board.names
    ((ticker, title),) = installed_api.sql("SELECT ticker, title FROM markets LIMIT 1")
    ((token, question, outcome),) = installed_api.sql(
        "SELECT token_id, question, outcome FROM polymarket_tokens "
        "JOIN polymarket_conditions USING (condition_id) LIMIT 1"
    )
    assert installed_api.run(names.of("kalshi", ticker)) == title
    assert installed_api.run(names.of("polymarket", token)) == f"{question} [{outcome}]"
    assert installed_api.run(names.of("kalshi", "NOSUCH")) == installed_api.run(names.of("kraken", "BTC/USD")) == ""


def test_events_end_with_the_key(watched: ApiRig) -> None:
    key = watched.key("datasets:read")
    with _events(watched, key) as events:
        assert next(events)[0] == "status"
        watched.sql("UPDATE api_keys SET revoked_at = now()")
        assert [name for name, _ in events][-1] == "end"
    assert watched.get("/v1/status/live", key).status_code == 401
    with _events(watched, watched.key("datasets:read", expires_in=timedelta(seconds=1))) as events:
        assert list(events)[-1][0] == "end"


def test_events_end_when_they_should(watched: ApiRig) -> None:
    key = watched.key("datasets:read")
    with _events(watched, key, seconds=1) as events:
        told = list(events)
    assert told[0][0] == "status" and told[-1] == ("end", {"reason": "the time is over"})
    with _events(watched, key) as events:
        next(events)
        watched.run(_call(watched.services.board.end))
        assert list(events)[-1] == ("end", {"reason": "the API is stopping"})


async def _call(function: Callable[[], None]) -> None:
    function()


def test_a_nats_that_hangs_delays_nobody(database_url: str, tmp_path: Path, nats_server: NatsServer) -> None:
    with ApiRig(api_settings(database_url, tmp_path / "data", NATS_URL=nats_server.url)).running() as rig:
        key = rig.key("datasets:read")
        tell(nats_server.url, StreamName("prod", get("kraken"), "spot"), TICKER)
        assert _states(rig, key)["kraken"]["state"] == "live"
        with _stopped(nats_server):
            began_s = time.monotonic()
            assert _states(rig, key)["kraken"]["source"] == "archive"
            assert time.monotonic() - began_s < 1.5
        assert _states(rig, key)["kraken"]["state"] == "live"


def test_head_does_not_wait(watched: ApiRig) -> None:
    key = watched.key("datasets:read")
    assert watched.http.head("/v1/status/live", headers={"X-API-Key": key}).status_code == 200


@contextmanager
def _stopped(server: NatsServer) -> Iterator[None]:
    """The server does not run meanwhile, but is there."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_watchers_are_limited(watched: ApiRig) -> None:
    board, key = watched.services.board, watched.key("datasets:read")
    prefix = watched.sql("SELECT key_prefix FROM api_keys")[0][0]
    board.clients[prefix] = MAX_CLIENTS_PER_KEY
    try:
        refused = watched.get("/v1/status/live", key)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "10"
        board.clients.clear()
        board.clients["somebody"] = 50
        assert watched.get("/v1/status/live", key).status_code == 503
    finally:
        board.clients.clear()


def test_a_slow_reader_gets_the_newest_and_costs_nothing(watched: ApiRig, nats_url: str) -> None:
    """Whoever does not read is not queued for: after a pause come the values of now."""
    name = _stream(watched, "kraken")
    tell(nats_url, name, TICKER)
    board = watched.services.board

    async def play() -> list[str | None]:
        chosen = Chosen(("kraken",), 5)
        first, _ = chosen.news({"kraken": board.quotes("kraken")})
        bids = [str(quote.bid) for quote in first]
        for bid in range(10):
            board._prices["kraken/spot"].add(
                TICKER.replace(b"86210.1", b"%d" % bid), datetime.now(UTC), board.turn + bid + 1
            )
        then, _ = chosen.news({"kraken": board.quotes("kraken")})
        return [*bids, *(str(quote.bid) for quote in then)]

    with _events(watched, watched.key("datasets:read")) as events:
        assert [next(events)[0], next(events)[0]] == ["status", "prices"]
        assert watched.run(play()) == ["86210.1", "9"]


def _quote(feed: str, instrument: str) -> Quote:
    return Quote(feed, "s", instrument, None, None, Decimal(1), datetime.now(UTC))


def test_instruments_are_shared_out_among_feeds() -> None:
    quotes = {
        "kalshi": [(1, _quote("kalshi", f"K{n}")) for n in range(100)],
        "kraken": [(1, _quote("kraken", f"S{n}")) for n in range(3)],
        "polymarket": [],
    }
    chosen = Chosen(("kalshi", "kraken", "polymarket"), 20)
    first, gone = chosen.news(quotes)
    assert len(first) == 20 and sum(each.feed == "kraken" for each in first) == 3 and gone == []
    assert chosen.news(quotes) == ([], [])
    quotes["kalshi"].insert(0, (2, _quote("kalshi", "NEW")))
    quotes["kalshi"][5] = (2, quotes["kalshi"][5][1])
    changed, gone = chosen.news(quotes)
    assert [each.instrument for each in changed] == ["K4"] and gone == [], "those chosen stay, others wait"
    quotes["polymarket"] = [(3, _quote("polymarket", f"P{n}")) for n in range(100)]
    quotes["kraken"] = []
    changed, gone = chosen.news(quotes)
    assert [each.instrument for each in changed] == [f"P{n}" for n in range(10)]
    assert sorted(each[2] for each in gone) == [*(f"K{n}" for n in range(10, 17)), "S0", "S1", "S2"]
    assert Chosen(("kalshi",), 0).news(quotes) == ([], [])


WIRE = {
    "kalshi": (
        b'{"type":"ticker","sid":1,"msg":{"market_ticker":"KXBTC-1","yes_bid_dollars":"0.4500","yes_ask":47,"price":46}}',
        [("KXBTC-1", "0.4500", "0.47", "0.46")],
    ),
    "kraken": (TICKER, [("BTC/USD", "86210.1", "86210.2", "86210.2")]),
    "kraken-futures": (
        b'{"feed":"ticker","product_id":"PF_XBTUSD","bid":83997.0,"ask":84005,"last":84004.5}',
        [("PF_XBTUSD", "83997.0", "84005", "84004.5")],
    ),
    "polymarket": (
        b'{"event_type":"best_bid_ask","market":"0x1","asset_id":"71","best_bid":"0.01","best_ask":"","spread":"0.02"}',
        [("71", "0.01", None, None)],
    ),
}


@pytest.mark.parametrize("feed", FEEDS)
def test_prices_are_what_the_venue_wrote(feed: str) -> None:
    payload, wanted = WIRE[feed]
    found = list(PriceReader(get(feed)).read(payload))
    assert [(name, *(None if each is None else str(each) for each in rest)) for name, *rest in found] == wanted


_JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["1e999999999", "NaN", "-Infinity", "0.1", "BTC/USD", "x" * 200]),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)  # fmt: skip


@given(
    feed=st.sampled_from(sorted(FEEDS)),
    members=st.dictionaries(
        st.sampled_from(
            ["symbol", "bid", "ask", "last", "product_id", "asset_id", "best_bid", "market_ticker", "yes_bid"]
        ),
        _JUNK,
    ),
)
def test_hostile_prices_do_no_harm(feed: str, members: dict[str, Any]) -> None:
    envelopes: list[dict[str, Any]] = [
        {"type": "ticker", "msg": members},
        {"channel": "ticker", "data": [members, 1, None]},
        {"channel": "ticker", "data": members},
        {"feed": "ticker", **members},
        {"event_type": "price_change", "price_changes": [members]},
    ]
    for envelope in envelopes:
        for name, *numbers in PriceReader(get(feed)).read(json.dumps(envelope).encode()):
            assert 0 < len(name) <= 128
            assert all(number is None or (number.is_finite() and len(f"{number:f}") < 100) for number in numbers)


def test_prices_are_bounded_and_keep_what_is_not_told() -> None:
    prices = Prices(get("polymarket"), "markets")
    now = datetime.now(UTC)
    for n in range(MAX_INSTRUMENTS + 50):
        prices.add(b'{"event_type":"best_bid_ask","asset_id":"%d","best_bid":"0.1","best_ask":"0.2"}' % n, now, 1)
    assert len(prices.quotes) == MAX_INSTRUMENTS and "0" not in prices.quotes
    prices.add(b'{"event_type":"best_bid_ask","asset_id":"1000","best_bid":"0.3","best_ask":""}', now, 2)
    turn, quote = prices.quotes["1000"]
    assert (turn, quote.bid, quote.ask) == (2, Decimal("0.3"), Decimal("0.2"))
