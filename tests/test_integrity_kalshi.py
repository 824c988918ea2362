"""Kalshi's integrity rule: on recordings, under seeded damage against an oracle of its own, and on bad input."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrity_rig import END_US, EPOCH, START_US, Recording, Rig, damage, frames_of, recv_us

from ssmd_core.feeds import get
from ssmd_core.feeds.kalshi import passes
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Findings, Hole, book_replay, hour_rule, live_check

KALSHI = get("kalshi")
MARKETS = ("KXBTC15M-26MAY111500-00", "KXGOLD15M-26AUG050800-00", "OLD-CENTS")
BOOKS = "orderbook_delta"
Interval = tuple[str, str, int, int | None]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig("kalshi")
    yield made
    made.close()


def findings_of(rig: Rig, *frames: Sequence[bytes], holes: Sequence[Hole] = ()) -> Findings:
    """The frames as one hour; each sequence is a chunk."""
    rule = hour_rule(KALSHI, None)
    position = 0
    for part in frames:
        rule.take(rig.chunk(part, position, holes=holes if not position else ()))
        position += len(part)
    return rule.finish(START_US, END_US)


def untrusted(findings: Findings) -> list[Interval]:
    """Instrument, check and bounds in positions."""
    return sorted(
        (row["instrument"], row["check"], _position(row["from"]), None if row["to"] is None else _position(row["to"]))
        for row in findings.untrusted.to_pylist()
    )


def _position(moment: Any) -> int:
    return int((moment.timestamp() * 1e6 - START_US) / (recv_us(1) - recv_us(0)) + 0.5)


def reasons(findings: Findings) -> set[str]:
    return set(findings.untrusted["reason"].to_pylist())


# -- messages


def subscribed(sid: int, channel: str) -> bytes:
    return orjson.dumps({"id": sid, "type": "subscribed", "msg": {"channel": channel, "sid": sid}})


def snapshot(seq: int, market: str, yes: Any = (), no: Any = (), sid: int = 2) -> bytes:
    body: dict[str, Any] = {"market_ticker": market}
    # A side that is empty has no member.
    for name, levels in (("yes_dollars_fp", yes), ("no_dollars_fp", no)):
        if levels:
            body[name] = levels
    return orjson.dumps({"type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": body})


def delta(seq: int, market: str, change: str, price: str = "0.5000", side: str = "yes", sid: int = 2) -> bytes:
    body = {"market_ticker": market, "price_dollars": price, "delta_fp": change, "side": side, "ts_ms": 1778525477611}
    return orjson.dumps({"type": "orderbook_delta", "sid": sid, "seq": seq, "msg": body})


def trade(seq: int, market: str, sid: int = 3) -> bytes:
    body = {
        "trade_id": f"t{seq}",
        "market_ticker": market,
        "yes_price_dollars": "0.6800",
        "no_price_dollars": "0.3200",
        "count_fp": "46.02",
        "taker_side": "yes",
        "ts": 1785901540,
    }
    return orjson.dumps({"type": "trade", "sid": sid, "seq": seq, "msg": body})


# -- recordings


def test_real_session_has_no_gap_and_no_negative_level(rig: Rig, samples: Path) -> None:
    frames = frames_of(samples / "kalshi/ws/btc15m_session_2026-05-11.jsonl.gz")
    found = findings_of(rig, frames[:30_000], frames[30_000:-1])
    assert found.untrusted.num_rows == 0
    assert set(found.integrity["verdict"].to_pylist()) == {"verified"}
    assert sum(found.integrity["passed"].to_pylist()) == 57_534
    counters = [counter for minute in found.minutes.values() for counter in minute.counters]
    assert {counter.name for counter in counters} == {"sid 2"}
    assert (min(c.first for c in counters), max(c.last for c in counters)) == (1, 57_534)
    assert sum(c.gaps + c.missing + c.repeats for c in counters) == 0

    live = live_check(KALSHI)
    assert [trouble for frame in frames[:-1] if (trouble := live.check(KALSHI.route(frame).type, frame))] == []
    assert (live.counts.passed, live.counts.gaps) == (57_534, 0)

    # The sid had taken on the next market, which the recording left out: the closing snapshot shows that, and nothing
    # of the market itself is left in doubt after it.
    whole = findings_of(rig, frames)
    assert set(whole.untrusted["detail"].to_pylist()) == {"seq 57995 after 57534 on sid 2"}
    assert whole.untrusted["instrument"].to_pylist() == ["*", MARKETS[0]]
    assert whole.untrusted["to"].null_count == 0


@pytest.mark.parametrize(
    ("name", "deltas"), [("gold15m_orderbook_trade", 28_614), ("gold15m_with_recv_ms", 4_833)], ids=["plain", "wrapped"]
)
def test_byte_exact_books_have_no_negative_level(rig: Rig, samples: Path, name: str, deltas: int) -> None:
    # One market of many was kept of these subscriptions, so their numbers jump; renumbered, the levels can be checked.
    frames: list[bytes] = []
    for frame in frames_of(samples / f"kalshi/ws/{name}_2026-08-05.jsonl.gz"):
        event = orjson.loads(frame)
        event = event.get("event", event)
        if event["type"].startswith("orderbook"):
            event["seq"] = len(frames) + 1
            frames.append(orjson.dumps(event))
    found = findings_of(rig, frames)
    assert sum(b"orderbook_delta" in frame for frame in frames) == deltas
    assert found.untrusted.num_rows == 0
    assert sum(found.integrity["passed"].to_pylist()) == len(frames)


# -- damage


def damaged(frames: Sequence[bytes], seed: int, times: int = 1) -> list[bytes]:
    """Frames of which some are removed, doubled or swapped with their successor."""
    chance = random.Random(seed)
    sent = list(frames)
    for _ in range(times):
        at = chance.randrange(len(sent) - 1)
        kind = chance.choice(("remove", "double", "swap"))
        if kind == "remove":
            del sent[at]
        elif kind == "double":
            sent.insert(at, sent[at])
        else:
            sent[at : at + 2] = sent[at + 1], sent[at]
    return sent


@pytest.fixture(scope="module")
def session(samples: Path) -> list[bytes]:
    """Real deltas, trades and tickers of two markets on one connection; a snapshot of one of them now and then."""
    deltas = [
        orjson.loads(frame)["msg"]
        for path in ("btc15m_session_2026-05-11", "gold15m_orderbook_trade_2026-08-05")
        for frame in frames_of(samples / f"kalshi/ws/{path}.jsonl.gz")[:3000]
        if b'"orderbook_delta"' in frame and b'"subscribed"' not in frame
    ]
    firsts = {
        orjson.loads(frame)["msg"]["market_ticker"]: orjson.loads(frame)["msg"]
        for path in ("gold15m_orderbook_trade_2026-08-05", "btc15m_session_2026-05-11")
        for frame in frames_of(samples / f"kalshi/ws/{path}.jsonl.gz")[:10]
        if b"orderbook_snapshot" in frame
    }
    chance = random.Random(5)
    queues = {market: [body for body in deltas if body["market_ticker"] == market] for market in MARKETS[:2]}
    books: dict[str, dict[str, dict[str, Decimal]]] = {}
    frames = [subscribed(2, BOOKS), subscribed(3, "trade")]
    number = {2: 0, 3: 0}

    def send(kind: str, sid: int, body: dict[str, Any]) -> None:
        number[sid] += 1
        frames.append(orjson.dumps({"type": kind, "sid": sid, "seq": number[sid], "msg": body}))

    for market, body in firsts.items():
        send("orderbook_snapshot", 2, body)
        books[market] = {side: {p: Decimal(s) for p, s in body[f"{side}_dollars_fp"]} for side in ("yes", "no")}
    while len(frames) < 1500:
        market = chance.choice(MARKETS[:2])
        what = chance.random()
        if what < 0.02:
            levels = {
                f"{side}_dollars_fp": [[p, str(s)] for p, s in books[market][side].items()] for side in books[market]
            }
            send("orderbook_snapshot", 2, {"market_ticker": market, **levels})
        elif what < 0.1:
            number[3] += 1
            frames.append(trade(number[3], market))
        elif what < 0.12:
            number[2] += 1
            frames.append(
                orjson.dumps({"id": 9, "sid": 2, "seq": number[2], "type": "ok", "msg": {"market_tickers": []}})
            )
        else:
            body = queues[market].pop(0)
            side = books[market][body["side"]]
            side[body["price_dollars"]] = side.get(body["price_dollars"], Decimal(0)) + Decimal(body["delta_fp"])
            if not side[body["price_dollars"]]:
                del side[body["price_dollars"]]
            send("orderbook_delta", 2, body)
    return frames


class Received(NamedTuple):
    position: int
    seq: int
    kind: str
    market: str


def oracle(frames: Sequence[bytes]) -> list[Interval]:
    """What is wrong with what was received, from the definition: a book is right where every number from its newest
    valid snapshot to the highest one received is there. A snapshot that comes after a newer delta of its market is
    not valid. Nothing of the rule's code is used."""
    found: list[Interval] = []
    by_sid: dict[int, list[Received]] = {}
    for position, frame in enumerate(frames):
        message = json.loads(frame)
        if "seq" in message:
            body = message["msg"]
            market = body.get("market_ticker", "")
            by_sid.setdefault(message["sid"], []).append(Received(position, message["seq"], message["type"], market))
    starts = {json.loads(f)["msg"]["sid"]: n for n, f in enumerate(frames) if b'"subscribed"' in f}
    for sid, received in by_sid.items():
        check = {2: BOOKS, 3: "trade"}[sid]
        before = min(starts.get(sid, received[0].position), received[0].position)
        highest = 0
        seen: set[int] = set()
        for n, message in enumerate(received):
            last = received[n - 1].position if n else before
            if message.seq in seen:
                found.append((message.market or "*", check, last, message.position))
            elif message.seq > highest + 1 and (highest or starts.get(sid, 1 << 60) < message.position):
                missing = set(range(highest + 1, message.seq))
                late = [other for other in received[n:] if other.seq in missing]
                mended = {other.seq for other in late} == missing
                found.append(("*", check, last, late[-1].position if mended else message.position))
            seen.add(message.seq)
            highest = max(highest, message.seq)
        if check == BOOKS:
            for market in MARKETS[:2]:
                found += wrong_book(received, market)
    return sorted(found, key=lambda row: (*row[:3], -1 if row[3] is None else row[3]))


