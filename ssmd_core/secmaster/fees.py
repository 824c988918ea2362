"""Kalshi's trading fees: which terms were in force when, and what a fill cost under them.

Terms of a series change at announced times. `/series/fee_changes` lists the changes, newest first or not, future ones
too; `intervals` turns them into half-open intervals that never overlap. A series that never changed is not listed:
its own `fee_type` and `fee_multiplier` are its terms, kept as a seed (see `with_seeds`).

The formula is Kalshi's published one: rate × multiplier × contracts × price × (1 − price), in dollars, rounded up.
Kalshi's API reference gives makers a quarter of the taker's 0.07 for `quadratic_with_maker_fees`, half of it for
`quadratic_with_combo_maker_fees`, nothing for `quadratic`. `flat` refers to a table that is in no API: without the
dollars per contract there is no answer, and none is made up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, localcontext
from typing import Literal

import msgspec
import psycopg
from psycopg.rows import class_row

from ssmd_core.errors import ConfigError, SsmdError
from ssmd_core.secmaster.as_of import Filter, check_text
from ssmd_core.secmaster.as_of import as_of as rows_as_of

Role = Literal["taker", "maker"]

TAKER_RATE = Decimal("0.07")
MAKER_RATES = {
    "quadratic": Decimal(0),
    "quadratic_with_maker_fees": Decimal("0.0175"),
    "quadratic_with_combo_maker_fees": Decimal("0.035"),
}
FLAT = "flat"

#: What a fee is rounded up to: an order's to the cent by the fee schedule; a fill's to $0.0001 by the fee rounding page
#: of spring 2026, to $0.000001 by that of September 2026 (its example: one contract at $0.055, 0.00363825 → 0.003639).
#: The days on which one rule gave way to the next are not published, so none is derived from a fill's time.
CENT = Decimal("0.01")
CENTICENT = Decimal("0.0001")
MICRODOLLAR = Decimal("0.000001")
ROUNDINGS = {"cent": CENT, "centicent": CENTICENT, "microdollar": MICRODOLLAR}

SEED_FROM = datetime(2020, 1, 1, tzinfo=UTC)
#: Beginnings of `source_id` that no change of the venue's may have.
OWN_IDS = _SEED, _SEEN = "seed:", "seen:"

# Kalshi's prices have ticks down to $0.0001 and its documents name $0.000001 as the finest; counts have two decimals.
_PRICE_DECIMALS = 6
_CONTRACTS_DECIMALS = 2
_MAX_CONTRACTS = Decimal(10) ** 12
_DOLLAR = Decimal(1)  # what a contract pays


class FeeInputError(ConfigError):
    """A price, a number of contracts or a role for which there is no fee; the text has the value."""


class UnknownSeriesError(SsmdError):
    """No terms of the series are known at all."""


class FeeUnknownError(SsmdError):
    """The series is known, but not its fee at that time."""


class FeeChange(msgspec.Struct, frozen=True):
    """Terms that a series gets at a time.

    Attributes:
        source_id: Kalshi's id of the change; `seed:{series}` and `seen:{series}:{time}` are ssmd's.
        series_ticker: whose.
        fee_type: one of `ssmd_core.db.tables.FEE_TYPES`.
        fee_multiplier: not negative; 0 is a series without fees.
        effective_from: when.
    """

    source_id: str
    series_ticker: str
    fee_type: str
    fee_multiplier: Decimal
    effective_from: datetime

    @property
    def ours(self) -> bool:
        """Whether it was derived from the series itself, not announced."""
        return self.source_id.startswith(OWN_IDS)


class FeeInterval(FeeChange, frozen=True):
    """A change with its end.

    Attributes:
        effective_to: first moment at which it does not hold any more; None is open. Equal to `effective_from` for a
            change that another one of the same moment displaced, or that was called off.
    """

    effective_to: datetime | None

    def covers(self, moment: datetime) -> bool:
        """Whether these terms hold at the moment."""
        return self.effective_from <= moment and (self.effective_to is None or moment < self.effective_to)


class OwnTerms(msgspec.Struct, frozen=True):
    """What a series says itself, and when the venue was asked for it."""

    fee_type: str
    fee_multiplier: Decimal
    asked_at: datetime


class FeeTerms(msgspec.Struct, frozen=True):
    """What a fee is computed from.

    Attributes:
        fee_type, fee_multiplier: in force, an event's override included.
        interval: the series' interval behind it.
        overridden: whether the event has terms of its own.
    """

    fee_type: str
    fee_multiplier: Decimal
    interval: FeeInterval
    overridden: bool = False


class FillCharge(msgspec.Struct, frozen=True):
    """What a fill does to a balance; dollars.

    Attributes:
        trade_fee: of the formula, rounded up.
        rounding_fee: what brings the balance back to its precision.
        rebate: given back out of what was rounded too much before, 0 or 0.01.
        net_fee: their sum, never negative.
        balance_change: signed, before the rebate; a multiple of the precision.
        accumulated: to hand to the order's next fill.
    """

    trade_fee: Decimal
    rounding_fee: Decimal
    rebate: Decimal
    net_fee: Decimal
    balance_change: Decimal
    accumulated: Decimal


def intervals(changes: Iterable[FeeChange], cuts: Iterable[tuple[str, datetime]] = ()) -> list[FeeInterval]:
    """The interval of every change, whatever order the changes come in.

    A change ends where the next one of its series begins; the last one is open, also if it is in the future: what
    holds now is asked with a moment, never by looking for an open end. Of several records with one `source_id` the
    last one counts. Of several changes of a series at one moment, one that Kalshi announced goes before one of
    ssmd's, then the greater `source_id`, which is arbitrary but does not depend on the order of arrival; the others
    get an empty interval.

    Args:
        cuts: series and times of changes that could not be understood: what held before ends there, and what holds
            from then on is not known.

    Returns:
        One interval for each `source_id`, by series and time.
    """
    by_series: dict[str, list[FeeChange]] = defaultdict(list)
    for change in {change.source_id: change for change in changes}.values():
        by_series[change.series_ticker].append(change)
    begins = {series: {one.effective_from for one in own} for series, own in by_series.items()}
    for series, moment in cuts:
        begins.setdefault(series, set()).add(moment)
    found: list[FeeInterval] = []
    for series, own in sorted(by_series.items()):
        ordered = sorted(own, key=lambda one: (one.effective_from, not one.ours, one.source_id))
        winners = {one.effective_from: one.source_id for one in ordered}
        moments = sorted(begins[series])
        following = dict(zip(moments, [*moments[1:], None], strict=True))
        for one in ordered:
            wins = winners[one.effective_from] == one.source_id
            end = following[one.effective_from] if wins else one.effective_from
            found.append(FeeInterval(**{**msgspec.structs.asdict(one), "effective_to": end}))
    return found


def with_seeds(
    changes: Iterable[FeeChange],
    own_terms: Mapping[str, OwnTerms],
    now: datetime,
    cuts: Sequence[tuple[str, datetime]] = (),
) -> list[FeeChange]:
    """Add what the series themselves say to the changes that are known.

    - No change known: the series' terms have always held, a seed from 2020 on says so.
    - Changes known, all of them still ahead: the series' terms are those before, and the seed covers that time.
    - Changes known, the oldest has happened: the series' terms are those after it. Nothing says what held before, so
      nothing is claimed, unless a seed was kept when no change was known yet: it stays.
    - The series has other terms than those in force: it changed unannounced, or what was announced did not happen.
      Its terms hold from `now` on; the past is not rewritten. A listing from before those in force began is no
      objection to them, and where nothing is known to be in force (see `cuts`) nothing is made up.

    Args:
        changes: announced ones and those kept from earlier runs.
        own_terms: by series.
        now: when the changes were read.
        cuts: see `intervals`.
    """
    kept = list({change.source_id: change for change in changes}.values())
    moments = [*((one.series_ticker, one.effective_from) for one in kept), *cuts]
    begun = {series for series, moment in moments if moment <= now}
    in_force = {one.series_ticker: one for one in intervals(kept, cuts) if one.covers(now)}
    for series, own in own_terms.items():
        held, terms = in_force.get(series), (own.fee_type, own.fee_multiplier)
        if series not in begun:
            kept.append(FeeChange(_SEED + series, series, *terms, SEED_FROM))
        elif held and held.effective_from < own.asked_at and terms != (held.fee_type, held.fee_multiplier):
            kept.append(FeeChange(f"{_SEEN}{series}:{now.isoformat()}", series, *terms, now))
    return kept


def interval_at(series: str, moment: datetime, known: Sequence[FeeInterval]) -> FeeInterval:
    """The series' interval that covers the moment.

    Raises:
        UnknownSeriesError: none of the intervals is the series'.
        FeeUnknownError: none covers the moment.
    """
    own = [one for one in known if one.series_ticker == series]
    if not own:
        raise UnknownSeriesError(f"no fees of series {series!r} are known")
    for one in own:
        if one.covers(moment):
            return one
    first = min(one.effective_from for one in own)
    raise FeeUnknownError(f"fees of series {series!r} are known from {first.isoformat()}, not at {moment.isoformat()}")


def fee(
    series: str,
    price: Decimal,
    contracts: Decimal,
    role: Role,
    as_of: datetime,
    *,
    known: Sequence[FeeInterval],
    quantum: Decimal = MICRODOLLAR,
    flat_dollars: Decimal | None = None,
) -> Decimal:
    """A trade's fee in dollars, from intervals at hand; `fee_at` looks them up. Args, Raises: see `fee_of`."""
    found = interval_at(series, as_of, known)
    terms = FeeTerms(found.fee_type, found.fee_multiplier, found)
    return fee_of(terms, price, contracts, role, quantum=quantum, flat_dollars=flat_dollars)


