"""Trades, prices and volume of a day of a feed. An hour without a dataset is named in the answer, never a zero."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast

import msgspec

from ssmd_api.data import sql
from ssmd_api.data.captured import Basis, Reading, reading
from ssmd_api.errors import InvalidRequestError
from ssmd_api.secmaster.cursors import decode_cursor, encode_cursor
from ssmd_api.services import Services
from ssmd_core.feeds import get
from ssmd_core.feeds.base import Schema

#: As the dataset holds it: decimals of Kalshi and Polymarket exactly, as text in JSON; floats of Kraken.
Number: TypeAlias = Decimal | float

MAX_ROWS = 1000
MAX_INSTRUMENTS = 100
MAX_OFFSET = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SIXTH = Decimal("0.000001")


class TradeRow(msgspec.Struct):
    """An instrument's trades; `avg_price` is the mean over trades, not weighted by size."""

    ticker: str
    trade_count: int
    total_volume: Number
    min_price: Number
    max_price: Number
    avg_price: Number


class TradesAnswer(Basis, rename="camel", kw_only=True):
    """Instruments of a day, most trades first."""

    volume_unit: str
    count: int
    trades: list[TradeRow]
    next_cursor: str | None


class PricesAnswer(Basis, rename="camel", kw_only=True):
    """The newest quote of each instrument: `ticker`, the feed's columns, `time` (the venue's) and `received_at`."""

    count: int
    prices: list[dict[str, Any]]
    next_cursor: str | None


class TickerVolume(msgspec.Struct, rename="camel"):
    """An instrument's trades and their size."""

    ticker: str
    trade_count: int
    volume: Number


class VolumeAnswer(Basis, rename="camel", kw_only=True):
    """What was traded on a feed.

    The sums are null if no hour has a dataset; `total_volume` also where instruments have different units.
    """

    total_trade_count: int | None
    total_volume: Number | None
    volume_unit: str
    active_tickers: int | None
    top_tickers: list[TickerVolume]


async def trades(
    services: Services,
    feed: str,
    day: date,
    *,
    hour: str | None = None,
    stream: str | None = None,
    instruments: list[str] | None = None,
    limit: int = 20,
    cursor: str | None = None,
) -> TradesAnswer:
    """Count, size and prices of the trades of each instrument.

    Args:
        feed: of the registry.
        day: UTC, by the time of receipt.
        hour: `HH00`, only this one.
        stream: see `captured.reading`.
        instruments: only these, at most 100.
        limit: rows at most.
        cursor: `next_cursor` of the answer before; when the hours have been built anew since, it is refused.

    Raises:
        InvalidRequestError: hour, stream, instruments, limit or cursor cannot be used.
        ApiError: see `Engine.rows` and `captured.reading`.
    """
    chosen = get(feed).trades
    _check(instruments, limit)
    source = await reading(services, feed, day, chosen.message_type, hour=hour, stream=stream)
    question = _question(source, instruments)
    values = _page(question, instruments, limit, cursor)
    rows = await ask(services, source, sql.trades_by_instrument(chosen, source.schema), values)
    found = [
        TradeRow(
            ticker=row["ticker"],
            trade_count=row["trade_count"],
            total_volume=row["total_volume"],
            min_price=row["min_price"],
            max_price=row["max_price"],
            avg_price=_mean(row["price_sum"], row["trade_count"]),
        )
        for row in rows[:limit]
    ]
    served(services, feed, len(found))
    return TradesAnswer(
        **members(source.basis),
        volume_unit=unit_of(source.schema, chosen.size),
        count=len(found),
        trades=found,
        next_cursor=_next(question, rows, values, limit),
    )


async def prices(
    services: Services,
    feed: str,
    day: date,
    *,
    hour: str | None = None,
    stream: str | None = None,
    instruments: list[str] | None = None,
    limit: int = 100,
    cursor: str | None = None,
) -> PricesAnswer:
    """The newest quote of each instrument in the day or hour; arguments and errors as of `trades`."""
    chosen = get(feed).quotes
    _check(instruments, limit)
    source = await reading(services, feed, day, chosen.message_type, hour=hour, stream=stream)
    question = _question(source, instruments)
    values = _page(question, instruments, limit, cursor)
    rows = await ask(services, source, sql.latest(chosen, source.schema), values)
    known = sql.columns_of(source.schema)
    found: list[dict[str, Any]] = []
    for row in rows[:limit]:
        times = {name: _moment(row[name], known[name].type) for name in (chosen.time, "_received_at")}
        one = {"ticker": row["ticker"]} | {name: times.get(name, row[name]) for name in chosen.columns}
        found.append(one | {"time": times[chosen.time], "received_at": times["_received_at"]})
    served(services, feed, len(found))
    return PricesAnswer(
        **members(source.basis), count=len(found), prices=found, next_cursor=_next(question, rows, values, limit)
    )


