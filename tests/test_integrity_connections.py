"""Every venue's rule and book at the edges: states that cannot be read, killed connectors, moved instruments."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import orjson
import pytest
from integrity_rig import END_US, START_US, Rig, intervals, recv_us

from ssmd_core.archive.tally import classify
from ssmd_core.feeds import get
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import HourChunk, book_replay, books_check, hour_rule

FIRST, SECOND, OTHER = (
    "c0-20260816T020000000-0001",
    "c0-20260816T020100000-0002",
    "c1-20260816T020000000-0003",
)
Levels = dict[tuple[str, int], int]


class Book:
    """One market as a venue keeps it: whole sizes at whole cents; messages of it in the venue's words."""

    def __init__(self, feed: str) -> None:
        self.feed = feed
        self.instrument = {"kraken": "BTC/USD", "kraken-futures": "PF_XBTUSD", "polymarket": "111"}.get(feed, "KX-1")
        self.levels: Levels = {("bid", 40): 5, ("ask", 60): 7}
        self.seq = 0

    def sides(self) -> list[list[tuple[int, int]]]:
        return [
            sorted(((cents, size) for (name, cents), size in self.levels.items() if name == side), reverse=down)
            for side, down in (("bid", True), ("ask", False))
        ]

    def move(self, chance: random.Random) -> bytes:
        """Change one level."""
        side = chance.choice(("bid", "ask"))
        cents = chance.randrange(36, 45) if side == "bid" else chance.randrange(55, 64)
        before = self.levels.get((side, cents), 0)
        size = chance.choice((0, *range(1, 9))) if before else chance.randrange(1, 9)
        self.levels[side, cents] = size
        if not size:
            del self.levels[side, cents]
        self.seq += 1
        return self._message(side, cents, size, size - before)

    def _message(self, side: str, cents: int, size: int, change: int) -> bytes:
        price = f"0.{cents}"
        if self.feed == "kalshi":
            is_yes = side == "bid"
            body = {"market_ticker": self.instrument, "price_dollars": price if is_yes else f"0.{100 - cents}"}
            body |= {"delta_fp": str(change), "side": "yes" if is_yes else "no", "ts_ms": 1}
            return orjson.dumps({"type": "orderbook_delta", "sid": 1, "seq": self.seq, "msg": body})
        if self.feed == "kraken-futures":
            way = "buy" if side == "bid" else "sell"
            return (
                f'{{"feed":"book","product_id":"PF_XBTUSD","side":"{way}","seq":{self.seq},"price":{price},'
                f'"qty":{size},"timestamp":1786845600000}}'
            ).encode()
        if self.feed == "kraken":
            level = f'[{{"price":{price},"qty":{size}.0}}]'
            return self._kraken("update", *(level if side == name else "[]" for name in ("bid", "ask")))
        entry = {"asset_id": "111", "price": price, "size": str(size), "side": "BUY" if side == "bid" else "SELL"}
        changes = [entry | {"hash": self._sha1(), "best_bid": "", "best_ask": ""}]
        return orjson.dumps(
            {"event_type": "price_change", "market": "0xabc", "price_changes": changes, "timestamp": str(self.seq)}
        )

    def snapshot(self) -> bytes:
        self.seq += 1
        bids, asks = self.sides()
        if self.feed == "kalshi":
            yes = [[f"0.{cents}", str(size)] for cents, size in bids]
            no = [[f"0.{100 - cents}", str(size)] for cents, size in asks]
            body = {"market_ticker": self.instrument, "yes_dollars_fp": yes, "no_dollars_fp": no}
            # As a reply to `get_snapshot`, which takes a number of the subscription like any other.
            return orjson.dumps({"id": 7, "type": "orderbook_snapshot", "sid": 1, "seq": self.seq, "msg": body})
        if self.feed == "polymarket":
            return orjson.dumps(
                {"event_type": "book", "market": "0xabc", "asset_id": "111", "timestamp": str(self.seq)}
                | {"hash": self._sha1(), **self._sides(), "tick_size": "0.01", "last_trade_price": "0.5"}
            )
        sides = [",".join(f'{{"price":0.{c},"qty":{s}.0}}' for c, s in side) for side in (bids, asks)]
        if self.feed == "kraken":
            return self._kraken("snapshot", *(f"[{side}]" for side in sides))
        return (
            f'{{"feed":"book_snapshot","product_id":"PF_XBTUSD","timestamp":1786845600000,"seq":{self.seq},'
            f'"tickSize":null,"bids":[{sides[0]}],"asks":[{sides[1]}]}}'
        ).encode()

    def _kraken(self, kind: str, bids: str, asks: str) -> bytes:
        best = [side[:10] for side in reversed(self.sides())]
        text = "".join(f"{cents}{size}0" for side in best for cents, size in side)
        return (
            f'{{"channel":"book","type":"{kind}","data":[{{"symbol":"BTC/USD","bids":{bids},"asks":{asks},'
            f'"checksum":{zlib.crc32(text.encode())}}}]}}'
        ).encode()

    def _sides(self) -> dict[str, Any]:
        bids, asks = self.sides()
        return {
            name: [{"price": f"0.{cents}", "size": str(size)} for cents, size in reversed(side)]
            for name, side in (("bids", bids), ("asks", asks))
        }

    def _sha1(self) -> str:
        document = {"market": "0xabc", "asset_id": "111", "timestamp": str(self.seq), "hash": "", **self._sides()}
        document |= {"min_order_size": "5", "tick_size": "0.01", "neg_risk": False, "last_trade_price": "0.5"}
        return hashlib.sha1(json.dumps(document, separators=(",", ":")).encode(), usedforsecurity=False).hexdigest()

    def as_told(self, told: Any) -> Levels:
        """What a replay's book says, in whole cents."""
        levels: Levels = {}
        for side, given in (("bid", told.bids), ("ask", told.asks)):
            for price, size in given:
                cents = round(float(price) * 100)
                if self.feed == "kalshi" and side == "ask":
                    cents = 100 - cents
                levels[side, cents] = int(float(size))
        return levels


