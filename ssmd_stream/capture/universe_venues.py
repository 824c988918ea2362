"""The universes of the venues whose instruments come from the security master."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, ClassVar, Literal, NamedTuple

from ssmd_core.config import SecmasterConfig
from ssmd_stream.capture.universe import Row, Scope, Universe, Verdict, moment_s, number

ACTIVE = "active"


class _Series(NamedTuple):
    category: str
    is_game: bool
    volume: Decimal | None


class _Event(NamedTuple):
    series: str
    category: str


class _Market(NamedTuple):
    parent: str
    close_s: float | None


class KalshiUniverse(Universe):
    """Market tickers. The market's own row decides by status and deletion; its event and series only describe it."""

    columns: ClassVar = {
        "series": ("category", "is_game", "volume"),
        "events": ("series_ticker", "category"),
        "markets": ("event_ticker", "status", "close_time", "deleted_at"),
    }

    def __init__(self, config: SecmasterConfig) -> None:
        super().__init__(config)
        self._series: dict[str, _Series] = {}
        self._events: dict[str, _Event] = {}
        self._markets: dict[str, _Market] = {}
        self._events_of: dict[str, dict[str, None]] = {}
        self._markets_of: dict[str, dict[str, None]] = {}

    def _take(self, row: Row) -> None:
        match row.table:
            case "series":
                self._take_series(row)
            case "events":
                self._take_event(row)
            case _:
                self._take_market(row)

    def _take_series(self, row: Row) -> None:
        values = row.values
        # A row without its description describes nothing: what was known stays better than nothing.
        if values is None:
            return
        series = _Series(values["category"] or "", bool(values["is_game"]), number(values.get("volume")))
        if self._series.get(row.key) == series:
            return
        self._series[row.key] = series
        for event in self._events_of.get(row.key, ()):
            self._touch(self._markets_of.get(event, ()))

    def _take_event(self, row: Row) -> None:
        values = row.values
        if values is None:
            return
        event = _Event(values["series_ticker"] or "", values["category"] or "")
        known = self._events.get(row.key)
        if known == event:
            return
        if known is not None:
            _drop(self._events_of, known.series, row.key)
        self._events[row.key] = event
        self._events_of.setdefault(event.series, {})[row.key] = None
        self._touch(self._markets_of.get(row.key, ()))

    def _take_market(self, row: Row) -> None:
        values, known = row.values, self._markets.get(row.key)
        ended = _ending(values)
        if values is None or ended:
            if known is not None:
                del self._markets[row.key]
                _drop(self._markets_of, known.parent, row.key)
            self.waiting.discard(row.key)
            self._ended(row.key, ended)
            return
        market = _Market(values["event_ticker"], moment_s(values.get("close_time")))
        if known == market:
            return
        if known is not None:
            _drop(self._markets_of, known.parent, row.key)
        self._markets[row.key] = market
        self._markets_of.setdefault(market.parent, {})[row.key] = None
        self._touch((row.key,))

    def _adopt(self, fresh: KalshiUniverse) -> None:
        self._series, self._events, self._markets = fresh._series, fresh._events, fresh._markets
        self._events_of, self._markets_of = fresh._events_of, fresh._markets_of

    def _judge(self, instrument: str, now_s: float) -> Verdict:
        self.waiting.discard(instrument)
        market = self._markets.get(instrument)
        if market is None:
            return Verdict(False, "not active")
        event = self._events.get(market.parent)
        series = self._series.get(event.series) if event is not None else None
        category = (event.category if event else "") or (series.category if series else "")
        needs_series = self.filter.needs_series or (self.filter.config.categories and not category)
        if (self.filter.needs_event and event is None) or (needs_series and series is None):
            self.waiting.add(instrument)
            return Verdict(False, "event or series not known yet")
        scope = Scope(
            category, event.series if event else "", series.volume if series else None, bool(series and series.is_game)
        )
        return self._judged(scope, market.close_s, now_s)


class _Condition(NamedTuple):
    scope: Scope
    end_s: float | None


class PolymarketUniverse(Universe):
    """Token ids. The condition's row decides; its tokens follow."""

    columns: ClassVar = {
        "polymarket_conditions": ("status", "category", "volume", "end_date", "deleted_at"),
        "polymarket_tokens": ("condition_id", "deleted_at"),
    }

    def __init__(self, config: SecmasterConfig) -> None:
        super().__init__(config)
        self._conditions: dict[str, _Condition] = {}
        self._tokens: dict[str, str] = {}
        self._tokens_of: dict[str, dict[str, None]] = {}

    def _take(self, row: Row) -> None:
        if row.table == "polymarket_tokens":
            self._take_token(row)
        else:
            self._take_condition(row)

    def _take_condition(self, row: Row) -> None:
        values = row.values
        ended = _ending(values)
        tokens = self._tokens_of.get(row.key, ())
        if values is None or ended:
            self._conditions.pop(row.key, None)
            self.waiting.discard(row.key)
            for token in tokens:
                self._ended(token, ended)
            return
        scope = Scope(values.get("category") or "", "", number(values.get("volume")), False)
        condition = _Condition(scope, moment_s(values.get("end_date")))
        if self._conditions.get(row.key) == condition:
            return
        self._conditions[row.key] = condition
        self._touch(tokens)
        if not tokens:
            self.waiting.add(row.key)

    def _take_token(self, row: Row) -> None:
        known = self._tokens.get(row.key)
        if row.values is None or row.values.get("deleted_at") is not None:
            if known is not None:
                del self._tokens[row.key]
                _drop(self._tokens_of, known, row.key)
            self._ended(row.key, "deleted")
            return
        condition: str = row.values["condition_id"]
        self.waiting.discard(condition)
        if known == condition:
            return
        if known is not None:
            _drop(self._tokens_of, known, row.key)
        self._tokens[row.key] = condition
        self._tokens_of.setdefault(condition, {})[row.key] = None
        self._touch((row.key,))

    def _adopt(self, fresh: PolymarketUniverse) -> None:
        self._conditions, self._tokens, self._tokens_of = fresh._conditions, fresh._tokens, fresh._tokens_of

    def _judge(self, instrument: str, now_s: float) -> Verdict:
        condition = self._conditions.get(self._tokens.get(instrument, ""))
        if condition is None:
            return Verdict(False, "not active")
        return self._judged(condition.scope, condition.end_s, now_s)


UNIVERSES: dict[str, type[Universe]] = {"kalshi": KalshiUniverse, "polymarket": PolymarketUniverse}
#: Parts of the filter that only Kalshi's rows can answer.
KALSHI_ONLY: tuple[Literal["series", "suffixes", "games_only"], ...] = ("series", "suffixes", "games_only")


def _ending(values: Mapping[str, Any] | None) -> str:
    """Why a row does not count as active; "" if it does."""
    if values is None or values.get("deleted_at") is not None:
        return "deleted"
    return "" if values["status"] == ACTIVE else f"status {values['status']}"


def _drop(index: dict[str, dict[str, None]], parent: str, child: str) -> None:
    children = index.get(parent)
    if children is not None:
        children.pop(child, None)
        if not children:
            del index[parent]
