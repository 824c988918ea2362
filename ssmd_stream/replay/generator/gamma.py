"""Gamma's documents for Polymarket's generated markets, after answers of 2026."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import orjson

from ssmd_stream.replay.protocol import iso

MARKETS_PER_EVENT = 2
_DAY_MS = 86_400_000
# Tags of an event, by its number.
_TAGS = (
    (("102264", "Weekly", "weekly"), ("21", "Crypto", "crypto")),
    (("1", "Sports", "sports"), ("745", "NBA", "nba")),
    (("144", "Elections", "elections"), ("2", "Politics", "politics")),
    (("101302", "attorney general", "attorney-general"),),
)


def gamma_market(
    index: int,
    condition: str,
    tokens: Sequence[str],
    *,
    tick: float,
    timestamp_ms: int,
    made_ms: int = 0,
    closed_ms: int = 0,
    price: Decimal = Decimal("0.5"),
) -> dict[str, Any]:
    """A market object as Gamma gives it, with the members that are always present (292 of 292 measured).

    Args:
        timestamp_ms: when it changed last.
        closed_ms: when it was resolved, for its first outcome; 0: it is open.
        price: of the first outcome while it is open.
    """
    made, closed = iso(made_ms * 1_000_000), closed_ms > 0
    prices = ["1", "0"] if closed else [f"{each.normalize():f}" for each in (price, 1 - price)]
    market: dict[str, Any] = {
        "id": str(3_000_000 + index),
        "conditionId": condition,
        "questionID": f"0x{index:064x}",
        "slug": f"rehearsal-{index}",
        "question": f"Will rehearsal {index} end “up”?",
        "description": "Made by a rehearsal.",
        "outcomes": '["Up", "Down"]',
        "outcomePrices": orjson.dumps(prices).decode(),
        "clobTokenIds": orjson.dumps(list(tokens)).decode(),
        "umaResolutionStatuses": "[]",
        "active": True,
        "closed": closed,
        "archived": False,
        "acceptingOrders": not closed,
        "enableOrderBook": True,
        "negRisk": False,
        "startDate": made,
        "endDate": iso((made_ms + _DAY_MS) * 1_000_000),
        "createdAt": made,
        "updatedAt": iso(max(timestamp_ms, closed_ms) * 1_000_000),
        "orderMinSize": 5,
        "orderPriceMinTickSize": tick,
        "feesEnabled": False,
        "makerBaseFee": 0,
        "takerBaseFee": 0,
        "spread": 0.01,
        "volume": f"{100_000 + index * 137.25:.2f}",
        "volumeNum": 100_000 + index * 137.25,
        "liquidity": f"{50_000 + index}",
        "liquidityNum": 50_000 + index,
    }
    if closed:
        market["closedTime"] = iso(closed_ms * 1_000_000)[:19].replace("T", " ") + "+00"
    return market


def gamma_events(markets: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Event objects as Gamma gives them, each with `MARKETS_PER_EVENT` of the markets; closed if all of those are."""
    return [
        _gamma_event(start // MARKETS_PER_EVENT, list(markets[start : start + MARKETS_PER_EVENT]))
        for start in range(0, len(markets), MARKETS_PER_EVENT)
    ]


def _gamma_event(number: int, markets: list[dict[str, Any]]) -> dict[str, Any]:
    closed = all(market["closed"] for market in markets)
    event: dict[str, Any] = {
        "id": str(200_000 + number),
        "ticker": f"rehearsal-event-{number}",
        "slug": f"rehearsal-event-{number}",
        "title": f"Rehearsal {number}",
        "description": "Made by a rehearsal.",
        "startDate": markets[0]["startDate"],
        "creationDate": markets[0]["createdAt"],
        "endDate": max(market["endDate"] for market in markets),
        "createdAt": markets[0]["createdAt"],
        "updatedAt": max(market["updatedAt"] for market in markets),
        "active": True,
        "closed": closed,
        "archived": False,
        "restricted": True,
        "liquidity": sum(market["liquidityNum"] for market in markets),
        "volume": sum(market["volumeNum"] for market in markets),
        "openInterest": 0,
        "negRisk": False,
        "enableNegRisk": False,
        "cumulativeMarkets": False,
        "tags": [
            {"id": id_, "label": label, "slug": slug, "forceShow": False} for id_, label, slug in _TAGS[number % 4]
        ],
        "markets": markets,
    }
    if closed:
        event["closedTime"] = max(market["closedTime"] for market in markets).replace(" ", "T")[:19] + "Z"
    return event