def wrong_book(received: Sequence[Received], market: str) -> list[Interval]:
    found: list[Interval] = []
    start: int | None = None
    base = highest = newest_delta = 0
    numbers: set[int] = set()
    known = False
    for n, message in enumerate(received):
        numbers.add(message.seq)
        # Until this message, what it shows to be lost may have been of any market.
        jumped = bool(base) and message.seq > highest + 1
        highest = max(highest, message.seq)
        if message.market == market and message.kind == "orderbook_snapshot" and message.seq > max(base, newest_delta):
            base = message.seq
        elif message.market == market and message.kind == "orderbook_delta":
            newest_delta = max(newest_delta, message.seq)
        known = known or bool(base) or message.market == market
        # Without a snapshot the book is in doubt from its own first message on, else from the last good one.
        right = bool(base) and all(number in numbers for number in range(base + 1, highest + 1))
        if not right and known and start is None:
            start = received[n - 1].position if base else message.position
        elif right and start is not None:
            found.append((market, BOOKS, start, message.position))
            start = None
        elif right and jumped:
            found.append((market, BOOKS, received[n - 1].position, message.position))
    return [*found, *([(market, BOOKS, start, None)] if start is not None else [])]


def test_damage_is_reported_and_nothing_else(rig: Rig, session: list[bytes], tmp_path: Path) -> None:
    frames = session
    path = tmp_path / "session.jsonl"
    path.write_bytes(b"\n".join(frames))
    recording = Recording(rig, path)
    assert oracle(frames) == []
    assert findings_of(rig, frames).untrusted.num_rows == 0
    before: dict[int, bytes | None] = {0: None}
    for first in (150, 300):
        rule = hour_rule(KALSHI, None)
        rule.take(rig.chunk(frames[:first]))
        before[first] = rule.state()
    told = 0
    for seed in range(200):
        first = (0, 150, 300)[seed % 3]
        order = damage(first, first + 250, seed)
        rule = hour_rule(KALSHI, before[first])
        rule.take(recording.chunk(order, first))
        received = [*frames[:first], *(frames[i] for i in order)]
        expected = oracle(received)
        assert untrusted(rule.finish(START_US, END_US)) == expected, f"seed {seed}"
        live = live_check(KALSHI)
        troubles = [trouble for frame in received if (trouble := live.check(KALSHI.route(frame).type, frame))]
        assert bool(troubles) == bool(expected), f"seed {seed}"
        told += bool(expected)
    # The others hit an acknowledgement, or removed the last frame: nothing that followed was wrong.
    assert told > 180


