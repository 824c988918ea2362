"""Kraken's public REST interface: `GET /0/public/AssetPairs[?pair=][&aclass_base=]`.

A `listing` is the `result` of AssetPairs: an object of pairs by key, tokenised ones among them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ssmd_stream.replay.generator.kraken import KrakenExchange, asset_pairs
from ssmd_stream.replay.venues_rest.source import RestSource, json_response

BASE = "/0/public"


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

    app.router.add_get(f"{BASE}/AssetPairs", answer)


def _class_of(pair: Any) -> str:
    return str(pair.get("aclass_base", "currency")) if isinstance(pair, dict) else "currency"
