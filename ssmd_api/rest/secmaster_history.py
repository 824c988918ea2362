"""The history of rows, one route a table."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.rest.secmaster_lists import Limit, page_json
from ssmd_api.routing import Call, DayRule, Handler, Route
from ssmd_api.secmaster.reach import FEEDS_OF
from ssmd_api.secmaster.schemas import page_of, version_schema
from ssmd_api.secmaster.versions import history_page


class HistoryQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions.

    Attributes:
        from_: first day, UTC; what held at its beginning is older.
        to: last day, UTC; what became known later is left out.
    """

    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 100
    cursor: str | None = None


def _handler(table: str, parameter: str) -> Handler:
    async def handler(call: Call) -> Any:
        query: HistoryQuery = call.query
        found = await history_page(
            call.services, table, call.path[parameter], call.feeds, call.first_day, call.last_day,
            limit=query.limit, cursor=query.cursor,
        )  # fmt: skip
        return await page_json("history", found)

    return handler


def _route(path: str, table: str, what: str) -> Route:
    parameter = path.rpartition("{")[2].rstrip("}")
    return Route(
        method="GET",
        path=f"{path}/history",
        handler=_handler(table, parameter),
        summary=f"Every version of {what}, the newest first.",
        tag="history",
        scope=Scope.SECMASTER_READ,
        feeds=FEEDS_OF[table],
        days=DayRule.SPAN,
        query=HistoryQuery,
        answer=page_of("history", version_schema(table)),
    )


ROUTES = (
    _route("/v1/series/{ticker}", "series", "a series"),
    _route("/v1/events/{ticker}", "events", "an event"),
    _route("/v1/markets/{ticker}", "markets", "a market"),
    _route("/v1/fees/{series}", "series_fees", "the fee intervals of a series"),
    _route("/v1/pairs/{pair_id}", "pairs", "a pair"),
    _route("/v1/conditions/{id}", "polymarket_conditions", "a condition"),
    _route("/v1/polymarket/tokens/{id}", "polymarket_tokens", "a token"),
)
