"""Kraken Futures: instruments and tickers, joined on the symbol, into `pairs`.

Wire facts: measured on answers of July 2021 and of 2025, and Kraken's API reference, 2026.

What has a date of maturity (FI_, FF_) is a `future`, what has none (PI_, PF_) a `perpetual`; the indices that stand
among the instruments are neither and are counted. All contracts are kept, also expired and suspended ones: their
status says so. One that the venue lists no more after its last trading time is `expired` and stays. A contract without
a ticker has no prices. Funding is null where the ticker does not tell it: the venue leaves it out on dated contracts
and also where it is zero, and unknown is not zero.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from ssmd_core.db.merge import Reject, Sweep, SyncReport, SyncRun
from ssmd_core.db.tables import SYNCED
from ssmd_core.feeds.kraken.names import canonical
from ssmd_stream.secmaster.fields import Census, FieldError, Record, id_of
from ssmd_stream.secmaster.rest import RestClient, RestError
from ssmd_stream.secmaster.sync import Mode, SyncTask

INSTRUMENTS, TICKERS = "/instruments", "/tickers"
PAIRS = SYNCED["pairs"]
COLUMNS = (
    "exchange", "native_id", "base", "quote", "base_raw", "quote_raw", "ws_name", "symbol", "altname", "market_type",
    "status", "lot_decimals", "tick_size", "contract_size", "max_position_size", "underlying", "contract_type",
    "margin_levels", "tradeable", "suspended", "opening_date", "last_trading_time", "fee_schedule_uid", "tags",
    "bid", "ask", "last_price", "mark_price", "index_price", "volume_24h", "open_interest", "funding_rate",
    "funding_rate_prediction",
)  # fmt: skip
EXPECTED = (("symbol",), ("type",), ("tradeable",), ("tickSize",), ("contractSize",), ("marginLevels",))
TICKER_EXPECTED = (("symbol",), ("markPrice",), ("bid",), ("ask",), ("vol24h",), ("openInterest",))

CONTRACT_TYPES = frozenset({"futures_inverse", "futures_vanilla", "flexible_futures"})
# PV_ and FV_ are the vanilla contracts of before 2022.
_MARKET_TYPES = {
    "PF": "perpetual", "PI": "perpetual", "PV": "perpetual", "FF": "future", "FI": "future", "FV": "future",
}  # fmt: skip
# The longer ones first: XRPUSDT is not priced in T.
_QUOTES = ("USDT", "USDC", "USD", "EUR", "GBP", "XBT")
_SHOWN_CHARS = 64


def listed(document: Any, path: str, name: str) -> list[Any]:
    """The array of a body.

    Raises:
        RestError: one of the three forms in which this venue reports errors (`result` is "error", with `error` or
            `errors`; or the servlet's, without `result`), or no array.
    """
    if isinstance(document, dict) and document.get("result") == "success" and isinstance(document.get(name), list):
        items: list[Any] = document[name]
        return items
    raise RestError(f"GET {path}: unexpected answer {str(document)[:200]!r}")


def symbol_of(record: Record) -> str:
    """The contract's id as WebSocket knows it: REST wrote it in lower case until 2021.

    Raises:
        FieldError: it is missing or does not fit.
    """
    symbol = record.id("symbol")
    if len(symbol) > 64:
        raise FieldError(f"symbol: {len(symbol)} characters, more than 64")
    # Not upper() for all: PF_AAPLxUSD.
    return symbol.upper() if symbol == symbol.lower() else symbol


def market_type_of(symbol: str, record: Record) -> str:
    """`perpetual` or `future`.

    Raises:
        FieldError: neither the symbol's beginning nor a date of maturity tells.
    """
    known = _MARKET_TYPES.get(symbol.partition("_")[0].upper())
    if known is not None:
        return known
    if record.raw.get("lastTradingTime"):
        return "future"
    raise FieldError(f"symbol: {symbol!r} is neither a perpetual's nor a dated future's")


def assets_of(symbol: str, record: Record) -> tuple[str, str]:
    """Base and quote as the venue writes them; since about 2022 as members, before only within the symbol.

    Raises:
        FieldError: they cannot be told.
    """
    base, quote = record.text("base", chars=32), record.text("quote", chars=32)
    if base and quote:
        return base, quote
    both = symbol.partition("_")[2].partition("_")[0]
    for quote in _QUOTES:
        if both.endswith(quote) and len(quote) < len(both) <= 32:
            return both.removesuffix(quote), quote
    raise FieldError(f"symbol: no base and quote in {symbol!r}")


def status_of(record: Record, tradeable: bool, suspended: bool, post_only: bool) -> str:
    """One word of the several flags, the one that restricts most."""
    if record.flag("isExpired"):
        return "expired"
    if not tradeable:
        return "inactive"
    if suspended:
        return "suspended"
    return "post_only" if post_only else "active"


def map_contract(record: Record, ticker: Record | None) -> dict[str, Any]:
    """The columns of one contract, `pair_id` included.

    Raises:
        FieldError: see the functions above.
    """
    symbol = symbol_of(record)
    base, quote = assets_of(symbol, record)
    known = ticker or Record({})
    tradeable = record.flag("tradeable") is not False
    suspended = bool(known.flag("suspended") or record.flag("suspended"))
    post_only = bool(known.flag("postOnly") or record.flag("postOnly"))
    return {
        "pair_id": id_of(f"kraken:{symbol}"),
        "exchange": "kraken",
        "native_id": symbol,
        "base": canonical(base),
        "quote": canonical(quote),
        "base_raw": base,
        "quote_raw": quote,
        "ws_name": symbol,
        "symbol": symbol,
        "altname": record.text("pair", chars=64),
        "market_type": market_type_of(symbol, record),
        "status": status_of(record, tradeable, suspended, post_only),
        # Negative for coins that trade by the thousand.
        "lot_decimals": record.whole("contractValueTradePrecision"),
        "tick_size": record.decimal("tickSize"),
        "contract_size": record.decimal("contractSize"),
        "max_position_size": record.decimal("maxPositionSize"),
        "underlying": record.text("underlying", chars=64),
        "contract_type": record.text("type", chars=64),
        "margin_levels": record.json("marginLevels"),
        "tradeable": tradeable,
        "suspended": suspended,
        "opening_date": record.moment("openingDate"),
        "last_trading_time": record.moment("lastTradingTime"),
        "fee_schedule_uid": record.text("feeScheduleUid", chars=64),
        "tags": record.strings("tags"),
        "bid": known.decimal("bid"),
        "ask": known.decimal("ask"),
        "last_price": known.decimal("last"),
        "mark_price": known.decimal("markPrice"),
        "index_price": known.decimal("indexPrice"),
        "volume_24h": known.decimal("vol24h"),
        "open_interest": known.decimal("openInterest"),
        "funding_rate": known.decimal("fundingRate"),
        "funding_rate_prediction": known.decimal("fundingRatePrediction"),
    }


async def sync_pairs(rest: RestClient, run: SyncRun, mode: Mode) -> SyncReport:
    """See `Work`."""
    del mode
    asked = run.now()
    answers = [asyncio.ensure_future(rest.get(path)) for path in (INSTRUMENTS, TICKERS)]
    try:
        instrument_answer, ticker_answer = await asyncio.gather(*answers)
    finally:
        for answer in answers:
            answer.cancel()
    instruments = listed(instrument_answer, INSTRUMENTS, "instruments")
    if not instruments:
        raise RestError(f"GET {INSTRUMENTS}: no instrument is listed")
    tickers = _by_symbol(listed(ticker_answer, TICKERS, "tickers"))
    census, ticker_census = Census(*EXPECTED), Census(*TICKER_EXPECTED)
    rows = []
    for raw in instruments:
        row = _row(run, raw, tickers, census)
        if row is not None:
            rows.append([row[name] for name in ("pair_id", *COLUMNS)])
    for ticker in tickers.values():
        ticker_census.add(ticker)
    await run.stage(PAIRS, COLUMNS, rows, asked)
    await _expire(run, {_pair_id(raw) for raw in instruments}, asked)
    census.report(run, "instruments")
    ticker_census.report(run, "tickers")
    return await run.finish(
        sweeps=[Sweep(PAIRS, {"exchange": "kraken", "market_type": kind}) for kind in ("perpetual", "future")]
    )


def _row(run: SyncRun, raw: Any, tickers: Mapping[str, Record], census: Census) -> dict[str, Any] | None:
    try:
        record = Record(raw)
        symbol = symbol_of(record)
        kind = str(record.raw.get("type"))
        if kind not in CONTRACT_TYPES:
            run.warn(f"instruments: type {kind[:_SHOWN_CHARS]!r} is no contract, not taken")
            # It may have been one before the venue renamed its type.
            run.shown(PAIRS.name, _pair_id(raw))
            return None
        ticker = tickers.get(symbol.upper())
        row = map_contract(record, ticker)
    except FieldError as error:
        run.reject(Reject(PAIRS.name, _pair_id(raw), str(error)))
        return None
    census.add(record)
    if ticker is None and row["status"] in ("active", "post_only"):
        run.warn("instruments: without a ticker, so without prices")
    return row


def _pair_id(raw: Any) -> str:
    """Key of the row that an instrument has or would have, "" if its symbol cannot be read."""
    try:
        return id_of(f"kraken:{symbol_of(Record(raw))}")
    except FieldError:
        return ""


async def _expire(run: SyncRun, listed_ids: set[str], asked: datetime) -> None:
    """Stage, as they are stored but expired, the contracts past their last trading time that are listed no more."""
    names = ", ".join(("pair_id", *COLUMNS))
    # JSON as text: floats would not be what the venue wrote.
    stored = await run.query(
        f"SELECT {names.replace('margin_levels', 'margin_levels::text')} FROM pairs WHERE exchange = 'kraken' "
        "AND market_type = 'future' AND deleted_at IS NULL AND status <> 'expired' AND last_trading_time <= %s",
        (run.now(),),
    )
    rows = []
    for values in stored:
        row = dict(zip(("pair_id", *COLUMNS), values, strict=True))
        if row["pair_id"] not in listed_ids:
            levels = row["margin_levels"]
            row |= {
                "status": "expired",
                "tradeable": False,
                "margin_levels": None if levels is None else msgspec.Raw(levels.encode()),
            }
            rows.append(list(row.values()))
    await run.stage(PAIRS, COLUMNS, rows, asked)


def _by_symbol(tickers: list[Any]) -> dict[str, Record]:
    """Tickers by symbol in capitals; what is no ticker of a contract prices nothing."""
    return {
        ticker["symbol"].upper(): Record(ticker)
        for ticker in tickers
        if isinstance(ticker, dict) and isinstance(ticker.get("symbol"), str)
    }


TASKS = (SyncTask("kraken-futures", "pairs", ("pairs",), sync_pairs),)
