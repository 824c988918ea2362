"""Kraken Futures' public REST interface below `/derivatives/api/v3`: `GET /instruments`, `/tickers` and `/history`.

Everything else is 404. The history's pages end at `lastTime`, a hundred trades each, newest first.

A `listing` is an object with the arrays `instruments` and `tickers`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ssmd_stream.replay.generator.kraken_futures import KrakenFuturesExchange, instrument_listing
from ssmd_stream.replay.protocol import iso
from ssmd_stream.replay.rest_faults import page, remembered
from ssmd_stream.replay.venues_rest.source import RestSource, exact_response, json_response
from ssmd_stream.replay.venues_rest.tape import TapedTrade, us_of_iso

BASE = "/derivatives/api/v3"
MAX_TRADES = 100


def add_routes(app: web.Application, source: RestSource) -> None:
    """Serve the listing, else the generator's products; without a generated exchange there are no tickers."""

    def success(name: str, items: list[Any]) -> web.Response:
        return json_response({"result": "success", "serverTime": iso(source.now_ns()), name: items})

    async def instruments(_request: web.Request) -> web.Response:
        return success("instruments", instrument_listing() if source.listing is None else source.listing["instruments"])

    async def tickers(_request: web.Request) -> web.Response:
        if source.listing is not None:
            return success("tickers", source.listing["tickers"])
        exchange = source.exchange
        return success("tickers", exchange.tickers() if isinstance(exchange, KrakenFuturesExchange) else [])

    async def history(request: web.Request) -> web.Response:
        product, last = request.query.get("symbol", ""), request.query.get("lastTime", "")
        try:
            last_us = us_of_iso(last) if last else None
        except ValueError:
            error = {"code": 11, "message": "Argument invalid: lastTime"}
            body = {"status": "BAD_REQUEST", "result": "error", "errors": [error], "serverTime": iso(source.now_ns())}
            return json_response(body, status=400)
        found = [
            trade
            for trade in remembered(request, source.tape.trades(product))
            if last_us is None or trade.time_us <= last_us
        ]
        some, _ = page(request, found[::-1], 0, MAX_TRADES)
        rows = [_row(trade, number) for number, trade in enumerate(some, 1)]
        return exact_response({"result": "success", "serverTime": iso(source.now_ns()), "history": rows})

    async def unknown(request: web.Request) -> web.Response:
        # The servlet's form, one of the three in which this venue reports errors.
        body = {"timestamp": source.now_ns() // 1_000_000, "path": request.path, "status": 404, "error": "Not Found"}
        return json_response(body, status=404)

    app.router.add_get(f"{BASE}/instruments", instruments)
    app.router.add_get(f"{BASE}/tickers", tickers)
    app.router.add_get(f"{BASE}/history", history)
    app.router.add_get("/{path:.*}", unknown)


def _row(trade: TapedTrade, number: int) -> dict[str, Any]:
    """`trade_id` counts anew in every answer: it names no trade."""
    sent = trade.message
    return {
        "time": iso(trade.time_us * 1_000)[:-4] + "Z",
        "trade_id": number,
        "price": sent["price"],
        "size": sent["qty"],
        "side": sent["side"],
        "type": sent["type"],
        "uid": sent["uid"],
    }
