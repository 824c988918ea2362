"""`/v1/proof/…`, `/v1/drift`, `/v1/reconciliations`, `/v1/reports`, `/v1/health/hourly`: what stands behind an hour."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from ssmd_api.auth.access import Scope
from ssmd_api.auth.audit import record
from ssmd_api.proof import hours, lists
from ssmd_api.proof.pages import MAX_ROWS
from ssmd_api.routing import Call, DayRule, FeedRule, Route
from ssmd_core.feeds import FEEDS

Limit = Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
_Hour = Annotated[str, msgspec.Meta(description="`HH00` UTC, e.g. 1100.")]
_Stream = Annotated[str, msgspec.Meta(description="Default is the feed's own stream.")]
_Instrument = Annotated[
    str, msgspec.Meta(min_length=1, max_length=256, description="Market ticker, symbol, product or token id.")
]


class SpanQuery(msgspec.Struct, kw_only=True):
    """Which days of which feed."""

    feed: str | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 100
    cursor: str | None = None


class HoursQuery(SpanQuery, kw_only=True):
    """Which hours."""

    word: lists.Word | None = None


class UntrustedQuery(SpanQuery, kw_only=True):
    """Which intervals."""

    instrument: _Instrument | None = None


class ScoresQuery(SpanQuery, kw_only=True):
    """Which scores; message type `*` is the stream's own."""

    type: str | None = None


class ReconciliationsQuery(SpanQuery, kw_only=True):
    """Which reconciliations."""

    status: lists.Status | None = None


class ShapesQuery(SpanQuery, kw_only=True):
    """Which members: those first seen in these days."""

    type: str | None = None


class HourQuery(msgspec.Struct, kw_only=True):
    """Which hour."""

    feed: str
    hour: _Hour
    date: date | None = None
    stream: _Stream | None = None


class MinutesQuery(HourQuery, kw_only=True):
    """Which hour's minutes."""

    limit: Limit = 100
    cursor: str | None = None


class IntegrityQuery(HourQuery, kw_only=True):
    """Which instrument's verdicts."""

    instrument: _Instrument


class FileQuery(HourQuery, kw_only=True):
    """Which file of an hour."""

    kind: hours.FileKind = "ledger"


class BookQuery(msgspec.Struct, kw_only=True):
    """Which book.

    Attributes:
        untrusted: answer also where it must not be trusted.
    """

    feed: str
    instrument: _Instrument
    at: datetime
    stream: _Stream | None = None
    untrusted: bool = False


class ReportsQuery(msgspec.Struct, kw_only=True):
    """Which reports."""

    kind: lists.ReportKind | None = None
    from_: date | None = msgspec.field(name="from", default=None)
    to: date | None = None
    limit: Limit = 20
    cursor: str | None = None


class IntegrityAnswer(msgspec.Struct):
    """Verdicts about an instrument in an hour."""

    feed: str
    stream: str
    hour: datetime
    instrument: str
    rows: list[hours.IntegrityRow]


class HoursAnswer(msgspec.Struct, rename="camel"):
    """A page of hours."""

    hours: list[lists.HourProof]
    next_cursor: str | None


class MinutesAnswer(msgspec.Struct, rename="camel"):
    """A page of minutes."""

    minutes: list[lists.MinuteProof]
    next_cursor: str | None


class UntrustedAnswer(msgspec.Struct, rename="camel"):
    """A page of intervals."""

    intervals: list[lists.UntrustedInterval]
    next_cursor: str | None


class ScoresAnswer(msgspec.Struct, rename="camel"):
    """A page of scores."""

    scores: list[lists.HourScore]
    next_cursor: str | None


class DriftAnswer(msgspec.Struct, rename="camel"):
    """A page of changes."""

    findings: list[lists.DriftFinding]
    next_cursor: str | None


class ShapesAnswer(msgspec.Struct, rename="camel"):
    """A page of members."""

    shapes: list[lists.WireShape]
    next_cursor: str | None


class ReconciliationsAnswer(msgspec.Struct, rename="camel"):
    """A page of reconciliations."""

    reconciliations: list[lists.TradeReconciliation]
    next_cursor: str | None


class ReportsAnswer(msgspec.Struct, rename="camel"):
    """A page of reports."""

    reports: list[lists.ReportEntry]
    next_cursor: str | None


def check_every_feed(call: Call) -> None:
    """Reports speak of every feed.

    Raises:
        ForbiddenError: the key does not reach all of them.
    """
    for feed in FEEDS:
        call.principal.check_feed(feed)


def place(call: Call) -> tuple[str, str, datetime]:
    """Feed, stream and hour that a call is about."""
    feed = call.feeds[0]
    return feed, hours.stream_of(feed, call.query.stream), hours.moment_of(call.first_day, call.query.hour)


async def _hours(call: Call) -> Any:
    query: HoursQuery = call.query
    page = await lists.hours(
        call.services, call.feeds, call.first_day, call.last_day, query.word, limit=query.limit, cursor=query.cursor
    )
    return HoursAnswer(page.rows, page.next_cursor)


async def _ledger(call: Call) -> Any:
    return await hours.ledger(call.services, *place(call))


async def _minutes(call: Call) -> Any:
    page = await lists.minutes(call.services, *place(call), limit=call.query.limit, cursor=call.query.cursor)
    return MinutesAnswer(page.rows, page.next_cursor)


