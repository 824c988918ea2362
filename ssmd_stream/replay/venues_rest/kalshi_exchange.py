"""The generated exchange as Kalshi's REST interface lists it (record format of August 2026)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from ssmd_core.clock import NS_PER_S
from ssmd_stream.replay.generator.kalshi import KalshiExchange
from ssmd_stream.replay.generator.kalshi_calendar import Life
from ssmd_stream.replay.protocol import iso
from ssmd_stream.replay.venues_rest.kalshi_listing import Entry, Json, Listing, seconds

_UNIT = 10_000  # price units per dollar
_FEE_CHANGED_BEFORE_NS = 30 * 86_400 * NS_PER_S
_EXPIRES_AFTER_NS = 7 * 86_400 * NS_PER_S


class ExchangeListing(Listing):
    """Answers as of the exchange's clock.

    Args:
        exchange: whose markets.
        now_ns: its clock, epoch nanoseconds.
    """

    def __init__(self, exchange: KalshiExchange, now_ns: Callable[[], int]) -> None:
        self._exchange = exchange
        self._now_ns = now_ns

    def series(self) -> Sequence[Json]:
        volumes: dict[str, int] = {}
        for life in self._lives():
            series_ticker = life.ticker.partition("-")[0]
            volumes[series_ticker] = volumes.get(series_ticker, 0) + self._figures(life)[1]
        return [
            {
                "ticker": ticker, "title": f"Bitcoin price ({ticker})", "category": "Crypto", "tags": ["BTC", "Crypto"],
                "frequency": "fifteen_min" if "15M" in ticker else "hourly", "fee_type": "quadratic",
                "fee_multiplier": 1, "exchange_index": 1, "settlement_sources": [], "product_metadata": None,
                "last_updated_ts": _time(self._exchange.start_ns), "volume_fp": _contracts(volume),
            }
            for ticker, volume in volumes.items()
        ]  # fmt: skip

    def events(self) -> Sequence[Json]:
        first: dict[str, Life] = {}
        for life in self._lives():
            first.setdefault(life.event_ticker, life)
        return [
            {
                "event_ticker": event_ticker, "series_ticker": event_ticker.partition("-")[0],
                "title": f"Bitcoin price, {event_ticker.partition('-')[2]}", "sub_title": "Nov 22",
                "category": "Crypto", "collateral_return_type": "MECNET", "mutually_exclusive": False,
                "strike_date": _time(life.close_ns),
                "strike_period": "", "exchange_index": 1, "settlement_sources": [], "available_on_brokers": False,
                "last_updated_ts": _time(life.created_ns), "fee_type_override": None, "fee_multiplier_override": None,
            }
            for event_ticker, life in first.items()
        ]  # fmt: skip

    def markets(self) -> Sequence[Entry]:
        now_ns = self._now_ns()
        return [
            Entry(
                life.ticker,
                life.event_ticker,
                life.status(now_ns),
                seconds(life.created_ns),
                seconds(life.close_ns),
                seconds(life.settled_ns),
                seconds(life.created_ns),
                False,
                partial(self._record, life, now_ns),
            )
            for life in self._lives()
        ]

    def historical_markets(self) -> Sequence[Entry]:
        return []

    def fee_changes(self) -> Sequence[Json]:
        changed = _time(self._exchange.start_ns - _FEE_CHANGED_BEFORE_NS)
        return [
            {
                "id": "8d7b6f0a-1c7e-4a55-9a3e-0000000000d1", "series_ticker": "KXBTCD", "fee_type": "quadratic",
                "fee_multiplier": 1, "scheduled_ts": changed,
            }
        ]  # fmt: skip

    def event_fee_changes(self) -> Sequence[Json]:
        return []

    def _lives(self) -> Sequence[Life]:
        self._exchange.advance()
        return list(self._exchange.lives.values())

    def _figures(self, life: Life) -> tuple[int, int, int]:
        """Last price, volume, open interest."""
        market = self._exchange.markets.get(life.ticker)
        source = life if market is None else market
        return source.last, source.volume, source.open_interest

    def _record(self, life: Life, now_ns: int) -> Json:
        status = life.status(now_ns)
        market = self._exchange.markets.get(life.ticker)
        # Without a book the venue shows nothing bid and everything offered.
        bid, ask = (market.ladder.best_bid, min(market.ladder.best_ask, _UNIT)) if market else (0, _UNIT)
        last, volume, open_interest = self._figures(life)
        has_result = status in ("determined", "finalized")
        record = {
            "ticker": life.ticker, "event_ticker": life.event_ticker, "market_type": "binary",
            "title": "Will BTC rise?", "yes_sub_title": "Up", "no_sub_title": "Down", "status": status,
            "created_time": _time(life.created_ns), "updated_time": _time(life.created_ns),
            "open_time": _time(life.open_ns), "close_time": _time(life.close_ns),
            "expected_expiration_time": _time(life.close_ns + 300 * NS_PER_S),
            "expiration_time": _time(life.close_ns + _EXPIRES_AFTER_NS),
            "latest_expiration_time": _time(life.close_ns + _EXPIRES_AFTER_NS),
            "settlement_timer_seconds": 1, "strike_type": "greater_or_equal", "floor_strike": 84_000.5,
            "custom_strike": {"round_digits": "2"}, "yes_bid_dollars": _dollars(bid), "yes_ask_dollars": _dollars(ask),
            "no_bid_dollars": _dollars(_UNIT - ask), "no_ask_dollars": _dollars(_UNIT - bid),
            "last_price_dollars": _dollars(last), "volume_fp": _contracts(volume),
            "volume_24h_fp": _contracts(volume), "open_interest_fp": _contracts(open_interest),
            "notional_value_dollars": "1.0000", "liquidity_dollars": "0.0000",
            "result": life.result if has_result else "", "expiration_value": "84123.45" if has_result else "",
            "can_close_early": True, "price_level_structure": "linear_cent",
            "price_ranges": [{"start": "0.0000", "end": "1.0000", "step": "0.0100"}], "exchange_index": 1,
        }  # fmt: skip
        if has_result:
            record["settlement_value_dollars"] = "1.0000" if life.result == "yes" else "0.0000"
        if status == "finalized" and life.settled_ns is not None:
            record["settlement_ts"] = _time(life.settled_ns)
        return record


def _dollars(units: int) -> str:
    return f"{units // _UNIT}.{units % _UNIT:04d}"


def _contracts(hundredths: int) -> str:
    return f"{hundredths // 100}.{hundredths % 100:02d}"


def _time(ns: int) -> str:
    """RFC 3339 with the trailing zeros of the fraction cut off, as Kalshi writes it."""
    return iso(ns)[:-1].rstrip("0").rstrip(".") + "Z"