def fee_of(
    terms: FeeTerms,
    price: Decimal,
    contracts: Decimal,
    role: Role,
    *,
    quantum: Decimal = MICRODOLLAR,
    flat_dollars: Decimal | None = None,
) -> Decimal:
    """A trade's fee in dollars under given terms, rounded up to a multiple of `quantum`.

    Args:
        price: of one contract of the side traded, dollars, between 0 and 1 and neither; at most 6 decimals.
        contracts: more than 0, at most 2 decimals: the order's for `CENT`, the fill's for the finer rules.
        quantum: one of `ROUNDINGS`.
        flat_dollars: per contract, from Kalshi's table for series of type `flat`; makers and takers pay it. Less than
            1, at most 6 decimals.

    Raises:
        FeeInputError: a value outside of its range.
        FeeUnknownError: type `flat` without `flat_dollars`, or a type that this version does not know.
    """
    exact = model_fee(terms, price, contracts, role, flat_dollars=flat_dollars)
    with localcontext(prec=60):
        return exact.quantize(quantum, ROUND_CEILING)


def model_fee(
    terms: FeeTerms, price: Decimal, contracts: Decimal, role: Role, *, flat_dollars: Decimal | None = None
) -> Decimal:
    """The formula's value, exact, not rounded. Args, Raises: see `fee_of`."""
    _check("price", price, _PRICE_DECIMALS, _DOLLAR)
    _check("contracts", contracts, _CONTRACTS_DECIMALS, _MAX_CONTRACTS)
    if flat_dollars is not None and not flat_dollars.is_zero():
        _check("flat_dollars", flat_dollars, _PRICE_DECIMALS, _DOLLAR)
    if role not in {"taker", "maker"}:
        raise FeeInputError(f"role {role!r} is neither taker nor maker")
    with localcontext(prec=60):
        if terms.fee_type == FLAT:
            if flat_dollars is None:
                raise FeeUnknownError(
                    f"series {terms.interval.series_ticker!r} has flat fees: Kalshi's API does not tell the dollars "
                    "per contract, give them from its fee schedule"
                )
            return flat_dollars * terms.fee_multiplier * contracts if flat_dollars else Decimal(0)
        if terms.fee_type not in MAKER_RATES or terms.fee_multiplier < 0:
            raise FeeUnknownError(f"fees of type {terms.fee_type!r} × {terms.fee_multiplier} are not known")
        rate = TAKER_RATE if role == "taker" else MAKER_RATES[terms.fee_type]
        return rate * terms.fee_multiplier * contracts * price * (1 - price)


