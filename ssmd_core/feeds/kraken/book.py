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

# A book's prices come back: of 3,000 updates at depth 25 nine in ten name a price that was named before. So many take
# 12 MB a side.
_CACHED_PRICES: Final = 65_536


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


class _Prices(dict[bytes, Price]):
    """Prices by their text, read when they are first asked for; of all books together, so that many take no room.

    Args:
        sign: -1 for bids: their keys are below zero, so that the best is first on both sides.
    """

    def __init__(self, sign: int) -> None:
        super().__init__()
        self._sign = sign

    def __missing__(self, text: bytes) -> Price:
        key, digits = read_number(text)
        if len(self) >= _CACHED_PRICES:
            self.clear()
        price = self[text] = Price(self._sign * key, digits)
        return price


_ASKS: Final = _Prices(1)
_BIDS: Final = _Prices(-1)


class Side:
    """One side of a book, best first.

    Attributes:
        keys: ascending; see `_Prices`.
        texts: each level's part of the checksum's text.
        levels: price and quantity as they came.
    """

    __slots__ = ("_prices", "keys", "levels", "texts")

    def __init__(self, prices: _Prices) -> None:
        self._prices = prices
        self.keys: list[int] = []
        self.texts: list[bytes] = []
        self.levels: list[tuple[bytes, bytes]] = []

    def apply(self, changes: Sequence[Level], depth: int) -> bool:
        """Take changes over in their order and cut the side to its depth; whether one is among the best ten.

        Raises:
            NumberError: a number cannot be read; the changes before it are made.
        """
        keys, texts, levels, prices = self.keys, self.texts, self.levels, self._prices
        first = TOP
        for level in changes:
            price, qty = bytes(level.price), bytes(level.qty)
            key, digits = prices[price]
            amount = qty.replace(b".", b"").lstrip(b"0")
            if amount and not amount.isdigit():
                amount = read_number(qty).digits
            at = bisect_left(keys, key)
            if at < len(keys) and keys[at] == key:
                if amount:
                    texts[at] = digits + amount
                    levels[at] = price, qty
                else:
                    del keys[at], texts[at], levels[at]
            elif amount:
                keys.insert(at, key)
                texts.insert(at, digits + amount)
                levels.insert(at, (price, qty))
            else:
                continue
            if at < first:  # noqa: PLR1730 - min() would be a call per level
                first = at
        if len(keys) > depth:
            del keys[depth:], texts[depth:], levels[depth:]
        return first < TOP

    def text(self) -> list[tuple[str, str]]:
        """Price and quantity of the levels, as the venue wrote them."""
        return [(price.decode(), qty.decode()) for price, qty in self.levels]


class KrakenBook:
    """One symbol's book on one connection, from a snapshot on.

    Args:
        depth: subscribed depth, levels per side.
    """

    __slots__ = ("_asks_crc", "asks", "bids", "checksum", "depth")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.asks = Side(_ASKS)
        self.bids = Side(_BIDS)
        self._asks_crc = 0
        self.checksum = 0

    def apply(self, item: Item) -> int:
        """Take a message's changes over (a snapshot's, into an empty book); the checksum of the book then.

        Raises:
            NumberError: a number cannot be read.
        """
        asks, bids, depth = item.asks, item.bids, self.depth
        changed = False
        if asks and self.asks.apply(asks, depth):
            self._asks_crc = crc32(b"".join(self.asks.texts[:TOP]))
            changed = True
        if (bids and self.bids.apply(bids, depth)) or changed:
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
