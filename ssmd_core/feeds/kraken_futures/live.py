"""Kraken Futures' live check: the numbers of books and trades."""

from __future__ import annotations

import msgspec

from ssmd_core.proof.book_events import BOOK
from ssmd_core.proof.rules import LiveCounts, Trouble
from ssmd_core.proof.wire_numbers import UNREADABLE

TRADE = "trade"


class _Numbered(msgspec.Struct, gc=False):
    product_id: str
    seq: int


class _Trades(msgspec.Struct, gc=False):
    product_id: str
    trades: list[_Numbered] = []


class _Unsubscribed(msgspec.Struct, gc=False):
    feed: str = ""
    product_ids: list[str] = []


_decode_numbered = msgspec.json.Decoder(_Numbered).decode
_decode_trades = msgspec.json.Decoder(_Trades).decode
_decode_unsubscribed = msgspec.json.Decoder(_Unsubscribed).decode


class FuturesLive:
    """Checks a live connection; see `rules.LiveCheck`."""

    def __init__(self) -> None:
        self.counts = LiveCounts()
        # The newest number of each product; none before a snapshot.
        self._newest: dict[str, dict[str, int]] = {BOOK: {}, TRADE: {}}
        self._broken: dict[str, set[str]] = {BOOK: set(), TRADE: set()}

    def check(self, kind: str, payload: bytes) -> Trouble | None:
        """Look at the next message."""
        try:
            if kind in (BOOK, TRADE):
                message = _decode_numbered(payload)
                return self._follow(kind, message.product_id, message.seq)
            if kind == "book_snapshot":
                message = _decode_numbered(payload)
                self._begin(BOOK, message.product_id, message.seq)
            elif kind == "trade_snapshot":
                trades = _decode_trades(payload)
                if trades.trades:
                    self._begin(TRADE, trades.product_id, max(trade.seq for trade in trades.trades))
            elif kind == "unsubscribed":
                reply = _decode_unsubscribed(payload)
                for product in reply.product_ids:
                    self._newest.get(reply.feed, {}).pop(product, None)
                    self._broken.get(reply.feed, set()).discard(product)
        except UNREADABLE:
            self.counts.unverifiable += 1
        return None

    def _begin(self, channel: str, product: str, seq: int) -> None:
        self.counts.passed += 1
        self._newest[channel][product] = seq
        self._broken[channel].discard(product)

    def _follow(self, channel: str, product: str, seq: int) -> Trouble | None:
        counts, numbers = self.counts, self._newest[channel]
        newest = numbers.get(product)
        if newest is not None and seq == newest + 1:
            numbers[product] = seq
            if product in self._broken[channel]:
                counts.unverifiable += 1
            else:
                counts.passed += 1
            return None
        if newest is None:
            # Trades need no snapshot to be followed.
            if channel == TRADE:
                numbers[product] = seq
            counts.unverifiable += 1
            return None
        if seq > newest:
            counts.gaps += 1
            counts.missing += seq - newest - 1
            numbers[product] = seq
        elif channel == TRADE or seq == newest:
            # A trade or level that comes again changes nothing.
            counts.unverifiable += 1
            return None
        counts.failed += 1
        if product in self._broken[channel]:
            return None
        self._broken[channel].add(product)
        reason = "sequence_gap" if seq > newest else "disorder"
        return Trouble(channel, (product,), reason, f"{product}: seq {seq} after {newest}")