class Venue(NamedTuple):
    rig: Rig
    name: str

    def chunk(self, frames: Sequence[bytes], position: int = 0, epoch: str = FIRST) -> HourChunk:
        return self.rig.chunk(frames, position, epoch=epoch)


@pytest.fixture(scope="module", params=("kalshi", "kraken", "kraken-futures", "polymarket"))
def venue(request: pytest.FixtureRequest) -> Iterator[Venue]:
    rig = Rig(request.param)
    yield Venue(rig, request.param)
    rig.close()


@pytest.mark.parametrize("damage", [lambda _: b"", lambda state: state[:-9], lambda state: b"\x00" + state, None])
def test_a_state_that_cannot_be_read_is_none(venue: Venue, damage: Callable[[bytes], bytes] | None) -> None:
    feed, book = get(venue.name), Book(venue.name)
    rule = hour_rule(feed, None)
    rule.take(venue.chunk([book.snapshot(), book.move(random.Random(1))]))
    state = rule.state()
    assert book_replay(feed, book.instrument, state).book() is not None
    # Without a damage: what a later version of the rule may leave.
    bad = damage(state) if damage else _of_version_2(state)
    update = book.move(random.Random(2))
    found = []
    for begins in (bad, None):
        rule = hour_rule(feed, begins)
        rule.take(venue.chunk([update], 2))
        found.append((rule.finish(START_US, END_US), rule.state()))
    assert found[0][0].untrusted.equals(found[1][0].untrusted)
    assert found[0][0].integrity.equals(found[1][0].integrity)
    assert found[0][1] == found[1][1]
    assert book_replay(feed, book.instrument, bad).book() is None


def _of_version_2(state: bytes) -> bytes:
    if state.startswith(b"{"):
        return orjson.dumps(orjson.loads(state) | {"version": 2})
    return msgspec.msgpack.encode([2, *msgspec.msgpack.decode(state)[1:]])


@pytest.mark.parametrize("seed", range(5))
def test_the_book_is_the_venue_s_at_every_moment(venue: Venue, seed: int) -> None:
    feed, book, chance = get(venue.name), Book(venue.name), random.Random(seed)
    replay, rule = book_replay(feed, book.instrument, None), hour_rule(feed, None)
    epoch, position = FIRST, 0

    def send(frame: bytes) -> None:
        nonlocal position
        replay.take(classify(feed, frame)[0], Line(frame, recv_us(position), position + 1, epoch, position))
        rule.take(venue.chunk([frame], position, epoch))
        position += 1

    send(book.snapshot())
    for _ in range(25):
        what = chance.random()
        if what < 0.1:
            send(book.snapshot())
        elif what < 0.15 and epoch != OTHER:
            # The instrument moves to another connection, whose counter begins anew.
            if chance.random() < 0.5:
                send(control_event("unsubscribe", "c0", channel="market", instruments=[book.instrument]))
            epoch, book.seq = OTHER, 0
            send(control_event("open", "c1", url="", local=""))
            send(book.snapshot())
        else:
            send(book.move(chance))
        for told in (replay.book(), book_replay(feed, book.instrument, rule.state()).book()):
            assert told is not None
            assert (told.epoch, book.as_told(told)) == (epoch, book.levels)
    findings = rule.finish(START_US, END_US)
    assert intervals(findings) == []
    assert set(findings.integrity["verdict"].to_pylist()) == {"verified"}
    assert set(findings.integrity["check"].to_pylist()) == {books_check(feed)}


def test_a_killed_connector_s_doubts_end_with_the_next_opening(venue: Venue) -> None:
    feed, book, chance = get(venue.name), Book(venue.name), random.Random(1)
    frames = [book.snapshot(), *(book.move(chance) for _ in range(6))]
    # In the first hour messages are lost, and the connector killed.
    first = hour_rule(feed, None)
    first.take(venue.chunk([frames[0], *frames[-2:]]))
    doubts = first.finish(START_US, END_US).untrusted.to_pylist()
    assert [row["to"] for row in doubts if row["instrument"] == book.instrument] == [None]
    book.seq = 0
    opened = [control_event("open", "c0", url="", local=""), book.snapshot()]
    second = hour_rule(feed, first.state())
    second.take(venue.chunk([frames[-1]], 8))
    second.take(venue.chunk(opened, 9, SECOND))
    found = second.finish(recv_us(8), END_US)
    assert [row for row in intervals(found) if row[4] is None] == []
    assert {row["epoch"] for row in found.untrusted.to_pylist()} == {FIRST}
    assert FIRST.encode() not in second.state()
    # Nothing at all came of it any more: it ends where the hour begins.
    silent = hour_rule(feed, first.state())
    silent.take(venue.chunk(opened, 9, OTHER))
    found = silent.finish(recv_us(8), END_US)
    assert {row[3:] for row in intervals(found)} <= {(8, 8)}
