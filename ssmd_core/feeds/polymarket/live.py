"""Polymarket's books, watched cheaply while a connection is open."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from operator import attrgetter
from typing import Final, cast

import msgspec

from ssmd_core.feeds.polymarket.book import TokenBook
from ssmd_core.feeds.polymarket.wire import ONE, Change, Level, number, read_payload
from ssmd_core.proof.rules import LiveCounts, Trouble
from ssmd_core.proof.wire_numbers import UNREADABLE

CHANNEL: Final = "market"

#: Of so many tokens one is hashed live, at every so many of its changes: 60 µs for a book of 100 levels are 0.12 µs a
#: change. All hashes are proved hour by hour, from the archive.
HASHED: Final = 16
HASH_EVERY: Final = 32
# A book is read when the first change needs it, for most tokens are quiet; its prices take less room than a long text.
_MAX_UNREAD_BYTES: Final = 8_192


class _Entry(msgspec.Struct, gc=False):
    price: str
    size: str
    side: str
    asset_id: str
    best_bid: str
    best_ask: str


class _Changes(msgspec.Struct, gc=False):
    price_changes: list[_Entry]


class _Token(msgspec.Struct, gc=False):
    asset_id: str


class _Price(msgspec.Struct, gc=False):
    price: str


class _Book(msgspec.Struct, gc=False):
    bids: list[_Price]
    asks: list[_Price]


_CHANGES: Final = msgspec.json.Decoder(_Changes)
_TOKEN: Final = msgspec.json.Decoder(_Token)
_BOOK: Final = msgspec.json.Decoder(_Book)
# A level without size is none; no recording has one, and to look whether there is one costs 0.2 µs.
_NO_SIZE: Final = (b'"size":"0"', b'"size":"0.0')
_price: Final = attrgetter("price")


class _Live:
    """A token's prices; the best of each side is kept so that a change costs no search.

    Attributes:
        book: whole, with its texts, where the token is hashed.
        unread: a book that was taken and not read yet.
    """

    __slots__ = ("asks", "best_ask", "best_bid", "bids", "book", "doubts", "told", "unread", "until_hash")

    def __init__(self, asset_id: str) -> None:
        self.bids: set[int] = set()
        self.asks: set[int] = set()
        self.best_bid = 0
        self.best_ask = ONE
        hashed = zlib.crc32(asset_id.encode()) % HASHED == 0
        self.book = TokenBook("", asset_id) if hashed else None
        self.unread: bytes | None = None
        self.until_hash = HASH_EVERY
        self.doubts = 0
        self.told = False

    def open(self, payload: bytes) -> None:
        """Take a whole book."""
        self.unread = payload
        self.told, self.doubts, self.until_hash = False, 0, HASH_EVERY
        if len(payload) > _MAX_UNREAD_BYTES:
            self.read()

    def read(self) -> None:
        """Read the book that was taken."""
        payload, self.unread = self.unread or b"", None
        if self.book is None and not any(size in payload for size in _NO_SIZE):
            try:
                short = _BOOK.decode(payload)
            except UNREADABLE:
                pass
            else:
                self._take(set(map(number, map(_price, short.bids))), set(map(number, map(_price, short.asks))))
                return
        message = read_payload(payload)
        if message is None:
            return
        bids, asks = message.levels()
        self._take(_prices(bids), _prices(asks))
        if (known := self.book) is not None:
            book = self.book = TokenBook(message.market, message.asset_id, settings=known.settings)
            book.tick_sizes, book.last_trade_prices = known.tick_sizes, known.last_trade_prices
            book.opened(message.tick_size, message.last_trade_price)
            book.replace_levels(bids, asks)

    def _take(self, bids: set[int | None], asks: set[int | None]) -> None:
        bids.discard(None)
        asks.discard(None)
        self.bids, self.asks = cast("set[int]", bids), cast("set[int]", asks)
        self.best_bid, self.best_ask = max(self.bids, default=0), min(self.asks, default=ONE)

    def put(self, entry: _Entry | Change) -> None:
        """Apply a change; what cannot be read is left to the hour's rule."""
        price, size = number(entry.price), entry.size
        if price is None:
            return
        some = size[:1] > "0" or size.strip("0.")
        if entry.side == "BUY":
            if some:
                self.bids.add(price)
                self.best_bid = max(self.best_bid, price)
            elif price in self.bids:
                self.bids.remove(price)
                if price == self.best_bid:
                    self.best_bid = max(self.bids, default=0)
        elif entry.side == "SELL":
            if some:
                self.asks.add(price)
                self.best_ask = min(self.best_ask, price)
            elif price in self.asks:
                self.asks.remove(price)
                if price == self.best_ask:
                    self.best_ask = min(self.asks, default=ONE)
        if self.book is not None:
            self.book.put(entry.side, entry.price, size)


