"""Root fields of what stands behind an hour: ledgers, intervals, scores, drift, reconciliations, reports, books."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, get_args

import graphene

from ssmd_api.auth.access import Scope
from ssmd_api.auth.audit import record
from ssmd_api.errors import InvalidRequestError
from ssmd_api.graphql import scalars
from ssmd_api.graphql.cursors import Connection, check_first
from ssmd_api.graphql.fields import RootField
from ssmd_api.graphql.structs import struct_type
from ssmd_api.graphql.types import connection_of, list_of, paging
from ssmd_api.params import shown
from ssmd_api.proof import hours, lists
from ssmd_api.proof.pages import Page
from ssmd_api.rest.proof import check_every_feed, place
from ssmd_api.routing import Call, DayRule, FeedRule
from ssmd_core.feeds import FEEDS as REGISTRY

_TEXT = graphene.String
_FEED = {"feed": graphene.Argument(_TEXT)}


def _span() -> dict[str, Any]:
    return {
        "from_": graphene.Argument(scalars.DATE, name="from", description="First day, UTC."),
        "to": graphene.Argument(scalars.DATE, description="Last day, UTC."),
    }


def _of_hour() -> dict[str, Any]:
    return {
        "feed": graphene.Argument(_TEXT, required=True),
        "date": graphene.Argument(scalars.DATE, required=True),
        "hour": graphene.Argument(_TEXT, required=True, description="`HH00` UTC, e.g. 1100."),
        "stream": graphene.Argument(_TEXT, description="Default is the feed's own stream."),
    }


def _paged(ask: Callable[[Call, int], Awaitable[Page[Any]]]) -> Callable[[Call], Awaitable[Connection]]:
    """A resolver of a connection from what asks for a page."""

    async def resolve(call: Call) -> Connection:
        page = await ask(call, check_first(call.query.first))
        return Connection(page.rows, page.following, call.query.after is not None, page.cursor_of)

    return resolve


async def _hours(call: Call, limit: int) -> Page[lists.HourProof]:
    query = call.query
    return await lists.hours(
        call.services,
        call.feeds,
        call.first_day,
        call.last_day,
        _among("word", query.word, lists.Word),
        limit=limit,
        cursor=query.after,
    )


async def _minutes(call: Call, limit: int) -> Page[lists.MinuteProof]:
    return await lists.minutes(call.services, *place(call), limit=limit, cursor=call.query.after)


async def _untrusted(call: Call, limit: int) -> Page[lists.UntrustedInterval]:
    query = call.query
    return await lists.untrusted(
        call.services, call.feeds, call.first_day, call.last_day, query.instrument, limit=limit, cursor=query.after
    )


async def _scores(call: Call, limit: int) -> Page[lists.HourScore]:
    query = call.query
    return await lists.hourly_scores(
        call.services, call.feeds, call.first_day, call.last_day, query.type, limit=limit, cursor=query.after
    )


async def _drift(call: Call, limit: int) -> Page[lists.DriftFinding]:
    return await lists.drift(
        call.services, call.feeds, call.first_day, call.last_day, limit=limit, cursor=call.query.after
    )


async def _reconciliations(call: Call, limit: int) -> Page[lists.TradeReconciliation]:
    query = call.query
    return await lists.reconciliations(
        call.services,
        call.feeds,
        call.first_day,
        call.last_day,
        _among("status", query.status, lists.Status),
        limit=limit,
        cursor=query.after,
    )


async def _reports(call: Call, limit: int) -> Page[lists.ReportEntry]:
    check_every_feed(call)
    query = call.query
    return await lists.reports(
        call.services,
        _among("kind", query.kind, lists.ReportKind),
        call.first_day,
        call.last_day,
        limit=limit,
        cursor=query.after,
    )


async def _ledger(call: Call) -> Any:
    return await hours.ledger(call.services, *place(call))


async def _integrity(call: Call) -> Any:
    return await hours.integrity(call.services, *place(call), call.query.instrument)


async def _book(call: Call) -> Any:
    query: SimpleNamespace = call.query
    feed = call.feeds[0]
    stream = hours.stream_of(feed, query.stream)
    found = await hours.book(
        call.services, feed, stream, query.instrument, query.at, untrusted=bool(query.untrusted)
    )  # fmt: skip
    await record(call, feed, message_type="book")
    return found


def _among(name: str, value: str | None, words: Any) -> str | None:
    """A word of a fixed set, or None.

    Raises:
        InvalidRequestError: it is another one: such a list would be empty whatever is there.
    """
    if value is not None and value not in get_args(words):
        raise InvalidRequestError(f"{name}: {shown(value)} is none of {', '.join(get_args(words))}", field=name)
    return value


def _list(
    kind: Any, arguments: dict[str, Any], ask: Callable[[Call, int], Awaitable[Page[Any]]], about: str, days: DayRule
) -> RootField:
    return RootField(
        gives=connection_of(kind), arguments=arguments | paging(), scope=Scope.DATASETS_READ, feeds=FeedRule.PARAM,
        days=days, about=about, resolve=_paged(ask),
    )  # fmt: skip


def _one(
    kind: Any, arguments: dict[str, Any], resolve: Callable[[Call], Awaitable[Any]], about: str, days: DayRule
) -> RootField:
    return RootField(
        gives=kind, arguments=arguments, scope=Scope.DATASETS_READ, feeds=FeedRule.PARAM, days=days, about=about,
        resolve=resolve,
    )  # fmt: skip


struct_type(hours.ChainEntry, "ChainEntry", "A line of the signed chain of ledgers.")
_LEDGER = struct_type(hours.SignedLedger, "SignedLedger", "An hour's ledger, and its entry in the chain.")
_ROW = struct_type(hours.IntegrityRow, "IntegrityRow", "Neighbouring minutes of one verdict.")
struct_type(hours.BookLevel, "BookLevel", "A level of a book, as the venue wrote it.")
struct_type(hours.BookDoubt, "BookDoubt", "Why a book must not be trusted, or cannot be checked.")
_BOOK = struct_type(hours.BookAnswer, "Book", "A full-depth order book at a moment.")
_HOUR = struct_type(lists.HourProof, "HourProof", "An hour with a ledger: its word and its reasons.")
_MINUTE = struct_type(lists.MinuteProof, "MinuteProof", "One minute of one connection.")
_INTERVAL = struct_type(lists.UntrustedInterval, "UntrustedInterval", "When an instrument must not be trusted.")
_SCORE = struct_type(lists.HourScore, "HourScore", "Score of an hour and message type.")
_FINDING = struct_type(lists.DriftFinding, "DriftFinding", "A change of a venue's format.")
_RECONCILED = struct_type(
    lists.TradeReconciliation, "TradeReconciliation", "Archived trades against the venue's own list."
)
_REPORT = struct_type(lists.ReportEntry, "Report", "A diagnosis or a volume report of a day.")
_INSTRUMENT = graphene.Argument(_TEXT, description="Market ticker, symbol, product or token id.")
_REQUIRED_INSTRUMENT = graphene.Argument(
    _TEXT, required=True, description="Market ticker, symbol, product or token id."
)

FIELDS: dict[str, RootField] = {
    "provedHours": _list(
        _HOUR,
        _FEED | _span() | {"word": graphene.Argument(_TEXT, description="complete, degraded or empty.")},
        _hours,
        "Hours with a ledger, the newest first.",
        DayRule.SPAN,
    ),
    "ledger": _one(_LEDGER, _of_hour(), _ledger, "An hour's ledger and its signed entry.", DayRule.DAY),
    "ledgerMinutes": _list(
        _MINUTE, _of_hour(), _minutes, "The ledger's minutes of an hour, connection by connection.", DayRule.DAY
    ),
    "untrustedIntervals": _list(
        _INTERVAL,
        _FEED | _span() | {"instrument": _INSTRUMENT},
        _untrusted,
        "Intervals in which what was captured must not be trusted.",
        DayRule.SPAN,
    ),
    "integrity": _one(
        list_of(_ROW),
        _of_hour() | {"instrument": _REQUIRED_INSTRUMENT},
        _integrity,
        "Verdicts about an instrument, by minute.",
        DayRule.DAY,
    ),
    "book": _one(
        _BOOK,
        {
            "feed": graphene.Argument(_TEXT, required=True),
            "instrument": _REQUIRED_INSTRUMENT,
            "at": graphene.Argument(scalars.DATE_TIME, required=True),
            "stream": graphene.Argument(_TEXT, description="Default is the feed's own stream."),
            "untrusted": graphene.Argument(graphene.Boolean, description="Also where it must not be trusted."),
        },
        _book,
        "An instrument's full-depth order book at a moment.",
        DayRule.AT,
    ),
    "hourlyScores": _list(
        _SCORE,
        _FEED | _span() | {"type": graphene.Argument(_TEXT, description="Message type; `*` is the stream's own.")},
        _scores,
        "Quality scores of hours, the newest first.",
        DayRule.SPAN,
    ),
    "drift": _list(_FINDING, _FEED | _span(), _drift, "Changes of the venues' formats.", DayRule.SPAN),
    "reconciliations": _list(
        _RECONCILED,
        _FEED | _span() | {"status": graphene.Argument(_TEXT, description="ok, missing, extra, …")},
        _reconciliations,
        "Archived trades against the venues' own lists of trades.",
        DayRule.SPAN,
    ),
    "reports": RootField(
        gives=connection_of(_REPORT),
        arguments=_span() | {"kind": graphene.Argument(_TEXT, description="diagnosis or volume.")} | paging(),
        scope=Scope.DATASETS_READ,
        feeds=tuple(REGISTRY),
        days=DayRule.SPAN,
        about="Diagnosis and volume reports; for keys that reach every feed.",
        resolve=_paged(_reports),
    ),
}
