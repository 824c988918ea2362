"""The types of the security master's rows, with what belongs to each: relations, history, snapshots, fees.

A relation shows what was known at the moment for which its row was asked; it never leads to another feed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import graphene

from ssmd_api.errors import NotFoundError
from ssmd_api.graphql import scalars, sources
from ssmd_api.graphql.context import Context
from ssmd_api.graphql.cursors import Connection, check_first, connection, place_of
from ssmd_api.graphql.sources import MOMENT, Part, Row
from ssmd_api.graphql.types import (
    NAMES,
    ROLE,
    SNAPSHOTS,
    VERSION_CONNECTIONS,
    FillRole,
    columns_of,
    connection_of,
    object_type,
    paging,
)
from ssmd_core.db.tables import SYNCED
from ssmd_core.secmaster.fees import FeeInterval, FeeTerms, FeeUnknownError, fee_of

Resolver = Callable[..., Awaitable[Any]]


def _one(table: str, column: str, text: str) -> Any:
    """The row whose key stands in a column."""

    async def resolve(row: Row, info: Any) -> Row | None:
        context: Context = info.context
        return await sources.row_of(context.services, table, row[column], row.get(MOMENT))

    return graphene.Field(lambda: TYPES[table], description=text, resolver=resolve)


def _many(table: str, column: str, own: str, text: str) -> Any:
    """The rows whose column names this row's key."""
    key = SYNCED[table].key

    async def resolve(row: Row, info: Any, first: int, after: str | None = None) -> Connection:
        context: Context = info.context
        question = (table, column)
        part = Part(check_first(first), place_of(question, after, str), row.get(MOMENT))
        rows = await sources.children(context.services, table, column, row[own], part)
        return connection(rows, first, question, (key,), continued=after is not None)

    return graphene.Field(lambda: CONNECTIONS[table], description=text, args=paging(), resolver=resolve)


def _history(table: str) -> Any:
    key = SYNCED[table].key

    async def resolve(row: Row, info: Any, first: int, after: str | None = None) -> Connection:
        context: Context = info.context
        question = ("history", table)
        part = Part(check_first(first), place_of(question, after, int), row.get(MOMENT))
        days = (context.principal.first_day, context.principal.last_day)
        rows = await sources.versions(context.services, table, row[key], part, days)
        return connection(rows, first, question, ("version",), continued=after is not None)

    text = "Every version, the newest first; those that held at some time of the key's days."
    return graphene.Field(VERSION_CONNECTIONS[table], description=text, args=paging(), resolver=resolve)


async def _snapshots(
    row: Row,
    info: Any,
    first: int,
    after: str | None = None,
    from_: datetime | None = None,
    to: datetime | None = None,
) -> Connection:
    context: Context = info.context
    place = place_of("snapshots", after, datetime, int)
    days = (context.principal.first_day, context.principal.last_day)
    part = Part(check_first(first), place, row.get(MOMENT))
    rows = await sources.snapshots(context.services, row["pair_id"], part, (from_, to), days)
    return connection(rows, first, "snapshots", ("snapshot_at", "id"), continued=after is not None)


async def _market_fee(row: Row, info: Any) -> Row | None:
    context: Context = info.context
    return await sources.fee_terms(context.services, row["event_ticker"], row.get(MOMENT))


async def _dollars(row: Row, info: Any, price: Decimal, contracts: Decimal, role: FillRole) -> Decimal:
    del info
    interval = FeeInterval(
        source_id=row["source_id"],
        series_ticker=row["series_ticker"],
        fee_type=row["fee_type"],
        fee_multiplier=row["fee_multiplier"],
        effective_from=row["effective_from"],
        effective_to=row["effective_to"],
    )
    try:
        return fee_of(FeeTerms(row["fee_type"], row["fee_multiplier"], interval), price, contracts, role.value)
    except FeeUnknownError as error:
        raise NotFoundError(str(error)) from None


def fill_arguments() -> dict[str, Any]:
    """Arguments of what computes the fee of a fill."""
    return {
        "price": graphene.Argument(scalars.DECIMAL, required=True, description="Dollars a contract, 0 to 1."),
        "contracts": graphene.Argument(scalars.DECIMAL, required=True),
        "role": graphene.Argument(ROLE, required=True, default_value=FillRole.TAKER),
    }


FEE_TERMS = object_type("FeeTerms", "The fees in force for a market.", {
    "fee_type": graphene.Field(graphene.String, required=True),
    "fee_multiplier": graphene.Field(scalars.DECIMAL, required=True),
    "overridden": graphene.Field(graphene.Boolean, required=True, description="Whether the event has its own fees."),
    "source_id": graphene.Field(graphene.String, description="Of the series' terms behind them."),
    "effective_from": graphene.Field(scalars.DATE_TIME),
    "effective_to": graphene.Field(scalars.DATE_TIME),
    "dollars": graphene.Field(
        scalars.DECIMAL, description="What a fill costs, rounded up to $0.000001.", args=fill_arguments(),
        resolver=_dollars,
    ),
})  # fmt: skip


def _relations(table: str) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {
        "series": {
            "events": _many("events", "series_ticker", "ticker", "Its events."),
            "fees": _many("series_fees", "series_ticker", "ticker", "Its fees, past and announced."),
        },
        "events": {
            "series": _one("series", "series_ticker", "The series it belongs to."),
            "markets": _many("markets", "event_ticker", "event_ticker", "Its markets."),
        },
        "markets": {
            "event": _one("events", "event_ticker", "The event it is about."),
            "fee": graphene.Field(FEE_TERMS, description="The fees in force.", resolver=_market_fee),
        },
        "series_fees": {"series": _one("series", "series_ticker", "Whose they are.")},
        "pairs": {
            "snapshots": graphene.Field(
                SNAPSHOTS, description="Its tickers every five minutes, newest first.", resolver=_snapshots,
                args=paging() | {
                    "from_": graphene.Argument(scalars.DATE_TIME, name="from"),
                    "to": graphene.Argument(scalars.DATE_TIME),
                },
            ),
        },
        "polymarket_conditions": {
            "tokens": _many("polymarket_tokens", "condition_id", "condition_id", "Its outcomes' tokens."),
        },
        "polymarket_tokens": {
            "condition": _one("polymarket_conditions", "condition_id", "What it is an outcome of."),
        },
    }  # fmt: skip
    return found[table]


def _row_type(table: str) -> Any:
    one = SYNCED[table]
    name, text = NAMES[table]
    fields = columns_of(one.table, one.key) | _relations(table) | {"history": _history(table)}
    return object_type(name, f"{text} `createdAt` and `updatedAt` are null with `asOf`.", fields)


TYPES: dict[str, Any] = {table: _row_type(table) for table in SYNCED}
CONNECTIONS: dict[str, Any] = {table: connection_of(kind) for table, kind in TYPES.items()}
