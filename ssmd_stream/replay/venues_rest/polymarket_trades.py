"""Polymarket's data-api: `GET /trades?market=[&limit=][&offset=][&takerOnly=]`, newest first.

A row is one party's side: with `takerOnly` (the default) the taker's, else the maker's as well. Beyond `MAX_OFFSET`
the last page that can be had comes again and again, as at the venue.
"""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import Any

from aiohttp import web

from ssmd_stream.replay.rest_faults import page, remembered
from ssmd_stream.replay.venues_rest.source import RestSource, exact_response, number_of
from ssmd_stream.replay.venues_rest.tape import TapedTrade

MAX_LIMIT = 10_000
MAX_OFFSET = 10_000
_DEFAULT_LIMIT = 100
_OTHER_SIDE = {"BUY": "SELL", "SELL": "BUY"}


def add_routes(app: web.Application, source: RestSource) -> None:
    """Serve the trades that have been sent."""

    async def trades(request: web.Request) -> web.Response:
        conditions = set(filter(None, request.query.get("market", "").split(",")))
        found = [trade for trade in remembered(request, source.tape.trades()) if trade.instrument in conditions]
        both = request.query.get("takerOnly", "true") == "false"
        rows = [row for trade in reversed(found) for row in _rows(trade, both=both)]
        limit = max(1, min(number_of(request, "limit", _DEFAULT_LIMIT), MAX_LIMIT))
        some, _ = page(request, rows, min(number_of(request, "offset", 0), MAX_OFFSET), limit)
        return exact_response(some)

    app.router.add_get("/trades", trades)


def _rows(trade: TapedTrade, *, both: bool) -> list[dict[str, Any]]:
    sent = trade.message
    key = sha256(repr(sorted(sent.items())).encode()).hexdigest()
    side = sent.get("side", "BUY")
    taker = {
        "proxyWallet": f"0x{key[:40]}",
        "side": side,
        "asset": sent["asset_id"],
        "conditionId": trade.instrument,
        "size": _number(sent["size"]),
        "price": _number(sent["price"]),
        "timestamp": trade.time_us // 1_000_000,
        "title": "Will rehearsal end “up”?",
        "slug": "rehearsal",
        "icon": "",
        "eventSlug": "rehearsal",
        "outcome": "Up",
        "outcomeIndex": 0,
        "name": "",
        "pseudonym": "",
        "bio": "",
        "profileImage": "",
        "profileImageOptimized": "",
        "transactionHash": sent.get("transaction_hash") or f"0x{key}",
    }
    maker = taker | {"proxyWallet": f"0x{key[-40:]}", "side": _OTHER_SIDE.get(side, side)}
    return [taker, maker] if both else [taker]


def _number(text: str) -> Decimal:
    """A JSON number, without the zeros that pad WebSocket's text."""
    return Decimal(f"{Decimal(text).normalize():f}")