@pytest.mark.parametrize("seed", range(12))
def test_many_damages_in_one_hour(rig: Rig, session: list[bytes], seed: int) -> None:
    # One by one or in stretches, in one chunk or in several: the same findings, the oracle's.
    cuts = random.Random(seed).sample(range(1, 500), seed % 4)
    sent = damaged(session[:600], seed, times=4)
    bounds = [0, *sorted(cuts), len(sent)]
    found = findings_of(rig, *(sent[first:end] for first, end in pairwise(bounds)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "MIN_STRETCH", 1 << 30)
        slowly = findings_of(rig, sent)
    assert untrusted(found) == oracle(sent)
    assert found.untrusted.equals(slowly.untrusted)
    assert found.integrity.equals(slowly.integrity)
    assert found.minutes == slowly.minutes


# -- levels


PRICES = st.integers(1, 20).map(lambda cents: f"0.{cents:02d}00")
CHANGES = st.decimals(-50, 50, places=2).filter(bool)


@settings(max_examples=40, deadline=None)
@given(
    start=st.dictionaries(PRICES, st.decimals("0.01", 100, places=2), max_size=8),
    changes=st.lists(st.tuples(PRICES, st.sampled_from(("yes", "no")), CHANGES), min_size=1, max_size=200),
    stretch=st.sampled_from((1, 1 << 30)),
)
def test_levels_are_exact(
    rig: Rig, start: dict[str, Decimal], changes: list[tuple[str, str, Decimal]], stretch: int
) -> None:
    market = MARKETS[0]
    frames = [snapshot(1, market, [[price, str(size)] for price, size in start.items()])]
    levels = {("yes", price): size for price, size in start.items()}
    below = None
    for n, (price, side, change) in enumerate(changes):
        frames.append(delta(n + 2, market, str(change), price, side))
        levels[side, price] = levels.get((side, price), Decimal(0)) + change
        if below is None and levels[side, price] < 0:
            below = n + 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "MIN_STRETCH", stretch)
        rule = hour_rule(KALSHI, None)
        rule.take(rig.chunk(frames))
    found = rule.finish(START_US, END_US)
    assert untrusted(found) == ([] if below is None else [(market, BOOKS, below - 1, None)])
    book = book_replay(KALSHI, market, rule.state()).book()
    followed = book_replay(KALSHI, market, None)
    for n, frame in enumerate(frames):
        followed.take(KALSHI.route(frame).type, Line(frame, recv_us(n), n + 1, EPOCH, n))
    assert book is not None
    for made in (book, followed.book()):
        assert made is not None
        for side, made_levels in (("yes", made.bids), ("no", made.asks)):
            want = {Decimal(price): size for (where, price), size in levels.items() if where == side and size}
            assert {Decimal(price): Decimal(size) for price, size in made_levels} == want
            assert [Decimal(price) for price, _ in made_levels] == sorted(want, reverse=True)
    assert (book.recv_us, book.nats_seq) == (recv_us(len(changes)), len(frames))


