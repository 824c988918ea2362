"""The lists: hours with their words, minutes, untrusted intervals, hourly scores, drift, reconciliations, reports."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import cache
from typing import Any, Literal

import msgspec

from ssmd_api.proof.pages import ListOf, Page
from ssmd_api.services import Services
from ssmd_core.datasets.coverage import DayCoverage, day_coverage
from ssmd_core.feeds import get

Word = Literal["complete", "degraded", "empty"]
Status = Literal["ok", "missing", "extra", "differing", "unavailable", "partial"]
ReportKind = Literal["diagnosis", "volume"]


class HourProof(msgspec.Struct, rename="camel", kw_only=True):
    """An hour with a ledger.

    Attributes:
        word: complete, degraded or empty; None if the ledger is no longer the one of what lies there.
        reasons: of the ledger, each with code, detail, from, to, count and evidence.
        totals: sums of the ledger.
        ledger_sha256, chain_number, sealed_at: its place in the signed chain.
    """

    feed: str
    stream: str
    hour: datetime
    word: str | None
    reasons: list[Any]
    totals: dict[str, Any]
    ledger_sha256: str
    chain_number: int
    sealed_at: datetime


class MinuteProof(msgspec.Struct, rename="camel", kw_only=True):
    """One minute of one connection, as the ledger has it; see `coverage_HH00.parquet`."""

    minute: datetime
    epoch: str
    connection: str
    open_s: Decimal
    asked: int
    acknowledged: int
    refused: int
    delivered: int
    messages: int
    bytes: int
    by_type: dict[str, Any]
    first_ordinal: int | None
    last_ordinal: int | None
    missing_ordinals: int
    counters: list[Any]
    sequence_gaps: int
    sequence_missing: int
    passed: int
    failed: int
    unverifiable: int
    offset_ms: float | None
    age_p50_ms: float | None
    age_p99_ms: float | None
    age_max_ms: float | None
    opens: int
    resubscribes: int
    errors: int
    live_messages: int | None


class UntrustedInterval(msgspec.Struct, rename="camel", kw_only=True):
    """An interval in which what was captured of an instrument must not be trusted.

    Attributes:
        id: number of the row.
        hour: of whose ledger.
        instrument: `*` where the venue does not say which ones.
        check: what was checked, in the venue's word.
        ended_at: null where nothing restored trust until the hour's end.
        nats_seq: archived message at which it was found.
    """

    id: int
    feed: str
    stream: str
    hour: datetime
    instrument: str
    check: str
    epoch: str
    started_at: datetime
    ended_at: datetime | None
    reason: str
    detail: str
    nats_seq: int


class HourScore(msgspec.Struct, rename="camel", kw_only=True):
    """Score of an hour; message type `*` is the stream's own."""

    feed: str
    stream: str
    hour: datetime
    message_type: str
    score: Decimal
    components: dict[str, Any]
    inputs: dict[str, Any]


class DriftFinding(msgspec.Struct, rename="camel", kw_only=True):
    """A change of a venue's format.

    Attributes:
        source: stream, or `rest`.
        kind: new_type, new_field, dropped_field, retyped_field or null_column.
        evidence: where a message with it stands.
    """

    id: int
    feed: str
    source: str
    message_type: str
    path: str
    kind: str
    found_at: datetime
    detail: str
    evidence: str


class WireShape(msgspec.Struct, rename="camel", kw_only=True):
    """A member of a message or body, and when it was first seen.

    Attributes:
        source: stream, or `rest`.
        last_seen_at: or the end of the days that were asked for, if it was seen later, too.
        presence: share of the messages that have it.
    """

    feed: str
    source: str
    message_type: str
    path: str
    json_type: str
    first_seen_at: datetime
    last_seen_at: datetime
    first_evidence: str
    presence: float


