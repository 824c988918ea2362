"""Generated Polymarket traffic, market channel of 2026.

Wire facts: measured on captures of 2026; `hash` follows the recipe that gives theirs. What a venue does to
`last_trade_price` in the hash after a trade is not known: here it becomes the trade's price, with the very text of
the last_trade_price message, from the next message on; that of the market's other token stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from hashlib import sha1
from random import Random
from typing import Any

import orjson

from ssmd_stream.replay.generator.gamma import gamma_events, gamma_market
from ssmd_stream.replay.generator.ladder import Change, Ladder
from ssmd_stream.replay.protocol import Event, Exchange

_UNIT = 1_000  # price units per dollar
_PRICE = [f"{units / _UNIT:.3f}".rstrip("0").rstrip(".") for units in range(_UNIT + 1)]
# Every so many steps: a new market, a tick size change, a resolved market, in turn.
LIFECYCLE_EVERY = 300


@dataclass(slots=True)
class PolymarketMarket:
    """A binary market. The ladder is the first token's book; the second token's is its mirror at 1 − price."""

    index: int
    condition: str
    tokens: tuple[str, str]
    question: str
    slug: str
    ladder: Ladder
    timestamp: int
    last: list[str] = field(default_factory=lambda: ["", ""])  # last_trade_price text per token
    # JSON of each level, per token and side, by price units of the first token.
    texts: tuple[dict[int, str], dict[int, str], dict[int, str], dict[int, str]] = field(
        default_factory=lambda: ({}, {}, {}, {})
    )
    made_ms: int = 0
    closed_ms: int = 0

    @property
    def closed(self) -> bool:
        return self.closed_ms > 0

    @property
    def tick(self) -> str:
        return "0.01" if self.ladder.tick == 10 else "0.001"


class PolymarketExchange(Exchange):
    """Markets of two tokens each.

    Args:
        seed: same seed, same traffic.
        now_ns: exchange time, epoch nanoseconds.
        markets: how many there are at the start; the last of several is resolved early, the others stay.
    """

    def __init__(self, seed: int, now_ns: Callable[[], int], markets: int = 8) -> None:
        self._rng = Random(seed)
        self._now_ns = now_ns
        self._count = 0
        self._kept = 0
        self.markets: dict[str, PolymarketMarket] = {}
        self.by_token: dict[str, PolymarketMarket] = {}
        for _ in range(markets):
            self._open()
        self._kept = max(1, markets - 1)
        self.instruments: tuple[str, ...] = tuple(self.by_token)
        self._steps = 0

    def step(self, channels: frozenset[str], pool: Sequence[str]) -> list[Event]:
        del channels
        self._steps += 1
        rng = self._rng
        market = self.by_token[pool[int(rng.random() * len(pool))]]
        if self._steps % LIFECYCLE_EVERY == 0:
            turn = self._steps // LIFECYCLE_EVERY % 3
            if turn == 1:
                return [self._new_market()]
            if turn == 2:
                return self._tick_size(pool)
            return self._resolve(pool)
        if rng.random() < 0.1:
            fill = market.ladder.take()
            if fill is not None:
                # The price change comes first, then the trade, then the books that it changed.
                events = self._change(market, fill.change)
                outcome = int(rng.random() < 0.5)
                price = fill.price if outcome == 0 else _UNIT - fill.price
                market.last = [f"{price / _UNIT:.3f}" if n == outcome else last for n, last in enumerate(market.last)]
                side = "BUY" if fill.buys == (outcome == 0) else "SELL"
                token = market.tokens[outcome]
                body = (
                    f'{{"market":"{market.condition}","asset_id":"{token}","price":"{price / _UNIT:.3f}",'
                    f'"size":"{_size(fill.size)}","fee_rate_bps":"0","side":"{side}",'
                    f'"timestamp":"{self._ms()}","event_type":"last_trade_price",'
                    f'"transaction_hash":"0x{rng.getrandbits(256):064x}"}}'
                )
                events.append(Event("market", token, "last_trade_price", body))
                events += [Event("market", each, "book", self.book(each, opening=False)) for each in market.tokens]
                return events
        before = (market.ladder.best_bid, market.ladder.best_ask)
        events = self._change(market, market.ladder.mutate())
        if (market.ladder.best_bid, market.ladder.best_ask) != before:
            events += [self._best(market, outcome) for outcome in (0, 1)]
        return events

    def book(self, token: str, *, opening: bool) -> str:
        """A book message; opening books also tell tick size and last trade."""
        market = self.by_token[token]
        outcome = market.tokens.index(token)
        bids, asks = self._sides(market, outcome)
        more = f'"tick_size":"{market.tick}","last_trade_price":"{market.last[outcome]}",' if opening else ""
        return (
            f'{{"market":"{market.condition}","asset_id":"{token}","timestamp":"{market.timestamp}",'
            f'"hash":"{self._hash(market, outcome)}","bids":[{bids}],"asks":[{asks}],{more}"event_type":"book"}}'
        )

    def gamma(self) -> list[dict[str, Any]]:
        """Gamma's market objects, closed ones included, in the order they were made."""
        return [
            gamma_market(
                market.index, market.condition, market.tokens, tick=float(market.tick), timestamp_ms=market.timestamp,
                made_ms=market.made_ms, closed_ms=market.closed_ms, price=self._middle(market),
            )
            for market in self.markets.values()
        ]  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        """Gamma's event objects with their markets, closed ones included, in the order they were made."""
        return gamma_events(self.gamma())

    def _middle(self, market: PolymarketMarket) -> Decimal:
        bid, ask = self._touch(market, 0)
        return Decimal(bid + ask) / (2 * _UNIT)

    def _open(self) -> PolymarketMarket:
        rng = self._rng
        self._count += 1
        first = [str(rng.randrange(10**76, 10**77)) for _ in range(2)]
        # The second market starts beyond 0.96, where the venue changes the tick size.
        mid = 965 if self._count == 2 else rng.randrange(150, 850, 10)
        market = PolymarketMarket(
            self._count, f"0x{rng.getrandbits(256):064x}", (first[0], first[1]),
            f"Will rehearsal {self._count} end “up”?", f"rehearsal-{self._count}",
            Ladder(rng, mid=mid, tick=10, low=10, high=_UNIT - 10, max_size=1_000_000), self._ms(),
            made_ms=self._ms(),
        )  # fmt: skip
        if self._count % 2:  # every other market has been traded already
            market.last = [f"{units / _UNIT:.3f}" for units in (mid, _UNIT - mid)]
        for is_bid, prices in ((True, market.ladder.bids), (False, market.ladder.asks)):
            sizes = market.ladder.bid_sizes if is_bid else market.ladder.ask_sizes
            for price in prices:
                self._write(market, Change(is_bid, price, 0, sizes[price]))
        self.markets[market.condition] = market
        self.by_token.update((token, market) for token in market.tokens)
        return market

    def _change(self, market: PolymarketMarket, change: Change) -> list[Event]:
        self._write(market, change)
        market.timestamp = self._ms()
        entries = []
        for outcome in (0, 1):
            price = change.price if outcome == 0 else _UNIT - change.price
            bid, ask = self._touch(market, outcome)
            entries.append(
                f'{{"asset_id":"{market.tokens[outcome]}","price":"{_PRICE[price]}","size":"{_size(change.new)}",'
                f'"side":"{"BUY" if change.is_bid == (outcome == 0) else "SELL"}",'
                f'"hash":"{self._hash(market, outcome)}","best_bid":"{_PRICE[bid]}","best_ask":"{_PRICE[ask]}"}}'
            )
        if self._rng.random() < 0.5:
            entries.reverse()
        body = (
            f'{{"market":"{market.condition}","price_changes":[{",".join(entries)}],'
            f'"timestamp":"{market.timestamp}","event_type":"price_change"}}'
        )
        return [Event("market", market.condition, "price_change", body)]

    def _write(self, market: PolymarketMarket, change: Change) -> None:
        """Keep the JSON text of the changed level, so that a book's text is a join."""
        bids, asks, mirrored_bids, mirrored_asks = market.texts
        own, mirrored = (bids, mirrored_asks) if change.is_bid else (asks, mirrored_bids)
        if not change.new:
            own.pop(change.price, None)
            mirrored.pop(change.price, None)
            return
        size = _size(change.new)
        own[change.price] = f'{{"price":"{_PRICE[change.price]}","size":"{size}"}}'
        mirrored[change.price] = f'{{"price":"{_PRICE[_UNIT - change.price]}","size":"{size}"}}'

    def _sides(self, market: PolymarketMarket, outcome: int) -> tuple[str, str]:
        """Bids ascending and asks descending, the best last on both sides."""
        ladder = market.ladder
        bids, asks, mirrored_bids, mirrored_asks = market.texts
        if outcome == 0:
            return ",".join([bids[price] for price in ladder.bids]), ",".join(
                [asks[price] for price in reversed(ladder.asks)]
            )
        return ",".join([mirrored_bids[price] for price in reversed(ladder.asks)]), ",".join(
            [mirrored_asks[price] for price in ladder.bids]
        )

    def _hash(self, market: PolymarketMarket, outcome: int) -> str:
        bids, asks = self._sides(market, outcome)
        text = (
            f'{{"market":"{market.condition}","asset_id":"{market.tokens[outcome]}",'
            f'"timestamp":"{market.timestamp}","hash":"","bids":[{bids}],"asks":[{asks}],"min_order_size":"5",'
            f'"tick_size":"{market.tick}","neg_risk":false,"last_trade_price":"{market.last[outcome]}"}}'
        )
        return sha1(text.encode(), usedforsecurity=False).hexdigest()

    def _touch(self, market: PolymarketMarket, outcome: int) -> tuple[int, int]:
        ladder = market.ladder
        bid = ladder.bids[-1] if ladder.bids else 0
        ask = ladder.asks[0] if ladder.asks else _UNIT
        return (bid, ask) if outcome == 0 else (_UNIT - ask, _UNIT - bid)

    def _best(self, market: PolymarketMarket, outcome: int) -> Event:
        bid, ask = self._touch(market, outcome)
        token = market.tokens[outcome]
        body = (
            f'{{"market":"{market.condition}","asset_id":"{token}","best_bid":"{_PRICE[bid]}",'
            f'"best_ask":"{_PRICE[ask]}","spread":"{_PRICE[ask - bid]}","timestamp":"{self._ms()}",'
            '"event_type":"best_bid_ask"}'
        )
        return Event("market", token, "best_bid_ask", body)

    def _new_market(self) -> Event:
        market = self._open()
        self._relist()
        tokens = list(market.tokens)
        body = {
            "id": str(3_000_000 + market.index), "question": market.question, "market": market.condition,
            "slug": market.slug, "description": "Made by a rehearsal.", "assets_ids": tokens,
            "outcomes": ["Up", "Down"],
            "event_message": {"id": "125819", "ticker": "rehearsal", "slug": "rehearsal", "title": "Rehearsal",
                              "description": "Made by a rehearsal."},
            "timestamp": str(self._ms()), "event_type": "new_market", "tags": ["crypto"],
            "condition_id": market.condition, "active": True, "clob_token_ids": tokens, "sports_market_type": "",
            "line": "", "game_start_time": "", "order_price_min_tick_size": "0.01", "group_item_title": "",
            "taker_base_fee": "0", "fees_enabled": False,
            "fee_schedule": {"exponent": "1", "rate": "0.07", "taker_only": True, "rebate_rate": "0.2"},
        }  # fmt: skip
        return Event("market", "", "new_market", orjson.dumps(body).decode())

    def _tick_size(self, pool: Sequence[str]) -> list[Event]:
        candidates = {self.by_token[token].condition: self.by_token[token] for token in pool}.values()
        coarse = [market for market in candidates if market.ladder.tick == 10]
        if not coarse:
            return []
        market = max(coarse, key=lambda each: abs(each.ladder.best_bid - 500))
        market.ladder.tick = 1
        return [
            Event(
                "market", token, "tick_size_change",
                f'{{"market":"{market.condition}","asset_id":"{token}","old_tick_size":"0.01",'
                f'"new_tick_size":"0.001","timestamp":"{self._ms()}","event_type":"tick_size_change"}}',
            )
            for token in market.tokens
        ]  # fmt: skip

    def _resolve(self, pool: Sequence[str]) -> list[Event]:
        """Resolve a market that somebody watches: levels to 0, then market_resolved."""
        names = dict.fromkeys(self.by_token[token].condition for token in pool)
        open_ones = [self.markets[name] for name in names if self.markets[name].index > self._kept]
        if not open_ones or len(names) < 2:
            return []
        market = open_ones[0]
        events: list[Event] = []
        ladder = market.ladder
        for is_bid, prices, sizes in (
            (True, ladder.bids, ladder.bid_sizes),
            (False, ladder.asks, ladder.ask_sizes),
        ):
            for price in list(prices):
                old = sizes.pop(price)
                prices.remove(price)
                events += self._change(market, Change(is_bid, price, old, 0))
        market.closed_ms = self._ms()
        for token in market.tokens:
            del self.by_token[token]
        self._relist()
        body = {
            "id": str(3_000_000 + market.index), "market": market.condition, "assets_ids": list(market.tokens),
            "winning_asset_id": market.tokens[0], "winning_outcome": "Up", "event_message": None,
            "timestamp": str(self._ms()), "tags": ["crypto"], "event_type": "market_resolved",
        }  # fmt: skip
        events.append(Event("market", market.condition, "market_resolved", orjson.dumps(body).decode()))
        return events

    def _relist(self) -> None:
        self.instruments = tuple(self.by_token)

    def _ms(self) -> int:
        return self._now_ns() // 1_000_000


def _size(hundredths: int) -> str:
    """Size text as the venue writes it: no trailing zeros."""
    if hundredths % 100 == 0:
        return str(hundredths // 100)
    return f"{hundredths // 100}.{hundredths % 100:02d}".rstrip("0")
