"""Kraken spot: every recorded checksum verifies, every damage shows, and nothing else does."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from integrity_rig import END_US, EPOCH, START_US, Recording, Rig, damage, intervals, recv_us, rig_of
from little_archive import LittleArchive, at

from ssmd_core.datasets.build import build_hour
from ssmd_core.datasets.convert import Converted
from ssmd_core.feeds import get
from ssmd_core.feeds.kraken.book import Item, KrakenBook, Level
from ssmd_core.messages.control import control_event
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Hole, HourChunk, HourRule, Trouble, book_replay, hour_rule, live_check
from ssmd_core.proof.wire_numbers import NumberError, read_number

FEED = get("kraken")
DEPTH_25 = "kraken/ws/book_btcusd_depth25_2026-08.jsonl.gz"
DEPTH_10 = "kraken/ws/book_btcusd_depth10_resubscribes_2026-08.jsonl"
#: Frames between the moments of the long recording at which a run may begin.
STRIDE = 250


class TrueBook:
    """The book by the venue's words alone, in Decimals, without regard to speed: the oracle."""

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.sides: dict[str, dict[Decimal, tuple[str, str]]] = {"bids": {}, "asks": {}}

    def apply(self, element: dict[str, list[dict[str, str]]]) -> None:
        for side, levels in self.sides.items():
            for level in element[side]:
                if Decimal(level["qty"]):
                    levels[Decimal(level["price"])] = (level["price"], level["qty"])
                else:
                    levels.pop(Decimal(level["price"]), None)
            for price in self.best(side)[self.depth :]:
                del levels[price]

    def best(self, side: str) -> list[Decimal]:
        return sorted(self.sides[side], reverse=side == "bids")

    def top(self) -> tuple[tuple[str, str], ...]:
        return tuple(self.sides[side][price] for side in ("asks", "bids") for price in self.best(side)[:10])


