"""How much there is in the security master, day by day and in all; the syncs that filled it."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.rest.secmaster_lists import AsOf, Limit, answer, page_json
from ssmd_api.routing import Call, DayRule, Route
from ssmd_api.secmaster.kept import AS_LONG_AS_TRUE_S, CLOCK_S
from ssmd_api.secmaster.reach import KALSHI
from ssmd_api.secmaster.schemas import COUNT, COUNTS, DAY, array, members, page_of, table_schema
from ssmd_api.secmaster.stats import GROUPED, days_back, stats_of, sync_runs_of
from ssmd_core.db.tables import SYNCED, sync_runs
from ssmd_core.feeds import FEEDS
from ssmd_core.secmaster.counts import MAX_DAYS, markets_by_day, trading_by_category

Days = Annotated[int, msgspec.Meta(ge=1, lt=MAX_DAYS)]


class TimeseriesQuery(AsOf, frozen=True, kw_only=True):
    """Which days, up to today or the day of `as_of`.

    Attributes:
        days: how many before the last one.
    """

    days: Days = 30


class ActiveQuery(AsOf, frozen=True, kw_only=True):
    """Which days, up to today or the day of `as_of`.

    Attributes:
        days: how many before the last one.
    """

    days: Days = 7


class RunsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs.

    Attributes:
        scope: such as kalshi/markets.
    """

    scope: str | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 20
    cursor: str | None = None


def _span(call: Call) -> tuple[date, date, datetime]:
    now = call.moment or call.services.now
    return *days_back(call.principal, now, call.query.days), now


async def _stats(call: Call) -> bytes:
    async def make() -> dict[str, Any]:
        return await stats_of(call.services, call.feeds, call.moment)

    return await answer(call, tuple(SYNCED), make, AS_LONG_AS_TRUE_S if call.moment else CLOCK_S)


async def _timeseries(call: Call) -> bytes:
    first, last, now = _span(call)

    async def make() -> dict[str, Any]:
        async with call.services.reading() as connection:
            return {"timeseries": await markets_by_day(connection, first, last, call.moment, now)}

    return await _by_day(call, make, first)


async def _active(call: Call) -> bytes:
    first, last, _ = _span(call)

    async def make() -> dict[str, Any]:
        async with call.services.reading() as connection:
            return {"timeseries": await trading_by_category(connection, first, last, call.moment)}

    return await _by_day(call, make, first)


async def _by_day(call: Call, make: Any, first: date) -> bytes:
    age_s = AS_LONG_AS_TRUE_S if call.moment else CLOCK_S
    return await answer(call, ("markets", "events"), make, age_s, first)


async def _runs(call: Call) -> Any:
    query: RunsQuery = call.query
    found = await sync_runs_of(
        call.services, call.feeds, call.first_day, call.last_day,
        scope=query.scope, limit=query.limit, cursor=query.cursor,
    )  # fmt: skip
    return await page_json("runs", found)


def _route(
    path: str, handler: Any, summary: str, schema: Any, query: Any, feeds: Any = KALSHI, days: DayRule = DayRule.AS_OF
) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="secmaster", scope=Scope.SECMASTER_READ,
        feeds=feeds, days=days, query=query, answer=schema,
    )  # fmt: skip


def _stats_schema() -> dict[str, Any]:
    tables = {
        name: members({"total": COUNT} | {member: COUNTS if member.startswith("by_") else COUNT for member in grouped})
        for name, grouped in GROUPED.items()
    }
    fees = members(dict.fromkeys(("total", "active", "future"), COUNT))
    return members({}, tables | {"fees": fees})


_DAY_COUNTS = {"date": DAY, "added": COUNT, "closed": COUNT, "settled": COUNT}

ROUTES = (
    _route(
        "/v1/secmaster/stats",
        _stats,
        "How many rows there are, of what the key reaches.",
        _stats_schema(),
        AsOf,
        tuple(FEEDS),
    ),
    _route(
        "/v1/secmaster/markets/timeseries",
        _timeseries,
        "How many of Kalshi's markets were added, closed and settled on each day.",
        members({"timeseries": array(members(_DAY_COUNTS))}),
        TimeseriesQuery,
    ),
    _route(
        "/v1/secmaster/markets/active-by-category",
        _active,
        "How many of Kalshi's markets could be traded on each day.",
        members({"timeseries": array(members({"date": DAY, "categories": COUNTS, "total": COUNT}))}),
        ActiveQuery,
    ),
    _route(
        "/v1/secmaster/runs",
        _runs,
        "The last syncs, with what they changed and refused.",
        page_of("runs", table_schema(sync_runs)),
        RunsQuery,
        tuple(FEEDS),
        DayRule.SPAN,
    ),
)
