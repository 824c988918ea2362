"""A product's order book and the messages that make it, their numbers still text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from ssmd_core.proof.wire_numbers import UNREADABLE, NumberError, read_number

_CACHED_PRICES: Final = 4096


@lru_cache(maxsize=4096)
def _plain(product: str) -> re.Pattern[bytes]:
    """An archive line of a `book` message as the venue writes it, with the line break before it.

    The message is there whole, so that nothing else can be taken for it; and it begins with so much that is fixed that
    it is searched for in a third of the time which it takes to decode.
    """
    return re.compile(
        rb'\n\{"feed":"book","product_id":"' + re.escape(product.encode("ascii", "replace")) + rb'",'
        rb'"side":"(buy|sell)","seq":[0-9]+,"price":([0-9]+(?:\.[0-9]+)?),"qty":([0-9]+(?:\.[0-9]+)?),'
        rb'"timestamp":[0-9]+,"_received_at":'
    )


class Change(msgspec.Struct, gc=False):
    """A `book` message: one level, its numbers still text."""

    product_id: str
    side: str
    seq: int
    price: msgspec.Raw
    qty: msgspec.Raw


class Level(msgspec.Struct, gc=False):
    """A level of a snapshot."""

    price: msgspec.Raw
    qty: msgspec.Raw


class Snapshot(msgspec.Struct, gc=False):
    """A `book_snapshot` message."""

    product_id: str
    seq: int
    bids: list[Level] = []
    asks: list[Level] = []


decode_change = msgspec.json.Decoder(Change).decode
decode_snapshot = msgspec.json.Decoder(Snapshot).decode


class FuturesBook:
    """Full-depth levels of a product: `buy` and `sell`, price and quantity as the venue wrote them, by price."""

    __slots__ = ("_keys", "sides")

    def __init__(self) -> None:
        self._keys: dict[bytes, int] = {}
        self.sides: dict[str, dict[int, tuple[bytes, bytes]]] = {"buy": {}, "sell": {}}

    def set(self, side: str, price: bytes, qty: bytes) -> None:
        """Set a level to an absolute quantity; 0 removes it.

        Raises:
            NumberError: a number cannot be read, or there is no such side.
        """
        levels = self.sides.get(side)
        if levels is None:
            raise NumberError(f"{side[:80]!r} is not a side of a book")
        key = self._key(price)
        digits = qty.replace(b".", b"").lstrip(b"0")
        if digits and not digits.isdigit():
            digits = read_number(qty).digits
        if digits:
            levels[key] = (price, qty)
        else:
            levels.pop(key, None)

    def set_many(self, product: str, data: bytes, starts: Sequence[int], stops: Sequence[int]) -> int | None:
        """`set` for many lines of the product's `book` messages in `data`.

        Returns:
            None, or the number of the first that cannot be read.
        """
        lines = b"\n".join([b"", *[data[start:stop] for start, stop in zip(starts, stops, strict=True)]])
        found = _plain(product).findall(lines)
        if len(found) == len(starts) and self._set_last({(side, price): qty for side, price, qty in found}):
            return None
        return self._set_one_by_one(data, starts, stops)

    def _set_last(self, changes: Mapping[tuple[bytes, bytes], bytes]) -> bool:
        """Set levels to the last quantity that a run of changes gives them: they are absolute, so only that counts.

        Args:
            changes: quantity by side and price.

        Returns:
            False if nothing was done: a price cannot be read, or two texts are one price, so that their order counts.
        """
        try:
            keys = [self._key(price) for _, price in changes]
        except NumberError:
            return False
        if len(set(zip(keys, (side for side, _ in changes), strict=True))) < len(changes):
            return False
        buy, sell = self.sides["buy"], self.sides["sell"]
        for key, ((side, price), qty) in zip(keys, changes.items(), strict=True):
            levels = buy if side == b"buy" else sell
            if qty.strip(b"0."):
                levels[key] = (price, qty)
            else:
                levels.pop(key, None)
        return True

    def _key(self, price: bytes) -> int:
        key = self._keys.get(price)
        if key is None:
            if len(self._keys) >= _CACHED_PRICES:
                self._keys.clear()
            key = self._keys[price] = read_number(price).key
        return key

    def _set_one_by_one(self, data: bytes, starts: Sequence[int], stops: Sequence[int]) -> int | None:
        keys, buy, sell = self._keys, self.sides["buy"], self.sides["sell"]
        for n, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            try:
                change = decode_change(data[start:stop])
            except UNREADABLE:
                return n
            price, qty = bytes(change.price), bytes(change.qty)
            key = keys.get(price)
            side = change.side
            # What follows is `set` for what is common: without its call, a message costs a third less.
            if key is not None and (side == "buy" or side == "sell"):  # noqa: PLR1714 - no tuple per message
                digits = qty.replace(b".", b"").strip(b"0")
                if not digits:
                    (buy if side == "buy" else sell).pop(key, None)
                    continue
                if digits.isdigit():
                    (buy if side == "buy" else sell)[key] = (price, qty)
                    continue
            try:
                self.set(side, price, qty)
            except NumberError:
                return n
        return None

    def text(self, side: str) -> list[tuple[str, str]]:
        """The levels of a side, best first."""
        levels = self.sides[side]
        return [
            (price.decode(), qty.decode())
            for _, (price, qty) in sorted(levels.items(), key=_by_price, reverse=side == "buy")
        ]


def _by_price(level: tuple[int, tuple[bytes, bytes]]) -> int:
    return level[0]


def book_of(bids: Sequence[Level], asks: Sequence[Level]) -> FuturesBook:
    """A book from the two sides of a snapshot.

    Raises:
        NumberError: a number cannot be read.
    """
    book = FuturesBook()
    for side, levels in (("buy", bids), ("sell", asks)):
        for level in levels:
            book.set(side, bytes(level.price), bytes(level.qty))
    return book
