"""One token's book, message by message."""

from __future__ import annotations

from typing import Final

import msgspec

from ssmd_core.feeds.polymarket.book import TokenBook
from ssmd_core.feeds.polymarket.saved import load
from ssmd_core.feeds.polymarket.wire import read_payload
from ssmd_core.messages.control import is_control
from ssmd_core.messages.lines import Line
from ssmd_core.proof.rules import Book


class _Said(msgspec.Struct):
    event: str
    instruments: list[str] = []


class _Control(msgspec.Struct):
    ssmd: _Said


_CONTROL: Final = msgspec.json.Decoder(_Control)


class PolymarketReplay:
    """Implements `rules.BookReplay`. Where several connections carry the token, the one that spoke last counts."""

    def __init__(self, asset_id: str, state: bytes | None) -> None:
        self._asset_id = asset_id
        # A token id has digits only, so it stands in the message as it is.
        self._needle = asset_id.encode() if asset_id.isdigit() else b""
        self._books: dict[str, TokenBook] = {}
        if state is not None:
            self._books = {epoch: token.book for epoch, token in load(state)[0] if token.book.asset_id == asset_id}

    def take(self, kind: str, line: Line) -> None:
        """See `BookReplay`."""
        payload = line.payload
        if is_control(payload):
            self._control(line)
            return
        if kind not in ("book", "price_change") or self._needle not in payload:
            return
        message = read_payload(payload)
        if message is None:
            return
        book = self._books.get(line.epoch)
        changed = False
        if kind == "book":
            if message.asset_id == self._asset_id:
                book = self._books[line.epoch] = TokenBook(message.market, self._asset_id)
                changed = book.replace_levels(*message.levels()) or True
        elif book is not None:
            for entry in message.entries():
                if (entry.asset_id or message.asset_id) == self._asset_id:
                    changed |= book.put(entry.side, entry.price, entry.size)
        if changed and book is not None:
            book.changed_us, book.changed_nats = line.recv_us, line.nats_seq

    def book(self) -> Book | None:
        """See `BookReplay`."""
        if not self._books:
            return None
        epoch, book = max(self._books.items(), key=lambda item: (item[1].changed_nats, item[0]))
        bids, asks = (tuple(reversed(side.levels())) for side in (book.bids, book.asks))
        return Book(self._asset_id, bids, asks, ("bids", "asks"), epoch, book.changed_us, book.changed_nats)

    def _control(self, line: Line) -> None:
        try:
            said = _CONTROL.decode(line.payload).ssmd
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return
        ours = "*" in said.instruments or self._asset_id in said.instruments
        if said.event == "closed" or (said.event == "unsubscribe" and ours):
            self._books.pop(line.epoch, None)
