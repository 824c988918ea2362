"""Generated Kraken Futures traffic, WebSocket v1 of 2026, and the REST listings that belong to it.

Wire facts: Kraken's API reference and captures from 2019 to 2026.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from ssmd_stream.replay.generator.ladder import Change, Ladder
from ssmd_stream.replay.protocol import Event, Exchange, iso

# Product, pair, price units per 1, starting mid in units, tag, days to maturity.
PRODUCTS = (
    ("PF_XBTUSD", "XBT:USD", 1, 83_999, "perpetual", 0),
    ("PF_ETHUSD", "ETH:USD", 10, 22_841, "perpetual", 0),
    ("PF_SOLUSD", "SOL:USD", 100, 13_327, "perpetual", 0),
    ("PF_XRPUSD", "XRP:USD", 10_000, 21_345, "perpetual", 0),
    ("PI_XBTUSD", "XBT:USD", 2, 167_998, "perpetual", 0),
    ("FF_XBTUSD_261225", "XBT:USD", 1, 84_410, "quarter", 33),
)
_QTY = 10_000  # quantity units per contract or base unit
# 2026-12-25T08:00:00Z
_MATURITY_MS = 1_798_185_600_000


@dataclass(slots=True)
class FuturesProduct:
    """A product's market; `scale` price units make 1."""

    id: str
    pair: str
    scale: int
    tag: str
    dtm: int
    ladder: Ladder
    last: int
    book_seq: int
    trade_seq: int
    volume: int = 0
    trades: deque[str] = field(default_factory=lambda: deque(maxlen=100))


class KrakenFuturesExchange(Exchange):
    """The products of `PRODUCTS`. Book and trade have each their `seq` per product, +1 each, whoever listens.

    Args:
        seed: same seed, same traffic.
        now_ns: exchange time, epoch nanoseconds.
    """

    def __init__(self, seed: int, now_ns: Callable[[], int]) -> None:
        self._rng = rng = Random(seed)
        self._now_ns = now_ns
        self.products: dict[str, FuturesProduct] = {}
        for id_, pair, scale, mid, tag, dtm in PRODUCTS:
            ladder = Ladder(rng, mid=mid, tick=1, low=1, high=mid * 100, max_size=8 * _QTY)
            product = FuturesProduct(
                id_, pair, scale, tag, dtm, ladder, mid, rng.randrange(10**5, 10**8), rng.randrange(10**4, 10**6)
            )
            self.products[id_] = product
            for _ in range(20):
                self._trade(product)
        self.instruments = tuple(self.products)

    def step(self, channels: frozenset[str], pool: Sequence[str]) -> list[Event]:
        rng = self._rng
        product = self.products[pool[int(rng.random() * len(pool))]]
        events: list[Event] = []
        draw = rng.random()
        if draw < 0.12:
            events += self._trade(product)
        else:
            events.append(self._level(product, product.ladder.mutate()))
        if draw > 0.88 and "ticker" in channels:
            events.append(Event("ticker", product.id, "ticker", self.ticker(product.id)))
        if 0.84 < draw <= 0.88 and "ticker_lite" in channels:
            events.append(Event("ticker_lite", product.id, "ticker_lite", self.ticker_lite(product.id)))
        return events

    def book_snapshot(self, id_: str) -> str:
        """Full depth, best levels first; the next book message carries `seq` + 1."""
        product = self.products[id_]
        ladder = product.ladder
        bids = ",".join(
            f'{{"price":{self._price(product, price)},"qty":{ladder.bid_sizes[price] / _QTY}}}'
            for price in reversed(ladder.bids)
        )
        asks = ",".join(
            f'{{"price":{self._price(product, price)},"qty":{ladder.ask_sizes[price] / _QTY}}}' for price in ladder.asks
        )
        return (
            f'{{"feed":"book_snapshot","product_id":"{id_}","timestamp":{self._ms()},"seq":{product.book_seq},'
            f'"tickSize":null,"bids":[{bids}],"asks":[{asks}]}}'
        )

    def trade_snapshot(self, id_: str) -> str:
        """Up to 100 latest trades, newest first."""
        rows = ",".join(reversed(self.products[id_].trades))
        return f'{{"feed":"trade_snapshot","product_id":"{id_}","trades":[{rows}]}}'

    def ticker(self, id_: str) -> str:
        """A ticker frame; funding members only on perpetuals."""
        product = self.products[id_]
        ladder = product.ladder
        last = self._price(product, product.last)
        funding = (
            '"funding_rate":0.1767923925826881,"funding_rate_prediction":-0.045351956680625,'
            '"relative_funding_rate":2.747066666667e-6,"relative_funding_rate_prediction":-7.043125e-7,'
            f'"next_funding_rate_time":{self._ms() // 3_600_000 * 3_600_000 + 3_600_000},'
            if product.tag == "perpetual"
            else ""
        )
        return (
            f'{{"time":{self._ms()},"product_id":"{id_}",{funding}"leverage":"100x","premium":0.0,"feed":"ticker",'
            f'"bid":{self._price(product, ladder.best_bid)},"ask":{self._price(product, ladder.best_ask)},'
            f'"bid_size":{ladder.bid_sizes[ladder.best_bid] / _QTY},'
            f'"ask_size":{ladder.ask_sizes[ladder.best_ask] / _QTY},"volume":{product.volume / _QTY},'
            f'"dtm":{product.dtm},"index":{last + 0.07:.2f},"last":{last},"change":-0.68,"suspended":false,'
            f'"tag":"{product.tag}","pair":"{product.pair}","openInterest":2157.6281,'
            f'"markPrice":{last - 0.31964411354:.11f},"open":{last},"high":{last + 120.5},"low":{last - 99.5},'
            f'"maturityTime":{_MATURITY_MS if product.dtm else 0},"post_only":false,'
            f'"volumeQuote":{product.volume / _QTY * last:.4f}}}'
        )

    def ticker_lite(self, id_: str) -> str:
        """A ticker_lite frame, which carries no time."""
        product = self.products[id_]
        return (
            f'{{"premium":-0.0,"product_id":"{id_}","feed":"ticker_lite",'
            f'"bid":{self._price(product, product.ladder.best_bid)},'
            f'"ask":{self._price(product, product.ladder.best_ask)},"change":-0.68,'
            f'"volume":{product.volume / _QTY},"tag":"{product.tag}","pair":"{product.pair}",'
            f'"dtm":{product.dtm},"maturityTime":{_MATURITY_MS if product.dtm else 0},'
            f'"volumeQuote":{product.volume / _QTY * self._price(product, product.last):.4f}}}'
        )

    def tickers(self) -> list[dict[str, Any]]:
        """REST's tickers of the moment; funding members only on perpetuals. REST says BTC where WebSocket says XBT."""
        return [self._rest_ticker(product) for product in self.products.values()]

    def _rest_ticker(self, product: FuturesProduct) -> dict[str, Any]:
        ladder, last = product.ladder, self._price(product, product.last)
        now = iso(self._now_ns())
        funding = {"fundingRate": 0.1767923925826881, "fundingRatePrediction": -0.045351956680625}
        return {
            "symbol": product.id,
            "last": last,
            "lastTime": now,
            "tag": product.tag,
            "pair": product.pair.replace("XBT", "BTC"),
            "markPrice": round(last - 0.31964411354, 11),
            "bid": self._price(product, ladder.best_bid),
            "bidSize": ladder.bid_sizes[ladder.best_bid] / _QTY,
            "ask": self._price(product, ladder.best_ask),
            "askSize": ladder.ask_sizes[ladder.best_ask] / _QTY,
            "vol24h": product.volume / _QTY,
            "volumeQuote": round(product.volume / _QTY * last, 4),
            "openInterest": 2157.6281,
            "suspended": False,
            "indexPrice": round(last + 0.07, 2),
            "postOnly": False,
            "change24h": -0.68,
        } | (funding if product.tag == "perpetual" else {})

    def _trade(self, product: FuturesProduct) -> list[Event]:
        fill = product.ladder.take()
        if fill is None:
            return [self._level(product, product.ladder.mutate())]
        product.trade_seq += 1
        product.last = fill.price
        product.volume += fill.size
        draw = self._rng.random()
        kind = "liquidation" if draw < 0.03 else "block" if draw < 0.04 else "fill"
        digits = f"{self._rng.getrandbits(128):032x}"
        uid = f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
        body = (
            f'{{"product_id":"{product.id}","feed":"trade","uid":"{uid}","side":"{"buy" if fill.buys else "sell"}",'
            f'"type":"{kind}","time":{self._ms()},"qty":{fill.size / _QTY},'
            f'"price":{self._price(product, fill.price)},"seq":{product.trade_seq}}}'
        )
        product.trades.append(body)
        return [Event("trade", product.id, "trade", body), self._level(product, fill.change)]

    def _level(self, product: FuturesProduct, change: Change) -> Event:
        product.book_seq += 1
        body = (
            f'{{"feed":"book","product_id":"{product.id}","side":"{"buy" if change.is_bid else "sell"}",'
            f'"seq":{product.book_seq},"price":{self._price(product, change.price)},"qty":{change.new / _QTY},'
            f'"timestamp":{self._ms()}}}'
        )
        return Event("book", product.id, "book", body)

    def _price(self, product: FuturesProduct, units: int) -> float:
        return units / product.scale

    def _ms(self) -> int:
        return self._now_ns() // 1_000_000


