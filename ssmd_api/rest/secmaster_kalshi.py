"""Kalshi's series, events and markets."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.jsons import row as json_row
from ssmd_api.rest.secmaster_lists import AsOf, ListQuery, answer, page, page_json, single
from ssmd_api.routing import Call, DayRule, Route
from ssmd_api.secmaster.lists import list_rows
from ssmd_api.secmaster.reach import KALSHI
from ssmd_api.secmaster.schemas import COUNT, MOMENT, STRING, array, members, page_of, row_schema
from ssmd_core.secmaster.counts import series_by_category
from ssmd_core.secmaster.selections import Selection

MAX_HOURS = 87_600


class EventsQuery(ListQuery, frozen=True, kw_only=True):
    """Which events.

    Attributes:
        category, series: case aside.
        status: one of initialized, active, closed, settled.
        games_only: only what belongs to a series about games.
        order: `updated`: the newest change first; `key`: by id, the order in which to read a whole list.
    """

    category: str | None = None
    status: str | None = None
    series: str | None = None
    games_only: bool = False


class MarketsQuery(ListQuery, frozen=True, kw_only=True):
    """Which markets.

    Attributes:
        category, series: of the event, case aside.
        event: ticker.
        status: one of initialized, active, closed, settled.
        closing_before, closing_after: strictly.
        close_within_hours: closing within so many hours from now, or from as_of.
        games_only: only what belongs to a series about games.
        include_snapshot: also where the WAL ended and what time it was before the rows were read.
        order: `updated`: the newest change first; `key`: by id, the order in which to read a whole list.
    """

    category: str | None = None
    status: str | None = None
    series: str | None = None
    event: str | None = None
    closing_before: datetime | None = None
    closing_after: datetime | None = None
    close_within_hours: Annotated[int, msgspec.Meta(ge=1, le=MAX_HOURS)] | None = None
    games_only: bool = False
    include_snapshot: bool = False


class SeriesQuery(ListQuery, frozen=True, kw_only=True):
    """Which series.

    Attributes:
        category, tag: case aside.
        games_only: only series about games.
        order: `updated`: the newest change first; `key`: by id, the order in which to read a whole list.
    """

    category: str | None = None
    tag: str | None = None
    games_only: bool = False


async def _events(call: Call) -> bytes:
    query: EventsQuery = call.query
    selection = Selection(
        category=query.category,
        status=query.status,
        series=query.series,
        games=query.games_only or None,
        as_of=call.moment,
    )
    return await page(call, "events", "events", selection, ("events", "markets", "series"))


async def _markets(call: Call) -> Any:
    query: MarketsQuery = call.query
    selection = Selection(
        category=query.category,
        status=query.status,
        series=query.series,
        event=query.event,
        games=query.games_only or None,
        closing_before=query.closing_before,
        closing_after=query.closing_after,
        closing_within=None if query.close_within_hours is None else timedelta(hours=query.close_within_hours),
        as_of=call.moment,
    )
    if not query.include_snapshot:
        return await page(call, "markets", "markets", selection, ("markets", "events", "series"))
    found = await list_rows(
        call.services, "markets", selection, call.feeds,
        limit=query.limit, order=query.order, cursor=query.cursor, snapshot=True,
    )  # fmt: skip
    told = {"snapshot_time": found.snapshot_time, "snapshot_lsn": found.snapshot_lsn}
    return await page_json("markets", found) | told


async def _series(call: Call) -> bytes:
    query: SeriesQuery = call.query
    selection = Selection(category=query.category, tag=query.tag, games=query.games_only or None, as_of=call.moment)
    return await page(call, "series", "series", selection, ("series",))


async def _series_stats(call: Call) -> bytes:
    async def make() -> dict[str, Any]:
        async with call.services.reading() as connection:
            rows = await series_by_category(connection, call.moment)
        return {"stats": [json_row(row) for row in rows]}

    return await answer(call, ("series",), make)


async def _event(call: Call) -> Any:
    return await single(call, "events", "ticker")


async def _market(call: Call) -> Any:
    return await single(call, "markets", "ticker")


async def _one_series(call: Call) -> Any:
    return await single(call, "series", "ticker")


def _route(path: str, handler: Any, summary: str, answer_schema: Any, query: Any = AsOf) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="secmaster", scope=Scope.SECMASTER_READ,
        feeds=KALSHI, days=DayRule.AS_OF, query=query, answer=answer_schema,
    )  # fmt: skip


_EVENT = row_schema("events", market_count=COUNT)
_SNAPSHOT = {"snapshot_time": MOMENT, "snapshot_lsn": STRING}
_SERIES_STATS = members({"stats": array(members({"category": STRING, "total": COUNT, "games": COUNT}))})

ROUTES = (
    _route("/v1/events", _events, "Kalshi's events.", page_of("events", _EVENT), EventsQuery),
    _route("/v1/events/{ticker}", _event, "One event.", _EVENT),
    _route(
        "/v1/markets",
        _markets,
        "Kalshi's markets.",
        page_of("markets", row_schema("markets"), _SNAPSHOT),
        MarketsQuery,
    ),
    _route("/v1/markets/{ticker}", _market, "One market.", row_schema("markets")),
    _route("/v1/series", _series, "Kalshi's series.", page_of("series", row_schema("series")), SeriesQuery),
    _route("/v1/series/stats", _series_stats, "How many series and games each category has.", _SERIES_STATS),
    _route("/v1/series/{ticker}", _one_series, "One series.", row_schema("series")),
)
