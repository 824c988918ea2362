"""Kalshi's fees."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.jsons import row as json_row
from ssmd_api.rest.secmaster_lists import Limit, answer, page_json
from ssmd_api.routing import Call, DayRule, Route
from ssmd_api.secmaster.fees import fee_list, fee_row, trade_fee
from ssmd_api.secmaster.kept import CLOCK_S
from ssmd_api.secmaster.reach import KALSHI
from ssmd_api.secmaster.schemas import COUNT, MOMENT, NUMBER_TEXT, STRING, members, nullable, page_of, row_schema
from ssmd_core.secmaster.counts import fee_stats
from ssmd_core.secmaster.fees import ROUNDINGS


class FeeQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which terms.

    Attributes:
        as_of: those in force at this moment; without it now.
        known_at: leave out what became known later; without it nothing is.
    """

    as_of: datetime | None = None
    known_at: datetime | None = None


class FeesQuery(FeeQuery, frozen=True, kw_only=True):
    """Which terms, of all series.

    Attributes:
        as_of: those in force at this moment; without it now.
        known_at: leave out what became known later; without it nothing is.
    """

    limit: Limit = 100
    cursor: str | None = None


class TradeQuery(FeeQuery, frozen=True, kw_only=True):
    """A trade.

    Attributes:
        as_of: when it was; without it now.
        known_at: leave out what became known later; without it nothing is.
        price: of one contract, dollars, between 0 and 1.
        contracts: how many, at most two decimals.
        role: who pays.
        event: ticker of the event, which may have fees of its own.
        rounding: cent: an order's fee, the old rule; centicent and microdollar: a fill's.
        flat_dollars: per contract, for series with flat fees, from Kalshi's table.
    """

    price: Decimal
    contracts: Decimal
    role: Literal["taker", "maker"] = "taker"
    event: str | None = None
    rounding: Literal["cent", "centicent", "microdollar"] = "microdollar"
    flat_dollars: Decimal | None = None


def _check(call: Call) -> None:
    """What was known at a moment is about that moment too."""
    if call.query.known_at is not None:
        call.principal.check_moment(call.query.known_at, field="known_at")


async def _fees(call: Call) -> bytes:
    query: FeesQuery = call.query
    _check(call)

    async def make() -> dict[str, Any]:
        found = await fee_list(call.services, call.moment, query.known_at, limit=query.limit, cursor=query.cursor)
        return await page_json("fees", found)

    return await answer(call, ("series_fees",), make, CLOCK_S)


async def _stats(call: Call) -> bytes:
    _check(call)

    async def make() -> dict[str, Any]:
        async with call.services.reading() as connection:
            found = await fee_stats(connection, call.moment or call.services.now, call.query.known_at)
        return found | {"historical": found["total"] - found["active"] - found["future"]}

    return await answer(call, ("series_fees",), make, CLOCK_S)


async def _fee(call: Call) -> Any:
    _check(call)
    return json_row(await fee_row(call.services, call.path["series"], call.moment, call.query.known_at))


async def _calculate(call: Call) -> Any:
    query: TradeQuery = call.query
    _check(call)
    return await trade_fee(
        call.services,
        call.path["series"],
        query.price,
        query.contracts,
        query.role,
        moment=call.moment,
        event=query.event,
        known_at=query.known_at,
        rounding=query.rounding,
        flat_dollars=query.flat_dollars,
    )


def _route(path: str, handler: Any, summary: str, schema: Any, query: Any = FeeQuery) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="fees", scope=Scope.SECMASTER_READ,
        feeds=KALSHI, days=DayRule.AS_OF, query=query, answer=schema,
    )  # fmt: skip


_FEE = row_schema("series_fees")
_TRADE_FEE = members(
    {
        "seriesTicker": STRING,
        "eventTicker": nullable(STRING),
        "asOf": MOMENT,
        "role": STRING,
        "priceDollars": NUMBER_TEXT,
        "contracts": NUMBER_TEXT,
        "feeType": STRING,
        "feeMultiplier": NUMBER_TEXT,
        "overriddenByEvent": {"type": "boolean"},
        "sourceId": STRING,
        "effectiveFrom": MOMENT,
        "effectiveTo": nullable(MOMENT),
        "modelFeeDollars": NUMBER_TEXT,
        "rounding": STRING,
        "feeDollars": NUMBER_TEXT,
        "feeDollarsByRounding": members(dict.fromkeys(ROUNDINGS, NUMBER_TEXT)),
    }
)

ROUTES = (
    _route("/v1/fees", _fees, "The fees in force, by series.", page_of("fees", _FEE), FeesQuery),
    _route(
        "/v1/fees/stats",
        _stats,
        "How many fee intervals there are.",
        members(dict.fromkeys(("total", "active", "future", "historical"), COUNT)),
    ),
    _route("/v1/fees/{series}", _fee, "The fees of a series.", _FEE),
    _route("/v1/fees/{series}/calculate", _calculate, "What a trade costs.", _TRADE_FEE, TradeQuery),
)