class Oracle:
    """What a recording says, frame by frame.

    Attributes:
        tops: the ten best levels of the true book after each frame.
        books: copies of the true book before every `STRIDE`th frame.
    """

    def __init__(self, frames: Sequence[bytes], depth: int) -> None:
        self.frames = [_NUMBERS_AS_TEXT.decode(frame) for frame in frames]
        self.depth = depth
        self.tops: list[tuple[tuple[str, str], ...] | None] = []
        self.books: list[TrueBook | None] = []
        book = None
        for n in range(len(frames)):
            if n % STRIDE == 0:
                self.books.append(copy.deepcopy(book))
            book = self.after(book, n)
            self.tops.append(book.top() if book else None)

    def after(self, book: TrueBook | None, n: int) -> TrueBook | None:
        """The book when frame n has come."""
        frame = self.frames[n]
        if frame.get("method") == "unsubscribe":
            return None
        if frame.get("channel") != "book" or "data" not in frame:
            return book
        if frame["type"] == "snapshot":
            book = TrueBook(self.depth)
        if book is not None:
            book.apply(frame["data"][0])
        return book

    def expected(self, order: Sequence[int], start: int) -> list[tuple[str, str, str, int, int | None]]:
        """The intervals that a run of these frames must show, from the true book before frame `start` on.

        An interval begins at the last book message that was right, and ends at the next snapshot; it begins where the
        ten best levels first differ from the true ones, for no checksum can see more.
        """
        book = copy.deepcopy(self.books[start // STRIDE])
        found: list[tuple[str, str, str, int, int | None]] = []
        open_from, reason, last_good = None, "", max(start - 1, 0)
        for position, n in enumerate(order, start):
            frame = self.frames[n]
            is_snapshot = frame.get("channel") == "book" and frame.get("type") == "snapshot"
            if open_from is not None and (is_snapshot or frame.get("method") == "unsubscribe"):
                found.append(("BTC/USD", "book", reason, open_from, position))
                open_from = None
            last_good = position if frame.get("method") == "unsubscribe" else last_good
            book = self.after(book, n)
            if frame.get("channel") != "book" or open_from is not None:
                continue
            if book is None:
                open_from, reason = last_good, "no_snapshot"
            elif book.top() != self.tops[n]:
                open_from, reason = last_good, "checksum"
            else:
                last_good = position
        if open_from is not None:
            found.append(("BTC/USD", "book", reason, open_from, None))
        return found


class _Text(str):
    """Number text of the wire."""


_NUMBERS_AS_TEXT = msgspec.json.Decoder(float_hook=_Text)


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    yield from rig_of("kraken")


@pytest.fixture(scope="module")
def deep(rig: Rig, samples: Path) -> tuple[Recording, Oracle]:
    recording = Recording(rig, samples / DEPTH_25)
    return recording, Oracle(recording.frames, 25)


@pytest.fixture(scope="module")
def resubscribed(rig: Rig, samples: Path) -> tuple[Recording, Oracle]:
    recording = Recording(rig, samples / DEPTH_10)
    return recording, Oracle(recording.frames, 10)


def troubles_of(recording: Recording, order: Sequence[int]) -> tuple[list[Trouble], int]:
    """What a live check tells of these frames, and how many comparisons it passed."""
    check = live_check(FEED)
    told = [check.check(recording.kinds[n], recording.frames[n]) for n in order]
    return [trouble for trouble in told if trouble], check.counts.passed


@pytest.mark.parametrize(("name", "messages"), [(DEPTH_25, 2052), (DEPTH_10, 301)])
def test_every_recorded_checksum_verifies(rig: Rig, samples: Path, name: str, messages: int) -> None:
    recording = Recording(rig, samples / name)
    rule = hour_rule(FEED, None)
    rule.take(recording.whole)
    findings = rule.finish(START_US, END_US)
    integrity = findings.integrity
    assert sum(integrity["passed"].to_pylist()) == sum(integrity["messages"].to_pylist()) == messages
    assert set(integrity["verdict"].to_pylist()) == {"verified"}
    assert findings.untrusted.num_rows == 0
    assert sum(minute.passed for minute in findings.minutes.values()) == messages
    assert troubles_of(recording, range(len(recording.frames))) == ([], messages)


@pytest.fixture(scope="module")
def deep_states(deep: tuple[Recording, Oracle]) -> list[bytes | None]:
    """The rule's state before every `STRIDE`th frame of the long recording."""
    recording, _ = deep
    rule = hour_rule(FEED, None)
    states: list[bytes | None] = [None]
    for first in range(0, len(recording.frames) - STRIDE, STRIDE):
        rule.take(recording.chunk(range(first, first + STRIDE), first))
        states.append(rule.state())
    return states


def test_130_damaged_runs_of_the_deep_book(deep: tuple[Recording, Oracle], deep_states: list[bytes | None]) -> None:
    recording, oracle = deep
    shown = 0
    for seed in range(130):
        start = seed % (len(recording.frames) // STRIDE) * STRIDE
        order = damage(start, start + STRIDE, seed)
        rule = hour_rule(FEED, deep_states[start // STRIDE])
        # In two chunks, for a book must live on between them.
        rule.take(recording.chunk(order[:100], start))
        rule.take(recording.chunk(order[100:], start + 100))
        expected = oracle.expected(order, start)
        assert intervals(rule.finish(START_US, END_US)) == expected, (seed, order)
        troubles, _ = troubles_of(recording, [*range(start), *order])
        assert [trouble.reason for trouble in troubles] == [row[2] for row in expected if row[2] == "checksum"], seed
        shown += bool(expected)
    # Swaps and doubles that change nothing, and what lies below the tenth level, show nothing.
    assert 40 < shown < 130


def test_50_damaged_runs_with_resubscriptions(resubscribed: tuple[Recording, Oracle]) -> None:
    recording, oracle = resubscribed
    shown = 0
    for seed in range(50):
        order = damage(0, 200 + seed, seed)
        rule = hour_rule(FEED, None)
        rule.take(recording.chunk(order))
        expected = oracle.expected(order, 0)
        found = intervals(rule.finish(START_US, END_US))
        assert found == expected, (seed, order)
        troubles, _ = troubles_of(recording, order)
        assert [trouble.reason for trouble in troubles] == [row[2] for row in expected if row[2] == "checksum"], seed
        shown += bool(expected)
    assert shown > 10


# -- where books begin and end

SNAPSHOT = (
    b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":99.5,"qty":1.00}],'
    b'"asks":[{"price":100.5,"qty":0.50}],"checksum":%d}]}'
)


def snapshot(symbol: str = "BTC/USD") -> bytes:
    """A book of one level a side, with its true checksum."""
    return (SNAPSHOT % zlib.crc32(b"100550995100")).replace(b"BTC/USD", symbol.encode())


def update(qty: str, checksum: int | None = None, symbol: str = "BTC/USD") -> bytes:
    """The book's bid set to `qty`, with its true checksum unless another is given."""
    true = zlib.crc32(b"10055099" + b"5" + qty.replace(".", "").lstrip("0").encode())
    return orjson.dumps(
        {
            "channel": "book",
            "type": "update",
            "data": [
                {
                    "symbol": symbol,
                    "bids": [{"price": 99.5, "qty": orjson.Fragment(qty)}],
                    "asks": [],
                    "checksum": true if checksum is None else checksum,
                }
            ],
        }
    )


def told(rule: HourRule) -> list[tuple[str, str, str, int, int | None]]:
    return intervals(rule.finish(START_US, END_US))


def test_a_failed_checksum_is_not_healed_by_a_later_match_but_by_a_snapshot(rig: Rig) -> None:
    rule = hour_rule(FEED, None)
    frames = [snapshot(), update("2.0"), update("3.0", checksum=7), update("4.0"), snapshot(), update("5.0")]
    rule.take(rig.chunk(frames))
    findings = rule.finish(START_US, END_US)
    assert intervals(findings) == [("BTC/USD", "book", "checksum", 1, 4)]
    (row,) = findings.untrusted.to_pylist()
    assert row["nats_seq"] == 3
    assert row["detail"] == f"the venue's checksum is 7, the book's is {zlib.crc32(b'10055099530')}"
    (minute,) = findings.minutes.values()
    assert (minute.passed, minute.failed, minute.unverifiable) == (4, 1, 1)


def test_updates_without_a_snapshot_are_unverifiable(rig: Rig) -> None:
    opened = control_event("open", "c0", url="wss://example.org", local="")
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([opened, update("1.0"), update("2.0", symbol="ETH/USD")]))
    findings = rule.finish(START_US, END_US)
    assert intervals(findings) == [
        ("BTC/USD", "book", "no_snapshot", 1, None),
        ("ETH/USD", "book", "no_snapshot", 2, None),
    ]
    assert set(findings.integrity["verdict"].to_pylist()) == {"unverifiable"}
    # A connection whose opening was not seen may have begun the book before the hour.
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([update("1.0")], 8))
    assert told(rule) == [("BTC/USD", "book", "no_snapshot", 0, None)]


def test_what_comes_after_an_unsubscribe_belongs_to_no_book(rig: Rig) -> None:
    asked = control_event("unsubscribe", "c0", channel="book", instruments=["BTC/USD"])
    other = control_event("unsubscribe", "c0", channel="ticker", instruments=["BTC/USD"])
    done = b'{"method":"unsubscribe","result":{"channel":"book","depth":10,"symbol":"BTC/USD"},"success":true}'
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(), other, update("2.0"), asked, update("3.0"), done, snapshot(), update("4.0")]))
    assert told(rule) == [("BTC/USD", "book", "no_snapshot", 2, 5)]


