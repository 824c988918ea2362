"""Kraken Futures: no gap in the recording, every damage of it shows, and nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import orjson
import pytest
from integrity_rig import END_US, EPOCH, START_US, Recording, Rig, damage, intervals, recv_us, rig_of

from ssmd_core.feeds import get
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Counter, Hole, HourRule, book_replay, hour_rule, live_check

FEED = get("kraken-futures")
SESSION = "kraken-futures/ws/book_trade_tickerlite_2021-07-22.jsonl.gz"


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    yield from rig_of("kraken-futures")


@pytest.fixture(scope="module")
def recording(rig: Rig, samples: Path) -> Recording:
    return Recording(rig, samples / SESSION)


def told(rule: HourRule) -> list[tuple[str, str, str, int, int | None]]:
    return intervals(rule.finish(START_US, END_US))


def test_the_recording_has_no_gap(recording: Recording) -> None:
    rule, check = hour_rule(FEED, None), live_check(FEED)
    rule.take(recording.whole)
    findings = rule.finish(START_US, END_US)
    assert findings.untrusted.num_rows == 0
    assert set(findings.integrity["verdict"].to_pylist()) == {"verified"}
    by_check = {
        name: sum(row["messages"] for row in findings.integrity.to_pylist() if row["check"] == name)
        for name in ("book", "trade")
    }
    assert by_check == {"book": 1256 + 5, "trade": 2 + 5}
    counters = [counter for minute in findings.minutes.values() for counter in minute.counters]
    assert sum(counter.gaps + counter.missing + counter.repeats for counter in counters) == 0
    assert [check.check(*message) for message in zip(recording.kinds, recording.frames, strict=True)].count(
        None
    ) == 1325
    assert (check.counts.gaps, check.counts.failed, check.counts.passed) == (0, 0, 1256 + 2 + 10)


def expected(recording: Recording, order: Sequence[int]) -> list[tuple[str, str, str, int, int | None]]:
    """What a run of these frames must show: each product's book messages against those of the recording, one by one.

    A message that comes twice in a row sets its level to what it is; any other that is not the recording's next one
    leaves a book that nobody can vouch for, until the next snapshot.
    """
    frames = [orjson.loads(frame) for frame in recording.frames]
    books = [
        frame.get("product_id") if "book" in frame.get("feed", "") and "seq" in frame else None for frame in frames
    ]
    found: dict[str, list[object]] = {}
    before: dict[str, int] = {}
    position_of: dict[str, int] = {}
    for position, n in enumerate(order):
        product = books[n]
        if product is None:
            continue
        due = (
            next((m for m in range(before[product] + 1, len(frames)) if books[m] == product), None)
            if product in before
            else None
        )
        if frames[n]["feed"] == "book_snapshot":
            if product in found and found[product][2] is None:
                found[product][2] = position
            before[product] = n
        elif product not in before:
            found.setdefault(product, ["no_snapshot", 0, None])
        elif n != due and n != before[product]:
            reason = "sequence_gap" if frames[n]["seq"] > frames[before[product]]["seq"] else "disorder"
            if product not in found:
                found[product] = [reason, position_of[product], None]
            before[product] = max(n, before[product])
        elif product not in found or found[product][2] is not None:
            before[product] = n
        position_of[product] = position
    return sorted((product, "book", *row) for product, row in found.items())  # type: ignore[misc]


def test_60_damaged_runs(recording: Recording) -> None:
    shown = 0
    for seed in range(60):
        order = damage(0, 400 + 15 * seed, seed)
        rule, check = hour_rule(FEED, None), live_check(FEED)
        rule.take(recording.chunk(order[:300]))
        rule.take(recording.chunk(order[300:], 300))
        found, due = told(rule), expected(recording, order)
        assert found == due, seed
        troubles = [check.check(recording.kinds[n], recording.frames[n]) for n in order]
        assert sorted((t.instruments[0], t.reason) for t in troubles if t) == [
            (row[0], row[2]) for row in due if row[2] != "no_snapshot"
        ], seed
        shown += bool(due)
    assert 20 < shown < 60


# -- where books begin and end


def book(seq: int, price: str = "100.0", qty: str = "1", side: str = "buy", product: str = "PF_XBTUSD") -> bytes:
    return (
        f'{{"feed":"book","product_id":"{product}","side":"{side}","seq":{seq},"price":{price},"qty":{qty},'
        f'"timestamp":1786845600000}}'
    ).encode()


def snapshot(seq: int, product: str = "PF_XBTUSD", bids: str = '{"price":100.0,"qty":2.5}') -> bytes:
    return (
        f'{{"feed":"book_snapshot","product_id":"{product}","timestamp":1786845600000,"seq":{seq},"tickSize":null,'
        f'"bids":[{bids}],"asks":[{{"price":101,"qty":3}}]}}'
    ).encode()


@pytest.mark.parametrize(
    ("frames", "due"),
    [
        ([snapshot(7), book(8), book(9)], []),
        ([snapshot(7), book(8), book(10), book(11), snapshot(20), book(21)], [("sequence_gap", 1, 4)]),
        ([snapshot(7), book(8), book(8), book(9)], []),
        ([snapshot(7), book(8), book(8, qty="2"), book(9)], [("disorder", 1, None)]),
        ([snapshot(7), book(8), book(9), book(8), book(10)], [("disorder", 2, None)]),
        ([snapshot(7), book(8), snapshot(5), book(9)], [("sequence_gap", 2, None)]),
        ([book(8), snapshot(8), book(9)], [("no_snapshot", 0, 1)]),
    ],
)
def test_numbers_of_books(rig: Rig, frames: list[bytes], due: list[tuple[str, int, int | None]]) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk(frames))
    assert [row[2:] for row in told(rule)] == due


def test_gaps_and_repeats_are_counted(rig: Rig) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(7), book(8), book(8), book(12), book(11), book(15)]))
    findings = rule.finish(START_US, END_US)
    minute = findings.minutes[EPOCH, START_US]
    assert minute.counters == [Counter("book PF_XBTUSD", 8, 15, gaps=2, missing=5, repeats=2)]
    assert (minute.passed, minute.failed, minute.unverifiable) == (3, 1, 2)


def test_an_archive_hole_is_in_doubt_until_the_next_number_joins_on(rig: Rig) -> None:
    hole = Hole(EPOCH, after_ordinal=1, missing=3, nats_seq=3, before_us=recv_us(1), after_us=recv_us(2))
    frames = [snapshot(7), snapshot(7, "PF_ETHUSD"), book(8), book(9, product="PF_ETHUSD"), book(9)]
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk(frames, holes=[hole]))
    assert told(rule) == [
        ("PF_ETHUSD", "book", "archive_hole", 1, None),
        ("PF_XBTUSD", "book", "archive_hole", 1, 2),
    ]


def test_books_end_with_their_subscription_and_connection(rig: Rig) -> None:
    done = b'{"event":"unsubscribed","feed":"book","product_ids":["PF_XBTUSD"]}'
    trades_done = b'{"event":"unsubscribed","feed":"trade","product_ids":["PF_XBTUSD"]}'
    asked = control_event("unsubscribe", "c0", channel="book", instruments=["*"])
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(7), trades_done, book(8), asked, book(9), done, snapshot(20), book(22)]))
    rule.take(rig.chunk([control_event("closed", "c0", reason="test")], 8))
    assert [row[2:] for row in told(rule)] == [("no_snapshot", 2, 5), ("sequence_gap", 6, 8)]


def test_the_next_hour_goes_on_without_a_snapshot(rig: Rig) -> None:
    first = hour_rule(FEED, None)
    first.take(rig.chunk([snapshot(7), snapshot(7, "PF_ETHUSD"), book(8), book(9, product="PF_ETHUSD")]))
    assert told(first) == [("PF_ETHUSD", "book", "sequence_gap", 1, None)]
    state = first.state()
    assert state == first.state()
    second = hour_rule(FEED, state)
    second.take(rig.chunk([book(9), book(10, product="PF_ETHUSD"), book(11)], 4))
    assert intervals(second.finish(recv_us(4), END_US)) == [
        ("PF_ETHUSD", "book", "sequence_gap", 4, None),
        ("PF_XBTUSD", "book", "sequence_gap", 4, None),
    ]


def test_the_replayed_book_is_the_true_one(recording: Recording) -> None:
    products = ("PI_LTCUSD", "FI_ETHUSD_210730")
    rule = hour_rule(FEED, None)
    rule.take(recording.whole)
    for product in products:
        replay = book_replay(FEED, product, None)
        assert replay.book() is None
        sides: dict[str, dict[Decimal, str]] = {}
        for n, frame in enumerate(recording.frames):
            replay.take(recording.kinds[n], Line(frame, recv_us(n), n + 1, EPOCH, n))
            message = orjson.loads(frame)
            if message.get("product_id") != product or "seq" not in message:
                continue
            if message["feed"] == "book_snapshot":
                sides = {
                    side: {Decimal(str(level["price"])): str(level["qty"]) for level in message[name]}
                    for side, name in (("buy", "bids"), ("sell", "asks"))
                }
            elif message["feed"] == "book":
                sides[message["side"]][Decimal(str(message["price"]))] = str(message["qty"])
        now = replay.book()
        assert now is not None
        for side, levels in (("buy", now.bids), ("sell", now.asks)):
            there = {price: qty for price, qty in sides[side].items() if Decimal(qty)}
            assert [(Decimal(price), qty) for price, qty in levels] == sorted(there.items(), reverse=side == "buy")
        assert book_replay(FEED, product, rule.state()).book() == now


def test_a_price_written_in_two_ways_is_one_level() -> None:
    replay = book_replay(FEED, "PF_XBTUSD", None)
    frames = [snapshot(7), book(8, "34892", "5000"), book(9, "34892.0", "0.0"), book(10, "1e2", "7")]
    for n, frame in enumerate(frames):
        replay.take("book" if n else "book_snapshot", Line(frame, recv_us(n), n + 1, EPOCH, n))
    now = replay.book()
    assert now is not None
    assert now.bids == (("1e2", "7"),)
    assert now.asks == (("101", "3"),)


# -- trades


def trade(seq: int) -> bytes:
    return (
        f'{{"feed":"trade","product_id":"PF_XBTUSD","uid":"u{seq}","side":"buy","type":"fill","seq":{seq},'
        f'"time":1786845600000,"qty":1,"price":100}}'
    ).encode()


def trade_snapshot(*seqs: int) -> bytes:
    return b'{"feed":"trade_snapshot","product_id":"PF_XBTUSD","trades":[%s]}' % b",".join(map(trade, seqs))


@pytest.mark.parametrize(
    ("frames", "due"),
    [
        ([trade_snapshot(7, 6, 5), trade(8), trade(9)], []),
        ([trade_snapshot(7, 6, 5), trade(9), trade(10)], [("sequence_gap", 0, 1)]),
        ([trade(8), trade_snapshot(7, 6, 5), trade(9)], []),
        ([trade(8), trade_snapshot(11, 10, 9), trade(12)], []),
        ([trade(8), trade_snapshot(13, 12, 11), trade(14)], [("sequence_gap", 0, 1)]),
        ([trade(8), trade(8), trade(10), trade(9), trade(11)], [("disorder", 0, 3)]),
    ],
)
def test_numbers_of_trades(rig: Rig, frames: list[bytes], due: list[tuple[str, int, int | None]]) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk(frames))
    assert [row[1:] for row in told(rule)] == [("trade", *row) for row in due]


# -- what strangers may send

HOSTILE = [
    book(8, price="1e999999"),
    book(8, price="-1"),
    book(8, qty="-1"),
    book(8, price='"NaN"'),
    book(8, side="up"),
    book(-1),
    book(2**63 - 1),
    book(10**40),
    b'{"feed":"book","product_id":"PF_XBTUSD","side":"buy","seq":8}',
    b'{"feed":"book","product_id":["PF_XBTUSD"],"seq":8}',
    snapshot(8, bids='{"price":-1,"qty":1}'),
    snapshot(8, bids=",".join(f'{{"price":{n},"qty":1}}' for n in range(10_000))),
    trade(-(2**63)),
    trade_snapshot(),
    b'{"event":"unsubscribed","feed":"book","product_ids":"PF_XBTUSD"}',
    b'{"event":"unsubscribed","feed":7}',
    b"[" * 2000,
]


@pytest.mark.parametrize("frame", HOSTILE, ids=range(len(HOSTILE)))
def test_no_hostile_message_stops_the_hour_or_the_connection(rig: Rig, frame: bytes) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(7), trade(3), frame, book(8), trade(4)]))
    findings = rule.finish(START_US, END_US)
    hour_rule(FEED, rule.state()).finish(START_US, END_US)
    assert findings.integrity.num_rows
    replay, check = book_replay(FEED, "PF_XBTUSD", None), live_check(FEED)
    for n, kind in enumerate(("book_snapshot", "book", "trade_snapshot", "trade", "unsubscribed", "alert")):
        check.check(kind, frame)
        replay.take(kind, Line(frame, recv_us(n), n, EPOCH, n))


@pytest.mark.parametrize("frame", [HOSTILE[1], HOSTILE[2], HOSTILE[4]])
def test_a_level_that_cannot_be_read_ends_what_is_known_of_the_book(rig: Rig, frame: bytes) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(7), frame, book(9), snapshot(9), book(10)]))
    assert [row[2] for row in told(rule)] == ["no_snapshot"]
