"""Generated Kraken spot traffic, WebSocket v2, after captures of September 2026."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from ssmd_stream.replay.generator.ladder import Ladder
from ssmd_stream.replay.protocol import Event, Exchange, iso

INSTRUMENT_EVERY = 500
QTY_DIGITS = 8


class PairSpec(NamedTuple):
    """A pair under its three names.

    Attributes:
        symbol: WebSocket v2 name, `BTC/USD`.
        key: name in AssetPairs, `XXBTZUSD`.
        wsname: WebSocket v1 name, which AssetPairs still gives, `XBT/USD`.
        base, quote: asset names of AssetPairs.
        digits: decimals of a price.
        mid: price to start from, in units of the last decimal.
    """

    symbol: str
    key: str
    wsname: str
    base: str
    quote: str
    digits: int
    mid: int


PAIRS = (
    PairSpec("BTC/USD", "XXBTZUSD", "XBT/USD", "XXBT", "ZUSD", 1, 837_442),
    PairSpec("ETH/USD", "XETHZUSD", "ETH/USD", "XETH", "ZUSD", 2, 228_415),
    PairSpec("SOL/USD", "SOLUSD", "SOL/USD", "SOL", "ZUSD", 2, 13_327),
    PairSpec("XRP/USD", "XXRPZUSD", "XRP/USD", "XXRP", "ZUSD", 5, 213_456),
    PairSpec("DOGE/USD", "XDGUSD", "XDG/USD", "XXDG", "ZUSD", 7, 1_534_500),
    PairSpec("ADA/USD", "ADAUSD", "ADA/USD", "ADA", "ZUSD", 6, 412_345),
    PairSpec("BTC/EUR", "XXBTZEUR", "XBT/EUR", "XXBT", "ZEUR", 1, 771_230),
    PairSpec("USDT/USD", "USDTZUSD", "USDT/USD", "USDT", "ZUSD", 5, 99_981),
)
# REST lists more than anybody trades here: a name that only looks as if it had an old prefix, and a tokenised share,
# which stands in a listing of its own.
LISTED_ONLY = (PairSpec("XAUT/USD", "XAUTUSD", "XAUT/USD", "XAUT", "ZUSD", 2, 415_000),)
TOKENIZED = (PairSpec("AAPLx/USD", "AAPLxUSD", "AAPLx/USD", "AAPLx", "ZUSD", 2, 26_840),)


@dataclass(slots=True)
class KrakenPair:
    """A pair's market; prices in units of its last decimal, quantities in 10^-8."""

    spec: PairSpec
    ladder: Ladder
    last: int
    first: int
    low: int
    high: int
    trade_id: int
    volume: int = 0
    count: int = 0
    status: str = "online"
    trades: deque[str] = field(default_factory=lambda: deque(maxlen=50))

    def price(self, units: int) -> str:
        """Price text with the pair's decimals, trailing zeros kept: the checksum is made of this text."""
        sign, units = ("-", -units) if units < 0 else ("", units)
        scale = 10**self.spec.digits
        return f"{sign}{units // scale}.{units % scale:0{self.spec.digits}d}"


