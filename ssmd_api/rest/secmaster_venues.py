"""Kraken's pairs with their snapshots; Polymarket's conditions and tokens."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.errors import InvalidRequestError
from ssmd_api.jsons import row as json_row
from ssmd_api.rest.secmaster_lists import AsOf, Limit, ListQuery, answer, page, page_json, single
from ssmd_api.routing import Call, DayRule, Route
from ssmd_api.secmaster.lists import check_words, list_rows, tokens_of
from ssmd_api.secmaster.reach import KRAKEN, POLYMARKET, market_types_of
from ssmd_api.secmaster.schemas import (
    COUNT,
    COUNTS,
    NEXT_CURSOR,
    STRING,
    array,
    members,
    page_of,
    row_schema,
    table_schema,
)
from ssmd_api.secmaster.snapshots import snapshots_of
from ssmd_core.db.tables import pair_snapshots
from ssmd_core.secmaster.counts import table_stats
from ssmd_core.secmaster.queries import MAX_ROWS
from ssmd_core.secmaster.selections import Selection

_MOST_DOLLARS, _DECIMALS = 10**15, 18


class PairsQuery(ListQuery, frozen=True, kw_only=True):
    """Which pairs.

    Attributes:
        feed: kraken (spot) or kraken-futures; default both, as far as the key reaches.
        exchange, market_type, base, quote: case aside; market types are spot, perpetual and future.
        status: active, post_only, limit_only, reduce_only, cancel_only, suspended, expired and so on.
        order: `updated`: the newest change first; `key`: by id, the order in which to read a whole list.
    """

    feed: str | None = None
    exchange: str | None = None
    market_type: str | None = None
    base: str | None = None
    quote: str | None = None
    status: str | None = None


class SnapshotsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which snapshots of a pair."""

    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 100
    cursor: str | None = None


class ConditionsQuery(ListQuery, frozen=True, kw_only=True):
    """Which conditions.

    Attributes:
        category: a tag, or the category; case aside.
        status: one of active, suspended, inactive, closed, settled.
        event: Polymarket's event id.
        closing_before, closing_after: of the end date, strictly.
        order: `updated`: the newest change first; `key`: by id, the order in which to read a whole list.
    """

    category: str | None = None
    status: str | None = None
    event: str | None = None
    closing_before: datetime | None = None
    closing_after: datetime | None = None


class TokensQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which tokens.

    Attributes:
        category: tags or categories, any of them; case aside.
        status: of the condition.
        min_volume: of the condition, dollars.
        q: words of which one stands in the question; case aside.
    """

    category: tuple[str, ...]
    status: str = "active"
    min_volume: Decimal | None = msgspec.field(name="minVolume", default=None)
    q: tuple[str, ...] | None = None
    as_of: datetime | None = None
    limit: Limit = MAX_ROWS
    cursor: str | None = None


async def _pairs(call: Call) -> bytes:
    query: PairsQuery = call.query
    selection = Selection(
        exchange=query.exchange,
        market_type=query.market_type,
        base=query.base,
        quote=query.quote,
        status=query.status,
        as_of=call.moment,
    )
    return await page(call, "pairs", "pairs", selection, ("pairs",))


async def _pair(call: Call) -> Any:
    return await single(call, "pairs", "pair_id")


async def _pair_stats(call: Call) -> bytes:
    async def make() -> dict[str, Any]:
        async with call.services.reading() as connection:
            return {"stats": await table_stats(connection, "pairs", call.moment, market_types_of(call.feeds))}

    return await answer(call, ("pairs",), make)


async def _snapshots(call: Call) -> Any:
    query: SnapshotsQuery = call.query
    found = await snapshots_of(
        call.services, call.path["pair_id"], call.feeds, call.first_day, call.last_day,
        limit=query.limit, cursor=query.cursor,
    )  # fmt: skip
    return await page_json("snapshots", found)


async def _conditions(call: Call) -> bytes:
    query: ConditionsQuery = call.query
    selection = Selection(
        category=query.category,
        status=query.status,
        event=query.event,
        closing_before=query.closing_before,
        closing_after=query.closing_after,
        as_of=call.moment,
    )
    tables = ("polymarket_conditions", "polymarket_tokens")
    return await page(call, "conditions", "polymarket_conditions", selection, tables)


async def _condition(call: Call) -> Any:
    found = await single(call, "polymarket_conditions", "id")
    tokens = await tokens_of(call.services, call.path["id"], call.moment)
    return {"condition": found, "tokens": [json_row(token) for token in tokens]}


async def _tokens(call: Call) -> bytes:
    query: TokensQuery = call.query
    check_words("category", query.category)
    check_words("q", query.q)
    if query.min_volume is not None and not _is_dollars(query.min_volume):
        raise InvalidRequestError(
            f"minVolume: {query.min_volume} is not between 0 and {_MOST_DOLLARS}", field="minVolume"
        )
    selection = Selection(
        categories=query.category,
        status=query.status,
        min_volume=query.min_volume,
        words=query.q,
        as_of=call.moment,
    )

    async def make() -> dict[str, Any]:
        found = await list_rows(
            call.services, "polymarket_tokens", selection, call.feeds,
            limit=query.limit, order="key", cursor=query.cursor,
        )  # fmt: skip
        return {"tokens": [row["token_id"] for row in found.rows], "nextCursor": found.next_cursor}

    return await answer(call, ("polymarket_tokens", "polymarket_conditions"), make)


def _is_dollars(value: Decimal) -> bool:
    """Whether it is an amount that Postgres takes as well: it refuses a million digits."""
    exponent = value.as_tuple().exponent
    return isinstance(exponent, int) and exponent >= -_DECIMALS and 0 <= value <= _MOST_DOLLARS


def _of(feeds: tuple[str, ...]) -> Callable[..., Route]:
    def route(
        path: str, handler: Any, summary: str, schema: Any, query: Any = AsOf, days: DayRule = DayRule.AS_OF
    ) -> Route:
        return Route(
            method="GET", path=path, handler=handler, summary=summary, tag="secmaster", scope=Scope.SECMASTER_READ,
            feeds=feeds, days=days, query=query, answer=schema,
        )  # fmt: skip

    return route


_kraken, _polymarket = _of(KRAKEN), _of(POLYMARKET)
_CONDITION = row_schema("polymarket_conditions", token_count=COUNT)
_PAIR_STATS = {"total": COUNT, "by_exchange": COUNTS, "by_market_type": COUNTS, "by_status": COUNTS}

ROUTES = (
    _kraken("/v1/pairs", _pairs, "Kraken's pairs and futures.", page_of("pairs", row_schema("pairs")), PairsQuery),
    _kraken("/v1/pairs/stats", _pair_stats, "How many pairs there are.", members({"stats": members(_PAIR_STATS)})),
    _kraken("/v1/pairs/{pair_id}", _pair, "One pair.", row_schema("pairs")),
    _kraken(
        "/v1/pairs/{pair_id}/snapshots",
        _snapshots,
        "Tickers of a future, one every five minutes, the newest first.",
        page_of("snapshots", table_schema(pair_snapshots)),
        SnapshotsQuery,
        DayRule.SPAN,
    ),
    _polymarket(
        "/v1/conditions", _conditions, "Polymarket's conditions.", page_of("conditions", _CONDITION), ConditionsQuery
    ),
    _polymarket(
        "/v1/conditions/{id}",
        _condition,
        "One condition with its tokens.",
        members({"condition": _CONDITION, "tokens": array(row_schema("polymarket_tokens"))}),
    ),
    _polymarket(
        "/v1/polymarket/tokens",
        _tokens,
        "Ids of the tokens to subscribe to.",
        members({"tokens": array(STRING), "nextCursor": NEXT_CURSOR}),
        TokensQuery,
    ),
)