def charge_fill(
    trade_fee: Decimal, revenue: Decimal, *, accumulated: Decimal = Decimal(0), precision: Decimal = CENT
) -> FillCharge:
    """Bring a fill's balance change to the balance's precision, as Kalshi's fee rounding page has it.

    What is rounded too much is collected over an order's fills, whether they make or take; when more than a cent has
    come together, a cent is given back, unless the fill's fee would become negative by it.

    Args:
        trade_fee: of the fill, rounded up: see `fee_of`.
        revenue: signed dollars: −price × contracts for a buy.
        accumulated: from the order's fill before.
        precision: `CENT`; `CENTICENT` for direct members of the exchange.
    """
    with localcontext(prec=60):
        exact = revenue - trade_fee
        floored = exact.quantize(precision, ROUND_FLOOR)
        rounding_fee = exact - floored
        accumulated += rounding_fee
        gross = trade_fee + rounding_fee
        rebate = CENT if accumulated > CENT and gross >= CENT else Decimal(0)
        return FillCharge(trade_fee, rounding_fee, rebate, gross - rebate, floored, accumulated - rebate)


async def terms_at(
    connection: psycopg.AsyncConnection,
    series: str,
    as_of: datetime,
    event: str | None = None,
    *,
    known_at: datetime | None = None,
) -> FeeTerms:
    """The terms in force at a time.

    Args:
        as_of: when the trade was.
        event: with it, the event's override as ssmd knew it at `as_of` counts: Kalshi's events do not say since when
            they have one.
        known_at: leave out what became known later, e.g. to repeat what a report said then; default all that is
            known now.

    Raises:
        UnknownSeriesError, FeeUnknownError: see `interval_at`; the event was not known by then.
        FeeInputError: the event belongs to another series.
        psycopg.Error: Postgres refused or went away.
    """
    found = interval_at(series, as_of, await intervals_of(connection, series, known_at))
    if event is None:
        return FeeTerms(found.fee_type, found.fee_multiplier, found)
    check_text("event", event)
    moment = as_of if known_at is None else min(as_of, known_at)
    versions = [row async for row in rows_as_of(connection, "events", moment, keys=[event])]
    if not versions:
        raise FeeUnknownError(f"event {event!r} was not known at {moment.isoformat()}, nor whether it had its own fees")
    if versions[0]["series_ticker"] != series:
        raise FeeInputError(f"event {event!r} is one of series {versions[0]['series_ticker']!r}, not {series!r}")
    fee_type, multiplier = versions[0]["fee_type_override"], versions[0]["fee_multiplier_override"]
    return FeeTerms(
        found.fee_type if fee_type is None else fee_type,
        found.fee_multiplier if multiplier is None else multiplier,
        found,
        overridden=fee_type is not None or multiplier is not None,
    )


