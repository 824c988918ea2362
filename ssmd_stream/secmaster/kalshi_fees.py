"""Kalshi's fees: announced changes of series into `series_fees`, overrides of events into `events`.

Wire facts: spec wire-formats 1.5 and Kalshi's API reference. `/series/fee_changes` has no pages and, without
`show_historical`, hardly anything; a series that never changed is not in it, so the series' own terms seed it.
`/events/fee_changes` announces overrides with both members null where one ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog

from ssmd_core.db.merge import Reject, SyncReport, SyncRun
from ssmd_core.db.tables import FEE_TYPES, SYNCED
from ssmd_core.secmaster.fees import FeeChange, intervals, with_seeds
from ssmd_stream.secmaster.fields import FieldError, Record, clean
from ssmd_stream.secmaster.kalshi_client import KalshiClient
from ssmd_stream.secmaster.rest import RestClient, RestNotFoundError
from ssmd_stream.secmaster.sync import Mode, SyncTask

log = structlog.get_logger()

FEES, EVENTS = SYNCED["series_fees"], SYNCED["events"]
COLUMNS = ("series_ticker", "fee_type", "fee_multiplier", "effective_from", "effective_to")
OVERRIDES = ("fee_type_override", "fee_multiplier_override")
# Series have 0, 0.5 and 1. From 58 on a fee would exceed the dollar that a contract can pay.
MAX_MULTIPLIER = Decimal(100)
# `seen:{series}:{time}` must fit into a key of 128.
MAX_SERIES_CHARS = 90


class _NotUnderstood(FieldError):
    """A change of which whose and when are known, but not what it changes to."""

    def __init__(self, reason: str, series: str, moment: datetime) -> None:
        super().__init__(reason)
        self.cut = (series, moment)


def change_of(raw: Any) -> FeeChange:
    """A change of a series' terms.

    Raises:
        FieldError: a member is missing or cannot be meant.
    """
    record = Record(raw)
    source_id, series = record.id("id"), _series_of(record)
    moment = record.moment("scheduled_ts")
    if moment is None:
        raise FieldError(_reason(record, "scheduled_ts"))
    try:
        fee_type, multiplier = _fee_type(record, "fee_type"), _multiplier(record, "fee_multiplier")
        if fee_type is None or multiplier is None:
            raise FieldError(_reason(record, "fee_type" if fee_type is None else "fee_multiplier"))
    except FieldError as error:
        raise _NotUnderstood(str(error), series, moment) from error
    return FeeChange(source_id, series, fee_type, multiplier, moment)


async def sync_series_fees(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    """See `Work`. Changes that the venue lists no more stay, and every interval is computed anew from all of them."""
    del mode
    asked = run.now()
    listed, cuts = _read(run, await KalshiClient(rest).fee_changes())
    stored = [
        FeeChange(*row)
        for row in await run.query(
            "SELECT source_id, series_ticker, fee_type, fee_multiplier, effective_from FROM series_fees "
            "WHERE deleted_at IS NULL"
        )
    ]
    _warn_of_withdrawn(run, listed, stored, asked)
    # A listed change goes before the stored one of the same id: the venue may have moved it.
    changes = with_seeds([*stored, *listed], await _own_terms(run), asked)
    rows = [
        (one.source_id, one.series_ticker, one.fee_type, one.fee_multiplier, one.effective_from, one.effective_to)
        for one in intervals(changes, cuts)
    ]
    await run.stage(FEES, COLUMNS, rows, asked)
    await _stage_overrides(rest, run)
    return await run.finish()


def _read(run: SyncRun, records: Sequence[Any]) -> tuple[list[FeeChange], list[tuple[str, datetime]]]:
    """The changes, and where intervals must be cut because one was not understood."""
    changes, cuts = [], []
    for raw in records:
        try:
            changes.append(change_of(raw))
        except FieldError as error:
            _reject(run, FEES.name, raw, error)
            if isinstance(error, _NotUnderstood):
                cuts.append(error.cut)
    return changes, cuts


async def _own_terms(run: SyncRun) -> dict[str, tuple[str, Decimal]]:
    """What the series say themselves."""
    terms: dict[str, tuple[str, Decimal]] = {}
    statement = "SELECT ticker, fee_type, fee_multiplier FROM series WHERE deleted_at IS NULL ORDER BY ticker"
    for ticker, fee_type, multiplier in await run.query(statement):
        raw = {"series_ticker": ticker, "fee_type": fee_type, "fee_multiplier": multiplier}
        record = Record(raw)
        try:
            series, own_type = _series_of(record), _fee_type(record, "fee_type")
            own_multiplier = _multiplier(record, "fee_multiplier")
            if own_type is None or own_multiplier is None:
                run.warn("series_fees: series without fee_type or fee_multiplier, not seeded")
                continue
        except FieldError as error:
            run.reject(Reject(FEES.name, ticker, f"not seeded: {error}"))
            continue
        terms[series] = (own_type, own_multiplier)
    return terms


def _warn_of_withdrawn(run: SyncRun, listed: Sequence[FeeChange], stored: Sequence[FeeChange], asked: datetime) -> None:
    """A change that is still ahead and no longer listed may have been called off; the venue does not say so."""
    shown = {one.source_id for one in listed}
    withdrawn = [one for one in stored if not one.ours and one.effective_from > asked and one.source_id not in shown]
    if withdrawn:
        run.warn("series_fees: announced for the future, no longer listed, kept", len(withdrawn))
        log.warning("kalshi_fee_changes_withdrawn", series=[one.series_ticker for one in withdrawn[:20]])


async def _stage_overrides(rest: RestClient, run: SyncRun) -> None:
    """Stage, for every event that is known, the last override that has begun."""
    asked = run.now()
    try:
        records = await KalshiClient(rest).event_fee_changes()
    except RestNotFoundError:
        run.warn("events: the venue has no /events/fee_changes, overrides are left as they are")
        return
    latest: dict[str, tuple[datetime, str, str | None, Decimal | None]] = {}
    for raw in records:
        try:
            record = Record(raw)
            event, source_id = record.id("event_ticker"), record.id("id")
            moment = record.moment("scheduled_ts")
            if moment is None:
                raise FieldError(_reason(record, "scheduled_ts"))
            change = (moment, source_id, *_override_of(record))
        except FieldError as error:
            _reject(run, EVENTS.name, raw, error)
            continue
        if moment <= asked and (event not in latest or latest[event][:2] < change[:2]):
            latest[event] = change
    statement = "SELECT event_ticker FROM events WHERE deleted_at IS NULL AND event_ticker = ANY(%s)"
    known = {row[0] for row in await run.query(statement, (list(latest),))}
    if strange := len(latest) - len(known):
        run.warn("events: fee overrides of events that are not stored", strange)
    if known:
        rows = [(event, *change[2:]) for event, change in latest.items() if event in known]
        await run.stage(EVENTS, OVERRIDES, rows, asked)


def _override_of(record: Record) -> tuple[str | None, Decimal | None]:
    return _fee_type(record, "fee_type_override"), _multiplier(record, "fee_multiplier_override")


def _series_of(record: Record) -> str:
    series = record.id("series_ticker")
    if len(series) > MAX_SERIES_CHARS:
        raise FieldError(f"series_ticker: {len(series)} characters, more than {MAX_SERIES_CHARS}")
    return series


def _fee_type(record: Record, name: str) -> str | None:
    fee_type = record.text(name)
    if record.problems:
        raise FieldError(record.problems[-1])
    if fee_type is not None and fee_type not in FEE_TYPES:
        raise FieldError(f"{name} {fee_type[:64]!r} is unknown")
    return fee_type


def _multiplier(record: Record, name: str) -> Decimal | None:
    multiplier = record.decimal(name)
    if record.problems:
        raise FieldError(record.problems[-1])
    if multiplier is not None and not 0 <= multiplier <= MAX_MULTIPLIER:
        raise FieldError(f"{name} {multiplier} is not between 0 and {MAX_MULTIPLIER}")
    return multiplier


def _reason(record: Record, name: str) -> str:
    return record.problems[-1] if record.problems else f"{name} is missing or not finite"


def _reject(run: SyncRun, table: str, raw: Any, error: FieldError) -> None:
    key = raw.get("id") if isinstance(raw, dict) else raw
    run.reject(Reject(table, clean(str(key))[:200], str(error)))


TASKS = (SyncTask("kalshi", "series_fees", ("events", "series_fees"), sync_series_fees, after=("series",)),)
