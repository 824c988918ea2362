"""`/v1/health/*`: how good the captured data of a day is, as far as it was scored. Members are in snake_case."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.rest.secmaster_lists import AsOf, Limit
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_api.secmaster.quality import daily_scores, gaps_of, service_levels
from ssmd_api.secmaster.schemas import ANYTHING, COUNT, DAY, NEXT_CURSOR, STRING, array, members, nullable
from ssmd_api.secmaster.stats import days_back


class DailyQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which scores."""

    feed: str | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 100
    cursor: str | None = None


class GapsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which gaps."""

    feed: str
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 100
    cursor: str | None = None


class LevelQuery(AsOf, frozen=True, kw_only=True):
    """Which days, up to today or the day of `as_of`.

    Attributes:
        window_days: how many, the last one included.
    """

    feed: str | None = None
    window_days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 7


async def _daily(call: Call) -> Any:
    query: DailyQuery = call.query
    scores, following = await daily_scores(
        call.services, call.feeds, call.first_day, call.last_day, limit=query.limit, cursor=query.cursor
    )
    return {"scores": scores, "nextCursor": following}


async def _levels(call: Call) -> Any:
    first, last = days_back(call.principal, call.moment or call.services.now, call.query.window_days - 1)
    return {"metrics": await service_levels(call.services, call.feeds, first, last)}


async def _gaps(call: Call) -> Any:
    query: GapsQuery = call.query
    gaps, following = await gaps_of(
        call.services, call.feeds[0], call.first_day, call.last_day, limit=query.limit, cursor=query.cursor
    )
    return {"gaps": gaps, "nextCursor": following}


def _route(path: str, handler: Any, summary: str, schema: Any, query: Any, days: DayRule = DayRule.SPAN) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="quality", scope=Scope.SECMASTER_READ,
        feeds=FeedRule.PARAM, days=days, query=query, answer=schema,
    )  # fmt: skip


_NUMBER = {"type": "number"}
_SCORE = members(
    {
        "date": DAY,
        "feed": STRING,
        "score": _NUMBER,
        "composite_score": nullable(_NUMBER),
        "grade": {"type": "string", "enum": ["A", "B", "C", "D", "F"]},
        "gap_count": nullable({"type": "integer"}),
        "coverage_pct": nullable(_NUMBER),
        "expected_messages": nullable({"type": "integer"}),
        "actual_messages": nullable({"type": "integer"}),
        "details": ANYTHING,
    }
)
_LEVEL = members(
    {
        "feed": STRING,
        "uptime_pct": nullable(_NUMBER),
        "avg_latency_ms": nullable(_NUMBER),
        "freshness_minutes": nullable(_NUMBER),
        "gap_count": nullable({"type": "integer"}),
        "coverage_pct": nullable(_NUMBER),
        "days_measured": COUNT,
    }
)
_GAP = members(
    {
        "start": nullable(STRING),
        "end": nullable(STRING),
        "duration_minutes": nullable(_NUMBER),
        "feed": STRING,
        "date": DAY,
    }
)

ROUTES = (
    _route(
        "/v1/health/daily",
        _daily,
        "Quality scores of days.",
        members({"scores": array(_SCORE), "nextCursor": NEXT_CURSOR}),
        DailyQuery,
    ),
    _route(
        "/v1/health/sla",
        _levels,
        "Means over the last days that were scored.",
        members({"metrics": array(_LEVEL)}),
        LevelQuery,
        DayRule.AS_OF,
    ),
    _route(
        "/v1/health/gaps",
        _gaps,
        "Gaps of a feed.",
        members({"gaps": array(_GAP), "nextCursor": NEXT_CURSOR}),
        GapsQuery,
    ),
)
