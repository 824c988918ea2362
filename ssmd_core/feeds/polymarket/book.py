"""A token's book as the venue writes it, and the SHA-1 that the venue makes of it.

The hash is that of compact JSON in this order: market, asset_id, timestamp, hash (empty), bids ascending, asks
descending, min_order_size, tick_size, neg_risk, last_trade_price. The first six come with every message; of the four
settings tick_size and last_trade_price come with opening books and with messages of their own, the other two are not on
the wire at all and are found by trying (measured: "5" and false on every recording).
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import lt, neg
from typing import Any, Final

import orjson

from ssmd_core.feeds.polymarket.wire import NUMBERS, ONE, BookMessage, Change, Level, is_amount, number, read_side

# What Gamma shows of orderMinSize and orderPriceMinTickSize, the usual first.
_MIN_ORDER_SIZES: Final = ("5", "15", "1", "0", "10", "20", "50", "100", "14.96", "14.97")
_TICK_SIZES: Final = ("0.01", "0.001", "0.1", "0.0001")
# After a trade the venue may write its price as the trade did, or padded like opening books ("0.470").
_PADDINGS: Final = (2, 3, 4)
_MAX_CANDIDATES: Final = 24


@dataclass(frozen=True, slots=True)
class Settings:
    """The four members of the hash that are not the book; text as written."""

    min_order_size: str
    tick_size: str
    neg_risk: bool
    last_trade_price: str

    def tail(self) -> bytes:
        """The end of the text that is hashed."""
        return b"".join(
            (
                b',"min_order_size":',
                orjson.dumps(self.min_order_size),
                b',"tick_size":',
                orjson.dumps(self.tick_size),
                b',"neg_risk":',
                b"true" if self.neg_risk else b"false",
                b',"last_trade_price":',
                orjson.dumps(self.last_trade_price),
                b"}",
            )
        )


class Side:
    """One side's levels, the best last; `sign` is 1 for bids and -1 for asks."""

    __slots__ = ("_fragments", "_joined", "keys", "sign")

    def __init__(self, sign: int) -> None:
        self.sign = sign
        self.keys: list[int] = []
        self._fragments: list[str] = []
        self._joined: bytes | None = b""

    def put(self, price: str, size: str) -> bool:
        """Set a level, or remove it with size 0; False if these are no numbers.

        The text of the newest change counts, also where it spells the price in another way (no recording does).
        """
        value = NUMBERS[price]
        if value is None or (amount := is_amount(size)) is None:
            return False
        self.set(value, f'{{"price":"{price}","size":"{size}"}}' if amount else "")
        return True

    def set(self, value: int, fragment: str) -> None:
        """Set the level of a price in 10^-18 to its text; without one it is removed."""
        key = value * self.sign
        keys = self.keys
        at = bisect_left(keys, key)
        found = at < len(keys) and keys[at] == key
        if not fragment:
            if found:
                del keys[at]
                del self._fragments[at]
        elif found:
            self._fragments[at] = fragment
        else:
            keys.insert(at, key)
            self._fragments.insert(at, fragment)
        self._joined = None

    def fill_text(self, side: bytes) -> bool:
        """Take a whole side as it is on the wire; False, and nothing is taken, if it is not written as it is hashed."""
        joined = side[1:-1]
        # Most books come after a trade, with what the changes before them have made of it already.
        if joined == self.text() and side[:1] == b"[":
            return True
        if (prices := read_side(side)) is None:
            return False
        values = list(map(NUMBERS.__getitem__, prices))
        if None in values:
            return False
        keys: list[int] = values if self.sign > 0 else list(map(neg, values))  # type: ignore[arg-type, assignment]
        if not all(map(lt, keys, keys[1:])):
            return False
        self.keys = keys
        self._fragments = joined.decode().replace("},{", "}|{").split("|") if joined else []
        self._joined = joined
        return True

    def fill(self, levels: Sequence[Level | Change]) -> bool:
        """Take a whole side; False if a level is not readable."""
        keys = []
        for level in levels:
            value = number(level.price)
            if value is None or not is_amount(level.size):
                break
            keys.append(value * self.sign)
        if len(keys) == len(levels) and all(map(lt, keys, keys[1:])):
            self.keys = keys
            self._fragments = [f'{{"price":"{level.price}","size":"{level.size}"}}' for level in levels]
            self._joined = None
            return True
        self.keys, self._fragments, self._joined = [], [], b""
        return all([self.put(level.price, level.size) for level in levels])

    def best(self) -> int | None:
        """Best price in 10^-18; None if there is none."""
        return self.keys[-1] * self.sign if self.keys else None

    def text(self) -> bytes:
        """The levels as they are hashed."""
        joined = self._joined
        if joined is None:
            joined = self._joined = ",".join(self._fragments).encode()
        return joined

    def levels(self) -> list[tuple[str, str]]:
        """Price and size as written, the best last."""
        return [(level["price"], level["size"]) for level in map(orjson.loads, self._fragments)]


