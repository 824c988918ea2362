"""Kalshi's fees: announced changes of series into `series_fees`, overrides of events into `events`.

Wire facts: Kalshi's API reference, August 2026. `/series/fee_changes` has no pages and, without
`show_historical`, hardly anything; a series that never changed is not in it, so the series' own terms seed it.
`/events/fee_changes` announces overrides with both members null where one ends. Neither has a
mark for what was called off: that it is listed no more is all there is to go by.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
import structlog

from ssmd_core.db.merge import Reject, SyncReport, SyncRun
from ssmd_core.db.tables import FEE_TYPES, SYNCED
from ssmd_core.secmaster.fees import OWN_IDS, FeeChange, FeeInterval, OwnTerms, intervals, with_seeds
from ssmd_stream.secmaster.fields import FieldError, Record, reject_key
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
        FieldError: a member is missing or cannot be meant, or the id is of a form that is ssmd's own.
    """
    record = Record(raw)
    source_id = record.id("id")
    if source_id.startswith(OWN_IDS):
        raise FieldError(f"id {source_id!r} begins as only ssmd's own do")
    series = _series_of(record)
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
    """See `Work`. Every interval is computed anew from the changes that are listed and those that are stored.

    Of the stored ones that are listed no more, those that had begun stay; those still ahead were called off and get an
    empty interval, and with it they are kept. So does a stored change whose record can no longer be read: what holds
    from its time on is not known.
    """
    del mode
    asked = run.now()
    listed, unread = _read(run, await KalshiClient(rest).fee_changes())
    columns = ", ".join(("source_id", *COLUMNS))
    rows = await run.query(f"SELECT {columns} FROM series_fees WHERE deleted_at IS NULL")
    stored = {row[0]: FeeInterval(*row) for row in rows}
    gone = {key: one for key, one in stored.items() if key not in listed and not one.ours}
    cuts = [cut for cut in unread.values() if cut is not None]
    # Not even its time can be read any more, so it is the stored one.
    cuts += [(gone[key].series_ticker, gone[key].effective_from) for key in unread if key in gone and not unread[key]]
    called_off = {key: one for key, one in gone.items() if key not in unread and one.effective_from > asked}
    # An empty interval stays empty when its time has come: it tells those that were called off from those that began.
    void = {
        key: msgspec.structs.replace(one, effective_to=one.effective_from)
        for key, one in gone.items()
        if key in unread or key in called_off or one.effective_to == one.effective_from
    }
    # A listed change goes before the stored one of the same id: the venue may have moved it.
    changes = [*(one for key, one in stored.items() if key not in void), *listed.values()]
    changes = with_seeds(changes, await _own_terms(run), asked, cuts)
    unannounced = [one for one in changes if one.ours and one.effective_from == asked and one.source_id not in stored]
    _warn_of(run, "announced for the future, no longer listed, not to come into force", list(called_off.values()))
    _warn_of(run, "series with other terms than those in force, which end now", unannounced)
    intervals_now = [*intervals(changes, cuts), *void.values()]
    values = [[getattr(one, name) for name in ("source_id", *COLUMNS)] for one in intervals_now]
    await run.stage(FEES, COLUMNS, values, asked)
    await _stage_overrides(rest, run)
    return await run.finish()


def _read(run: SyncRun, records: Sequence[Any]) -> tuple[dict[str, FeeChange], dict[str, tuple[str, datetime] | None]]:
    """The changes by id; and the ids of those that were not understood, with where intervals must be cut for them."""
    listed: dict[str, FeeChange] = {}
    unread: dict[str, tuple[str, datetime] | None] = {}
    for raw in records:
        # Of several records with one id the last one counts, also if it cannot be read.
        try:
            change = change_of(raw)
            unread.pop(change.source_id, None)
            listed[change.source_id] = change
        except FieldError as error:
            _reject(run, FEES.name, raw, error)
            with contextlib.suppress(FieldError):
                key = Record(raw).id("id")
                listed.pop(key, None)
                unread[key] = error.cut if isinstance(error, _NotUnderstood) else None
    return listed, unread


async def _own_terms(run: SyncRun) -> dict[str, OwnTerms]:
    """What the series say themselves, as of when their sync asked; a row without a sync, as of its last change."""
    terms: dict[str, OwnTerms] = {}
    statement = (
        "SELECT ticker, fee_type, fee_multiplier, coalesce((SELECT max(started_at) FROM sync_runs "
        "WHERE scope = 'kalshi/series'), updated_at) FROM series WHERE deleted_at IS NULL ORDER BY ticker"
    )
    for ticker, fee_type, multiplier, asked_at in await run.query(statement):
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
        terms[series] = OwnTerms(own_type, own_multiplier, asked_at)
    return terms


def _warn_of(run: SyncRun, what: str, changes: Sequence[FeeChange]) -> None:
    if changes:
        run.warn(f"series_fees: {what}", len(changes))
        log.warning("kalshi_fee_changes", what=what, series=[one.series_ticker for one in changes[:20]])


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
    key = raw.get("id") if isinstance(raw, dict) else None
    run.reject(Reject(table, reject_key(key), str(error)))


TASKS = (SyncTask("kalshi", "series_fees", ("events", "series_fees"), sync_series_fees, after=("series",)),)
