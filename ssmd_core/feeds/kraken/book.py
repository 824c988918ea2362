"""A Kraken spot order book and its checksum, from the text of the numbers on the wire.

Source: wire-format measurements of 2026: after every update the book is cut to the subscribed depth, and the checksum
is the CRC32 of the ten best levels of each side, asks from low to high, then bids from high to low, each level the text
of its price and of its quantity without point and leading zeros. On 4,629 of 4,629 recorded messages this gives the
venue's number; through binary float on none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final
from zlib import crc32

import msgspec

from ssmd_core.proof.wire_numbers import UNREADABLE, Price, read_number

#: Levels of each side that the checksum covers, whatever the depth.
TOP: Final = 10
#: What the venue lets subscribe to.
DEPTHS: Final = (10, 25, 100, 500, 1000)

# A book's prices come back: of 3,000 updates at depth 25 nine in ten name a price that was named before.
_CACHED_PRICES: Final = 4096


class Level(msgspec.Struct, gc=False):
    """One level as it came, its numbers still text."""

    price: msgspec.Raw
    qty: msgspec.Raw


class Item(msgspec.Struct, gc=False):
    """One book in a message; without a checksum -1, which no book has."""

    symbol: str
    bids: list[Level] = []
    asks: list[Level] = []
    checksum: int = -1


class BookMessage(msgspec.Struct, gc=False):
    """A message of the book channel."""

    type: str
    data: list[Item]


decode_book = msgspec.json.Decoder(BookMessage).decode


class Side:
    """One side of a book, best first.

    Attributes:
        keys: ascending; of bids with a minus, so that the best is first on both sides.
        texts: each level's part of the checksum's text.
        levels: as they came.
    """

    __slots__ = ("_prices", "_sign", "keys", "levels", "texts")

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._prices: dict[bytes, Price] = {}
        self.keys: list[int] = []
        self.texts: list[bytes] = []
        self.levels: list[Level] = []

    def apply(self, changes: Sequence[Level], depth: int) -> bool:
        """Take changes over in their order and cut the side to its depth; whether one is among the best ten.

        Raises:
            NumberError: a number cannot be read; the changes before it are made.
        """
        keys, texts, levels, prices = self.keys, self.texts, self.levels, self._prices
        first = TOP
        for level in changes:
            price_text = bytes(level.price)
            price = prices.get(price_text)
            if price is None:
                price = self._read(price_text)
            key, digits = price
            qty = bytes(level.qty).replace(b".", b"").lstrip(b"0")
            if qty and not qty.isdigit():
                qty = read_number(bytes(level.qty)).digits
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                if qty:
                    texts[at] = digits + qty
                    levels[at] = level
                else:
                    del keys[at], texts[at], levels[at]
            elif qty:
                keys.insert(at, key)
                texts.insert(at, digits + qty)
                levels.insert(at, level)
            else:
                continue
            if at < first:  # noqa: PLR1730 - min() would be a call per level
                first = at
        if len(keys) > depth:
            del keys[depth:], texts[depth:], levels[depth:]
        return first < TOP

    def _read(self, text: bytes) -> Price:
        prices = self._prices
        if len(prices) >= _CACHED_PRICES:
            prices.clear()
        key, digits = read_number(text)
        price = prices[text] = Price(self._sign * key, digits)
        return price

    def text(self) -> list[tuple[str, str]]:
        """Price and quantity of the levels, as the venue wrote them."""
        return [(bytes(level.price).decode(), bytes(level.qty).decode()) for level in self.levels]


class KrakenBook:
    """One symbol's book on one connection, from a snapshot on.

    Args:
        depth: subscribed depth, levels per side.
    """

    __slots__ = ("_asks_crc", "asks", "bids", "checksum", "depth")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.asks = Side(1)
        self.bids = Side(-1)
        self._asks_crc = 0
        self.checksum = 0

    def apply(self, item: Item) -> int:
        """Take a message's changes over (a snapshot's, into an empty book); the checksum of the book then.

        Raises:
            NumberError: a number cannot be read.
        """
        if item.asks and self.asks.apply(item.asks, self.depth):
            self._asks_crc = crc32(b"".join(self.asks.texts[:TOP]))
            changed = True
        else:
            changed = False
        if (item.bids and self.bids.apply(item.bids, self.depth)) or changed:
            self.checksum = crc32(b"".join(self.bids.texts[:TOP]), self._asks_crc)
        return self.checksum


def depth_for(known: int | None, item: Item) -> int:
    """The depth of a new book: the acknowledged one, else the smallest that holds the snapshot."""
    if known is not None:
        return known
    levels = max(len(item.bids), len(item.asks))
    return next((depth for depth in DEPTHS if levels <= depth), DEPTHS[-1])


class _Result(msgspec.Struct, gc=False):
    channel: str = ""
    symbol: str = ""
    depth: int | None = None


class Reply(msgspec.Struct, gc=False):
    """Answer to a subscribe or unsubscribe."""

    method: str = ""
    success: bool | None = None
    result: _Result | None = None


_decode_reply = msgspec.json.Decoder(Reply).decode


def read_reply(payload: bytes) -> _Result | None:
    """What an acknowledgement was about; None for a refusal, or what is none. Depths that no book has are left out."""
    try:
        reply = _decode_reply(payload)
    except UNREADABLE:
        return None
    if not reply.success or reply.result is None:
        return None
    if reply.result.depth not in DEPTHS:
        reply.result.depth = None
    return reply.result
