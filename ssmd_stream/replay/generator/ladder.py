"""A seeded order book in integer units that moves like a quiet market: never crossed, never negative."""

from __future__ import annotations

from bisect import bisect_left, insort
from random import Random
from typing import NamedTuple

MIN_LEVELS = 12  # a side keeps more than the ten that Kraken's checksum covers
MAX_LEVELS = 30


class Change(NamedTuple):
    """One level's new size.

    Attributes:
        is_bid: side.
        price, old, new: in units; `new` 0 removes the level.
    """

    is_bid: bool
    price: int
    old: int
    new: int


class Fill(NamedTuple):
    """A trade against the best level.

    Attributes:
        buys: the taker bought.
        price, size: in units.
        change: what became of the level.
    """

    buys: bool
    price: int
    size: int
    change: Change


class Ladder:
    """Both sides of a book.

    Args:
        rng: source of chance.
        mid: where the book starts, price units.
        tick: smallest price step, price units.
        low, high: bounds of prices, inclusive.
        max_size: largest size of a level, size units.
    """

    def __init__(self, rng: Random, *, mid: int, tick: int, low: int, high: int, max_size: int) -> None:
        self._random = rng.random
        self.tick = tick
        self._low = low
        self._high = high
        self._max_size = max_size
        self.bids: list[int] = []  # ascending, best last
        self.asks: list[int] = []  # ascending, best first
        self.bid_sizes: dict[int, int] = {}
        self.ask_sizes: dict[int, int] = {}
        mid -= mid % tick
        levels = (MIN_LEVELS + MAX_LEVELS) // 2
        for step in range(1, levels + 1):
            for is_bid, price in ((True, mid - step * tick), (False, mid + step * tick)):
                if low <= price <= high:
                    self._set(is_bid, price, self._size())

    @property
    def best_bid(self) -> int:
        """Best bid; 0 if the side is empty."""
        return self.bids[-1] if self.bids else 0

    @property
    def best_ask(self) -> int:
        """Best ask; the upper bound and a tick if the side is empty."""
        return self.asks[0] if self.asks else self._high + self.tick

    def mutate(self) -> Change:
        """Change one level: mostly its size near the touch, else a new or a cancelled level."""
        is_bid = self._random() < 0.5
        prices = self.bids if is_bid else self.asks
        action = self._random()
        count = len(prices)
        if count < MIN_LEVELS or (action < 0.2 and count < MAX_LEVELS):
            price = self._new_price(is_bid)
            if price is not None:
                return self._set(is_bid, price, self._size())
        elif action < 0.4:
            return self._set(is_bid, self._near_touch(prices, is_bid), 0)
        if not prices:  # a bounded book at its end: the other side always has levels
            is_bid, prices = not is_bid, self.asks if is_bid else self.bids
        return self._set(is_bid, self._near_touch(prices, is_bid), self._size())

    def take(self) -> Fill | None:
        """A taker hits the best level of one side; None if that side is too thin."""
        buys = self._random() < 0.5
        prices, sizes = (self.asks, self.ask_sizes) if buys else (self.bids, self.bid_sizes)
        if len(prices) < 3:
            return None
        price = self.best_ask if buys else self.best_bid
        available = sizes[price]
        size = available if self._random() < 0.3 else 1 + int(self._random() * available)
        size = min(size, available)
        return Fill(buys, price, size, self._set(not buys, price, available - size))

    def _new_price(self, is_bid: bool) -> int | None:
        prices = self.bids if is_bid else self.asks
        sizes = self.bid_sizes if is_bid else self.ask_sizes
        away = -self.tick if is_bid else self.tick
        if self.best_ask - self.best_bid > self.tick and prices and self._random() < 0.5:
            price = prices[-1 if is_bid else 0] - away
            return price if self._low <= price <= self._high else None
        touch = self.best_ask if is_bid else self.best_bid
        for _ in range(6):
            price = touch + away * (1 + int(self._random() * MAX_LEVELS))
            if price not in sizes and self._low <= price <= self._high:
                return price
        return None

    def _near_touch(self, prices: list[int], is_bid: bool) -> int:
        index = int(self._random() ** 2 * len(prices))
        return prices[-1 - index if is_bid else index]

    def _size(self) -> int:
        draw = self._random()
        return 1 + int(draw * draw * draw * self._max_size)

    def _set(self, is_bid: bool, price: int, size: int) -> Change:
        prices, sizes = (self.bids, self.bid_sizes) if is_bid else (self.asks, self.ask_sizes)
        old = sizes.get(price, 0)
        if size:
            if not old:
                insort(prices, price)
            sizes[price] = size
        elif old:
            del sizes[price]
            del prices[bisect_left(prices, price)]
        return Change(is_bid, price, old, size)
