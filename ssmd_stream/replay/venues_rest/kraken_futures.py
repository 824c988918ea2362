"""Kraken Futures' public REST interface: `GET /derivatives/api/v3/instruments` and `/tickers`; the rest is 404.

A `listing` is an object with the arrays `instruments` and `tickers`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from ssmd_stream.replay.generator.kraken_futures import KrakenFuturesExchange, instrument_listing
from ssmd_stream.replay.protocol import iso
from ssmd_stream.replay.venues_rest.source import RestSource, json_response

BASE = "/derivatives/api/v3"


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

    async def unknown(request: web.Request) -> web.Response:
        # The servlet's form, one of the three in which this venue reports errors.
        body = {"timestamp": source.now_ns() // 1_000_000, "path": request.path, "status": 404, "error": "Not Found"}
        return json_response(body, status=404)

    app.router.add_get(f"{BASE}/instruments", instruments)
    app.router.add_get(f"{BASE}/tickers", tickers)
    app.router.add_get("/{path:.*}", unknown)
