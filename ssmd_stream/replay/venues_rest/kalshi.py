"""Kalshi's public REST interface, as in Kalshi's API reference of August 2026.

It answers from the generated exchange as of its clock, or from a `KalshiListing` that a test hands to
`ReplayServer(listing=...)`. Filters that the venue cannot combine give an empty page, as there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

from aiohttp import web

from ssmd_core.clock import NS_PER_S, NS_PER_US
from ssmd_core.secmaster.status import KALSHI_QUERY
from ssmd_stream.replay.generator.kalshi import KalshiExchange
from ssmd_stream.replay.protocol import iso
from ssmd_stream.replay.rest_faults import page, remembered
from ssmd_stream.replay.venues_rest.kalshi_exchange import ExchangeListing
from ssmd_stream.replay.venues_rest.kalshi_listing import Entry, Json, KalshiListing, Listing, seconds_of
from ssmd_stream.replay.venues_rest.kalshi_trades import trade_record
from ssmd_stream.replay.venues_rest.source import RestSource, json_response
from ssmd_stream.replay.venues_rest.tape import Tape

T = TypeVar("T")

BASE = "/trade-api/v2"
MAX_MARKETS, MAX_EVENTS, MAX_FEE_CHANGES, MAX_TRADES = 1_000, 200, 1_000, 1_000
US_PER_S = 1_000_000
_DEFAULT_LIMIT = 100
# The venue moves markets that settled about three months ago.
_CUTOFF_NS = 90 * 86_400 * NS_PER_S
# With which status words a time filter works; with another one the venue silently finds nothing.
_COMPATIBLE = {
    "created": frozenset({"unopened", "open", ""}),
    "close": frozenset({"closed", ""}),
    "settled": frozenset({"settled", ""}),
    "updated": frozenset({""}),
}


class _BadRequestError(Exception):
    """Answered with HTTP 400."""


def add_routes(app: web.Application, source: RestSource) -> None:
    """Serve the listing (a `Listing`), else the generated exchange, else nothing at all."""
    listing = source.listing
    if not isinstance(listing, Listing):
        exchange = source.exchange
        listing = ExchangeListing(exchange, source.now_ns) if isinstance(exchange, KalshiExchange) else KalshiListing()
    _Api(listing, source.now_ns, source.tape).add_to(app)


class _Api:
    def __init__(self, listing: Listing, now_ns: Callable[[], int], tape: Tape) -> None:
        self._listing = listing
        self._now_ns = now_ns
        self._tape = tape

    def add_to(self, app: web.Application) -> None:
        routes: dict[str, Callable[[web.Request], web.Response]] = {
            "/exchange/status": self._exchange_status,
            "/series": self._series,
            "/series/fee_changes": self._fee_changes,
            "/series/{ticker}": self._one_series,
            "/events": self._events,
            "/events/fee_changes": self._event_fee_changes,
            "/events/{ticker}": self._event,
            "/markets": self._markets,
            "/markets/trades": self._trades,
            "/historical/trades": self._historical_trades,
            "/markets/{ticker}": self._market,
            "/historical/cutoff": self._cutoff,
            "/historical/markets": self._historical_markets,
            "/historical/markets/{ticker}": self._historical_market,
        }
        for path, handler in routes.items():
            app.router.add_get(BASE + path, _guarded(handler))

    def _exchange_status(self, request: web.Request) -> web.Response:
        del request
        return json_response({"exchange_active": True, "trading_active": True, "exchange_index_statuses": []})

    # -- series

    def _series(self, request: web.Request) -> web.Response:
        category, tags = request.query.get("category"), _words(request, "tags")
        found = [
            record
            for record in self._listing.series()
            if (not category or record.get("category") == category)
            and (not tags or tags.intersection(record.get("tags") or ()))
        ]
        if request.query.get("include_volume") != "true":
            found = [{key: value for key, value in record.items() if key != "volume_fp"} for record in found]
        items, _ = page(request, found, 0, max(1, len(found)))
        return json_response({"series": items})

    def _one_series(self, request: web.Request) -> web.Response:
        return _one(self._listing.series(), "ticker", request.match_info["ticker"], "series")

    def _fee_changes(self, request: web.Request) -> web.Response:
        ticker = request.query.get("series_ticker")
        changes = self._listing.fee_changes()
        if request.query.get("show_historical") != "true":
            now_s = self._now_ns() / NS_PER_S
            changes = [each for each in changes if (seconds_of(each.get("scheduled_ts")) or 0) > now_s]
        found = [each for each in changes if not ticker or each.get("series_ticker") == ticker]
        items, _ = page(request, found, 0, max(1, len(found)))
        return json_response({"series_fee_change_arr": items})

    # -- events

    def _events(self, request: web.Request) -> web.Response:
        children = _by_event(self._listing.markets())
        series, tickers, status = request.query.get("series_ticker"), _words(request, "tickers"), _status(request)
        min_close_s, min_updated_s = _epoch(request, "min_close_ts"), _epoch(request, "min_updated_ts")

        def fits(event: Json) -> bool:
            markets = children.get(str(event.get("event_ticker")), [])
            return (
                (not series or event.get("series_ticker") == series)
                and (not tickers or event.get("event_ticker") in tickers)
                and (not status or _event_status(markets) == status)
                and (min_close_s is None or any((each.close_s or 0) > min_close_s for each in markets))
                and (min_updated_s is None or (seconds_of(event.get("last_updated_ts")) or 0) >= min_updated_s)
            )

        found = [event for event in self._listing.events() if fits(event)]
        if request.query.get("with_nested_markets") == "true":
            found = [
                event | {"markets": [each.record() for each in children.get(str(event.get("event_ticker")), [])]}
                for event in found
            ]
        return _paged(request, "events", found, MAX_EVENTS, lambda event: event)

    def _event(self, request: web.Request) -> web.Response:
        ticker = request.match_info["ticker"]
        event = next((each for each in self._listing.events() if each.get("event_ticker") == ticker), None)
        if event is None:
            return _not_found()
        markets = [each.record() for each in self._listing.markets() if each.event_ticker == ticker]
        if request.query.get("with_nested_markets") == "true":
            return json_response({"event": event | {"markets": markets}})
        return json_response({"event": event, "markets": markets})

    def _event_fee_changes(self, request: web.Request) -> web.Response:
        ticker = request.query.get("event_ticker")
        found = [each for each in self._listing.event_fee_changes() if not ticker or each.get("event_ticker") == ticker]
        return _paged(request, "event_fee_changes", found, MAX_FEE_CHANGES, lambda change: change)

    # -- markets

    def _markets(self, request: web.Request) -> web.Response:
        return _paged(request, "markets", _chosen(request, self._listing.markets()), MAX_MARKETS, _record)

    def _historical_markets(self, request: web.Request) -> web.Response:
        found = _chosen(request, self._listing.historical_markets())
        return _paged(request, "markets", found, MAX_MARKETS, _record)

    def _market(self, request: web.Request) -> web.Response:
        return _market_of(self._listing.markets(), request.match_info["ticker"])

    def _historical_market(self, request: web.Request) -> web.Response:
        return _market_of(self._listing.historical_markets(), request.match_info["ticker"])

    # -- trades

    def _trades(self, request: web.Request) -> web.Response:
        cutoff_us = (self._now_ns() - _CUTOFF_NS) // NS_PER_US
        return self._some_trades(request, lambda time_us: time_us >= cutoff_us)

    def _historical_trades(self, request: web.Request) -> web.Response:
        cutoff_us = (self._now_ns() - _CUTOFF_NS) // NS_PER_US
        return self._some_trades(request, lambda time_us: time_us < cutoff_us)

    def _some_trades(self, request: web.Request, stands_here: Callable[[int], bool]) -> web.Response:
        low_s, high_s = _epoch(request, "min_ts"), _epoch(request, "max_ts")
        found = [
            trade
            for trade in remembered(request, self._tape.trades(request.query.get("ticker")))
            if stands_here(trade.time_us)
            and (low_s is None or trade.time_us >= low_s * US_PER_S)
            and (high_s is None or trade.time_us <= high_s * US_PER_S)
        ]
        return _paged(request, "trades", found[::-1], MAX_TRADES, trade_record)

    def _cutoff(self, request: web.Request) -> web.Response:
        del request
        names = ("market_positions_last_updated_ts", "market_settled_ts", "orders_updated_ts", "trades_created_ts")
        return json_response(dict.fromkeys(names, iso(self._now_ns() - _CUTOFF_NS)))


def _guarded(
    handler: Callable[[web.Request], web.Response],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        try:
            return handler(request)
        except _BadRequestError as error:
            return json_response({"error": {"code": "bad_request", "message": str(error)}}, 400)

    return answer


def _chosen(request: web.Request, entries: Iterable[Entry]) -> list[Entry]:
    """The entries that pass all filters of `/markets`."""
    query, status = request.query, _status(request)
    times = {name: (_epoch(request, f"min_{name}_ts"), _epoch(request, f"max_{name}_ts")) for name in _COMPATIBLE}
    used = [name for name, bounds in times.items() if bounds != (None, None)]
    if len(used) > 1 or any(status not in _COMPATIBLE[name] for name in used):
        return []
    words = KALSHI_QUERY.get(status)
    tickers, event, series = _words(request, "tickers"), query.get("event_ticker"), query.get("series_ticker")
    multivariate = {"only": True, "exclude": False}.get(query.get("mve_filter", ""))

    def fits(entry: Entry) -> bool:
        moments = {
            "created": entry.created_s, "close": entry.close_s, "settled": entry.settled_s, "updated": entry.updated_s
        }  # fmt: skip
        return (
            (words is None or entry.status in words)
            and (not tickers or entry.ticker in tickers)
            and (not event or entry.event_ticker == event)
            and (not series or entry.ticker.partition("-")[0] == series)
            and (multivariate is None or entry.multivariate == multivariate)
            and all(_within(moments[name], times[name]) for name in used)
        )

    return [entry for entry in entries if fits(entry)]


def _within(moment_s: float | None, bounds: tuple[int | None, int | None]) -> bool:
    low, high = bounds
    return moment_s is not None and (low is None or moment_s >= low) and (high is None or moment_s <= high)


def _event_status(markets: Sequence[Entry]) -> str:
    """The query word that finds an event with these markets."""
    words = {each.status for each in markets}
    for word in ("open", "unopened", "paused", "closed"):
        if words & KALSHI_QUERY[word]:
            return word
    return "settled" if words else "open"


def _by_event(entries: Iterable[Entry]) -> dict[str, list[Entry]]:
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.event_ticker, []).append(entry)
    return found


def _paged(request: web.Request, key: str, found: Sequence[T], most: int, record: Callable[[T], Json]) -> web.Response:
    limit = _epoch(request, "limit")
    limit = _DEFAULT_LIMIT if limit is None else limit
    if not 1 <= limit <= most:
        raise _BadRequestError(f"limit must be from 1 to {most}")
    items, next_start = page(request, found, _start(request), limit)
    return json_response({key: [record(item) for item in items], "cursor": _cursor(next_start)})


def _cursor(start: int | None) -> str:
    return "" if start is None else base64.urlsafe_b64encode(f"from {start}".encode()).decode()


def _start(request: web.Request) -> int:
    cursor = request.query.get("cursor", "")
    if not cursor:
        return 0
    try:
        word, _, number = base64.urlsafe_b64decode(cursor).decode().partition(" ")
    except (binascii.Error, UnicodeDecodeError):
        word, number = "", ""
    if word != "from" or not number.isdigit():
        raise _BadRequestError("invalid cursor")
    return int(number)


def _status(request: web.Request) -> str:
    status = request.query.get("status", "")
    if status and status not in KALSHI_QUERY:
        raise _BadRequestError(f"invalid status {status!r}")
    return status


def _words(request: web.Request, name: str) -> set[str]:
    return set(filter(None, request.query.get(name, "").split(",")))


def _epoch(request: web.Request, name: str) -> int | None:
    text = request.query.get(name)
    if text is None:
        return None
    if not text.isdigit():
        raise _BadRequestError(f"{name} is not a number")
    return int(text)


def _record(entry: Entry) -> Json:
    return entry.record()


def _market_of(entries: Iterable[Entry], ticker: str) -> web.Response:
    found = next((entry for entry in entries if entry.ticker == ticker), None)
    return json_response({"market": found.record()}) if found is not None else _not_found()


def _one(records: Iterable[Json], key: str, wanted: str, member: str) -> web.Response:
    found: Any = next((record for record in records if record.get(key) == wanted), None)
    return json_response({member: found}) if found is not None else _not_found()


def _not_found() -> web.Response:
    return json_response({"error": {"code": "not_found", "message": "not found"}}, 404)