async def _untrusted(call: Call) -> Any:
    query: UntrustedQuery = call.query
    page = await lists.untrusted(
        call.services, call.feeds, call.first_day, call.last_day, query.instrument,
        limit=query.limit, cursor=query.cursor,
    )  # fmt: skip
    return UntrustedAnswer(page.rows, page.next_cursor)


async def _integrity(call: Call) -> Any:
    feed, stream, hour = place(call)
    rows = await hours.integrity(call.services, feed, stream, hour, call.query.instrument)
    return IntegrityAnswer(feed, stream, hour, call.query.instrument, rows)


async def _file(call: Call) -> Any:
    feed, stream, hour = place(call)
    kind: hours.FileKind = call.query.kind
    name, content = await hours.file(call.services, feed, stream, hour, kind)
    await record(call, feed, message_type=kind, files=1)
    attachment = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, headers=attachment, media_type="application/octet-stream")


async def _book(call: Call) -> Any:
    query: BookQuery = call.query
    feed = call.feeds[0]
    stream = hours.stream_of(feed, query.stream)
    found = await hours.book(call.services, feed, stream, query.instrument, query.at, untrusted=query.untrusted)
    await record(call, feed, message_type="book")
    return found


async def _scores(call: Call) -> Any:
    query: ScoresQuery = call.query
    page = await lists.hourly_scores(
        call.services, call.feeds, call.first_day, call.last_day, query.type, limit=query.limit, cursor=query.cursor
    )
    return ScoresAnswer(page.rows, page.next_cursor)


async def _drift(call: Call) -> Any:
    query: SpanQuery = call.query
    page = await lists.drift(
        call.services, call.feeds, call.first_day, call.last_day, limit=query.limit, cursor=query.cursor
    )
    return DriftAnswer(page.rows, page.next_cursor)


async def _shapes(call: Call) -> Any:
    query: ShapesQuery = call.query
    page = await lists.shapes(
        call.services, call.feeds, call.first_day, call.last_day, query.type, limit=query.limit, cursor=query.cursor
    )
    return ShapesAnswer(page.rows, page.next_cursor)


async def _reconciliations(call: Call) -> Any:
    query: ReconciliationsQuery = call.query
    page = await lists.reconciliations(
        call.services, call.feeds, call.first_day, call.last_day, query.status, limit=query.limit, cursor=query.cursor
    )
    return ReconciliationsAnswer(page.rows, page.next_cursor)


async def _reports(call: Call) -> Any:
    check_every_feed(call)
    query: ReportsQuery = call.query
    page = await lists.reports(
        call.services, query.kind, call.first_day, call.last_day, limit=query.limit, cursor=query.cursor
    )
    return ReportsAnswer(page.rows, page.next_cursor)


def _route(
    path: str, handler: Any, summary: str, query: type[msgspec.Struct], answer: Any, days: DayRule = DayRule.SPAN
) -> Route:
    return Route(
        method="GET", path=path, handler=handler, summary=summary, tag="proof", scope=Scope.DATASETS_READ,
        feeds=FeedRule.PARAM, days=days, query=query, answer=answer,
    )  # fmt: skip


ROUTES = (
    _route("/v1/proof/hours", _hours, "Hours with a ledger: their words and reasons.", HoursQuery, HoursAnswer),
    _route(
        "/v1/proof/ledger", _ledger, "An hour's ledger and its signed entry in the chain.",
        HourQuery, hours.SignedLedger, DayRule.DAY,
    ),
    _route(
        "/v1/proof/minutes", _minutes, "The ledger's minutes of an hour, connection by connection.",
        MinutesQuery, MinutesAnswer, DayRule.DAY,
    ),
    _route(
        "/v1/proof/untrusted", _untrusted, "Intervals in which what was captured must not be trusted.",
        UntrustedQuery, UntrustedAnswer,
    ),
    _route(
        "/v1/proof/integrity", _integrity, "Verdicts about an instrument, by minute.",
        IntegrityQuery, IntegrityAnswer, DayRule.DAY,
    ),
    Route(
        method="GET", path="/v1/proof/file", handler=_file, tag="proof", scope=Scope.DATASETS_READ,
        summary="A file of an hour's proof, as it was hashed and signed.", feeds=FeedRule.PARAM, days=DayRule.DAY,
        query=FileQuery, media_type="application/octet-stream",
    ),
    _route(
        "/v1/proof/book", _book, "An instrument's full-depth order book at a moment.",
        BookQuery, hours.BookAnswer, DayRule.AT,
    ),
    _route("/v1/health/hourly", _scores, "Quality scores of hours, by message type.", ScoresQuery, ScoresAnswer),
    _route("/v1/drift", _drift, "Changes of the venues' formats.", SpanQuery, DriftAnswer),
    _route(
        "/v1/drift/shapes", _shapes, "Members of messages, and when each was first seen.",
        ShapesQuery, ShapesAnswer,
    ),
    _route(
        "/v1/reconciliations", _reconciliations, "Archived trades against the venues' own lists of trades.",
        ReconciliationsQuery, ReconciliationsAnswer,
    ),
    Route(
        method="GET", path="/v1/reports", handler=_reports, tag="proof", scope=Scope.DATASETS_READ,
        summary="Diagnosis and volume reports; for keys that reach every feed.", feeds=tuple(FEEDS),
        days=DayRule.SPAN, query=ReportsQuery, answer=ReportsAnswer,
    ),
)  # fmt: skip