class TradeReconciliation(msgspec.Struct, rename="camel", kw_only=True):
    """Archived trades of an instrument against the venue's.

    Attributes:
        status: ok, missing, extra, differing, unavailable or partial; unavailable is not empty.
        match_rate: matched of the venue's trades; null if nothing could be compared.
        sample: some of the trades that do not match.
    """

    id: int
    feed: str
    stream: str
    instrument: str
    started_at: datetime
    ended_at: datetime
    checked_at: datetime
    status: str
    venue_trades: int
    archived_trades: int
    matched: int
    missing: int
    extra: int
    differing: int
    backfilled: int
    match_rate: Decimal | None
    sample: list[Any]
    detail: str


class ReportEntry(msgspec.Struct, rename="camel", kw_only=True):
    """A report of a day.

    Attributes:
        kind: diagnosis or volume.
        source: model or rules.
        body: status, claims, and the rows that they cite.
        note: why it was written as it was.
    """

    kind: str
    report_date: date
    status: str
    source: str
    body: dict[str, Any]
    markdown: str
    input_sha256: str
    note: str
    model: str | None
    stop_reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: Decimal | None
    dropped_claims: int | None
    created_at: datetime


def _columns(kind: type[msgspec.Struct]) -> str:
    return ", ".join(kind.__struct_fields__)


_HOURS = ListOf(
    "hours", _columns(HourProof), "ledger_hours", ("hour", "feed", "stream"), True, (datetime, str, str),
    lambda row: (row.hour, row.feed, row.stream), HourProof,
)  # fmt: skip
_MINUTES = ListOf(
    "minutes", _columns(MinuteProof), "ledger_minutes", ("minute", "epoch"), False, (datetime, str),
    lambda row: (row.minute, row.epoch), MinuteProof,
)  # fmt: skip
_UNTRUSTED = ListOf(
    "untrusted", _columns(UntrustedInterval).replace("check,", "check_name AS check,"), "untrusted_intervals",
    ("hour", "id"), True, (datetime, int), lambda row: (row.hour, row.id), UntrustedInterval,
)  # fmt: skip
_SCORES = ListOf(
    "scores", _columns(HourScore), "dq_hourly_scores", ("hour", "feed", "stream", "message_type"), True,
    (datetime, str, str, str), lambda row: (row.hour, row.feed, row.stream, row.message_type), HourScore,
)  # fmt: skip
_DRIFT = ListOf(
    "drift", _columns(DriftFinding), "drift_findings", ("found_at", "id"), True, (datetime, int),
    lambda row: (row.found_at, row.id), DriftFinding,
)  # fmt: skip
_SHAPES = ListOf(
    "shapes", _columns(WireShape), "wire_shapes", ("feed", "source", "message_type", "path", "json_type"), False,
    (str, str, str, str, str),
    lambda row: (row.feed, row.source, row.message_type, row.path, row.json_type), WireShape,
)  # fmt: skip
_RECONCILED = ListOf(
    "reconciled", _columns(TradeReconciliation), "trade_reconciliations", ("started_at", "id"), True, (datetime, int),
    lambda row: (row.started_at, row.id), TradeReconciliation,
)  # fmt: skip
_REPORTS = ListOf(
    "reports", _columns(ReportEntry), "reports", ("report_date", "kind"), True, (date, str),
    lambda row: (row.report_date, row.kind), ReportEntry,
)  # fmt: skip


def _span(column: str, first: date, last: date) -> list[tuple[str, object]]:
    start = datetime.combine(first, time(), UTC)
    # A key that reaches every day has date.max as its last.
    end = datetime.combine(last, time.max, UTC)
    return [(f"{column} >= %s", start), (f"{column} <= %s", end)]