def test_replay_keeps_the_venues_text(rig: Rig) -> None:
    market = MARKETS[0]
    frames = [
        snapshot(1, market, [["0.480", "300"], ["0.0800", "12.50"]], [["0.5", "7.00"]]),
        delta(2, market, "-2.5", "0.08"),
        delta(3, market, "1", "0.0100"),
        delta(3, market, "1", "0.0100"),
    ]
    replay = book_replay(KALSHI, market, None)
    assert replay.book() is None
    for n, frame in enumerate(frames):
        replay.take(KALSHI.route(frame).type, Line(frame, recv_us(n), n + 1, EPOCH, n))
    book = replay.book()
    assert book is not None
    assert book.bids == (("0.480", "300"), ("0.0800", "10.00"), ("0.0100", "1.00"))
    assert (book.asks, book.sides) == ((("0.5", "7.00"),), ("yes", "no"))
    replay.take("control", Line(control_event("closed", "c0", messages=9), recv_us(9), 9, EPOCH, 9))
    assert replay.book() is None


# -- one thing at a time


def levels(*pairs: tuple[str, str]) -> list[list[str]]:
    return [list(pair) for pair in pairs]


def opening(market: str = MARKETS[0], seq: int = 1) -> bytes:
    return snapshot(seq, market, levels(("0.5000", "100.00")))