def test_books_end_with_their_connection(rig: Rig) -> None:
    closed = control_event("closed", "c0", reason="test")
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(), update("2.0", checksum=7), closed]))
    assert told(rule) == [("BTC/USD", "book", "checksum", 0, 2)]
    # A killed connector closes nothing: the connection's next opening tells.
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(), update("2.0", checksum=7)]))
    opened = control_event("open", "c0", url="", local="")
    rule.take(rig.chunk([opened, snapshot()], 2, epoch="c0-20260816T020100000-0002"))
    assert told(rule) == [("BTC/USD", "book", "checksum", 0, 2)]
    assert EPOCH.encode() not in rule.state()


def test_a_hole_in_the_archive_breaks_the_books_of_its_connection(rig: Rig) -> None:
    hole = Hole(EPOCH, after_ordinal=1, missing=3, nats_seq=3, before_us=recv_us(1), after_us=recv_us(2))
    elsewhere = hole._replace(epoch="c1-20260816T020000000-0001")
    frames = [snapshot(), snapshot("ETH/USD"), update("2.0"), snapshot(), update("3.0")]
    for holes, expected in (
        ([hole], [("BTC/USD", "book", "archive_hole", 1, 3), ("ETH/USD", "book", "archive_hole", 1, None)]),
        ([elsewhere], []),
    ):
        rule = hour_rule(FEED, None)
        rule.take(rig.chunk(frames, holes=holes))
        assert told(rule) == expected


