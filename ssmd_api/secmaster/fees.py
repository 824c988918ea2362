"""Kalshi's fees: the terms in force, and what a trade costs under them."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from ssmd_api.errors import InvalidRequestError, NotFoundError
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.secmaster.lists import Listing
from ssmd_api.services import Services
from ssmd_core.secmaster.as_of import Row
from ssmd_core.secmaster.fees import (
    FLAT,
    ROUNDINGS,
    FeeInputError,
    FeeUnknownError,
    Role,
    UnknownSeriesError,
    fee_of,
    interval_at,
    intervals_of,
    model_fee,
    terms_at,
)
from ssmd_core.secmaster.queries import fees_in_force


async def fee_list(
    services: Services,
    moment: datetime | None,
    known_at: datetime | None,
    *,
    limit: int,
    cursor: str | None = None,
) -> Listing:
    """The terms in force at a moment, now if not given, by series.

    Args:
        known_at: leave out what became known later.

    Raises:
        InvalidRequestError: a cursor of another list.
        psycopg.Error: Postgres refused or went away.
    """
    question = ("series_fees", moment, known_at)
    after = "" if cursor is None else str(decode_cursor(question, cursor, (str,))[0])
    async with services.reading() as connection:
        page = await fees_in_force(connection, moment or services.now, limit=limit, after=after, known_at=known_at)
    return Listing(page.rows, encode_cursor(question, (page.rows[-1]["series_ticker"],)) if page.more else None)


async def fee_row(
    services: Services, series: str, moment: datetime | None = None, known_at: datetime | None = None
) -> Row:
    """The terms of a series in force at a moment, now if not given.

    Raises:
        NotFoundError: none are known, or none for that moment.
        psycopg.Error: Postgres refused or went away.
    """
    at = moment or services.now
    async with services.reading() as connection:
        page = await fees_in_force(connection, at, series=series, limit=1, known_at=known_at)
        if page.rows:
            return page.rows[0]
        try:
            interval_at(series, at, await intervals_of(connection, series, known_at))
        except (UnknownSeriesError, FeeUnknownError) as error:
            raise NotFoundError(str(error)) from None
    raise NotFoundError(f"no fees of series {series!r} are known")


async def trade_fee(
    services: Services,
    series: str,
    price: Decimal,
    contracts: Decimal,
    role: Role,
    *,
    moment: datetime | None = None,
    event: str | None = None,
    known_at: datetime | None = None,
    rounding: str = "microdollar",
    flat_dollars: Decimal | None = None,
) -> dict[str, Any]:
    """What a trade costs in dollars, with the terms behind it, by names in camelCase.

    Args:
        moment: of the trade, default now. For the others see `ssmd_core.secmaster.fees.terms_at` and `fee_of`;
            `rounding` is a key of its `ROUNDINGS`.

    Raises:
        InvalidRequestError: a value for which there is no fee.
        NotFoundError: the terms are not known.
        psycopg.Error: Postgres refused or went away.
    """
    at = moment or services.now
    try:
        async with services.reading() as connection:
            terms = await terms_at(connection, series, at, event, known_at=known_at)
        if terms.fee_type == FLAT and flat_dollars is None:
            raise InvalidRequestError(
                f"flat_dollars is needed: series {series!r} has flat fees, and the venue's API does not tell how much",
                field="flat_dollars",
            )
        exact = model_fee(terms, price, contracts, role, flat_dollars=flat_dollars)
        rounded = {
            name: fee_of(terms, price, contracts, role, quantum=quantum, flat_dollars=flat_dollars)
            for name, quantum in ROUNDINGS.items()
        }
    except FeeInputError as error:
        # Each of its messages begins with the name of the value.
        raise InvalidRequestError(str(error), field=str(error).partition(" ")[0]) from None
    except (UnknownSeriesError, FeeUnknownError) as error:
        raise NotFoundError(str(error)) from None
    return {
        "seriesTicker": series,
        "eventTicker": event,
        "asOf": at,
        "role": role,
        "priceDollars": price,
        "contracts": contracts,
        "feeType": terms.fee_type,
        "feeMultiplier": terms.fee_multiplier,
        "overriddenByEvent": terms.overridden,
        "sourceId": terms.interval.source_id,
        "effectiveFrom": terms.interval.effective_from,
        "effectiveTo": terms.interval.effective_to,
        "modelFeeDollars": exact,
        "rounding": rounding,
        "feeDollars": rounded[rounding],
        "feeDollarsByRounding": rounded,
    }