def test_old_cents_are_the_same_book(rig: Rig) -> None:
    old = MARKETS[2]
    frames = [
        b'{"type":"orderbook_snapshot","sid":2,"seq":1,"msg":{"market_ticker":"OLD-CENTS","yes":[[8,300]]}}',
        b'{"type":"orderbook_delta","sid":2,"seq":2,"msg":{"market_ticker":"OLD-CENTS","price":8,"delta":-54,"side":"yes"}}',
    ]
    rule = hour_rule(KALSHI, None)
    rule.take(rig.chunk(frames))
    assert rule.finish(START_US, END_US).untrusted.num_rows == 0
    book = book_replay(KALSHI, old, rule.state()).book()
    assert book is not None and book.bids == (("0.0800", "246.00"),)
    replay = book_replay(KALSHI, old, None)
    for n, frame in enumerate(frames):
        replay.take(KALSHI.route(frame).type, Line(frame, recv_us(n), n + 1, EPOCH, n))
    made = replay.book()
    assert made is not None and made.bids == (("0.08", "246.00"),)


def test_a_book_without_snapshot_is_unverifiable_until_one_comes(rig: Rig) -> None:
    market = MARKETS[0]
    found = findings_of(
        rig, [delta(41, market, "1.00"), delta(42, market, "1.00"), opening(seq=43), delta(44, market, "1")]
    )
    assert untrusted(found) == [(market, BOOKS, 0, 2)]
    assert reasons(found) == {"no_snapshot"}
    rows = [row for row in found.integrity.to_pylist() if row["instrument"] == market]
    assert [(row["messages"], row["passed"], row["failed"]) for row in rows] == [(4, 2, 0)]


def test_closing_snapshots_are_valid_and_replies_take_numbers(rig: Rig) -> None:
    ok = b'{"id":123,"sid":2,"seq":2,"type":"ok","msg":{"market_tickers":["A"]}}'
    ended = b'{"id":102,"sid":2,"seq":5,"type":"unsubscribed"}'
    found = findings_of(
        rig, [subscribed(2, BOOKS), opening(), ok, snapshot(3, MARKETS[0]), snapshot(4, MARKETS[0]), ended]
    )
    assert found.untrusted.num_rows == 0
    lost = findings_of(rig, [subscribed(2, BOOKS), opening(), snapshot(3, MARKETS[1]), delta(4, MARKETS[0], "1.00")])
    # The lost reply could have been a delta of any market.
    assert untrusted(lost) == [("*", BOOKS, 1, 2), (MARKETS[0], BOOKS, 1, None), (MARKETS[1], BOOKS, 1, 2)][:2]