async def hours(
    services: Services, feeds: Collection[str], first: date, last: date, word: str | None,
    *, limit: int, cursor: str | None,
) -> Page[HourProof]:  # fmt: skip
    """Hours with ledgers, the newest first."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("hour", first, last)]
    page = await _HOURS.page(services, where + ([("word = %s", word)] if word else []), limit=limit, cursor=cursor)
    await asyncio.to_thread(_as_it_lies, services, page.rows)
    return page


def _as_it_lies(services: Services, rows: Sequence[HourProof]) -> None:
    """Take back words of ledgers that were changed, or whose hours were archived anew, since they were loaded."""
    now = services.now

    @cache
    def covered(feed: str, stream: str, day: date) -> DayCoverage:
        return day_coverage(services.captured.manifests, get(feed), stream, day, now)

    for row in rows:
        number = row.hour.hour
        hour = covered(row.feed, row.stream, row.hour.date()).hours[number]
        if services.captured.words.word(row.feed, row.stream, row.hour.date(), number, hour, now) != row.word:
            row.word = None


async def minutes(
    services: Services, feed: str, stream: str, hour: datetime, *, limit: int, cursor: str | None
) -> Page[MinuteProof]:
    """The ledger's minutes of an hour, connection by connection."""
    where: list[tuple[str, object]] = [("feed = %s", feed), ("stream = %s", stream)]
    # The last hour of all time has no next one.
    where += [("minute >= %s", hour), ("minute <= %s", hour.replace(minute=59, second=59))]
    return await _MINUTES.page(services, where, limit=limit, cursor=cursor)


async def untrusted(
    services: Services, feeds: Collection[str], first: date, last: date, instrument: str | None,
    *, limit: int, cursor: str | None,
) -> Page[UntrustedInterval]:  # fmt: skip
    """Untrusted intervals, of the newest hours first; those of one instrument with those of all (`*`)."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("hour", first, last)]
    if instrument is not None:
        where.append(("instrument = ANY(%s)", [instrument, "*"]))
    return await _UNTRUSTED.page(services, where, limit=limit, cursor=cursor)


async def hourly_scores(
    services: Services, feeds: Collection[str], first: date, last: date, message_type: str | None,
    *, limit: int, cursor: str | None,
) -> Page[HourScore]:  # fmt: skip
    """Scores of hours, the newest first."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("hour", first, last)]
    where += [("message_type = %s", message_type)] if message_type else []
    return await _SCORES.page(services, where, limit=limit, cursor=cursor)


async def drift(
    services: Services, feeds: Collection[str], first: date, last: date, *, limit: int, cursor: str | None
) -> Page[DriftFinding]:
    """Changes of formats, the newest first."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("found_at", first, last)]
    return await _DRIFT.page(services, where, limit=limit, cursor=cursor)


async def shapes(
    services: Services, feeds: Collection[str], first: date, last: date, message_type: str | None,
    *, limit: int, cursor: str | None,
) -> Page[WireShape]:  # fmt: skip
    """Members first seen in these days, by feed, source, type and path."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("first_seen_at", first, last)]
    where += [("message_type = %s", message_type)] if message_type else []
    page = await _SHAPES.page(services, where, limit=limit, cursor=cursor)
    end = datetime.combine(last, time.max, UTC)
    for row in page.rows:
        row.last_seen_at = min(row.last_seen_at, end)
    return page


async def reconciliations(
    services: Services, feeds: Collection[str], first: date, last: date, status: str | None,
    *, limit: int, cursor: str | None,
) -> Page[TradeReconciliation]:  # fmt: skip
    """Reconciliations, the newest windows first."""
    where = [("feed = ANY(%s)", sorted(feeds)), *_span("started_at", first, last)]
    return await _RECONCILED.page(
        services, where + ([("status = %s", status)] if status else []), limit=limit, cursor=cursor
    )


async def reports(
    services: Services, kind: str | None, first: date, last: date, *, limit: int, cursor: str | None
) -> Page[ReportEntry]:
    """Reports, the newest day first."""
    where: list[tuple[str, object]] = [("report_date >= %s", first), ("report_date <= %s", last)]
    where += [("kind = %s", kind)] if kind else []
    return await _REPORTS.page(services, where, limit=limit, cursor=cursor)
