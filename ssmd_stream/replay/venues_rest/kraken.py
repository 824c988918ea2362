"""Kraken's public REST interface: `GET /0/public/AssetPairs[?pair=][&aclass_base=]` and `Trades?pair=[&since=]`.

A `listing` is the `result` of AssetPairs: an object of pairs by key, tokenised ones among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from zlib import crc32

from aiohttp import web

from ssmd_core.feeds.kraken.names import symbol_of
from ssmd_stream.replay.generator.kraken import KrakenExchange, asset_pairs
from ssmd_stream.replay.rest_faults import page, remembered
from ssmd_stream.replay.venues_rest.source import RestSource, exact_response, json_response, number_of
from ssmd_stream.replay.venues_rest.tape import TapedTrade

BASE = "/0/public"
MAX_TRADES = 1_000


def add_routes(app: web.Application, source: RestSource) -> None:
    """Serve the listing, else the generator's pairs with the statuses of the moment."""

    def listed(class_: str) -> Mapping[str, Any]:
        if source.listing is not None:
            return {key: pair for key, pair in source.listing.items() if _class_of(pair) == class_}
        return asset_pairs(source.exchange if isinstance(source.exchange, KrakenExchange) else None, class_)

    async def answer(request: web.Request) -> web.Response:
        found = listed(request.query.get("aclass_base", "currency"))
        wanted = request.query.get("pair")
        if wanted is not None:
            names = set(wanted.split(","))
            found = {key: pair for key, pair in found.items() if names & {key, pair.get("altname"), pair.get("wsname")}}
            if not found:
                # Kraken answers errors with HTTP 200.
                return json_response({"error": ["EQuery:Unknown asset pair"]})
        return json_response({"error": [], "result": found})

    async def trades(request: web.Request) -> web.Response:
        wanted = request.query.get("pair", "")
        symbol = _symbol_of(wanted, listed("currency"))
        if symbol is None:
            return json_response({"error": ["EQuery:Unknown asset pair"]})
        found = remembered(request, source.tape.trades(symbol))
        since = request.query.get("since", "")
        count = min(number_of(request, "count", MAX_TRADES), MAX_TRADES)
        found = [trade for trade in found if _ns(trade) > int(since)] if since.isdigit() else found[-count:]
        some, _ = page(request, found, 0, count)
        last = str(_ns(some[-1])) if some else since
        # The rows bear the name that was asked for.
        return exact_response({"error": [], "result": {wanted: [_row(trade) for trade in some], "last": last}})

    app.router.add_get(f"{BASE}/AssetPairs", answer)
    app.router.add_get(f"{BASE}/Trades", trades)


def _symbol_of(name: str, pairs: Mapping[str, Any]) -> str | None:
    for key, pair in pairs.items():
        symbol = symbol_of(pair["wsname"])
        if name in (key, pair["altname"], pair["wsname"], symbol):
            return symbol
    return None


def _ns(trade: TapedTrade) -> int:
    """Time of a trade; those of one match share it."""
    return trade.time_us * 1_000 + crc32(str(trade.time_us).encode()) % 10 * 100


def _row(trade: TapedTrade) -> list[Any]:
    row = trade.message
    price, time = Decimal(row["price"]), _ns(trade)
    digits = max(5, -int(price.as_tuple().exponent))
    return [
        f"{price:.{digits}f}",
        f"{Decimal(row['qty']):.8f}",
        Decimal(f"{time // 10**9}.{time % 10**9 // 100:07d}"),
        row["side"][0],
        row["ord_type"][0],
        "",
        row["trade_id"],
    ]


def _class_of(pair: Any) -> str:
    return str(pair.get("aclass_base", "currency")) if isinstance(pair, dict) else "currency"