def test_two_connections_and_a_new_count_under_an_old_sid(rig: Rig) -> None:
    market = MARKETS[0]
    other = "c1-20260816T020000000-0002"
    rule = hour_rule(KALSHI, None)
    rule.take(rig.chunk([opening(), delta(2, market, "1.00")]))
    rule.take(rig.chunk([opening(), delta(2, market, "1.00")], 2, epoch=other))
    again = [b'{"sid":2,"type":"unsubscribed","seq":3}', subscribed(2, BOOKS), opening(), delta(2, market, "1.00")]
    rule.take(rig.chunk(again, 4))
    found = rule.finish(START_US, END_US)
    assert found.untrusted.num_rows == 0
    # Without the acceptance the same numbers are a counter that ran backwards, until the snapshot that comes with them.
    rule = hour_rule(KALSHI, None)
    rule.take(rig.chunk([opening(), delta(2, market, "1.00"), snapshot(1, market), delta(2, market, "2.00")]))
    found = rule.finish(START_US, END_US)
    assert untrusted(found) == [("*", BOOKS, 1, 2), (market, BOOKS, 1, 2)]
    assert reasons(found) == {"disorder"}


def test_an_archive_hole_is_over_when_the_next_number_follows(rig: Rig) -> None:
    market = MARKETS[0]
    frames = [opening(), trade(1, market), delta(2, market, "1.00"), delta(3, market, "1.00"), trade(2, market)]
    hole = Hole(EPOCH, 1, 3, 3, recv_us(1), recv_us(2))
    found = findings_of(rig, frames, holes=[hole])
    assert untrusted(found) == [("*", BOOKS, 1, 2), ("*", "trade", 1, 4), (market, BOOKS, 1, 2)]
    assert reasons(found) == {"archive_hole"}
    lost = findings_of(rig, [*frames[:2], frames[3]], holes=[hole])
    assert (market, BOOKS, 1, None) in untrusted(lost)


def test_unsubscribed_and_closed_books_are_over(rig: Rig) -> None:
    market = MARKETS[0]
    gone = control_event("unsubscribe", "c0", channel=BOOKS, instruments=[market])
    found = findings_of(rig, [opening(), delta(3, market, "1.00"), gone, delta(4, market, "1.00")])
    assert untrusted(found) == [("*", BOOKS, 0, 1), (market, BOOKS, 0, 2)]
    closed = control_event("closed", "c0", messages=3)
    rule = hour_rule(KALSHI, None)
    rule.take(rig.chunk([opening(), delta(3, market, "1.00"), closed]))
    assert rule.state() == hour_rule(KALSHI, None).state()
    assert untrusted(rule.finish(START_US, END_US)) == [("*", BOOKS, 0, 1), (market, BOOKS, 0, 2)]


def test_an_open_interval_goes_on_in_the_next_hour(rig: Rig) -> None:
    market = MARKETS[0]
    rule = hour_rule(KALSHI, None)
    rule.take(rig.chunk([opening(), delta(3, market, "1.00"), trade(7, market)]))
    assert untrusted(rule.finish(START_US, END_US))[-1] == (market, BOOKS, 0, None)
    state = rule.state()
    assert state == rule.state()
    for late, end in ((delta(2, market, "1.00"), 3), (opening(seq=4), 3)):
        following = hour_rule(KALSHI, state)
        following.take(rig.chunk([late, trade(8, market)], 3))
        found = following.finish(recv_us(3), END_US)
        assert (market, BOOKS, 3, end) in untrusted(found)
        assert "trade" not in found.untrusted["check"].to_pylist()


