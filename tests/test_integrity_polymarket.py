"""Polymarket's integrity rule: on the recording, under seeded damage against an oracle of its own, and on bad input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from integrity_rig import END_US, EPOCH, START_US, Recording, Rig, damage, frames_of, recv_us

from ssmd_core.feeds import get
from ssmd_core.feeds.polymarket.book import TokenBook
from ssmd_core.feeds.polymarket.wire import number
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Findings, Hole, book_replay, hour_rule, live_check
from ssmd_stream.replay.generator.frames import generate_frames

POLYMARKET = get("polymarket")
SESSION = "polymarket/ws/session_btc5m_2026-08-16_excerpt.jsonl"
#: The recording's first part: 4 books and 42 price changes; what follows is from later in the session.
FIRST_PART = 46
MARKET, TOKEN = "0xabc", "103"  # a token that is hashed live
Interval = tuple[str, str, int, int | None]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    made = Rig("polymarket")
    yield made
    made.close()


def findings_of(rig: Rig, *frames: Sequence[bytes], holes: Sequence[Hole] = ()) -> Findings:
    rule = hour_rule(POLYMARKET, None)
    position = 0
    for part in frames:
        rule.take(rig.chunk(part, position, holes=holes if not position else ()))
        position += len(part)
    return rule.finish(START_US, END_US)


def untrusted(findings: Findings) -> list[Interval]:
    """Token, reason and bounds in positions."""
    return [
        (row["instrument"], row["reason"], _position(row["from"]), None if row["to"] is None else _position(row["to"]))
        for row in findings.untrusted.to_pylist()
    ]


def _position(moment: Any) -> int:
    return int((moment.timestamp() * 1e6 - START_US) / (recv_us(1) - recv_us(0)) + 0.5)


def passed_failed(findings: Findings) -> tuple[int, int]:
    return sum(findings.integrity["passed"].to_pylist()), sum(findings.integrity["failed"].to_pylist())


class Venue:
    """A token as the venue keeps it: plain dicts, the hash by `json`."""

    def __init__(self, *, last: str = "0.470", tick: str = "0.01", min_size: str = "5", neg_risk: bool = False) -> None:
        self.bids: dict[Decimal, tuple[str, str]] = {}
        self.asks: dict[Decimal, tuple[str, str]] = {}
        self.tail = {"min_order_size": min_size, "tick_size": tick, "neg_risk": neg_risk, "last_trade_price": last}
        self.now = 1_786_845_600_000

    def put(self, side: str, price: str, size: str) -> None:
        levels = self.bids if side == "BUY" else self.asks
        if Decimal(size):
            levels[Decimal(price)] = (price, size)
        else:
            levels.pop(Decimal(price), None)

    def sides(self) -> dict[str, list[dict[str, str]]]:
        return {
            name: [{"price": price, "size": size} for _, (price, size) in sorted(levels.items(), reverse=down)]
            for name, levels, down in (("bids", self.bids, False), ("asks", self.asks, True))
        }

    def hash(self) -> str:
        document = {
            "market": MARKET,
            "asset_id": TOKEN,
            "timestamp": str(self.now),
            "hash": "",
            **self.sides(),
            **self.tail,
        }
        return hashlib.sha1(json.dumps(document, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()

    def book(self, **more: Any) -> bytes:
        self.now += 1
        opening = {name: self.tail[name] for name in ("tick_size", "last_trade_price")}
        return orjson.dumps(
            {
                "event_type": "book",
                "market": MARKET,
                "asset_id": TOKEN,
                "timestamp": str(self.now),
                "hash": self.hash(),
                **self.sides(),
                **opening,
                **more,
            }
        )

    def change(self, *entries: tuple[str, str, str], **more: str) -> bytes:
        self.now += 1
        for entry in entries:
            self.put(*entry)
        touch = {"best_bid": str(max(self.bids, default=0)), "best_ask": str(min(self.asks, default=1))}
        # Of several entries of one token only the last one's hash is that of the book.
        hashes = ["0" * 40] * (len(entries) - 1) + [self.hash()]
        changes = [
            {"asset_id": TOKEN, "price": price, "size": size, "side": side, "hash": digest, **touch, **more}
            for (side, price, size), digest in zip(entries, hashes, strict=True)
        ]
        return orjson.dumps(
            {"event_type": "price_change", "market": MARKET, "price_changes": changes, "timestamp": str(self.now)}
        )

    def trade(self, price: str, last: str) -> bytes:
        self.tail["last_trade_price"] = last
        return orjson.dumps(
            {"event_type": "last_trade_price", "asset_id": TOKEN, "market": MARKET, "price": price, "size": "5"}
            | {"side": "BUY", "timestamp": str(self.now)}
        )


def opened(**settings: Any) -> tuple[Venue, bytes]:
    venue = Venue(**settings)
    venue.put("BUY", "0.48", "30")
    venue.put("SELL", "0.52", "25")
    return venue, venue.book()


# -- the recording


def test_real_session_verifies_whole(rig: Rig, samples: Path) -> None:
    frames = frames_of(samples / SESSION)
    found = findings_of(rig, frames[:20], frames[20:FIRST_PART])
    assert passed_failed(found) == (4 + 82, 0)
    # Two tokens of one change were never opened in the recording.
    assert [row[1:] for row in untrusted(found)] == [("no_snapshot", 16, None)] * 2
    live = live_check(POLYMARKET)
    assert [t for f in frames[:FIRST_PART] if (t := live.check(POLYMARKET.route(f).type, f))] == []
    # Of the two tokens of a change one is watched.
    assert (live.counts.passed, live.counts.failed) == (41, 0)
    # Behind the cut the books are others, and every one of them is found out.
    after = findings_of(rig, frames)
    broken = {row[0] for row in untrusted(after) if row[1] == "checksum"}
    assert broken == {
        entry["asset_id"] for frame in frames[FIRST_PART:] for entry in orjson.loads(frame)["price_changes"]
    }


def wrong_books(frames: Sequence[bytes], order: Sequence[int]) -> list[Interval]:
    """Where a receiver's books are not the venue's: both are kept as plain dicts, level by level."""

    def apply(books: dict[str, dict[tuple[str, Decimal], str]], message: dict[str, Any]) -> list[str]:
        if message["event_type"] == "book":
            levels = {("BUY", Decimal(level["price"])): level["size"] for level in message["bids"]}
            levels |= {("SELL", Decimal(level["price"])): level["size"] for level in message["asks"]}
            books[message["asset_id"]] = levels
            return [message["asset_id"]]
        touched = []
        for entry in message["price_changes"]:
            token = entry["asset_id"]
            touched.append(token)
            if token in books:
                books[token][entry["side"], Decimal(entry["price"])] = entry["size"]
        return touched

    messages = [json.loads(frame) for frame in frames]
    true_books: dict[str, Any] = {}
    states = []
    for message in messages:
        apply(true_books, message)
        states.append({token: {k: v for k, v in levels.items() if Decimal(v)} for token, levels in true_books.items()})
    mine: dict[str, Any] = {}
    good: dict[str, int] = {}
    since: dict[str, int] = {}
    blind: dict[str, int] = {}
    found: list[Interval] = []
    for position, i in enumerate(order):
        for token in apply(mine, messages[i]):
            if token not in mine:
                blind.setdefault(token, position)
                continue
            if messages[i]["event_type"] == "book" and token in blind:
                found.append((token, "no_snapshot", blind.pop(token), position))
            right = {k: v for k, v in mine[token].items() if Decimal(v)} == states[i].get(token)
            if not right:
                since.setdefault(token, good[token])
            else:
                if token in since:
                    found.append((token, "checksum", since.pop(token), position))
                good[token] = position
    found += [(token, "checksum", start, None) for token, start in since.items()]
    found += [(token, "no_snapshot", start, None) for token, start in blind.items()]
    return sorted(found, key=lambda row: (row[0], row[2]))


def test_damage_is_reported_and_nothing_else(rig: Rig, samples: Path) -> None:
    frames = frames_of(samples / SESSION)[:FIRST_PART]
    told = 0
    for seed in range(120):
        order = damage(0, FIRST_PART, seed)
        received = [frames[i] for i in order]
        expected = wrong_books(frames, order)
        assert untrusted(findings_of(rig, received)) == expected, f"seed {seed}"
        # The live check compares best prices only, as no token here is one that is hashed live: no false alarm.
        live = live_check(POLYMARKET)
        for frame in received:
            trouble = live.check(POLYMARKET.route(frame).type, frame)
            if trouble is not None:
                assert any(row[:2] == (trouble.instruments[0], "checksum") for row in expected), f"seed {seed}"
        told += any(row[1] == "checksum" for row in expected)
    # A duplicate does no harm, nor does a loss that the next change makes good.
    assert told > 30


def test_one_hash_of_two_tokens_in_step_says_as_much_as_both(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "generated.jsonl"
    path.write_bytes(b"\n".join(generate_frames("polymarket", 600, markets=2)))
    recording = Recording(rig, path)
    told = 0
    for seed in range(40):
        order = damage(0, 600, seed)
        chunks = recording.chunk(order[:300]), recording.chunk(order[300:], 300)
        found = []
        for both in (False, True):
            with pytest.MonkeyPatch.context() as patch:
                if both:
                    patch.setattr(TokenBook, "mirrors", lambda _self, _other: False)
                rule = hour_rule(POLYMARKET, None)
                for chunk in chunks:
                    rule.take(chunk)
                found.append((rule.finish(START_US, END_US), rule.state()))
        (one, state), (two, state_of_both) = found
        assert one.untrusted.equals(two.untrusted), f"seed {seed}"
        assert one.integrity.equals(two.integrity), f"seed {seed}"
        assert state == state_of_both, f"seed {seed}"
        told += bool(one.untrusted.num_rows)
    assert told > 5


# -- the hash, one thing at a time


NUMBERS = st.tuples(st.integers(1, 99), st.sampled_from(("0.{:02d}", ".{:02d}", "0.{:02d}0"))).map(
    lambda pair: pair[1].format(pair[0])
)
ENTRIES = st.tuples(st.sampled_from(("BUY", "SELL")), NUMBERS, st.sampled_from(("0", "5", "5.25", "1000", "0.0")))


@settings(max_examples=40, deadline=None)
@given(
    changes=st.lists(st.lists(ENTRIES, min_size=1, max_size=3), min_size=1, max_size=30),
    lost=st.integers(0, 40),
    min_size=st.sampled_from(("5", "15", "1")),
    neg_risk=st.booleans(),
)
def test_books_are_those_of_the_venue(
    rig: Rig, changes: list[list[tuple[str, str, str]]], lost: int, min_size: str, neg_risk: bool
) -> None:
    venue, first = opened(min_size=min_size, neg_risk=neg_risk)
    frames = [first]
    states = [venue.sides()]
    for entries in changes:
        frames.append(venue.change(*entries))
        states.append(venue.sides())
    rule = hour_rule(POLYMARKET, None)
    rule.take(rig.chunk(frames))
    found = rule.finish(START_US, END_US)
    assert passed_failed(found) == (len(frames), 0)
    assert found.untrusted.num_rows == 0
    state = rule.state()
    assert state == rule.state()
    replay = book_replay(POLYMARKET, TOKEN, None)
    for n, frame in enumerate(frames):
        replay.take(POLYMARKET.route(frame).type, Line(frame, recv_us(n), n + 1, EPOCH, n))
        book = replay.book()
        assert book is not None
        assert [{"price": price, "size": size} for price, size in reversed(book.bids)] == states[n]["bids"]
        assert [{"price": price, "size": size} for price, size in reversed(book.asks)] == states[n]["asks"]
    assert book_replay(POLYMARKET, TOKEN, state).book() == replay.book()
    if 0 < lost < len(frames):
        # What is lost is either told, or the next hash is that of our book again.
        damaged = findings_of(rig, [*frames[:lost], *frames[lost + 1 :]])
        wrong = _wrong_after(frames, lost)
        assert bool(damaged.untrusted.num_rows) == wrong


def _wrong_after(frames: Sequence[bytes], lost: int) -> bool:
    """Whether any hash behind a loss is not that of what a receiver then holds."""
    held = Venue()
    true = Venue()
    for n, frame in enumerate(frames):
        message = orjson.loads(frame)
        for venue in (held, true) if n != lost else (true,):
            if n == 0:
                for side, name in (("BUY", "bids"), ("SELL", "asks")):
                    for level in message[name]:
                        venue.put(side, level["price"], level["size"])
            for entry in message.get("price_changes", ()):
                venue.put(entry["side"], entry["price"], entry["size"])
        if n > lost and held.sides() != true.sides():
            return True
    return False


def test_the_price_of_a_trade_is_learned(rig: Rig) -> None:
    for written, padded, before in (("0.5", "0.500", True), ("0.456", "0.456", False), (".6", "0.60", False)):
        venue, first = opened()
        frames = [first, venue.change(("BUY", "0.47", "5"))]
        # The change that the trade caused may come before the message about it.
        venue.tail["last_trade_price"] = padded if before else venue.tail["last_trade_price"]
        frames.append(venue.change(("SELL", "0.52", "20")))
        frames.append(venue.trade(written, padded))
        frames += [venue.change(("SELL", "0.53", str(size))) for size in (1, 2, 3)]
        found = findings_of(rig, frames)
        assert untrusted(found) == []
        assert passed_failed(found) == (6, 0)


def test_what_no_trade_explains_is_broken(rig: Rig) -> None:
    venue, first = opened()
    frames = [first, venue.change(("BUY", "0.47", "5")), venue.trade("0.5", "0.51")]
    once = findings_of(rig, [*frames, venue.change(("BUY", "0.46", "5"))])
    assert untrusted(once) == [(TOKEN, "no_check", 1, None)]
    twice = findings_of(rig, [*frames, venue.change(("BUY", "0.46", "5")), venue.change(("BUY", "0.45", "5"))])
    assert untrusted(twice) == [(TOKEN, "checksum", 1, None)]
    restored = findings_of(rig, [*frames, *(venue.change(("BUY", "0.44", str(n))) for n in (1, 2)), venue.book()])
    assert untrusted(restored) == [(TOKEN, "checksum", 1, 5)]


def test_a_new_tick_size_is_learned(rig: Rig) -> None:
    venue, first = opened()
    venue.tail["tick_size"] = "0.001"
    told = orjson.dumps(
        {"event_type": "tick_size_change", "asset_id": TOKEN, "market": MARKET, "new_tick_size": "0.001"}
        | {"old_tick_size": "0.01", "timestamp": str(venue.now)}
    )
    found = findings_of(rig, [first, told, venue.change(("BUY", "0.485", "5"))])
    assert (untrusted(found), passed_failed(found)) == ([], (2, 0))


def test_a_hash_of_unknown_settings_is_unverifiable_but_the_touch_still_speaks(rig: Rig) -> None:
    venue, first = opened(min_size="7")
    frames = [first, venue.change(("BUY", "0.47", "5"))]
    found = findings_of(rig, frames)
    assert untrusted(found) == [(TOKEN, "no_check", 0, None)]
    assert set(found.integrity["verdict"].to_pylist()) == {"unverifiable"}
    lying = venue.change(("BUY", "0.46", "5"), best_bid="0.49")
    found = findings_of(rig, [*frames, lying, venue.book()])
    assert untrusted(found)[:2] == [(TOKEN, "no_check", 0, 2), (TOKEN, "touch", 0, 3)]


def test_a_touch_that_is_not_the_books(rig: Rig) -> None:
    venue, first = opened()
    found = findings_of(rig, [first, venue.change(("BUY", "0.47", "5"), best_ask="0.51")])
    # The hash proves the book right: only what this message says of it is not.
    assert untrusted(found) == [(TOKEN, "touch", 1, 1)]
    live = live_check(POLYMARKET)
    live.check("book", first)
    trouble = live.check("price_change", venue.change(("BUY", "0.47", "6"), best_ask="0.51"))
    assert trouble is not None and trouble[:3] == ("market", (TOKEN,), "touch")
    assert live.check("price_change", venue.change(("BUY", "0.47", "7"), best_ask="0.51")) is None
    assert live.check("book", venue.book()) is None
    assert live.check("price_change", venue.change(("BUY", "0.47", "8"), best_ask="0.51")) is not None


def test_empty_sides_and_both_old_generations(rig: Rig) -> None:
    venue = Venue()
    venue.put("BUY", "0.48", "30")
    frames = [venue.book(), venue.change(("BUY", "0.48", "0")), venue.change(("SELL", "0.9", "1"))]
    assert untrusted(findings_of(rig, frames)) == []
    head = {"event_type": "price_change", "asset_id": TOKEN, "market": MARKET}
    venue.put("BUY", "0.3", "9")
    venue.now += 1
    level = {"price": "0.3", "side": "BUY", "size": "9"}
    frames.append(orjson.dumps({**head, "changes": [level], "timestamp": str(venue.now), "hash": venue.hash()}))
    venue.put("BUY", "0.3", "8")
    venue.now += 1
    frames.append(orjson.dumps({**head, **level, "size": "8", "timestamp": str(venue.now), "hash": venue.hash()}))
    found = findings_of(rig, frames)
    assert (untrusted(found), passed_failed(found)) == ([], (5, 0))


def test_the_live_check_hashes_now_and_then(rig: Rig) -> None:
    venue, first = opened()
    live = live_check(POLYMARKET)
    live.check("book", first)
    venue.put("BUY", "0.01", "77")  # a change that is lost
    troubles = []
    for n in range(600):
        trouble = live.check("price_change", venue.change(("BUY", "0.02", str(n + 1))))
        if trouble is not None:
            troubles.append((n, trouble.reason))
    # Nothing had fitted before, so the settings are not known.
    assert troubles == []
    live.check("book", venue.book())
    for n in range(600):
        if n == 300:
            venue.put("BUY", "0.01", "78")
        if (trouble := live.check("price_change", venue.change(("BUY", "0.02", str(n + 1))))) is not None:
            troubles.append((n, trouble.reason))
    assert troubles == [(320, "checksum")]


# -- connections


def test_holes_epochs_hours_and_ends(rig: Rig) -> None:
    venue, first = opened()
    change = venue.change(("BUY", "0.47", "5"))
    hole = Hole(EPOCH, 0, 2, 2, recv_us(0), recv_us(1))
    # The hash behind the hole is that of the book: nothing of this token was lost, or it was made good.
    assert untrusted(findings_of(rig, [first, change], holes=[hole])) == [(TOKEN, "archive_hole", 0, 1)]
    late = venue.change(("BUY", "0.45", "5"))
    missing = venue.change(("BUY", "0.44", "5"))
    last = venue.change(("BUY", "0.43", "5"))
    rule = hour_rule(POLYMARKET, None)
    rule.take(rig.chunk([first, change, late, last]))
    assert untrusted(rule.finish(START_US, END_US)) == [(TOKEN, "checksum", 2, None)]
    after = hour_rule(POLYMARKET, rule.state())
    # The book is as it was in the next hour, and so is the doubt about it.
    after.take(rig.chunk([venue.change(("BUY", "0.44", "5"))], 4))
    assert untrusted(after.finish(recv_us(4), END_US)) == [(TOKEN, "checksum", 4, 4)]
    blind = hour_rule(POLYMARKET, None)
    blind.take(rig.chunk([missing], 4))
    assert untrusted(blind.finish(START_US, END_US)) == [(TOKEN, "no_snapshot", 4, None)]
    other = hour_rule(POLYMARKET, None)
    other.take(rig.chunk([first, change]))
    other.take(rig.chunk([change], 2, epoch="c1-x"))
    assert [row["epoch"] for row in other.finish(START_US, END_US).untrusted.to_pylist()] == ["c1-x"]
    gone = control_event("unsubscribe", "c0", channel="market", instruments=[TOKEN])
    assert untrusted(findings_of(rig, [first, change, last, gone, late])) == [(TOKEN, "checksum", 1, 3)]
    closed = hour_rule(POLYMARKET, None)
    closed.take(rig.chunk([first, last, control_event("closed", "c0", messages=3)]))
    assert closed.state() == hour_rule(POLYMARKET, None).state()
    assert untrusted(closed.finish(START_US, END_US)) == [(TOKEN, "checksum", 0, 2)]


def test_levels_are_compared_by_value() -> None:
    assert number(".48") == number("0.48") == number("0.480") == number("00.48")
    assert [number(text) for text in ("", ".", "-1", "1e3", "NaN", "0x1", "1" * 40, "0.1 ")] == [None] * 8


HOSTILE = [
    b"[]",
    b"PONG",
    b"\xff",
    b'{"event_type":"book"}',
    b'{"event_type":"book","market":"m","asset_id":"103","bids":[{"price":0.5,"size":3}],"asks":[{"price":"x","size":"NaN"}]}',
    b'{"event_type":"book","market":"\\ud800","asset_id":"\\ud800","bids":[],"asks":null,"hash":7,"tick_size":0.01}',
    b'{"event_type":"book","market":"m","asset_id":"103","bids":{"a":1},"asks":[[]]}',
    b'{"event_type":"price_change","market":"m","price_changes":[]}',
    b'{"event_type":"price_change","market":"m","price_changes":[{"asset_id":"103","price":"1","size":"1","side":"?"}]}',
    b'{"event_type":"price_change","market":"m","price_changes":[{"asset_id":111,"price":1e400,"size":-0.0,"side":"BUY"}]}',
    b'{"event_type":"price_change","market":"m","price_changes":' + b"[" * 3000,
    b'{"event_type":"price_change","market":"m","asset_id":"103","price":"0.1","size":"9","side":"BUY","hash":null}',
    b'{"event_type":"last_trade_price","market":"m","asset_id":"103","price":"99999999999999999999","size":"1"}',
    b'{"event_type":"last_trade_price","market":"m","asset_id":"103","price":0.30000000000000004,"size":1}',
    b'{"event_type":"tick_size_change","market":"m","asset_id":"103","new_tick_size":{"a":1}}',
    b'{"ssmd":{"event":"unsubscribe","instruments":[1]}}',
    b'{"ssmd":{"event":"closed"}}',
]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=40)), max_size=20))
def test_nothing_that_comes_stops_the_rule(rig: Rig, frames: list[bytes]) -> None:
    venue, first = opened()
    rule = hour_rule(POLYMARKET, None)
    rule.take(rig.chunk([first, *frames, venue.change(("BUY", "0.47", "5"))]))
    assert rule.finish(START_US, END_US).integrity.num_rows
    hour_rule(POLYMARKET, rule.state())
    live, replay = live_check(POLYMARKET), book_replay(POLYMARKET, TOKEN, None)
    for n, frame in enumerate(frames):
        for kind in ("book", "price_change", "last_trade_price", "tick_size_change", "unparsed", "control"):
            live.check(kind, frame)
            replay.take(kind, Line(frame, recv_us(n), n + 1, EPOCH, n))
    replay.book()