class LivePolymarket:
    """Implements `rules.LiveCheck`: best bid and ask at every change, and the hash of one token in sixteen.

    A change names both tokens of its market, and their books mirror each other: a message that is lost is missing from
    both. So the one with the smaller id is watched and the other, where both were opened, is left to the hour's rule;
    that halves time and room.

    A hash that does not fit is looked at again with the token's next change, because it may be ahead of the message
    about a trade; the second in a row asks for the token anew. Where no settings ever fitted the hash proves nothing.
    """

    def __init__(self) -> None:
        self.counts = LiveCounts()
        self._tokens: dict[str, _Live] = {}
        # Tokens whose market is watched by the other one.
        self._mirrored: set[str] = set()

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """See `LiveCheck`."""
        if kind == "price_change":
            try:
                return self._change(_CHANGES.decode(payload).price_changes, payload)
            except msgspec.ValidationError:
                return self._other_change(payload)
            except UNREADABLE:
                self.counts.unverifiable += 1
        elif kind == "book":
            self._book(payload)
        elif kind in ("last_trade_price", "tick_size_change"):
            self._settings(kind, payload)
        return None

    def _book(self, payload: bytes) -> None:
        try:
            asset_id = _TOKEN.decode(payload).asset_id
        except UNREADABLE:
            self.counts.unverifiable += 1
            return
        if asset_id in self._mirrored:
            return
        token = self._tokens.get(asset_id)
        if token is None:
            token = self._tokens[asset_id] = _Live(asset_id)
        token.open(payload)

    def _mirror(self, one: str, other: str) -> None:
        """One message changes these two."""
        smaller, larger = (one, other) if one < other else (other, one)
        if smaller in self._tokens and self._tokens.pop(larger, None) is not None:
            self._mirrored.add(larger)

    def _settings(self, kind: str, payload: bytes) -> None:
        """What a hash will need."""
        try:
            token = self._tokens.get(_TOKEN.decode(payload).asset_id)
        except UNREADABLE:
            self.counts.unverifiable += 1
            return
        if token is None or token.book is None or (message := read_payload(payload)) is None:
            return
        if token.unread is not None:
            token.read()
        if kind == "last_trade_price":
            token.book.traded(message.price)
        elif message.new_tick_size:
            token.book.tick_changed(message.new_tick_size)

    def _other_change(self, payload: bytes) -> Trouble | None:
        """A change of an older generation, or with members that are missing, null or not quoted."""
        message = read_payload(payload)
        if message is None:
            self.counts.unverifiable += 1
            return None
        entries = message.entries()
        for entry in entries:
            entry.asset_id = entry.asset_id or message.asset_id
        return self._change(entries, payload)

    def _change(self, entries: Sequence[_Entry | Change], payload: bytes) -> Trouble | None:
        tokens, mirrored, counts, trouble = self._tokens, self._mirrored, self.counts, None
        # Between two changes of one token in one message its state is not known: the last one counts.
        pair = len(entries) == 2 and entries[0].asset_id != entries[1].asset_id
        single = pair or len(entries) == 1
        newest = {} if single else {entry.asset_id: n for n, entry in enumerate(entries)}
        if pair and entries[0].asset_id not in mirrored and entries[1].asset_id not in mirrored:
            self._mirror(entries[0].asset_id, entries[1].asset_id)
        for n, entry in enumerate(entries):
            token = tokens.get(entry.asset_id)
            if token is None:
                counts.unverifiable += entry.asset_id not in mirrored
                continue
            if token.unread is not None:
                token.read()
            token.put(entry)
            if not single and newest[entry.asset_id] != n:
                continue
            found = None
            bid, ask = entry.best_bid, entry.best_ask
            if not bid:
                counts.unverifiable += 1
            elif number(bid) == token.best_bid and number(ask or "1") == token.best_ask:
                counts.passed += 1
            else:
                counts.failed += 1
                found = "touch", f"best bid and ask are {bid:.40} and {ask or '1':.40}, not those of the book"
            if token.book is not None:
                found = self._hash(token, token.book, n, payload) or found
            # One trouble a message: another token's is told with its next change.
            if found is not None and not token.told and trouble is None:
                token.told = True
                mirror = [each.asset_id for each in entries if each.asset_id in mirrored] if pair else []
                trouble = Trouble(CHANNEL, (entry.asset_id, *mirror), *found)
        return trouble

    def _hash(self, token: _Live, book: TokenBook, n: int, payload: bytes) -> tuple[str, str] | None:
        """Compare the hash behind the message's n-th change with that of the book, if it is due."""
        counts = self.counts
        token.until_hash -= 1
        if token.until_hash > 0:
            return None
        token.until_hash = HASH_EVERY
        message = None if token.told else read_payload(payload)
        if message is None:
            return None
        expected = message.entries()[n].hash or message.hash or ""
        if book.fits(book.hashed(message.timestamp), expected):
            counts.passed += 1
            token.doubts = 0
        elif book.settings is None:
            counts.unverifiable += 1
        else:
            token.doubts += 1
            token.until_hash = 1
            if token.doubts > 1:
                counts.failed += 1
                return "checksum", f"the venue's hash of the book is {expected!r:.60}, not ours, twice in a row"
            counts.unverifiable += 1
        return None


def _prices(levels: Sequence[Level]) -> set[int | None]:
    return {number(level.price) for level in levels if level.size.strip("0.")}