def test_a_delta_that_breaks_its_schema_breaks_its_book(rig: Rig) -> None:
    market = MARKETS[0]
    renamed = delta(2, market, "1.00").replace(b"delta_fp", b"change_fp")
    found = findings_of(rig, [opening(), renamed, delta(3, market, "1.00"), opening(seq=4)])
    assert untrusted(found) == [(market, BOOKS, 0, 3)]
    assert found.untrusted["detail"].to_pylist() == ["seq 2 on sid 2 cannot be applied: it breaks its schema"]


def test_live_check_asks_once(rig: Rig) -> None:
    market = MARKETS[0]
    live = live_check(KALSHI)

    def check(frame: bytes) -> Any:
        return live.check(KALSHI.route(frame).type, frame)

    for frame in (subscribed(2, BOOKS), subscribed(3, "trade"), opening(), delta(2, market, "1.00"), trade(1, market)):
        assert check(frame) is None
    trouble = check(delta(5, market, "1.00"))
    assert trouble == (BOOKS, (), "sequence_gap", "seq 5 after 2 on sid 2")
    assert check(delta(9, market, "1.00")) is None
    assert check(opening(seq=10)) is None
    assert check(delta(12, market, "1.00")).channel == BOOKS
    assert check(trade(4, market)) == ("", (), "sequence_gap", "seq 4 after 1 on sid 3")
    assert (live.counts.gaps, live.counts.missing) == (4, 2 + 3 + 1 + 2)


HOSTILE = [
    b'{"type":"orderbook_delta"}',
    b'{"type":"orderbook_delta","sid":2,"seq":18446744073709551617,"msg":{"market_ticker":"A"}}',
    b'{"type":"orderbook_delta","sid":-9,"seq":-1,"msg":{"market_ticker":"A","price_dollars":"0.1","delta_fp":"1","side":"yes"}}',
    b'{"type":"orderbook_delta","sid":2,"seq":7,"msg":{"market_ticker":"A","price_dollars":"99999.0","delta_fp":"1","side":"x"}}',
    b'{"type":"orderbook_delta","sid":2,"seq":8,"msg":{"market_ticker":"A","price_dollars":"0.1","delta_fp":"999999999999","side":"no"}}',
    b'{"type":"orderbook_snapshot","sid":2,"seq":9,"msg":{"market_ticker":"A","yes_dollars_fp":[["0.1","-5"]]}}',
    b'{"type":"orderbook_snapshot","sid":2,"seq":"9","msg":[]}',
    b'{"type":"orderbook_snapshot","sid":2,"seq":10,"msg":{"market_ticker":"A","yes_dollars_fp":[["x","NaN"],[]],"no":7}}',
    b'{"type":"subscribed","msg":{"channel":3,"sid":"x"}}',
    b'{"type":"subscribed","msg":null}',
    b'{"type":"ok","sid":1e9,"seq":2}',
    b'{"type":"trade","sid":9223372036854775807,"seq":9223372036854775807,"msg":{"market_ticker":"\\ud800"}}',
    b'{"ssmd":{"event":"unsubscribe","channel":5}}',
    b'{"ssmd":{"event":"closed","instruments":[1]}}',
    b"[]",
    b"\xff\xfe",
    b'{"type":"orderbook_delta","seq":' + b"[" * 5000,
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=40)), max_size=30))
def test_nothing_that_comes_stops_the_rule(rig: Rig, frames: list[bytes]) -> None:
    found = findings_of(rig, [opening(), *frames, opening(MARKETS[1], 11)])
    assert found.integrity.num_rows
    live, replay = live_check(KALSHI), book_replay(KALSHI, "A", None)
    for n, frame in enumerate(frames):
        for kind in ("orderbook_delta", "orderbook_snapshot", "subscribed", "ok", "trade", "unparsed"):
            live.check(kind, frame)
            replay.take(kind, Line(frame, recv_us(n), n + 1, EPOCH, n))
    replay.book()