def test_the_next_hour_goes_on_without_a_snapshot(rig: Rig) -> None:
    first = hour_rule(FEED, None)
    first.take(rig.chunk([snapshot(), snapshot("ETH/USD"), update("2.0"), update("3.0", 7, "ETH/USD")]))
    assert told(first) == [("ETH/USD", "book", "checksum", 1, None)]
    state = first.state()
    assert state == first.state()
    second = hour_rule(FEED, state)
    assert second.state() != b""
    second.take(rig.chunk([update("4.0"), update("2.0", symbol="ETH/USD"), snapshot("ETH/USD")], 4))
    findings = second.finish(recv_us(4), END_US)
    assert intervals(findings) == [("ETH/USD", "book", "checksum", 4, 6)]
    assert sum(findings.integrity["passed"].to_pylist()) == 2
    # An epoch of which an hour has nothing is over, and its intervals with it.
    third = hour_rule(FEED, state)
    third.take(rig.chunk([snapshot()], 8, epoch="c9-20260816T020100000-0002"))
    assert [row[3:] for row in intervals(third.finish(recv_us(4), END_US))] == [(4, 4)]


def test_the_replayed_book_is_the_true_one_at_every_moment(deep: tuple[Recording, Oracle]) -> None:
    recording, oracle = deep
    replay, rule = book_replay(FEED, "BTC/USD", None), hour_rule(FEED, None)
    assert replay.book() is None
    book = None
    for n, frame in enumerate(recording.frames):
        replay.take(recording.kinds[n], Line(frame, recv_us(n), n + 1, EPOCH, n))
        book = oracle.after(book, n)
        if book is None or n % 50:
            continue
        now = replay.book()
        assert now is not None
        for side, levels in (("bids", now.bids), ("asks", now.asks)):
            assert list(levels) == [book.sides[side][price] for price in book.best(side)]
    assert now is not None
    assert (now.epoch, now.sides, len(now.bids)) == (EPOCH, ("bids", "asks"), 25)
    # The same book out of the state that the hour left.
    rule.take(recording.whole)
    final, carried = replay.book(), book_replay(FEED, "BTC/USD", rule.state()).book()
    assert carried == final
    replay.take("control", Line(control_event("closed", "c0"), 0, 9999, EPOCH, 9999))
    assert replay.book() is None


# -- trades


def trades(kind: str, *ids: int, symbol: str = "BTC/USD") -> bytes:
    element = (
        b'{"symbol":"%s","side":"buy","price":1.5,"qty":1,"ord_type":"limit","trade_id":%d,'
        b'"timestamp":"2026-08-16T02:00:00.5Z"}'
    )
    return b'{"channel":"trade","type":"%s","data":[%s]}' % (
        kind.encode(),
        b",".join(element % (symbol.encode(), number) for number in ids),
    )


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([trades("update", 5), trades("update", 6, 7), trades("update", 8)], []),
        ([trades("update", 5), trades("update", 8)], [("sequence_gap", 0, 1)]),
        ([trades("update", 5), trades("update", 7), trades("update", 6)], [("disorder", 0, 2)]),
        ([trades("update", 5), trades("update", 9), trades("update", 6)], [("sequence_gap", 0, 1)]),
        ([trades("update", 5), trades("update", 5), trades("update", 6)], []),
        ([trades("update", 5), trades("snapshot", 4, 3, 6, 5), trades("update", 7)], []),
        ([trades("update", 5), trades("snapshot", 9, 8, 7), trades("update", 10)], [("sequence_gap", 0, 1)]),
        ([trades("update", 5), trades("update", 2), trades("update", 6)], [("disorder", 0, 2)]),
        ([trades("update", 5), trades("snapshot", 3, 4), trades("update", 6)], []),
        ([trades("update", 5), trades("snapshot", 1, 2), trades("update", 3)], [("disorder", 0, 1)]),
    ],
)
def test_trade_ids_show_what_is_missing(rig: Rig, frames: list[bytes], expected: list[tuple[str, int, int]]) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk(frames))
    assert [row[2:] for row in told(rule)] == expected
    # The same over two hours and two connections: ids are the venue's, not the connection's.
    first = hour_rule(FEED, None)
    first.take(rig.chunk(frames[:1]))
    first.finish(START_US, END_US)
    second = hour_rule(FEED, first.state())
    second.take(rig.chunk(frames[1:], 1, epoch="c1-20260816T020100000-0002"))
    assert [row[2:] for row in told(second)] == expected


