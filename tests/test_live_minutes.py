"""What a connection says about each minute, and what it does about silence, trouble and missing data."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from live_rig import NOON_NS, Rig

from ssmd_core import feeds
from ssmd_core.clock import NS_PER_S
from ssmd_core.feeds.base import Feed
from ssmd_core.proof.rules import Trouble
from ssmd_stream.capture.openings import PATIENCE_S, Openings, Renewals
from ssmd_stream.capture.silence import ANSWER_S, LONGEST_S, Rhythm, Silence
from ssmd_stream.capture.venue_time import venue_times
from ssmd_stream.capture.watch import MAX_EVENTS
from ssmd_stream.replay.generator.frames import generate_frames
from ssmd_stream.replay.recording import read_frames


def _run(work: Callable[[], Any]) -> Any:
    async def run() -> Any:
        return await work()

    return asyncio.run(run())


@pytest.mark.parametrize("feed_name", list(feeds.FEEDS))
def test_minutes_say_what_was_published(feed_name: str) -> None:
    feed = feeds.get(feed_name)

    async def run() -> Rig:
        rig = Rig(feed, ("A",))
        for frame in generate_frames(feed_name, 2_000, start_ns=NOON_NS - 40 * 1_000_000, frames_per_s=20):
            rig.clock.at_ns += NS_PER_S // 20
            rig.connection.on_message(frame)
        rig.connection.on_message(b"PONG")
        rig.connection.on_message(b"{not json")
        rig.connection.on_close(1000, "done")
        return rig

    rig = asyncio.run(run())
    minutes = rig.events("minute")
    assert [minute["minute"][11:16] for minute in minutes] == ["12:00", "12:01"]
    ordinals = [stamp.ordinal for _, stamp in rig.published]
    assert ordinals == list(range(len(ordinals)))
    # Every message is in exactly one minute but the closing event and the last minute's own.
    first = 0
    for minute in minutes:
        assert minute["ordinals"][0] == first
        begin, end = minute["ordinals"]
        told = rig.published[begin : end + 1]
        assert sum(messages for messages, _ in minute["types"].values()) == len(told)
        assert sum(size for _, size in minute["types"].values()) == sum(len(payload) for payload, _ in told)
        expected = Counter(_kind(feed, payload) for payload, _ in told)
        assert {kind: messages for kind, (messages, _) in minute["types"].items()} == dict(expected)
        stamps = {stamp.recv_ns // (60 * NS_PER_S) for _, stamp in told}
        assert len(stamps) == 1
        first = end + 1
    assert first == len(rig.published) - 2
    assert sum(minute["frames"] for minute in minutes) == 2_002
    assert sum(minute["checks"]["passed"] for minute in minutes) == sum(
        1 for p, _ in rig.published if b'"ssmd"' not in p
    )
    # Frames come 40 ms after the venue's time, and the two clocks move alike.
    assert minutes[0]["offset_ms"] is not None
    assert minutes[0]["age_ms"] == sorted(minutes[0]["age_ms"])
    assert minutes[0]["offset_ms"] <= minutes[0]["age_ms"][0]
    channel = feed.default_channels[0]
    assert minutes[0]["asked"][channel] == 1
    if feed_name != "polymarket":  # there only tokens that were asked for count
        assert minutes[0]["delivered"][channel] > 3


def _kind(feed: Feed, payload: bytes) -> str:
    if payload.startswith(b'{"ssmd":'):
        return "control"
    try:
        return feed.route(payload).type
    except Exception:
        return "unparsed"


def test_offset_and_age_are_of_the_minute() -> None:
    feed = feeds.get("kraken-futures")

    async def run() -> list[dict[str, Any]]:
        rig = Rig(feed, ("PF_XBTUSD",))
        for second in range(120):
            rig.clock.at_ns = NOON_NS + second * NS_PER_S
            late_ms = 250 if second < 60 else -80
            time = rig.clock.at_ns // 1_000_000 - late_ms
            body = f'{{"feed":"ticker","product_id":"PF_XBTUSD","time":{time},"bid":1}}'
            rig.connection.on_message(body.encode())
        rig.connection.on_close(1000, "done")
        return rig.events("minute")

    first, second = asyncio.run(run())
    assert (first["offset_ms"], first["age_ms"]) == (250.0, [250.0] * 3)
    assert second["offset_ms"] == -80.0


def test_thirty_thousand_instruments_are_a_number() -> None:
    async def run() -> tuple[dict[str, Any], int]:
        rig = Rig(feeds.get("kalshi"), (), ("ticker",))
        for number in range(30_000):
            rig.connection.on_message(b'{"type":"ticker","sid":1,"msg":{"market_ticker":"M%d"}}' % number)
        rig.connection.on_close(1000, "done")
        payload = next(p for p, _ in rig.published if p.startswith(b'{"ssmd":{"event":"minute"'))
        return rig.events("minute")[0], len(payload)

    minute, size = asyncio.run(run())
    assert minute["delivered"] == {"ticker": 30_000}
    assert minute["asked"] == {"ticker": 1}
    assert size < 1_000


def test_trouble_is_told_and_what_it_is_about_is_asked_for_again() -> None:
    async def run() -> Rig:
        rig = Rig(feeds.get("kraken"), ("BTC/USD", "ETH/USD"), ("book",))
        await rig.flush()
        rig.rule.found = [Trouble("book", ("BTC/USD", "not ours"), "checksum", "1 is not 2")]
        rig.connection.on_message(b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD"}]}')
        await rig.flush()
        return rig

    rig = asyncio.run(run())
    trouble = rig.events("trouble")[0]
    assert (trouble["reason"], trouble["channel"], trouble["detail"]) == ("checksum", "book", "1 is not 2")
    renewed = [(command["method"], command["params"]["symbol"]) for command in rig.socket.sent[1:]]
    assert renewed == [("unsubscribe", ["BTC/USD"]), ("subscribe", ["BTC/USD"])]
    assert rig.told.keys == {"checksum:kraken/x/c0"}
    assert rig.stats.troubles == {"checksum": 1}


def test_kalshi_is_asked_for_a_snapshot_and_keeps_its_subscription() -> None:
    async def run() -> Rig:
        rig = Rig(feeds.get("kalshi"), ("A", "B"), ("orderbook_delta",))
        await rig.flush()
        rig.connection.on_message(b'{"id":1,"type":"subscribed","msg":{"channel":"orderbook_delta","sid":7}}')
        for _ in range(2):
            rig.rule.found = [Trouble("orderbook_delta", ("A",), "sequence_gap", "seq 9 after 7 on sid 7")]
            rig.connection.on_message(b'{"type":"orderbook_delta","sid":7,"seq":9,"msg":{"market_ticker":"A"}}')
        await rig.flush()
        return rig

    rig = asyncio.run(run())
    # The second time within a second waits for its turn.
    assert [command["params"] for command in rig.socket.sent[1:]] == [
        {"sids": [7], "market_tickers": ["A"], "action": "get_snapshot"}
    ]
    assert rig.connection.session.accepted == {"A", "B"}


def test_a_check_that_fails_costs_nothing_but_itself() -> None:
    async def run() -> Rig:
        rig = Rig(feeds.get("kalshi"), ("A",), ("trade",))
        rig.rule.raises = True
        for _ in range(3):
            rig.connection.on_message(b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"A"}}')
        return rig

    rig = asyncio.run(run())
    assert len(rig.events("error")) == 1
    assert "RecursionError" in rig.events("error")[0]["reason"]
    assert rig.stats.by_type["trade"].messages == 3


def test_trouble_in_every_message_does_not_fill_the_archive() -> None:
    async def run() -> Rig:
        rig = Rig(feeds.get("kalshi"), ("A",), ("trade",))
        for number in range(1_000):
            rig.rule.found = [Trouble("", (), "sequence_gap", f"seq {number}")]
            rig.connection.on_message(b'{"type":"trade","sid":1,"seq":1,"msg":{"market_ticker":"A"}}')
        return rig

    rig = asyncio.run(run())
    assert len(rig.events("trouble")) == MAX_EVENTS
    assert rig.stats.troubles["sequence_gap"] == 1_000


@pytest.mark.parametrize(
    ("feed_name", "file", "types"),
    [
        ("kalshi", "gold15m_orderbook_trade_2026-08-05.jsonl.gz", {"orderbook_delta", "trade"}),
        ("kraken", "book_btcusd_depth25_2026-08.jsonl.gz", {"book"}),
        ("kraken-futures", "book_trade_tickerlite_2021-07-22.jsonl.gz", {"book", "trade"}),
        ("polymarket", "session_btc5m_2026-08-16_excerpt.jsonl", {"price_change"}),
    ],
)
def test_venue_times_are_found_in_recordings(feed_name: str, file: str, types: set[str], samples: Path) -> None:
    feed = feeds.get(feed_name)
    times = venue_times(feed)
    found: Counter[str] = Counter()
    for number, frame in enumerate(read_frames(samples / feed_name / "ws" / file)):
        kind = _kind(feed, frame.payload)
        if number < 2_000 and kind in times:
            found[kind] += times[kind](frame.payload) is not None
    assert types <= {kind for kind, count in found.items() if count}


@given(st.binary(max_size=60) | st.recursive(st.none() | st.text() | st.integers() | st.floats(), st.lists).map(repr))
def test_no_message_breaks_the_venue_time(value: bytes | str) -> None:
    payload = value if isinstance(value, bytes) else f'{{"time":{value},"msg":{{"ts_ms":{value}}}}}'.encode()
    for feed in feeds.FEEDS.values():
        for read in venue_times(feed).values():
            assert read(payload) is None or isinstance(read(payload), int)


def _silence(*pauses_s: float, asks: bool = True) -> tuple[Silence, float]:
    """A connection on which data came with these pauses, and the time now."""
    now_s = 100.0
    silence = Silence(Rhythm(), asks=asks, now_s=now_s)
    for pause_s in (0.1, *pauses_s):
        now_s += pause_s
        silence.data(now_s)
    return silence, now_s


def _when(silence: Silence, now_s: float, *, until_s: float = 400.0) -> list[tuple[str, float]]:
    """What it says, and after how long, looked at four times a second and never answered."""
    said: list[tuple[str, float]] = []
    for step in range(int(until_s * 4)):
        at_s = now_s + step / 4
        verdict, _ = silence.look(at_s)
        if verdict == "ask":
            silence.asked(at_s)
        if verdict != "fine":
            said.append((verdict, step / 4))
        if verdict == "mute":
            break
    return said


def test_a_busy_connection_is_found_mute_in_ten_seconds_and_a_quiet_one_in_sixty() -> None:
    (asked, asked_s), (mute, mute_s) = _when(*_silence(*[0.3] * 100))
    assert (asked, mute) == ("ask", "mute")
    assert asked_s == pytest.approx(5, abs=0.5)
    assert mute_s <= 10
    (_, asked_s), (_, mute_s) = _when(*_silence(*[12.0] * 30))
    assert asked_s > 30
    assert mute_s <= 60
    # Nothing has ever come: the same.
    assert _when(Silence(Rhythm(), asks=True, now_s=0.0), 0.0)[-1][1] <= 60
    # Where nothing can be asked for, only a dense connection says something.
    [(verdict, mute_s)] = _when(*_silence(*[0.3] * 100, asks=False))
    assert (verdict, mute_s) == ("mute", 8.25)
    assert _when(*_silence(*[12.0] * 30, asks=False)) == []


@given(st.lists(st.floats(0.1, 300.0), min_size=5, max_size=60))
def test_a_quiet_venue_that_answers_is_given_up_once_at_most(pauses_s: list[float]) -> None:
    """However the market falls silent: the questions are answered, so at most one connection is given up for it."""
    silence, now_s = _silence(*[0.3] * 40)
    given_up = 0
    for pause_s in pauses_s:
        until_s = now_s + pause_s
        while now_s < until_s:
            now_s += 0.25
            verdict, _ = silence.look(now_s)
            if verdict == "ask":
                silence.asked(now_s)
                silence.data(now_s + 0.05)
            elif verdict == "mute":
                given_up += 1
                silence.given_up(now_s)
                silence.restart(now_s)
        silence.data(now_s)
    assert given_up <= 1 + sum(pauses_s) // 600


def test_patience_grows_while_a_venue_stays_mute() -> None:
    silence, now_s = _silence(*[0.3] * 100)
    waits = []
    for _ in range(4):
        said = _when(silence, now_s)
        waits.append(said[-1][1])
        now_s += waits[-1]
        silence.given_up(now_s)
        silence.restart(now_s)
    assert waits == sorted(waits)
    assert waits[-1] <= LONGEST_S + ANSWER_S + 1


def test_openings_that_do_not_come_are_overdue_once() -> None:
    openings = Openings({"book": "market"})
    openings.expect("market", ("a", "b", "c"))
    assert not openings.overdue(1e9)
    openings.acknowledged("market", ("a", "b"), 0.0)
    openings.forget("market", ("a",))
    # Asking again in the meantime does not put it off.
    openings.expect("market", ("b",), 5.0 + PATIENCE_S)
    assert not openings.overdue(PATIENCE_S - 0.1)
    assert openings.overdue(PATIENCE_S) == {"market": ("b",)}
    assert not openings.overdue(PATIENCE_S + 1)
    assert openings.waiting == 1


def test_renewals_come_at_once_and_then_ever_later() -> None:
    renewals = Renewals()
    taken = []
    for step in range(4 * 600):
        now_s = step / 4
        renewals.ask("book", ("x",), now_s)
        if renewals.take(now_s):
            taken.append(now_s)
    pauses = [later - earlier for earlier, later in itertools.pairwise(taken)]
    assert taken[0] == 0.0
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    renewals.forget(("x",))
    renewals.ask("book", ("x",), 601.0)
    assert renewals.take(601.0) == {("book", 0): ["x"]}