class KrakenExchange(Exchange):
    """The pairs of `PAIRS`. A trade id is one more than the symbol's one before, whoever listens.

    Args:
        seed: same seed, same traffic.
        now_ns: exchange time, epoch nanoseconds.
    """

    def __init__(self, seed: int, now_ns: Callable[[], int]) -> None:
        self._rng = rng = Random(seed)
        self._now_ns = now_ns
        self.pairs: dict[str, KrakenPair] = {}
        for spec in PAIRS:
            ladder = Ladder(rng, mid=spec.mid, tick=1, low=1, high=spec.mid * 100, max_size=3 * 10**QTY_DIGITS)
            pair = KrakenPair(spec, ladder, spec.mid, spec.mid, spec.mid, spec.mid, rng.randrange(10**6, 10**8))
            self.pairs[spec.symbol] = pair
            for _ in range(20):
                self._trade(pair)
        self.instruments = tuple(self.pairs)
        self._steps = 0

    def step(self, channels: frozenset[str], pool: Sequence[str]) -> list[Event]:
        self._steps += 1
        rng = self._rng
        symbol = pool[int(rng.random() * len(pool))]
        pair = self.pairs[symbol]
        if self._steps % INSTRUMENT_EVERY == 0 and "instrument" in channels:
            pair.status = "cancel_only" if pair.status == "online" else "online"
            data = f'{{"assets":[],"pairs":[{_instrument(pair)}]}}'
            return [Event("instrument", "", "instrument", f'{{"channel":"instrument","type":"update","data":{data}}}')]
        draw = rng.random()
        events: list[Event] = []
        if draw < 0.12:
            rows = [row for row in (self._trade(pair) for _ in range(1 + int(rng.random() * 2.2))) if row]
            if rows and "trade" in channels:
                body = f'{{"channel":"trade","type":"update","data":[{",".join(rows)}]}}'
                events.append(Event("trade", symbol, "trade", body))
        else:
            for _ in range(1 + int(draw * 3)):
                pair.ladder.mutate()
        if "book" in channels:
            events.append(Event("book", symbol, "book", iso(self._now_ns())))
        if "ticker" in channels and (draw < 0.12 or draw > 0.88):
            events.append(Event("ticker", symbol, "ticker", self.ticker(symbol, "update")))
        return events

    def ticker(self, symbol: str, type_: str) -> str:
        """A ticker frame."""
        pair = self.pairs[symbol]
        ladder, price = pair.ladder, pair.price
        change = pair.last - pair.first
        row = (
            f'{{"symbol":"{symbol}","bid":{price(ladder.best_bid)},"bid_qty":{qty(ladder.bid_sizes[ladder.best_bid])},'
            f'"ask":{price(ladder.best_ask)},"ask_qty":{qty(ladder.ask_sizes[ladder.best_ask])},'
            f'"last":{price(pair.last)},"volume":{qty(pair.volume)},"vwap":{price((pair.low + pair.high) // 2)},'
            f'"low":{price(pair.low)},"high":{price(pair.high)},"change":{price(change)},'
            f'"change_pct":{100 * change / pair.first:.2f},"trades":{pair.count},"timestamp":"{iso(self._now_ns())}"}}'
        )
        return f'{{"channel":"ticker","type":"{type_}","data":[{row}]}}'

    def trade_snapshot(self, symbols: Sequence[str]) -> str:
        """A trade frame with up to 50 latest trades of each symbol, oldest first."""
        rows = ",".join(row for symbol in symbols for row in self.pairs[symbol].trades)
        return f'{{"channel":"trade","type":"snapshot","data":[{rows}]}}'

    def instrument_snapshot(self) -> str:
        """An instrument frame with all assets and pairs."""
        names = sorted({name for symbol in self.pairs for name in symbol.split("/")})
        assets = ",".join(
            f'{{"id":"{name}","status":"enabled","precision":8,"precision_display":4,"borrowable":true,'
            f'"collateral_value":1.000,"class":"currency","margin_rate":0.025000}}'
            for name in names
        )
        pairs = ",".join(_instrument(pair) for pair in self.pairs.values())
        return f'{{"channel":"instrument","type":"snapshot","data":{{"assets":[{assets}],"pairs":[{pairs}]}}}}'

    def _trade(self, pair: KrakenPair) -> str | None:
        fill = pair.ladder.take()
        if fill is None:
            pair.ladder.mutate()
            return None
        pair.trade_id += 1
        pair.last = fill.price
        pair.low, pair.high = min(pair.low, fill.price), max(pair.high, fill.price)
        pair.volume += fill.size
        pair.count += 1
        side, kind = "buy" if fill.buys else "sell", "market" if self._rng.random() < 0.4 else "limit"
        row = (
            f'{{"symbol":"{pair.spec.symbol}","side":"{side}","price":{pair.price(fill.price)},"qty":{qty(fill.size)},'
            f'"ord_type":"{kind}","trade_id":{pair.trade_id},"timestamp":"{iso(self._now_ns())}"}}'
        )
        pair.trades.append(row)
        return row


def asset_pairs(exchange: KrakenExchange | None = None, aclass_base: str = "currency") -> dict[str, Any]:
    """Result of REST AssetPairs by key, shaped as in September 2026.

    Args:
        exchange: whose statuses are shown; None: all are online.
        aclass_base: `currency` or `tokenized_asset`.
    """
    listed = {"currency": (*PAIRS, *LISTED_ONLY), "tokenized_asset": TOKENIZED}.get(aclass_base, ())
    traded = exchange.pairs if exchange is not None else {}
    return {
        spec.key: {
            "altname": spec.wsname.replace("/", ""),
            "wsname": spec.wsname,
            "aclass_base": aclass_base,
            "base": spec.base,
            "aclass_quote": "currency",
            "quote": spec.quote,
            "lot": "unit",
            "cost_decimals": 5,
            "pair_decimals": spec.digits,
            "lot_decimals": QTY_DIGITS,
            "lot_multiplier": 1,
            "leverage_buy": [2, 3, 4, 5],
            "leverage_sell": [2, 3, 4, 5],
            "fees": [],
            "fees_maker": [],
            "fee_volume_currency": "ZUSD",
            "margin_call": 80,
            "margin_stop": 40,
            "ordermin": "0.00005",
            "costmin": "0.5",
            "tick_size": f"{10**-spec.digits:.{spec.digits}f}",
            "status": traded[spec.symbol].status if spec.symbol in traded else "online",
            "execution_venue": "international",
            "long_position_limit": 350,
            "short_position_limit": 250,
        }
        for spec in listed
    }


def qty(units: int) -> str:
    """Quantity text with eight decimals."""
    return f"{units // 10**QTY_DIGITS}.{units % 10**QTY_DIGITS:08d}"


def _instrument(pair: KrakenPair) -> str:
    base, quote = pair.spec.symbol.split("/")
    increment = f"{10**-pair.spec.digits:.{pair.spec.digits}f}"
    return (
        f'{{"symbol":"{pair.spec.symbol}","base":"{base}","quote":"{quote}","status":"{pair.status}",'
        f'"qty_precision":8,"qty_increment":1e-08,"price_precision":{pair.spec.digits},"price_increment":{increment},'
        f'"cost_precision":5,"cost_min":0.5,"qty_min":5e-05,"tick_size":{increment},'
        f'"ws_display_price_precision":{pair.spec.digits},"has_index":true,"marginable":true,"margin_initial":0.20,'
        f'"position_limit_long":350,"position_limit_short":250}}'
    )
