"""Generated Kalshi traffic, in the format of August 2026 (spec wire-formats 1.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import orjson

from ssmd_stream.replay.generator.ladder import Change, Ladder
from ssmd_stream.replay.protocol import Event, Exchange, iso

_UNIT = 10_000  # price units per dollar
_PRICE = [f"{units // _UNIT}.{units % _UNIT:04d}" for units in range(_UNIT + 1)]
# Every so many steps the next lifecycle message of the short-lived market.
LIFECYCLE_EVERY = 200


@dataclass(slots=True)
class KalshiMarket:
    """One market. Sizes and volumes are in hundredths of a contract."""

    ticker: str
    id: str
    ladder: Ladder
    last: int
    last_size: int
    volume: int
    open_interest: int


class KalshiExchange(Exchange):
    """Markets that stay open, and one after another a short-lived one that is created, traded, closed and settled.

    Args:
        seed: same seed, same traffic.
        now_ns: exchange time, epoch nanoseconds.
        markets: how many stay open.
    """

    def __init__(self, seed: int, now_ns: Callable[[], int], markets: int = 8) -> None:
        self._rng = Random(seed)
        self._now_ns = now_ns
        self.markets: dict[str, KalshiMarket] = {}
        for index in range(markets):
            # Tickers with dots and fractional strikes exist and must survive subjects and paths.
            strike = f"T{80_000 + 500 * index - 0.01:.2f}" if index % 2 else f"{index:02d}"
            self._open(f"{'KXBTCD' if index % 2 else 'KXBTC15M'}-26NOV22{12 + index // 8 % 12:02d}-{strike}")
        self.instruments = tuple(self.markets)
        self._steps = 0
        self._generation = 0
        self._phases: list[Callable[[str, str], list[Event]]] = []

    def snapshot(self, ticker: str) -> str:
        """`msg` of an orderbook_snapshot: bids of both sides, ascending; an empty side has no key."""
        market = self.markets[ticker]
        ladder = market.ladder
        yes = ",".join(f'["{_PRICE[price]}","{_fp(ladder.bid_sizes[price])}"]' for price in ladder.bids)
        no = ",".join(
            f'["{_PRICE[_UNIT - price]}","{_fp(ladder.ask_sizes[price])}"]' for price in reversed(ladder.asks)
        )
        sides = (f',"yes_dollars_fp":[{yes}]' if yes else "") + (f',"no_dollars_fp":[{no}]' if no else "")
        return f'{{"market_ticker":"{ticker}","market_id":"{market.id}"{sides}}}'

    def ticker(self, ticker: str) -> str:
        """`msg` of a ticker."""
        market = self.markets[ticker]
        ladder = market.ladder
        bid, ask = ladder.best_bid, min(ladder.best_ask, _UNIT)
        return self._ticker_body(market, bid, ask, ladder.bid_sizes.get(bid, 0), ladder.ask_sizes.get(ask, 0))

    def step(self, channels: frozenset[str], pool: Sequence[str]) -> list[Event]:
        self._steps += 1
        if self._steps % LIFECYCLE_EVERY == 0:
            return self._lifecycle()
        rng = self._rng
        ticker = pool[int(rng.random() * len(pool))]
        market = self.markets[ticker]
        draw = rng.random()
        if draw < 0.12:
            fill = market.ladder.take()
            if fill is not None:
                market.last, market.last_size = fill.price, fill.size
                market.volume += fill.size
                market.open_interest += fill.size if rng.random() < 0.6 else 0
                events = [Event("trade", ticker, "trade", self._trade_body(market, fill.buys))]
                events.append(self._delta(market, fill.change))
                if "ticker" in channels:
                    events.append(Event("ticker", ticker, "ticker", self.ticker(ticker)))
                return events
        change = market.ladder.mutate()
        events = [self._delta(market, change)] if "orderbook_delta" in channels else []
        if draw > 0.85 and "ticker" in channels:
            events.append(Event("ticker", ticker, "ticker", self.ticker(ticker)))
        return events

    def _open(self, ticker: str) -> KalshiMarket:
        rng = self._rng
        tick = 10 if rng.random() < 0.25 else 100
        mid = rng.randrange(2_000, 8_000, 100)
        ladder = Ladder(rng, mid=mid, tick=tick, low=tick, high=_UNIT - tick, max_size=200_000)
        market = KalshiMarket(ticker, _uuid(rng), ladder, mid, 100, rng.randrange(10**7), rng.randrange(10**7))
        self.markets[ticker] = market
        return market

    def _delta(self, market: KalshiMarket, change: Change) -> Event:
        price = change.price if change.is_bid else _UNIT - change.price
        now = self._now_ns()
        delta = change.new - change.old
        sign = "-" if delta < 0 else ""
        body = (
            f'{{"market_ticker":"{market.ticker}","market_id":"{market.id}","price_dollars":"{_PRICE[price]}",'
            f'"delta_fp":"{sign}{_fp(abs(delta))}","side":"{"yes" if change.is_bid else "no"}",'
            f'"ts":"{_trimmed(now)}","ts_ms":{now // 1_000_000}}}'
        )
        return Event("orderbook_delta", market.ticker, "orderbook_delta", body)

    def _trade_body(self, market: KalshiMarket, buys: bool) -> str:
        outcome, side = ("yes", "bid") if buys else ("no", "ask")
        ms = self._now_ns() // 1_000_000
        return (
            f'{{"trade_id":"{_uuid(self._rng)}","market_ticker":"{market.ticker}",'
            f'"yes_price_dollars":"{_PRICE[market.last]}","no_price_dollars":"{_PRICE[_UNIT - market.last]}",'
            f'"count_fp":"{_fp(market.last_size)}","taker_side":"{outcome}","taker_outcome_side":"{outcome}",'
            f'"taker_book_side":"{side}","is_block_trade":false,"ts":{ms // 1000},"ts_ms":{ms}}}'
        )

    def _ticker_body(self, market: KalshiMarket, bid: int, ask: int, bid_size: int, ask_size: int) -> str:
        now = self._now_ns()
        return (
            f'{{"market_ticker":"{market.ticker}","market_id":"{market.id}","price_dollars":"{_PRICE[market.last]}",'
            f'"yes_bid_dollars":"{_PRICE[bid]}","yes_ask_dollars":"{_PRICE[ask]}",'
            f'"volume_fp":"{_fp(market.volume)}","open_interest_fp":"{_fp(market.open_interest)}",'
            f'"dollar_volume":{market.volume // 200},"dollar_open_interest":{market.open_interest // 200},'
            f'"yes_bid_size_fp":"{_fp(bid_size)}","yes_ask_size_fp":"{_fp(ask_size)}",'
            f'"last_trade_size_fp":"{_fp(market.last_size)}","ts":{now // 10**9},"ts_ms":{now // 10**6},'
            f'"time":"{_trimmed(now)}"}}'
        )

    def _lifecycle(self) -> list[Event]:
        if not self._phases:
            self._generation += 1
            self._phases = [
                self._created, self._activated, self._fee_set, self._price_levels, self._metadata,
                self._close_date, self._deactivated, self._determined, self._settled, self._fee_removed,
            ]  # fmt: skip
        event = f"KXBTC15M-26NOV23{self._generation:04d}"
        return self._phases.pop(0)(event, f"{event}-15")

    def _created(self, event: str, ticker: str) -> list[Event]:
        now_s = self._now_ns() // 10**9
        metadata = {
            "name": "BTC up in 15 minutes", "title": "Will BTC rise?", "yes_sub_title": "Up", "no_sub_title": "Down",
            "rules_primary": "Average of the last 60 s…", "rules_secondary": "", "can_close_early": True,
            "event_ticker": event, "expected_expiration_ts": now_s + 1_200, "strike_type": "greater_or_equal",
            "floor_strike": 84_000.5,
        }  # fmt: skip
        return [
            _lifecycle_event(
                "event_lifecycle", event_ticker=event, exchange_index=1, title="BTC in 15 minutes", subtitle="Nov 23",
                collateral_return_type="MECNET", series_ticker="KXBTC15M",
            ),
            _market_event(
                ticker, "created", exchange_index=1, open_ts=now_s, close_ts=now_s + 900,
                price_level_structure="linear_cent", additional_metadata=metadata,
            ),
        ]  # fmt: skip

    def _activated(self, _event: str, ticker: str) -> list[Event]:
        self._open(ticker)
        self.instruments = tuple(self.markets)
        return [_market_event(ticker, "activated", is_deactivated=False)]

    def _fee_set(self, event: str, _ticker: str) -> list[Event]:
        return [
            _lifecycle_event(
                "event_fee_update", event_ticker=event, fee_type_override="quadratic", fee_multiplier_override=0.5
            )
        ]

    def _fee_removed(self, event: str, _ticker: str) -> list[Event]:
        return [
            _lifecycle_event(
                "event_fee_update", event_ticker=event, fee_type_override=None, fee_multiplier_override=None
            )
        ]

    def _price_levels(self, _event: str, ticker: str) -> list[Event]:
        ranges = [{"start": "0.0000", "end": "1.0000", "step": "0.0010"}]
        return [
            _market_event(
                ticker, "price_level_structure_updated", price_level_structure="deci_cent", price_ranges=ranges
            )
        ]

    def _metadata(self, _event: str, ticker: str) -> list[Event]:
        return [_market_event(ticker, "metadata_updated", yes_sub_title="above $84,000.50", floor_strike=84_000.5)]

    def _close_date(self, _event: str, ticker: str) -> list[Event]:
        return [_market_event(ticker, "close_date_updated", close_ts=self._now_ns() // 10**9)]

    def _deactivated(self, _event: str, ticker: str) -> list[Event]:
        # At the close the venue sends an empty snapshot unasked, and a ticker of 0.0000 against 1.0000.
        market = self.markets.pop(ticker)
        self.instruments = tuple(self.markets)
        empty = f'{{"market_ticker":"{ticker}","market_id":"{market.id}"}}'
        return [
            _market_event(ticker, "deactivated", is_deactivated=True),
            Event("orderbook_delta", ticker, "orderbook_snapshot", empty),
            Event("ticker", ticker, "ticker", self._ticker_body(market, 0, _UNIT, 0, 0)),
        ]

    def _determined(self, _event: str, ticker: str) -> list[Event]:
        return [
            _market_event(
                ticker, "determined", result="yes", determination_ts=self._now_ns() // 10**9, settlement_value="1.0000"
            )
        ]

    def _settled(self, _event: str, ticker: str) -> list[Event]:
        return [_market_event(ticker, "settled", settled_ts=self._now_ns() // 10**9)]


def _market_event(ticker: str, event_type: str, **members: object) -> Event:
    return _lifecycle_event("market_lifecycle_v2", market_ticker=ticker, event_type=event_type, **members)


def _lifecycle_event(type_: str, **members: object) -> Event:
    return Event("market_lifecycle_v2", "", type_, orjson.dumps(members).decode())


def _fp(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _trimmed(ns: int) -> str:
    """RFC 3339 with the trailing zeros of the fraction cut off, as Kalshi writes it."""
    return iso(ns)[:-1].rstrip("0").rstrip(".") + "Z"


def _uuid(rng: Random) -> str:
    digits = f"{rng.getrandbits(128):032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
