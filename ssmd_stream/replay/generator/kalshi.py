"""Generated Kalshi traffic, in the format of August 2026 (Kalshi's API reference and captures)."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import orjson

from ssmd_core.clock import NS_PER_S
from ssmd_stream.replay.generator.kalshi_calendar import Life, ScheduledMarket
from ssmd_stream.replay.generator.ladder import Change, Ladder
from ssmd_stream.replay.protocol import Event, Exchange, iso

_UNIT = 10_000  # price units per dollar
_PRICE = [f"{units // _UNIT}.{units % _UNIT:04d}" for units in range(_UNIT + 1)]
# Every so many steps the next lifecycle message of the short-lived market.
LIFECYCLE_EVERY = 200
# What stays open does so for longer than anybody lets a generator run.
_OPEN_SINCE_NS = 3_600 * NS_PER_S
_OPEN_FOR_NS = 30 * 86_400 * NS_PER_S
# Short-lived markets that REST still lists.
_LISTED = 1_000


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

    Besides these there can be markets that follow a calendar (`schedule`): they open and close by the clock alone, as
    the venue's do, without a lifecycle message. The short-lived one follows the steps instead of the clock, so that
    the same seed gives the same traffic.

    Args:
        seed: same seed, same traffic.
        now_ns: exchange time, epoch nanoseconds.
        markets: how many stay open.
        calendar: see `schedule`.
    """

    def __init__(
        self, seed: int, now_ns: Callable[[], int], markets: int = 8, calendar: Sequence[ScheduledMarket] = ()
    ) -> None:
        self._rng = Random(seed)
        self._now_ns = now_ns
        #: Epoch nanoseconds at which the exchange was made.
        self.start_ns = now_ns()
        #: Markets that trade now.
        self.markets: dict[str, KalshiMarket] = {}
        #: Dates of every market that REST lists, in the order of creation.
        self.lives: dict[str, Life] = {}
        # What will happen: when, a number to tell equal moments apart, what.
        self._agenda: list[tuple[int, int, Callable[[], list[Event]]]] = []
        self._numbers = itertools.count()
        self._happened: list[Event] = []
        for index in range(markets):
            # Tickers with dots and fractional strikes exist and must survive subjects and paths.
            strike = f"T{80_000 + 500 * index - 0.01:.2f}" if index % 2 else f"{index:02d}"
            ticker = f"{'KXBTCD' if index % 2 else 'KXBTC15M'}-26NOV22{12 + index // 8 % 12:02d}-{strike}"
            opened_ns = self.start_ns - _OPEN_SINCE_NS
            self.lives[ticker] = Life(ticker, opened_ns, opened_ns, self.start_ns + _OPEN_FOR_NS)
            self._open(ticker)
        self.instruments = tuple(self.markets)
        for market in calendar:
            self.schedule(market)
        self._steps = 0
        self._generation = 0
        self._phases: list[Callable[[str, str], list[Event]]] = []

    def schedule(self, market: ScheduledMarket) -> None:
        """Let a market live by the clock. Of what lies in the past there are no messages."""
        life = Life.of(market, self.start_ns)
        ticker, now_ns = life.ticker, self._now_ns()
        assert life.determined_ns is not None and life.settled_ns is not None
        if life.created_ns <= now_ns:
            self.lives[ticker] = life
        if life.open_ns <= now_ns < life.close_ns:
            self._open(ticker)
            self.instruments = tuple(self.markets)
        for at_ns, happens in (
            (life.created_ns, lambda: self._calendar_created(life)),
            (life.open_ns, lambda: self._calendar_opened(ticker)),
            (life.close_ns, lambda: self._calendar_closed(ticker)),
            (life.determined_ns, lambda: [_determined(ticker, life.result, life.determined_ns)]),
            (life.settled_ns, lambda: [_settled(ticker, life.settled_ns)]),
        ):
            if at_ns > now_ns:
                heapq.heappush(self._agenda, (at_ns, next(self._numbers), happens))

    def due(self) -> Sequence[Event]:
        if not self._agenda and not self._happened:
            return ()
        self.advance()
        happened, self._happened = self._happened, []
        return happened

    def advance(self) -> None:
        """Let everything happen whose time has come; `due` gives the messages."""
        now_ns = self._now_ns() if self._agenda else 0
        while self._agenda and self._agenda[0][0] <= now_ns:
            self._happened += heapq.heappop(self._agenda)[2]()

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

    def _calendar_created(self, life: Life) -> list[Event]:
        known = any(each.event_ticker == life.event_ticker for each in self.lives.values())
        self.lives[life.ticker] = life
        events = _created(life.event_ticker, life.ticker, life.open_ns // NS_PER_S, life.close_ns // NS_PER_S)
        return events[1:] if known else events

    def _calendar_opened(self, ticker: str) -> list[Event]:
        self._open(ticker)
        self.instruments = tuple(self.markets)
        # Who had subscribed before gets the book now.
        return [Event("orderbook_delta", ticker, "orderbook_snapshot", self.snapshot(ticker))]

    def _calendar_closed(self, ticker: str) -> list[Event]:
        return self._closed(ticker) if ticker in self.markets else []

    def _created(self, event: str, ticker: str) -> list[Event]:
        now_ns = self._now_ns()
        while len(self.lives) > len(self.markets) + _LISTED:
            oldest = next((t for t, each in self.lives.items() if each.status(now_ns) == "finalized"), None)
            if oldest is None:
                break
            del self.lives[oldest]
        self.lives[ticker] = Life(ticker, now_ns, now_ns, now_ns + 900 * NS_PER_S)
        now_s = now_ns // NS_PER_S
        return _created(event, ticker, now_s, now_s + 900)

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
        life = self.lives[ticker]
        life.close_ns = self._now_ns()
        return [_market_event(ticker, "close_date_updated", close_ts=life.close_ns // NS_PER_S)]

    def _deactivated(self, _event: str, ticker: str) -> list[Event]:
        return [_market_event(ticker, "deactivated", is_deactivated=True), *self._closed(ticker)]

    def _closed(self, ticker: str) -> list[Event]:
        # At the close the venue sends an empty snapshot unasked, and a ticker of 0.0000 against 1.0000.
        market, life = self.markets.pop(ticker), self.lives[ticker]
        self.instruments = tuple(self.markets)
        life.last, life.volume, life.open_interest = market.last, market.volume, market.open_interest
        empty = f'{{"market_ticker":"{ticker}","market_id":"{market.id}"}}'
        return [
            Event("orderbook_delta", ticker, "orderbook_snapshot", empty),
            Event("ticker", ticker, "ticker", self._ticker_body(market, 0, _UNIT, 0, 0)),
        ]

    def _determined(self, _event: str, ticker: str) -> list[Event]:
        self.lives[ticker].determined_ns = now_ns = self._now_ns()
        return [_determined(ticker, "yes", now_ns)]

    def _settled(self, _event: str, ticker: str) -> list[Event]:
        self.lives[ticker].settled_ns = now_ns = self._now_ns()
        return [_settled(ticker, now_ns)]


def _created(event: str, ticker: str, open_s: int, close_s: int) -> list[Event]:
    series = ticker.partition("-")[0]
    metadata = {
        "name": "BTC up in 15 minutes", "title": "Will BTC rise?", "yes_sub_title": "Up", "no_sub_title": "Down",
        "rules_primary": "Average of the last 60 s…", "rules_secondary": "", "can_close_early": True,
        "event_ticker": event, "expected_expiration_ts": close_s + 300, "strike_type": "greater_or_equal",
        "floor_strike": 84_000.5,
    }  # fmt: skip
    return [
        _lifecycle_event(
            "event_lifecycle", event_ticker=event, exchange_index=1, title="BTC in 15 minutes", subtitle="Nov 23",
            collateral_return_type="MECNET", series_ticker=series,
        ),
        _market_event(
            ticker, "created", exchange_index=1, open_ts=open_s, close_ts=close_s,
            price_level_structure="linear_cent", additional_metadata=metadata,
        ),
    ]  # fmt: skip


def _determined(ticker: str, result: str, at_ns: int) -> Event:
    value = "1.0000" if result == "yes" else "0.0000"
    return _market_event(
        ticker, "determined", result=result, determination_ts=at_ns // NS_PER_S, settlement_value=value
    )


def _settled(ticker: str, at_ns: int) -> Event:
    return _market_event(ticker, "settled", settled_ts=at_ns // NS_PER_S)


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
