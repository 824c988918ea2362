"""Polymarket's Gamma: events and markets, each by limit and offset and by keyset.

`GET /events` and `/markets` give an array, `/events/keyset` and `/markets/keyset` an object with `next_cursor` for
`after_cursor`. All take `closed` (default false), `order` (a member's name, by default the id) and `ascending`
(default true); events also `end_date_min`; markets also `condition_ids`, `clob_token_ids`, `volume_num_min` and
`liquidity_num_min`.

`GET /trades` is data-api's, which has a host of its own at the venue.

A `listing` is an array of event objects with their `markets`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from aiohttp import web

from ssmd_stream.replay.generator.gamma import gamma_events, gamma_market
from ssmd_stream.replay.generator.polymarket import PolymarketExchange
from ssmd_stream.replay.recording import Recording
from ssmd_stream.replay.rest_faults import page
from ssmd_stream.replay.venues_rest import polymarket_trades
from ssmd_stream.replay.venues_rest.source import RestSource, json_response, number_of

BASE = ""
MAX_MARKETS = 1000
# What the venue documents; a user has counted 100 on the live one, so a client must not conclude from a page's length.
MAX_EVENTS = 500
_SCANNED_FRAMES = 2_000

Found = Callable[[web.Request], list[dict[str, Any]]]


def add_routes(app: web.Application, source: RestSource) -> None:
    """Serve the listing, else the generated markets, or those of a recording's tokens."""

    def events() -> list[dict[str, Any]]:
        if source.listing is not None:
            return list(source.listing)
        if isinstance(source.exchange, PolymarketExchange):
            return source.exchange.events()
        return gamma_events(recorded_markets(source.recording)) if source.recording is not None else []

    def some_events(request: web.Request) -> list[dict[str, Any]]:
        ends = request.query.get("end_date_min", "")
        return _chosen(request, [event for event in events() if str(event.get("endDate") or "") >= ends])

    def some_markets(request: web.Request) -> list[dict[str, Any]]:
        markets = [market for event in events() for market in event["markets"]]
        return _chosen(request, [market for market in markets if _wanted(request, market)])

    for name, found, most in (("events", some_events, MAX_EVENTS), ("markets", some_markets, MAX_MARKETS)):
        app.router.add_get(f"/{name}", _by_offset(found, most))
        app.router.add_get(f"/{name}/keyset", _by_cursor(name, found, most))
    polymarket_trades.add_routes(app, source)


def _by_offset(found: Found, most: int) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        items, _ = page(request, found(request), number_of(request, "offset", 0), _limit(request, most))
        return json_response(items)

    return answer


def _by_cursor(name: str, found: Found, most: int) -> Callable[[web.Request], Any]:
    async def answer(request: web.Request) -> web.Response:
        listed = found(request)
        start = _start_of(request.query.get("after_cursor", ""), listed)
        items, next_start = page(request, listed, start, _limit(request, most))
        more = {"next_cursor": _cursor_of(next_start, listed)} if next_start is not None else {}
        return json_response({name: items} | more)

    return answer


def _cursor_of(next_start: int, listed: list[dict[str, Any]]) -> str:
    """Number of the next item and id of the one before it: what was listed since then may have come or gone."""
    return f"{next_start}~{listed[(next_start - 1) % len(listed)]['id']}"


def _start_of(cursor: str, listed: list[dict[str, Any]]) -> int:
    number, _, last = cursor.partition("~")
    start = int(number) if number.isdigit() else 0
    if start > len(listed):
        return start
    return next((index + 1 for index, item in enumerate(listed) if item["id"] == last), start) if start else 0


def _limit(request: web.Request, most: int) -> int:
    return max(1, min(number_of(request, "limit", 20), most))


def _chosen(request: web.Request, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    closed = request.query.get("closed", "false") == "true"
    order, falling = request.query.get("order", "id"), request.query.get("ascending", "true") == "false"
    listed = [item for item in found if (item.get("closed") is True) == closed]
    # Ids are numbers in text: the longer one is the larger one.
    return sorted(listed, key=lambda item: (len(str(item["id"])) if order == "id" else 0, str(item.get(order) or "")),
                  reverse=falling)  # fmt: skip


def _wanted(request: web.Request, market: dict[str, Any]) -> bool:
    conditions = request.query.getall("condition_ids", [])
    tokens = request.query.getall("clob_token_ids", [])
    least = {name: float(request.query.get(f"{name}_min", 0)) for name in ("volume_num", "liquidity_num")}
    return (
        (not conditions or market["conditionId"] in conditions)
        and (not tokens or not set(tokens).isdisjoint(orjson.loads(market["clobTokenIds"])))
        and (not least["volume_num"] or market.get("volumeNum", 0) >= least["volume_num"])
        and (not least["liquidity_num"] or market.get("liquidityNum", 0) >= least["liquidity_num"])
    )


class _Tokens(msgspec.Struct, gc=False):
    market: str = ""
    asset_id: str = ""
    price_changes: list[_Tokens] = []


_TOKENS = msgspec.json.Decoder(_Tokens | list[_Tokens])


def recorded_markets(recording: Recording) -> list[dict[str, Any]]:
    """Gamma objects for the Polymarket tokens that the first 2,000 frames of a recording name."""
    tokens: dict[str, dict[str, None]] = {}
    for number, frame in enumerate(recording):
        if number == _SCANNED_FRAMES:
            break
        try:
            found = _TOKENS.decode(frame.payload)
        except msgspec.DecodeError:
            continue
        for message in found if isinstance(found, list) else [found]:
            for entry in (message, *message.price_changes):
                if message.market and entry.asset_id:
                    tokens.setdefault(message.market, {})[entry.asset_id] = None
    return [
        gamma_market(index, condition, list(ids), tick=0.01, timestamp_ms=0)
        for index, (condition, ids) in enumerate(tokens.items(), 1)
    ]
