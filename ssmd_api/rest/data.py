"""`/v1/data/…`: questions about captured data."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

import msgspec

from ssmd_api.auth.access import Scope
from ssmd_api.auth.audit import record
from ssmd_api.data import event_volume, holdings, questions
from ssmd_api.errors import ApiError
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_core.feeds import get

_Hour = Annotated[str, msgspec.Meta(description="Only this hour, `HH00` UTC, e.g. 1100.")]
_Stream = Annotated[str, msgspec.Meta(description="Only this stream; default are the feed's own.")]
_Instruments = Annotated[
    list[str],
    msgspec.Meta(description=f"Only these, at most {questions.MAX_INSTRUMENTS}, separated by commas."),
]
_Type = Annotated[str, msgspec.Meta(description="Only this message type, in the venue's word, e.g. trade.")]


class _DayQuery(msgspec.Struct):
    feed: str
    date: date | None = None


class _HourQuery(_DayQuery):
    hour: _Hour | None = None
    stream: _Stream | None = None


class _TradesQuery(_HourQuery):
    instruments: _Instruments | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=questions.MAX_ROWS)] = 20
    cursor: str | None = None


class _PricesQuery(_HourQuery):
    instruments: _Instruments | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=questions.MAX_ROWS)] = 100
    cursor: str | None = None


class _EventsQuery(_HourQuery):
    limit: Annotated[int, msgspec.Meta(ge=1, le=event_volume.MAX_EVENTS)] = 20


class _VolumeQuery(msgspec.Struct):
    feed: str | None = None
    date: date | None = None
    hour: _Hour | None = None


class _SpanQuery(msgspec.Struct):
    feed: str | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None


class _SchemasQuery(msgspec.Struct):
    feed: str | None = None
    type: _Type | None = None


class FailedFeed(msgspec.Struct):
    """A feed for which there is no answer now."""

    feed: str
    error: str
    code: str


class VolumesAnswer(msgspec.Struct):
    """What was traded, by feed; a feed that failed does not take the others with it."""

    date: date
    feeds: list[questions.VolumeAnswer]
    failed: list[FailedFeed]


async def _trades(call: Call) -> Any:
    query: _TradesQuery = call.query
    answer = await questions.trades(
        call.services,
        query.feed,
        call.first_day,
        hour=query.hour,
        stream=query.stream,
        instruments=query.instruments,
        limit=query.limit,
        cursor=query.cursor,
    )
    await record(call, query.feed, message_type=get(query.feed).trades.message_type, files=len(answer.sources))
    return answer


async def _prices(call: Call) -> Any:
    query: _PricesQuery = call.query
    answer = await questions.prices(
        call.services,
        query.feed,
        call.first_day,
        hour=query.hour,
        stream=query.stream,
        instruments=query.instruments,
        limit=query.limit,
        cursor=query.cursor,
    )
    await record(call, query.feed, message_type=get(query.feed).quotes.message_type, files=len(answer.sources))
    return answer


async def _events(call: Call) -> Any:
    query: _EventsQuery = call.query
    moment = event_volume.metadata_moment(call.principal, call.services.now)
    answer = await event_volume.events(
        call.services,
        query.feed,
        call.first_day,
        moment=moment,
        hour=query.hour,
        stream=query.stream,
        limit=query.limit,
    )
    await record(call, query.feed, message_type=get(query.feed).trades.message_type, files=len(answer.sources))
    return answer


async def _volume(call: Call) -> Any:
    query: _VolumeQuery = call.query
    found, failed = [], []
    # One after the other: a request takes one of the few places for queries.
    for feed in call.feeds:
        try:
            answer = await questions.volume(call.services, feed, call.first_day, hour=query.hour)
        except ApiError as error:
            if len(call.feeds) == 1 or error.status == 400:
                raise
            failed.append(FailedFeed(feed, str(error), error.code))
        else:
            await record(call, feed, message_type=get(feed).trades.message_type, files=len(answer.sources))
            found.append(answer)
    return VolumesAnswer(call.first_day, found, failed)


async def _day(call: Call) -> Any:
    query: _DayQuery = call.query
    answer = await holdings.day(call.services, query.feed, call.first_day)
    await record(call, query.feed, files=sum(len(one.files) for one in answer.contents))
    return answer


async def _coverage(call: Call) -> Any:
    query: _SpanQuery = call.query
    reach = (call.principal.first_day, call.principal.last_day)
    first, last = holdings.recent_days(query.from_, query.to, reach, call.services.now.date())
    feeds = [await holdings.coverage(call.services, feed, first, last) for feed in call.feeds]
    return holdings.CoverageAnswer(first, last, feeds)


async def _freshness(call: Call) -> Any:
    return await holdings.freshness(call.services, call.feeds, call.first_day, call.last_day)


async def _schemas(call: Call) -> Any:
    return holdings.schemas(call.feeds, call.query.type)


def _route(path: str, handler: Any, summary: str, query: type[msgspec.Struct], answer: Any, days: Any) -> Route:
    return Route(
        method="GET",
        path=f"/v1/data/{path}",
        handler=handler,
        summary=summary,
        tag="data",
        scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM,
        days=days,
        query=query,
        answer=answer,
    )


ROUTES = (
    _route(
        "trades", _trades, "Trades of each instrument in a day or hour: count, volume, prices.",
        _TradesQuery, questions.TradesAnswer, DayRule.DAY,
    ),
    _route(
        "prices", _prices, "The newest quote of each instrument in a day or hour.",
        _PricesQuery, questions.PricesAnswer, DayRule.DAY,
    ),
    _route(
        "events", _events, "Volume by event, with its top markets and what the security master says of it.",
        _EventsQuery, event_volume.EventsAnswer, DayRule.DAY,
    ),
    _route("volume", _volume, "Volume of feeds, with their top instruments.", _VolumeQuery, VolumesAnswer, DayRule.DAY),
    _route(
        "day", _day, "What a day of a feed holds: coverage by hour, files with their hashes.",
        _DayQuery, holdings.DayAnswer, DayRule.DAY,
    ),
    _route(
        "coverage", _coverage, "What is there of each hour of up to 31 days; default is the last week.",
        _SpanQuery, holdings.CoverageAnswer, DayRule.SPAN,
    ),
    _route(
        "freshness", _freshness, "How old the newest datasets of feeds are.",
        _SpanQuery, holdings.FreshnessAnswer, DayRule.SPAN,
    ),
    _route(
        "schemas", _schemas, "The columns of each message type's dataset.", _SchemasQuery, holdings.SchemasAnswer, None
    ),
)  # fmt: skip