def test_a_gap_of_trades_is_counted_where_it_was_found(rig: Rig) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([trades("update", 5), trades("update", 5), trades("update", 9), trades("update", 7)]))
    findings = rule.finish(START_US, END_US)
    (counter,) = findings.minutes[EPOCH, START_US].counters
    assert counter == ("trade BTC/USD", 5, 9, 1, 2, 1)
    (row,) = findings.untrusted.to_pylist()
    assert row["detail"] == "2 of trades 6 to 8 did not come: 9 after 5"


def test_live_a_hole_in_the_trades_is_told_once_until_a_snapshot() -> None:
    check = live_check(FEED)
    frames = [trades("update", 5), trades("update", 8), trades("update", 11), trades("snapshot", 11, 12)]
    told = [check.check("trade", frame) for frame in [*frames, trades("update", 15)]]
    assert [trouble and trouble.detail for trouble in told] == [
        None,
        "BTC/USD: trade 8 after 5",
        None,
        None,
        "BTC/USD: trade 15 after 12",
    ]
    assert (check.counts.gaps, check.counts.missing, check.counts.passed) == (3, 6, 1)


# -- what strangers may send

HOSTILE = [
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":1e999999,"qty":1}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":-1,"qty":1}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":"NaN","qty":1}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":1,"qty":-2}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":1}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":null,"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","checksum":99999999999999999999999}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],"asks":[]}]}',
    b'{"channel":"book","type":"update","data":[{"bids":[],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":[{"symbol":["BTC/USD"],"bids":[],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"update","data":{"symbol":"BTC/USD"}}',
    b'{"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[{"price":%s,"qty":1}],"asks":[],"checksum":1}]}'
    % (b"9" * 5000),
    b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[{"price":0x1,"qty":1}],"asks":[],"checksum":1}]}',
    b'{"channel":"book","type":"snapshot","data":[{"symbol":"BTC/USD","bids":[%s],"asks":[],"checksum":1}]}'
    % b",".join(b'{"price":%d,"qty":1}' % n for n in range(10_000)),
    b'{"channel":"book","type":"update","_epoch":"mine","data":[{"symbol":"BTC/USD","bids":[],"asks":[],"checksum":1}]}',
    b'{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","trade_id":"x"}]}',
    trades("update", 10**30),
    trades("update", -5),
    b'{"method":"subscribe","success":true,"result":{"channel":"book","symbol":"BTC/USD","depth":-4}}',
    b'{"method":"unsubscribe","success":true,"result":"book"}',
    b'{"ssmd":{"event":"closed","instruments":"book"}}',
    b"[" * 2000,
    b"PONG",
]


@pytest.mark.parametrize("frame", HOSTILE, ids=range(len(HOSTILE)))
def test_no_hostile_message_stops_the_hour_or_the_connection(rig: Rig, frame: bytes) -> None:
    rule = hour_rule(FEED, None)
    rule.take(rig.chunk([snapshot(), frame, update("2.0")]))
    findings = rule.finish(START_US, END_US)
    rule.state()
    assert findings.integrity.num_rows
    replay, check = book_replay(FEED, "BTC/USD", None), live_check(FEED)
    for n, (kind, message) in enumerate(
        (kind, one) for one in (snapshot(), frame) for kind in ("book", "trade", "subscribe", "unsubscribe")
    ):
        check.check(kind, message)
        replay.take(kind, Line(message, recv_us(n), n, EPOCH, n))


