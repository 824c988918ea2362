"""Kraken spot's live check: the checksum of every book message, and the numbers of the trades."""

from __future__ import annotations

import msgspec

from ssmd_core.feeds.kraken.book import KrakenBook, decode_book, depth_for, read_reply
from ssmd_core.feeds.kraken.followed import NO_CHECKSUM
from ssmd_core.proof.book_events import BOOK
from ssmd_core.proof.rules import LiveCounts, Trouble
from ssmd_core.proof.wire_numbers import UNREADABLE, NumberError


class _Trade(msgspec.Struct, gc=False):
    symbol: str
    trade_id: int


class _TradeMessage(msgspec.Struct, gc=False):
    type: str
    data: list[_Trade]


_decode_trades = msgspec.json.Decoder(_TradeMessage).decode


def _by_id(trade: _Trade) -> int:
    return trade.trade_id


class KrakenLive:
    """Checks a live connection; see `rules.LiveCheck`."""

    def __init__(self) -> None:
        self.counts = LiveCounts()
        self._books: dict[str, KrakenBook] = {}
        self._broken: set[str] = set()
        self._depths: dict[str, int | None] = {}
        self._newest: dict[str, int] = {}
        self._torn: set[str] = set()

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """Look at the next message."""
        if kind == BOOK:
            return self._check_book(payload)
        if kind == "trade":
            return self._check_trades(payload)
        if kind in ("subscribe", "unsubscribe"):
            reply = read_reply(payload)
            if reply is not None and reply.channel == BOOK:
                self._depths[reply.symbol] = reply.depth
                if kind == "unsubscribe":
                    self._books.pop(reply.symbol, None)
                    self._broken.discard(reply.symbol)
        return None

    def _check_book(self, payload: bytes) -> Trouble | None:
        counts = self.counts
        try:
            message = decode_book(payload)
        except UNREADABLE:
            counts.unverifiable += 1
            return None
        trouble = None
        for item in message.data:
            symbol = item.symbol
            if message.type == "snapshot":
                self._books[symbol] = KrakenBook(depth_for(self._depths.get(symbol), item))
                self._broken.discard(symbol)
            book = self._books.get(symbol)
            if book is None or symbol in self._broken:
                counts.unverifiable += 1
                continue
            try:
                checksum = book.apply(item)
            except NumberError as error:
                counts.unverifiable += 1
                trouble = self._break(symbol, str(error), trouble)
                continue
            if checksum == item.checksum:
                counts.passed += 1
            elif item.checksum == NO_CHECKSUM:
                counts.unverifiable += 1
            else:
                counts.failed += 1
                detail = f"{symbol}: the venue's checksum is {item.checksum}, the book's is {checksum}"
                trouble = self._break(symbol, detail, trouble)
        return trouble

    def _break(self, symbol: str, detail: str, trouble: Trouble | None) -> Trouble:
        """The book is of no use until its next snapshot; what the message has shown so far."""
        self._broken.add(symbol)
        del self._books[symbol]
        symbols = (symbol,) if trouble is None else (*trouble.instruments, symbol)
        return Trouble(BOOK, symbols, "checksum", detail if trouble is None else trouble.detail)

    def _check_trades(self, payload: bytes) -> Trouble | None:
        counts = self.counts
        try:
            message = _decode_trades(payload)
        except UNREADABLE:
            counts.unverifiable += 1
            return None
        torn: dict[str, str] = {}
        # A snapshot may be sorted either way, and mix symbols.
        for trade in sorted(message.data, key=_by_id) if len(message.data) > 1 else message.data:
            symbol, number = trade.symbol, trade.trade_id
            newest = self._newest.get(symbol)
            if newest is None or number == newest + 1:
                counts.passed += newest is not None
                self._newest[symbol] = number
            elif number > newest:
                counts.failed += 1
                counts.gaps += 1
                counts.missing += number - newest - 1
                if symbol not in self._torn:
                    torn[symbol] = f"{symbol}: trade {number} after {newest}"
                self._newest[symbol] = number
        if message.type == "snapshot":
            self._torn.difference_update(trade.symbol for trade in message.data)
            return None
        self._torn.update(torn)
        return Trouble("trade", tuple(torn), "sequence_gap", next(iter(torn.values()))) if torn else None