async def volume(
    services: Services, feed: str, day: date, *, hour: str | None = None, stream: str | None = None
) -> VolumeAnswer:
    """How much was traded, and the instruments with the most of it; errors as of `trades`."""
    chosen = get(feed).trades
    source = await reading(services, feed, day, chosen.message_type, hour=hour, stream=stream)
    rows = await ask(services, source, sql.volume(chosen, source.schema), {})
    nothing = 0 if source.any_dataset else None
    first = rows[0] if rows else {"all_trades": nothing, "all_volume": nothing, "all_tickers": nothing}
    served(services, feed, len(rows))
    return VolumeAnswer(
        **members(source.basis),
        total_trade_count=first["all_trades"],
        total_volume=first["all_volume"] if chosen.additive else None,
        volume_unit=unit_of(source.schema, chosen.size),
        active_tickers=first["all_tickers"],
        top_tickers=[TickerVolume(row["ticker"], row["trade_count"], row["volume"]) for row in rows],
    )


async def ask(services: Services, source: Reading, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of a query over the files of a reading; none, without a query, if there is no file.

    Raises:
        ApiError: see `Engine.rows`.
    """
    if not source.paths:
        return []
    services.metrics.datasets_scanned.labels(source.feed.name).inc(len(source.paths))
    return await services.captured.engine.rows(statement, {"files": source.paths, **values})


def served(services: Services, feed: str, rows: int) -> None:
    """Count rows that are given out."""
    services.metrics.records_served.labels(feed).inc(rows)


def unit_of(schema: Schema, column: str) -> str:
    """A column's unit, as the registry says."""
    return sql.columns_of(schema)[column].unit


def _check(instruments: list[str] | None, limit: int) -> None:
    if instruments is not None and not 1 <= len(instruments) <= MAX_INSTRUMENTS:
        raise InvalidRequestError(f"instruments: 1 to {MAX_INSTRUMENTS}, not {len(instruments)}", field="instruments")
    if not 1 <= limit <= MAX_ROWS:
        raise InvalidRequestError(f"limit: 1 to {MAX_ROWS}, not {limit}", field="limit")


def _question(source: Reading, instruments: list[str] | None) -> object:
    """What a cursor belongs to: other files give another order, in which rows would be skipped or come twice."""
    basis = source.basis
    return (source.schema.name, basis.feed, basis.streams, basis.date, basis.hour, instruments, source.state)


def _page(question: object, instruments: list[str] | None, limit: int, cursor: str | None) -> dict[str, Any]:
    """The parameters of a page; one row more than asked for shows whether there is another."""
    offset = 0 if cursor is None else decode_cursor(question, cursor, (int,))[0]
    if not 0 <= cast("int", offset) <= MAX_OFFSET:
        raise InvalidRequestError("cursor: not from an answer", field="cursor")
    return {"instruments": instruments, "limit": limit + 1, "offset": offset}


def _next(question: object, rows: list[dict[str, Any]], values: dict[str, Any], limit: int) -> str | None:
    return encode_cursor(question, (values["offset"] + limit,)) if len(rows) > limit else None


def _mean(total: Number, count: int) -> Number:
    """The mean; of decimals with the six digits that their columns have."""
    return (total / count).quantize(_SIXTH) if isinstance(total, Decimal) else total / count


def _moment(value: int | None, kind: str) -> datetime | None:
    """A time of a dataset; None if it is null, or no year that has a name."""
    if value is None:
        return None
    try:
        return _EPOCH + (timedelta(microseconds=value) if kind == "timestamp" else timedelta(milliseconds=value))
    except OverflowError:
        return None


def members(basis: Basis) -> dict[str, Any]:
    """The basis as arguments of an answer."""
    return msgspec.structs.asdict(basis)