def test_what_cannot_be_read_breaks_the_book_until_the_next_snapshot(rig: Rig) -> None:
    for frame in HOSTILE[1], HOSTILE[3]:
        rule = hour_rule(FEED, None)
        rule.take(rig.chunk([snapshot(), frame, update("2.0"), snapshot()]))
        assert told(rule) == [("BTC/USD", "book", "checksum", 0, 3)]


# -- numbers

NUMBERS = st.one_of(
    st.decimals(0, 10**12, allow_nan=False, places=None).map(lambda d: format(d, "f")),
    st.from_regex(r"(0|[1-9][0-9]{0,12})(\.[0-9]{1,12})?([eE][+-]?[0-9]{1,2})?", fullmatch=True),
)


def in_range(text: str) -> bool:
    """Whether the number has at most 64 digits on either side of its point."""
    number = Decimal(text)
    whole, _, fraction = format(number, "f").partition(".")
    return len(fraction) <= 64 and len(whole.lstrip("0")) <= 64


@given(NUMBERS)
def test_checksum_text_is_that_of_the_written_out_decimal(text: str) -> None:
    if len(text) > 60 or not in_range(text):
        return
    price = read_number(text.encode())
    assert price.digits == format(Decimal(text), "f").replace(".", "").lstrip("0").encode()
    assert Fraction(price.key, 10**64) == Fraction(Decimal(text))


@given(NUMBERS, NUMBERS)
def test_order_is_that_of_decimals(a: str, b: str) -> None:
    if in_range(a) and in_range(b) and len(a) < 60 and len(b) < 60:
        first, second = read_number(a.encode()).key, read_number(b.encode()).key
        assert (first < second) == (Decimal(a) < Decimal(b))
        assert (first == second) == (Decimal(a) == Decimal(b))


@pytest.mark.parametrize("text", ["-1", "NaN", "Infinity", "", ".5", "1_0", '"1"', "1e1000", "1e-999", "9" * 65, "٣"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(NumberError):
        read_number(text.encode())


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["", ".0", ".50"]), st.integers(0, 3)), max_size=60))
def test_a_book_of_any_changes_is_the_decimal_book(changes: list[tuple[int, str, int]]) -> None:
    book, true = KrakenBook(10), TrueBook(10)
    for side in ("bids", "asks"):
        for price, tail, qty in changes:
            level = Level(msgspec.Raw(f"{price}{tail}".encode()), msgspec.Raw(f"0.{qty}".encode()))
            book.apply(Item("X", [level], []) if side == "bids" else Item("X", [], [level]))
            true.apply({"bids": [], "asks": []} | {side: [{"price": f"{price}{tail}", "qty": f"0.{qty}"}]})
    text = "".join(part.replace(".", "").lstrip("0") for level in true.top() for part in level)
    assert book.checksum == zlib.crc32(text.encode())


# -- the real builder


class _Watch:
    """Hands the builder's chunks to a rule."""

    def __init__(self, rule: HourRule) -> None:
        self.rule = rule

    def take(self, converted: Converted) -> None:
        chunk = converted.split.chunk
        self.rule.take(HourChunk(converted.tables, converted.line_numbers, chunk.data, chunk.offsets, (), ()))


def test_the_builder_s_own_chunks(samples: Path, tmp_path: Path, deep: tuple[Recording, Oracle]) -> None:
    recording, _ = deep
    hour = at("2026-11-20 11:00")
    archive = LittleArchive(tmp_path / "archive")
    archive.seal_hour(hour, ())
    archive.seal(hour, recording.frames)
    rule = hour_rule(FEED, None)
    build_hour(archive.root, tmp_path / "datasets", FEED, "spot", hour, observe=lambda: _Watch(rule))
    start_us = int(hour.timestamp()) * 1_000_000
    findings = rule.finish(start_us, start_us + 3_600_000_000)
    (row,) = findings.integrity.to_pylist()
    assert (row["verdict"], row["passed"], row["instrument"]) == ("verified", 2052, "BTC/USD")