async def fee_at(
    connection: psycopg.AsyncConnection,
    series: str,
    price: Decimal,
    contracts: Decimal,
    role: Role,
    as_of: datetime,
    event: str | None = None,
    *,
    known_at: datetime | None = None,
    quantum: Decimal = MICRODOLLAR,
    flat_dollars: Decimal | None = None,
) -> Decimal:
    """A trade's fee in dollars under the terms that held at its time. Args, Raises: see `terms_at` and `fee_of`."""
    terms = await terms_at(connection, series, as_of, event, known_at=known_at)
    return fee_of(terms, price, contracts, role, quantum=quantum, flat_dollars=flat_dollars)


_FIELDS = "source_id, series_ticker, fee_type, fee_multiplier, effective_from, effective_to"


async def intervals_of(
    connection: psycopg.AsyncConnection, series: str, known_at: datetime | None = None
) -> list[FeeInterval]:
    """All intervals of a series, in no promised order: as known now, or as known at a moment."""
    check_text("series", series)
    if known_at is None:
        cursor = connection.cursor(row_factory=class_row(FeeInterval))
        await cursor.execute(
            f"SELECT {_FIELDS} FROM series_fees WHERE series_ticker = %s AND deleted_at IS NULL".encode(), (series,)
        )
        return await cursor.fetchall()
    where = [Filter("series_ticker", "=", series)]
    rows = rows_as_of(connection, "series_fees", known_at, where=where)
    return [msgspec.convert({name: row[name] for name in _FIELDS.split(", ")}, FeeInterval) async for row in rows]


def _check(name: str, value: Decimal, decimals: int, most: Decimal) -> None:
    """A number between 0 and `most`, neither included, as exact as the venue's."""
    number = Decimal(value)
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or not 0 < number < most:
        raise FeeInputError(f"{name} {value} is not between 0 and {most}")
    if -exponent > decimals and number != round(number, decimals):
        raise FeeInputError(f"{name} {value} has more than {decimals} decimals")