@dataclass(slots=True)
class TokenBook:
    """One token's book on one connection.

    Attributes:
        market, asset_id: as written.
        settings: those of the hash; None until some have fitted.
        tick_sizes, last_trade_prices: what the two may be now, newest first, beside what is in `settings`.
        changed_us, changed_nats: last message that changed the book.
    """

    market: str
    asset_id: str
    bids: Side = field(default_factory=lambda: Side(1))
    asks: Side = field(default_factory=lambda: Side(-1))
    settings: Settings | None = None
    tick_sizes: list[str] = field(default_factory=list)
    last_trade_prices: list[str] = field(default_factory=list)
    changed_us: int = 0
    changed_nats: int = 0
    _tail: bytes = b""
    _head: bytes = b""

    def __post_init__(self) -> None:
        self._head = b"".join(
            (b'{"market":', orjson.dumps(self.market), b',"asset_id":', orjson.dumps(self.asset_id), b',"timestamp":')
        )
        self._tail = self.settings.tail() if self.settings else b""

    def replace_levels(self, bids: Sequence[Level | Change], asks: Sequence[Level | Change]) -> bool:
        """Take a whole book; False if a level is not readable."""
        bids_readable, asks_readable = self.bids.fill(bids), self.asks.fill(asks)
        return bids_readable and asks_readable

    def replace_text(self, message: BookMessage) -> bool:
        """Take a whole book that is written as it is hashed; False, and its sides are not to be used, if it is not."""
        return self.bids.fill_text(bytes(message.bids)) and self.asks.fill_text(bytes(message.asks))

    def put(self, side: str, price: str, size: str) -> bool:
        """Apply a change; False if it is not readable."""
        if side == "BUY":
            return self.bids.put(price, size)
        return side == "SELL" and self.asks.put(price, size)

    def touch_is(self, best_bid: str, best_ask: str) -> bool:
        """Whether these are the book's best prices; the venue writes 0 and 1 (or nothing) for an empty side."""
        bids, asks = self.bids.keys, self.asks.keys
        bid, ask = bids[-1] if bids else 0, -asks[-1] if asks else ONE
        return NUMBERS[best_bid or "0"] == bid and NUMBERS[best_ask or "1"] == ask

    def mirrors(self, other: TokenBook) -> bool:
        """Whether the other book has the same prices seen from the other token: a bid at p there is an ask at 1 - p."""
        return all(
            len(bids) == len(asks) and all(bid - ask == ONE for bid, ask in zip(bids, asks, strict=True))
            for bids, asks in ((self.bids.keys, other.asks.keys), (other.bids.keys, self.asks.keys))
        )

    # -- the hash

    def hashed(self, timestamp: str) -> Any:
        """SHA-1 of all but the settings."""
        return hashlib.sha1(self._text(timestamp), usedforsecurity=False)

    def fits_now(self, timestamp: str, expected: str) -> bool:
        """Whether the settings that fitted last give this hash."""
        if not self._tail:
            return False
        return hashlib.sha1(self._text(timestamp) + self._tail, usedforsecurity=False).hexdigest() == expected

    def _text(self, timestamp: str) -> bytes:
        parts = (
            self._head,
            orjson.dumps(timestamp),
            b',"hash":"","bids":[',
            self.bids.text(),
            b'],"asks":[',
            self.asks.text(),
            b"]",
        )
        return b"".join(parts)

    def fits(self, hashed: Any, expected: str) -> bool:
        """Whether the settings, or what they may be now, give this hash; what fits is remembered."""
        if self._tail:
            digest = hashed.copy()
            digest.update(self._tail)
            if digest.hexdigest() == expected:
                return True
        for settings in self._candidates():
            digest = hashed.copy()
            digest.update(settings.tail())
            if digest.hexdigest() == expected:
                self.settings, self._tail = settings, settings.tail()
                self.tick_sizes = self.tick_sizes[: _index(self.tick_sizes, settings.tick_size)]
                self.last_trade_prices = self.last_trade_prices[
                    : _index(self.last_trade_prices, settings.last_trade_price)
                ]
                return True
        return False

    def opened(self, tick_size: str | None, last_trade_price: str | None) -> None:
        """What an opening book says of the settings."""
        if tick_size is not None:
            self.tick_changed(tick_size)
        if last_trade_price is not None:
            self._offer(self.last_trade_prices, last_trade_price)

    def tick_changed(self, tick_size: str) -> None:
        """The tick size may be this one from now on."""
        self._offer(self.tick_sizes, tick_size)

    def traded(self, price: str) -> None:
        """The last trade price may be this one from now on, as written or padded."""
        value = number(price)
        if value is None:
            return
        for places in reversed(_PADDINGS):
            whole, rest = divmod(value, 10 ** (18 - places))
            if not rest:
                text = f"{whole // 10**places}.{whole % 10**places:0{places}d}"
                self._offer(self.last_trade_prices, text)
        self._offer(self.last_trade_prices, price)

    def _offer(self, candidates: list[str], text: str) -> None:
        if text in candidates:
            candidates.remove(text)
        candidates.insert(0, text)
        del candidates[_MAX_CANDIDATES:]

    def _candidates(self) -> Iterator[Settings]:
        known = self.settings
        if known is not None:
            for tick_size in (known.tick_size, *self.tick_sizes):
                for last in (known.last_trade_price, *self.last_trade_prices):
                    yield replace(known, tick_size=tick_size, last_trade_price=last)
            return
        for tick_size in self.tick_sizes or _TICK_SIZES:
            for last in self.last_trade_prices or ("",):
                for neg_risk in (False, True):
                    for min_order_size in _MIN_ORDER_SIZES:
                        yield Settings(min_order_size, tick_size, neg_risk, last)


def _index(candidates: list[str], text: str) -> int:
    """How many candidates are newer than the one that fitted."""
    return candidates.index(text) if text in candidates else len(candidates)
