"""Polymarket's books, watched cheaply while a connection is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from ssmd_core.feeds.polymarket.book import TokenBook
from ssmd_core.feeds.polymarket.wire import ONE, Change, Level, Message, number, read_payload
from ssmd_core.proof.rules import LiveCounts, Trouble

CHANNEL: Final = "market"

#: A token's hash is computed at every so many of its changes: 60 µs for a book of 100 levels, 0.25 µs a change.
HASH_EVERY: Final = 256

Levels = dict[int, Level | Change]


class _Token(msgspec.Struct, gc=False):
    asset_id: str


_TOKEN: Final = msgspec.json.Decoder(_Token)


class _Live:
    """A token's levels by price; the best of each side is kept so that a change costs no search."""

    __slots__ = ("asks", "best_ask", "best_bid", "bids", "book", "doubts", "told", "unread", "until_hash")

    def __init__(self) -> None:
        self.bids: Levels = {}
        self.asks: Levels = {}
        self.best_bid = 0
        self.best_ask = ONE
        # Only its settings and hash are used; its levels are filled when a hash is due.
        self.book = TokenBook("", "")
        self.unread: bytes | None = None
        self.until_hash = HASH_EVERY
        self.doubts = 0
        self.told = False

    def open(self, payload: bytes) -> None:
        """Take a whole book; it is read when the first change needs it, and most tokens are quiet."""
        self.unread = payload
        self.told, self.doubts, self.until_hash = False, 0, HASH_EVERY

    def read(self) -> None:
        """Read the book that was taken."""
        message = read_payload(self.unread or b"")
        self.unread = None
        if message is None:
            return
        book = TokenBook(message.market, message.asset_id, settings=self.book.settings)
        book.tick_sizes, book.last_trade_prices = self.book.tick_sizes, self.book.last_trade_prices
        book.opened(message.tick_size, message.last_trade_price)
        self.book = book
        bids, asks = message.levels()
        self.bids, self.asks = _by_price(bids), _by_price(asks)
        self.best_bid, self.best_ask = max(self.bids, default=0), min(self.asks, default=ONE)

    def put(self, entry: Change) -> None:
        """Apply a change; what cannot be read is left to the hash."""
        price = number(entry.price)
        if price is None:
            return
        size = entry.size.strip("0.")
        if entry.side == "BUY":
            if size:
                self.bids[price] = entry
                self.best_bid = max(self.best_bid, price)
            elif self.bids.pop(price, None) is not None and price == self.best_bid:
                self.best_bid = max(self.bids, default=0)
        elif entry.side == "SELL":
            if size:
                self.asks[price] = entry
                self.best_ask = min(self.best_ask, price)
            elif self.asks.pop(price, None) is not None and price == self.best_ask:
                self.best_ask = min(self.asks, default=ONE)

    def hash_fits(self, expected: str, timestamp: str) -> bool:
        """Whether the venue's hash is that of the levels."""
        book = self.book
        book.replace_levels(tuple(self.bids.values()), tuple(self.asks.values()))
        return book.fits(book.hashed(timestamp), expected)


class LivePolymarket:
    """Implements `rules.LiveCheck`: best bid and ask at every change, the hash at every 256th of a token.

    A hash that does not fit is looked at again with the token's next change, because it may be ahead of the message
    about a trade; the second in a row asks for the token anew. Where no settings ever fitted the hash proves nothing.
    """

    def __init__(self) -> None:
        self.counts = LiveCounts()
        self._tokens: dict[str, _Live] = {}

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """See `LiveCheck`."""
        if kind not in ("price_change", "book", "last_trade_price", "tick_size_change"):
            return None
        if kind == "book":
            self._book(payload)
            return None
        message = read_payload(payload)
        if message is None:
            self.counts.unverifiable += 1
            return None
        if kind == "price_change":
            return self._change(message)
        token = self._tokens.get(message.asset_id)
        if token is None:
            return None
        if token.unread is not None:
            token.read()
        if kind == "last_trade_price":
            token.book.traded(message.price)
        elif message.new_tick_size:
            token.book.tick_changed(message.new_tick_size)
        return None

    def _book(self, payload: bytes) -> None:
        try:
            asset_id = _TOKEN.decode(payload).asset_id
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            self.counts.unverifiable += 1
            return
        token = self._tokens.get(asset_id)
        if token is None:
            token = self._tokens[asset_id] = _Live()
        token.open(payload)

    def _change(self, message: Message) -> Trouble | None:
        tokens, trouble = self._tokens, None
        entries = message.entries()
        # Between two changes of one token in one message its state is not known: the last one counts.
        single = len(entries) == 1 or (len(entries) == 2 and entries[0].asset_id != entries[1].asset_id)
        newest = {} if single else {entry.asset_id: n for n, entry in enumerate(entries)}
        for n, entry in enumerate(entries):
            token = tokens.get(entry.asset_id or message.asset_id)
            if token is None:
                self.counts.unverifiable += 1
                continue
            if token.unread is not None:
                token.read()
            token.put(entry)
            if not single and newest[entry.asset_id] != n:
                continue
            found = self._compare(token, entry, message)
            # One trouble a message: another token's is told with its next change.
            if found is not None and not token.told and trouble is None:
                token.told = True
                trouble = Trouble(CHANNEL, (entry.asset_id or message.asset_id,), *found)
        return trouble

    def _compare(self, token: _Live, entry: Change, message: Message) -> tuple[str, str] | None:
        """Reason and detail of what is wrong with the token after its change, if anything is."""
        counts = self.counts
        if entry.best_bid:
            if number(entry.best_bid) == token.best_bid and number(entry.best_ask or "1") == token.best_ask:
                counts.passed += 1
            else:
                counts.failed += 1
                stated = f"{entry.best_bid:.40} and {entry.best_ask or '1':.40}"
                return "touch", f"best bid and ask are {stated}, not those of the book"
        else:
            counts.unverifiable += 1
        token.until_hash -= 1
        if token.until_hash > 0:
            return None
        token.until_hash = HASH_EVERY
        if token.told:
            return None
        expected = entry.hash or message.hash or ""
        if token.hash_fits(expected, message.timestamp):
            counts.passed += 1
            token.doubts = 0
        elif token.book.settings is None:
            counts.unverifiable += 1
        else:
            token.doubts += 1
            token.until_hash = 1
            if token.doubts > 1:
                counts.failed += 1
                return "checksum", f"the venue's hash of the book is {expected!r:.60}, not ours, twice in a row"
            counts.unverifiable += 1
        return None


def _by_price(levels: Sequence[Level]) -> Levels:
    found: Levels = {}
    for level in levels:
        price = number(level.price)
        if price is not None and level.size.strip("0."):
            found[price] = level
    return found