def instrument_listing() -> list[dict[str, Any]]:
    """REST's instruments for `PRODUCTS`, and one of the indices that stand among them."""
    return [_instrument(*product) for product in PRODUCTS] + [
        {"symbol": "rr_xbtusd", "type": "spot index", "tradeable": False}
    ]


def _instrument(id_: str, pair: str, scale: int, _mid: int, tag: str, _dtm: int) -> dict[str, Any]:
    base, quote = pair.replace("XBT", "BTC").split(":")
    inverse = id_.startswith("PI_")
    dated = {} if tag == "perpetual" else {"lastTradingTime": iso(_MATURITY_MS * 1_000_000)}
    return dated | {
        "symbol": id_,
        "type": "futures_inverse" if inverse else "flexible_futures",
        "underlying": f"rr_{pair.replace(':', '').lower()}",
        "tickSize": 1 / scale,
        "contractSize": 1,
        "tradeable": True,
        "impactMidSize": 1.5,
        "maxPositionSize": 75_000_000.0 if inverse else 16_000.0,
        "openingDate": "2022-03-22T13:18:45Z",
        "marginLevels": [
            {"contracts" if inverse else "numNonContractUnits": 0, "initialMargin": 0.02, "maintenanceMargin": 0.01},
            {"contracts" if inverse else "numNonContractUnits": 500_000, "initialMargin": 0.04,
             "maintenanceMargin": 0.02},
        ],
        "fundingRateCoefficient": 24,
        "maxRelativeFundingRate": 0.0025,
        "isin": "GB00J62YGL67",
        "contractValueTradePrecision": 0 if inverse else 4,
        "postOnly": False,
        "feeScheduleUid": "723888f7-0a8e-4183-8648-f920a22339e3",
        "mtf": True,
        "base": base,
        "quote": quote,
        "pair": f"{base}:{quote}",
        "category": "",
        "tags": [],
        "tradfi": False,
    }  # fmt: skip
